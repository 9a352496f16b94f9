//! One driver per state directory and per region directory.
//!
//! All are locked by `flock` on the directory itself: nothing is left behind, and the kernel gives
//! the lock back whatever happens to the process. The pid of the holder stands in a file of the state
//! directory, for `log` and for the message to the second driver.

// spec: D-2.1-1, D-15-1

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Name of the file that holds the driver's pid.
pub(crate) const PID_FILE: &str = "driver.pid";

/// All locks. Dropped with the driver.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    _state: File,
    _regions: Vec<File>,
}

/// Why this driver may not run here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Somebody else does.
    #[error(
        "another driver{} uses {dir}: stop it, or give this one another driver.state_dir, shm.base_dir or shm.namespace",
        holder(*pid)
    )]
    Held {
        /// What is locked.
        dir: PathBuf,
        /// Its pid, if its file says so.
        pid: Option<u32>,
    },
    /// A directory cannot be made or locked.
    #[error("cannot use the directory {dir}")]
    Io {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl InstanceLock {
    /// Locks all directories, which exist, and notes this process's pid.
    ///
    /// # Errors
    /// [`LockError`].
    pub(crate) fn take<'a>(
        state_dir: &Path,
        regions_dirs: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, LockError> {
        let held_by = holder_pid(state_dir);
        let state = lock(state_dir, held_by)?;
        let regions = regions_dirs.into_iter().map(|dir| lock(dir, None));
        let regions = regions.collect::<Result<Vec<_>, _>>()?;
        let pid_file = state_dir.join(PID_FILE);
        fs::write(&pid_file, format!("{}\n", std::process::id())).map_err(|source| {
            LockError::Io {
                dir: pid_file,
                source,
            }
        })?;
        Ok(Self {
            _state: state,
            _regions: regions,
        })
    }
}

/// The pid that stands in `state_dir`, if one does.
#[must_use]
pub(crate) fn holder_pid(state_dir: &Path) -> Option<u32> {
    fs::read_to_string(state_dir.join(PID_FILE))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Whether a driver holds the lock of `state_dir` now.
#[must_use]
pub(crate) fn is_held(state_dir: &Path) -> bool {
    File::open(state_dir).is_ok_and(|dir| {
        flock(&dir, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

fn lock(dir: &Path, pid: Option<u32>) -> Result<File, LockError> {
    let failed = |source: io::Error| LockError::Io {
        dir: dir.to_owned(),
        source,
    };
    let file = File::open(dir).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Held {
            dir: dir.to_owned(),
            pid,
        }),
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_driver_is_refused_by_either_directory_and_told_the_pid() {
        // spec: D-2.1-1
        let dir = tempfile::tempdir().unwrap();
        let sub = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (state, regions, other) = (sub("state"), sub("regions"), sub("other"));
        let lock = InstanceLock::take(&state, [regions.as_path()]).unwrap();
        assert!(is_held(&state));
        assert_eq!(holder_pid(&state), Some(std::process::id()));

        let error = InstanceLock::take(&state, [other.as_path()]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("another driver (pid {})", std::process::id())),
            "{error}"
        );
        let error = InstanceLock::take(&other, [regions.as_path()]).unwrap_err();
        assert!(
            matches!(error, LockError::Held { pid: None, .. }),
            "{error}"
        );

        drop(lock);
        assert!(!is_held(&state));
        InstanceLock::take(&state, [regions.as_path()]).unwrap();
    }
}
