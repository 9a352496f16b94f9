//! The head of a media driver's `cnc.dat`, read with plain file reads and parsed by safe code.
//!
//! Every client looks here before it lets an Aeron library map the file: a missing, half-written or
//! damaged file is then an error at once instead of a long wait, a panic or a fault inside the
//! library. Layout: version 0.2 of the file as media drivers 1.4x and 1.5x write it, little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Major, minor and patch number as the file packs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CncVersion {
    /// Incompatible layouts differ in this one.
    pub major: u8,
    /// Additions.
    pub minor: u8,
    /// Corrections.
    pub patch: u8,
}

impl std::fmt::Display for CncVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Major and minor number that this code knows the layout of.
pub const KNOWN_VERSION: CncVersion = CncVersion {
    major: 0,
    minor: 2,
    patch: 0,
};

/// What the head of the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cnc {
    /// Layout version.
    pub version: CncVersion,
    /// Length of the ring that clients write commands to, in bytes, trailer included.
    pub to_driver_len: u32,
    /// Length of the broadcast buffer that clients read events from, in bytes, trailer included.
    pub to_clients_len: u32,
    /// How long a client may be silent before the media driver gives it up.
    pub client_liveness: Duration,
    /// When the media driver started, in milliseconds since 1970.
    pub start_timestamp_ms: i64,
    /// Process id of the media driver in its own PID namespace.
    pub pid: i64,
    /// Last sign of life of the media driver in milliseconds since 1970. `None` after a clean stop.
    pub heartbeat_ms: Option<i64>,
}

/// Why `cnc.dat` could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CncError {
    /// No media driver has run here, or it removed its directory when it stopped.
    #[error("there is no media driver at {}: {} does not exist", dir.display(), dir.join("cnc.dat").display())]
    Missing {
        /// The Aeron directory.
        dir: PathBuf,
    },
    /// The file is there but cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The media driver is still writing it, or died while it did.
    #[error("the media driver has not finished {} yet: {what}", path.display())]
    NotReady {
        /// The file.
        path: PathBuf,
        /// What is not there yet.
        what: String,
    },
    /// Another layout.
    #[error("{} has layout version {found}, known is {KNOWN_VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: CncVersion,
    },
    /// A length that no media driver writes.
    #[error("{} is damaged: {field} is {value}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: i64,
    },
    /// The file ends before its last buffer.
    #[error("{} is cut off: it has {found} bytes, its head asks for {needed}", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Sum of its buffers in bytes.
        needed: u64,
        /// Its length in bytes.
        found: u64,
    },
}

impl CncError {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Read { .. } => "unreadable",
            Self::NotReady { .. } => "not_ready",
            Self::Version { .. } => "version",
            Self::Damaged { .. } => "damaged",
            Self::CutOff { .. } => "cut_off",
        }
    }
}

/// Bytes before the first buffer: two cache lines of 64 bytes, on every CPU.
const HEAD_LEN: usize = 128;
/// Bytes of a command ring behind its records.
const RING_TRAILER_LEN: u64 = 768;
/// Where the trailer keeps the consumer's heartbeat.
const RING_HEARTBEAT_OFFSET: u64 = 640;
/// Bytes of a broadcast buffer behind its records.
const BROADCAST_TRAILER_LEN: u64 = 128;

