//! The socket file: made under a temporary name, renamed over the old one (docs/extensions.md §2.2).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that the kernel holds until the next poll; `net.core.somaxconn` caps it.
const ACCEPT_QUEUE: i32 = 4_096;

/// Longest path that a socket address holds, in bytes.
pub(crate) const ADDRESS_PATH_MAX: usize = 107;

/// Why a socket file could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The attachment number is in use.
    #[error("attachment {attachment} already has a socket file, remove it first")]
    InUse {
        /// The attachment.
        attachment: u32,
    },
    /// The path does not end in a file name.
    #[error("{} does not name a socket file: give a path that ends in a file name", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// A step failed; nothing is left behind.
    #[error("could not {step} for the socket file {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "in_use",
            Self::NoName { .. } => "no_name",
            Self::Io { .. } => "io",
        }
    }
}

/// A listening socket and the file that leads to it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    directory: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl Listener {
    /// Binds, listens, and only then lets the file appear under its name, with exactly this mode.
    // spec: X-2-1, X-2-12, X-2-13, X-2-14
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let name = path
            .file_name()
            .ok_or_else(|| ListenError::NoName { path: path.into() })?;
        let at = |step: &'static str| {
            let path = path.to_path_buf();
            move |errno: rustix::io::Errno| ListenError::Io {
                path,
                step,
                source: errno.into(),
            }
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let directory_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, directory_flags, Mode::empty())
            .map_err(at("open the directory"))?;
        let socket = socket_with_mode(mode).map_err(at("create a socket"))?;
        let temporary = temporary_name();
        let bound = bind_in(&socket, parent, &directory, &temporary).map_err(at("bind"));
        let made = bound.and_then(|()| {
            let stat =
                publish(&socket, &directory, &temporary, name, mode).map_err(at("publish"))?;
            Ok((stat.st_dev, stat.st_ino))
        });
        match made {
            Ok(identity) => Ok(Self {
                socket,
                directory,
                name: name.to_owned(),
                identity,
            }),
            Err(error) => {
                // Whether it was made or not, it must not stay.
                let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
                Err(error)
            }
        }
    }

    pub(crate) const fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Removes the file if it is still the one that was bound here.
    // spec: X-2-15
    pub(crate) fn unlink(self) -> io::Result<()> {
        let found = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        match found {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.identity => {
                rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty())?;
                Ok(())
            }
            Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A socket whose mode the file that bind makes will have, narrowed by the umask.
fn socket_with_mode(mode: u32) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    Ok(socket)
}

/// A name that no other bind in this process or directory uses at the same time.
fn temporary_name() -> OsString {
    use std::sync::atomic::{AtomicU64, Ordering};
    static BINDS: AtomicU64 = AtomicU64::new(0);
    let bind = BINDS.fetch_add(1, Ordering::Relaxed);
    OsString::from(format!(".binding-{}-{bind}", std::process::id()))
}

/// The address of `name` in a directory, through its descriptor where the path is too long.
fn bind_in(
    socket: &OwnedFd,
    parent: &Path,
    directory: &OwnedFd,
    name: &OsStr,
) -> rustix::io::Result<()> {
    let direct = parent.join(name);
    let path = if direct.as_os_str().as_bytes().len() <= ADDRESS_PATH_MAX {
        direct
    } else {
        PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
    };
    let address = SocketAddrUnix::new(&path)?;
    match rustix::net::bind(socket, &address) {
        // Left behind by a process that had our pid and died between bind and rename.
        Err(rustix::io::Errno::ADDRINUSE) => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            rustix::net::bind(socket, &address)
        }
        other => other,
    }
}

/// Listens, gives the file its whole mode, and renames it into place.
fn publish(
    socket: &OwnedFd,
    directory: &OwnedFd,
    temporary: &OsStr,
    name: &OsStr,
    mode: u32,
) -> rustix::io::Result<Stat> {
    rustix::net::listen(socket, ACCEPT_QUEUE)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, temporary, flags, Mode::empty())?;
    // fchmod refuses O_PATH descriptors; this way neither a name nor a symlink comes in between.
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::chmod(itself.as_str(), Mode::from_raw_mode(mode))?;
    let stat = rustix::fs::fstat(&file)?;
    rustix::fs::renameat(directory, temporary, directory, name)?;
    Ok(stat)
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: X-2-13
    #[test]
    fn the_temporary_file_is_never_wider_than_the_mode_even_before_it_is_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
        let socket = socket_with_mode(0o600).unwrap();
        bind_in(&socket, directory.path(), &opened, OsStr::new("temporary")).unwrap();
        let stat = rustix::fs::statat(&opened, "temporary", AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let bits = Mode::from_raw_mode(stat.st_mode);
        assert!(
            Mode::RUSR.union(Mode::WUSR).contains(bits),
            "the mode is {bits:?}"
        );
    }

    #[test]
    fn a_leftover_of_a_dead_process_with_our_pid_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
        for _ in 0..2 {
            let socket = socket_with_mode(0o600).unwrap();
            bind_in(&socket, directory.path(), &opened, OsStr::new("temporary")).unwrap();
        }
    }
}
