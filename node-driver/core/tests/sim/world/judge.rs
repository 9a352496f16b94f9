//! What must hold for clients, in every step and once the faults are over.

use super::*;

impl World {
    /// No two processes ever write into the same epoch.
    // spec: D-5-1, W-15.14-5
    pub(super) fn judge_writers(&self) {
        let mut writers = BTreeMap::new();
        for (index, process) in self.processes.iter().enumerate() {
            if process.role == LeaseRole::Producer
                && let Some(using) = process.using
            {
                let other = writers.insert((process.stream, using.epoch), index);
                assert_eq!(
                    other, None,
                    "two writers of {}/{}",
                    process.stream, using.epoch
                );
            }
        }
    }

    /// After peace every process has its lease and reads or writes the current epoch; of those who
    /// compete for one stream, exactly one has it. Old directories are gone.
    pub(super) fn judge_liveness(&self) {
        let driver = self.driver.as_ref().expect("the driver runs again");
        let status = driver.status();
        for stream in [CAMERA, LIDAR] {
            let current = self.oracle.current(stream);
            assert!(current.is_some(), "stream {stream} is announced");
            let mut writers = 0;
            for (index, process) in self.processes.iter().enumerate() {
                if process.stream != stream {
                    continue;
                }
                let epoch = process.using.map(|using| using.epoch);
                match process.role {
                    LeaseRole::Consumer => {
                        assert_eq!(epoch, current, "consumer {index} reads the current epoch");
                    }
                    LeaseRole::Producer if epoch.is_some() => {
                        assert_eq!(epoch, current, "producer {index} writes the current epoch");
                        writers += 1;
                    }
                    LeaseRole::Producer => {}
                }
                if let Some(using) = process.using {
                    assert_eq!(process.machine.usable_lease(), Some(using.lease));
                }
            }
            assert_eq!(writers, 1, "stream {stream} has a writer");
            let directories = self.disk.keys().filter(|key| key.stream == stream);
            assert!(
                directories.count() <= 2,
                "old epochs of {stream} are collected"
            );
        }
        assert_eq!(status.leases, 6, "six of seven processes hold a lease");
        let stale = self
            .disk
            .values()
            .filter(|dir| dir.owner != self.incarnation);
        assert!(stale.count() <= 2, "what earlier drivers left is collected");
    }
}