impl Cnc {
    /// Reads and checks the head of `dir/cnc.dat`.
    ///
    /// # Errors
    /// [`CncError`] says what is missing or wrong. Nothing is mapped and nothing waits.
    pub fn read(dir: &Path) -> Result<Self, CncError> {
        let path = dir.join("cnc.dat");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CncError::Missing {
                    dir: dir.to_path_buf(),
                });
            }
            Err(source) => return Err(CncError::Read { path, source }),
        };
        Self::read_file(&file, &path)
    }

    /// Age of the last heartbeat at `now_ms` (milliseconds since 1970), 0 if it is in the future.
    /// `None` after a clean stop.
    #[must_use]
    pub fn heartbeat_age(&self, now_ms: i64) -> Option<Duration> {
        self.heartbeat_ms.map(|last| {
            Duration::from_millis(u64::try_from(now_ms.saturating_sub(last)).unwrap_or(0))
        })
    }

    fn read_file(file: &File, path: &Path) -> Result<Self, CncError> {
        let unreadable = |source| CncError::Read {
            path: path.to_path_buf(),
            source,
        };
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(unreadable(io::Error::other("it is not a regular file")));
        }
        let mut head = [0; HEAD_LEN];
        read_whole(file, &mut head, 0, path)?;
        let version = u32::from_le_bytes(field(&head, 0));
        if version == 0 {
            return Err(not_ready(path, "its version is not set".to_owned()));
        }
        let version = CncVersion {
            major: byte(version >> 16),
            minor: byte(version >> 8),
            patch: byte(version),
        };
        if version.major != KNOWN_VERSION.major || version.minor < KNOWN_VERSION.minor {
            return Err(CncError::Version {
                path: path.to_path_buf(),
                found: version,
            });
        }
        let lens = buffer_lens(&head, path)?;
        let needed = lens.iter().copied().map(u64::from).sum::<u64>() + 128;
        if meta.len() < needed {
            return Err(CncError::CutOff {
                path: path.to_path_buf(),
                needed,
                found: meta.len(),
            });
        }
        let liveness_ns = i64::from_le_bytes(field(&head, 24));
        let Some(client_liveness) = u64::try_from(liveness_ns).ok().filter(|ns| *ns > 0) else {
            return Err(damaged(path, "the client liveness timeout", liveness_ns));
        };
        let mut heartbeat = [0; 8];
        let trailer = 128 + u64::from(lens[0]) - RING_TRAILER_LEN;
        read_whole(file, &mut heartbeat, trailer + RING_HEARTBEAT_OFFSET, path)?;
        let heartbeat = i64::from_le_bytes(heartbeat);
        Ok(Self {
            version,
            to_driver_len: lens[0],
            to_clients_len: lens[1],
            client_liveness: Duration::from_nanos(client_liveness),
            start_timestamp_ms: i64::from_le_bytes(field(&head, 32)),
            pid: i64::from_le_bytes(field(&head, 40)),
            heartbeat_ms: (heartbeat >= 0).then_some(heartbeat),
        })
    }
}

/// The five buffers' lengths, each checked as far as its own shape goes.
fn buffer_lens(head: &[u8; HEAD_LEN], path: &Path) -> Result<[u32; 5], CncError> {
    const NAMES: [&str; 5] = [
        "the length of the command ring",
        "the length of the broadcast buffer",
        "the length of the counters' metadata",
        "the length of the counters' values",
        "the length of the error log",
    ];
    let mut lens = [0; 5];
    for (index, name) in NAMES.into_iter().enumerate() {
        let raw = i32::from_le_bytes(field(head, 4 + 4 * index));
        lens[index] = u32::try_from(raw).map_err(|_| damaged(path, name, raw.into()))?;
    }
    let trailers = [RING_TRAILER_LEN, BROADCAST_TRAILER_LEN];
    for (index, trailer) in trailers.into_iter().enumerate() {
        let records = u64::from(lens[index]).checked_sub(trailer);
        if !records.is_some_and(u64::is_power_of_two) {
            return Err(damaged(path, NAMES[index], lens[index].into()));
        }
    }
    Ok(lens)
}

fn read_whole(file: &File, into: &mut [u8], at: u64, path: &Path) -> Result<(), CncError> {
    file.read_exact_at(into, at).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            not_ready(path, format!("it ends before byte {at} + {}", into.len()))
        } else {
            CncError::Read {
                path: path.to_path_buf(),
                source: error,
            }
        }
    })
}

fn not_ready(path: &Path, what: String) -> CncError {
    CncError::NotReady {
        path: path.to_path_buf(),
        what,
    }
}

fn damaged(path: &Path, field: &'static str, value: i64) -> CncError {
    CncError::Damaged {
        path: path.to_path_buf(),
        field,
        value,
    }
}

/// The `N` bytes at a constant offset of the head.
fn field<const N: usize>(head: &[u8; HEAD_LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|index| head[at + index])
}

fn byte(bits: u32) -> u8 {
    bits.to_le_bytes()[0]
}

#[cfg(test)]
#[path = "cnc_tests.rs"]
mod tests;
