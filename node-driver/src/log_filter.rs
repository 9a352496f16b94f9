//! A new log filter for the running driver: a file in the state directory, and SIGHUP.
//!
//! Whoever may write the state directory and signal the driver may change its log, nobody else; a
//! client of the socket may not, and no port is needed. The file is taken away when it was read, which
//! is how `log` knows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::lock;
use crate::telemetry::{FilterError, LogControl, parse_filter};

/// Name of the file in the state directory.
const FILE_NAME: &str = "log.filter";
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// The driver's end.
#[derive(Debug)]
pub(crate) struct LogFilter {
    control: LogControl,
    path: PathBuf,
}

/// Why the filter was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// Not a filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Nobody to tell.
    #[error("no driver runs with the state directory {dir}: give the right one with --state-dir")]
    NoDriver {
        /// The state directory.
        dir: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write {path}: run this as the driver's user")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The driver cannot be signalled.
    #[error("cannot signal the driver (pid {pid}): run this as the driver's user")]
    Signal {
        /// Its pid.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The driver did not take it.
    #[error("the driver (pid {pid}) has not taken the filter within {timeout_ms} ms")]
    Timeout {
        /// Its pid.
        pid: u32,
        /// How long.
        timeout_ms: u128,
    },
}

impl LogFilter {
    /// Filters are taken from `state_dir`. What an earlier driver left there is not.
    #[must_use]
    pub(crate) fn new(control: LogControl, state_dir: &Path) -> Self {
        let path = state_dir.join(FILE_NAME);
        drop(fs::remove_file(&path));
        Self { control, path }
    }

    /// Takes the filter that is there now.
    pub(crate) fn reload(&self) {
        let filter = match fs::read_to_string(&self.path) {
            Ok(filter) => filter.trim().to_owned(),
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "no log filter to take");
                return;
            }
        };
        let was = self.control.filter();
        match self.control.set_filter(&filter) {
            Ok(()) => tracing::warn!(filter, was, "the log filter was changed"),
            Err(error) => {
                tracing::warn!(
                    error = crate::files::in_words(&error),
                    "the log filter stays"
                );
            }
        }
        drop(fs::remove_file(&self.path));
    }
}

/// Gives the driver of `state_dir` a new filter and waits until it was taken.
///
/// # Errors
/// [`ChangeError`].
pub(crate) fn change(state_dir: &Path, filter: &str, timeout: Duration) -> Result<(), ChangeError> {
    parse_filter(filter)?;
    let no_driver = || ChangeError::NoDriver {
        dir: state_dir.to_owned(),
    };
    if !lock::is_held(state_dir) {
        return Err(no_driver());
    }
    let pid = lock::holder_pid(state_dir).ok_or_else(no_driver)?;
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let target = target.ok_or_else(no_driver)?;
    let path = state_dir.join(FILE_NAME);
    let written = state_dir.join(format!("{FILE_NAME}.new"));
    fs::write(&written, filter)
        .and_then(|()| fs::rename(&written, &path))
        .map_err(|source| ChangeError::Write {
            path: path.clone(),
            source,
        })?;
    kill_process(target, Signal::HUP).map_err(|errno| ChangeError::Signal {
        pid,
        source: errno.into(),
    })?;
    let deadline = Instant::now() + timeout;
    while path.exists() {
        if Instant::now() >= deadline {
            return Err(ChangeError::Timeout {
                pid,
                timeout_ms: timeout.as_millis(),
            });
        }
        std::thread::sleep(LOOK_PERIOD);
    }
    Ok(())
}
