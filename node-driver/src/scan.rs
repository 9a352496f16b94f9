//! What earlier drivers left under the base directories, as the core wants to know it.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use tensorpool_driver_core::{BaseId, ExistingEpoch, Owner};
use tensorpool_shm::{EpochDir, StoreError};
use tensorpool_wire::MonoNanos;

use crate::stores::Stores;

/// The epochs that one scan found.
pub(crate) type Found = Vec<ExistingEpoch>;

/// Looks at all epoch directories.
///
/// # Errors
/// [`StoreError`] if a directory cannot be listed.
// spec: W-15.21a-15, GC-1
pub(crate) fn epochs(stores: &Stores) -> Result<Found, StoreError> {
    let mut found = Found::new();
    for (base, store) in stores.iter() {
        found.extend(store.list()?.iter().map(|dir| existing(base, dir)));
    }
    Ok(found)
}

/// Whether some of them belong to a driver that still runs, so that another look is worth it.
#[must_use]
pub(crate) fn others_alive(found: &Found) -> bool {
    found.iter().any(|epoch| epoch.owner == Owner::Alive)
}

fn existing(base: BaseId, dir: &EpochDir) -> ExistingEpoch {
    ExistingEpoch {
        base,
        stream: dir.stream_id,
        epoch: dir.epoch,
        bytes: dir.bytes,
        activity: dir.activity.unwrap_or(MonoNanos(0)),
        free_at: dir.free_at,
        // Without a complete superblock nobody ever announced it.
        owner: dir
            .creator
            .map_or(Owner::Dead, |creator| owner(creator.pid)),
    }
}

fn owner(pid: u64) -> Owner {
    if pid == u64::from(std::process::id()) {
        return Owner::Mine;
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match pid.map(test_kill_process) {
        // EPERM: it runs, as somebody else.
        Some(Ok(()) | Err(Errno::PERM)) => Owner::Alive,
        Some(Err(_)) | None => Owner::Dead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_mine_alive_or_dead() {
        // spec: GC-1
        assert_eq!(owner(u64::from(std::process::id())), Owner::Mine);
        assert_eq!(owner(1), Owner::Alive);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = u64::from(child.id());
        child.wait().unwrap();
        assert_eq!(owner(pid), Owner::Dead);
        assert_eq!(owner(0), Owner::Dead);
        assert_eq!(owner(u64::MAX), Owner::Dead);
    }
}
