//! Ending a cluster and undoing all that it did to the machine, whether it was taken down or
//! killed at any moment.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{ClusterError, load};
use crate::mounts;
use crate::page_pool::Addition;
use crate::state::{Extent, ProcessId, boot_id};

/// How long a killed process may take to be gone, with everything that ends with it.
const GONE_LIMIT: Duration = Duration::from_secs(30);

/// Ends it, undoes what it did, and removes its directory. `false` when there was none.
pub(super) fn remove(directory: &Path, program: &Path) -> Result<bool, ClusterError> {
    if !directory.exists() {
        return Ok(false);
    }
    undo(directory, program)?;
    // Servers of a killed control plane end a moment after it, and may write until then.
    let limit = Instant::now() + GONE_LIMIT;
    while let Err(error) = fs::remove_dir_all(directory) {
        if error.kind() == io::ErrorKind::NotFound {
            break;
        }
        if Instant::now() > limit {
            let what = format!("could not remove {}", directory.display());
            return Err(ClusterError::io(what)(error));
        }
        thread::sleep(Duration::from_millis(20));
    }
    if let Some(clusters) = directory.parent() {
        // Only when it was the last one.
        drop(fs::remove_dir(clusters));
    }
    Ok(true)
}

/// Ends it and undoes what it did to the machine; its files stay.
pub(super) fn undo(directory: &Path, program: &Path) -> Result<(), ClusterError> {
    let Some(mut state) = load(directory)? else {
        return Ok(());
    };
    if let Some(process) = state.living() {
        end(process)?;
    }
    state.process = None;
    state.kubeconfig = None;
    // After a reboot control groups and huge pages are gone by themselves.
    if let (
        Extent::Whole {
            hugepages, groups, ..
        },
        true,
    ) = (&mut state.extent, state.boot == boot_id())
    {
        if !groups.is_empty() {
            let mut removal = Command::new("unshare");
            removal.args(["--mount", "--propagation", "slave", "--"]);
            removal.arg(program).args(["remove-groups", "--directory"]);
            mounts::run(removal.arg(directory))
                .map_err(ClusterError::io("could not remove the control groups"))?;
            groups.clear();
        }
        hugepages.give_back()?;
        *hugepages = Addition::plan(0)?;
    }
    let what = format!("could not write the state in {}", directory.display());
    state.save(directory).map_err(ClusterError::io(what))
}

/// Kills the process and waits until it is gone. Pid 1 of a namespace goes last of all in it.
fn end(process: ProcessId) -> Result<(), ClusterError> {
    let what = format!("could not end process {}", process.pid);
    if let Some(pid) = Pid::from_raw(process.pid) {
        kill_process(pid, Signal::KILL)
            .map_err(|error| ClusterError::io(what.clone())(error.into()))?;
    }
    let limit = Instant::now() + GONE_LIMIT;
    while ProcessId::of(process.pid) == Some(process) {
        if Instant::now() > limit {
            let seconds = GONE_LIMIT.as_secs();
            let error = io::Error::other(format!("it is still there after {seconds} s"));
            return Err(ClusterError::io(what)(error));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
