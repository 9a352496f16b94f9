//! Which media driver to reach, and why there is no client of it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cnc::{Cnc, CncError};

/// How to reach a media driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AeronConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Without a sign of life for this long the media driver is dead. Also how long an answer may
    /// take. At least 200 ms; the media driver writes its sign of life on its timer's ticks.
    pub driver_timeout: Duration,
}

impl AeronConfig {
    /// The media driver in `dir`, given up after 2 s of silence.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            driver_timeout: Duration::from_secs(2),
        }
    }
}

/// Why no client could be made. Nothing is left behind; a later attempt can succeed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The directory holds no usable `cnc.dat`.
    #[error("could not reach the media driver")]
    Cnc(#[source] CncError),
    /// The media driver stopped cleanly and left its directory.
    #[error("the media driver at {} has stopped", dir.display())]
    Stopped {
        /// The Aeron directory.
        dir: PathBuf,
    },
    /// The media driver died without a word.
    #[error(
        "the media driver at {} gave its last sign of life {} ms ago, the limit is {} ms",
        dir.display(), age.as_millis(), limit.as_millis()
    )]
    Silent {
        /// The Aeron directory.
        dir: PathBuf,
        /// How long ago.
        age: Duration,
        /// The configured limit.
        limit: Duration,
    },
    /// The path cannot be given to the library.
    #[error("the Aeron directory {} is not UTF-8 or holds a zero byte", dir.display())]
    Path {
        /// The Aeron directory.
        dir: PathBuf,
    },
    /// The library refused.
    #[error("the Aeron client could not be made ({what}): {message}")]
    Library {
        /// Which step.
        what: &'static str,
        /// Its own words, with its code.
        message: String,
    },
}

impl ConnectError {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Cnc(error) => error.reason(),
            Self::Stopped { .. } => "stopped",
            Self::Silent { .. } => "silent",
            Self::Path { .. } => "path",
            Self::Library { .. } => "library",
        }
    }
}

/// Refuses a media driver that is not there, so that the library never waits for one nor maps a
/// damaged file. The library looks at the sign of life once more a moment later and would wait if it
/// were too old by then, so the limit here is a sixteenth shorter than its own.
pub(super) fn look_before(config: &AeronConfig) -> Result<Cnc, ConnectError> {
    let cnc = Cnc::read(&config.dir).map_err(ConnectError::Cnc)?;
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let limit = config.driver_timeout - config.driver_timeout / 16;
    match cnc.heartbeat_age(now_ms) {
        None => Err(ConnectError::Stopped {
            dir: config.dir.clone(),
        }),
        Some(age) if age > limit => Err(ConnectError::Silent {
            dir: config.dir.clone(),
            age,
            limit,
        }),
        Some(_) => Ok(cnc),
    }
}
