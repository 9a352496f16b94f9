//! Which paths may be mapped: inside an allowed directory, a regular file, the same one all along.
//!
//! [`ValidatedUri`] has no constructor but [`AllowedBases::validate`], and a region is mapped from a
//! path only through it. The rules are W-15.21a-7 to -13: resolve, compare by components, open each
//! component without following links, and compare the open file with the one that was checked.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, lstat, openat};

use tensorpool_wire::ShmUri;

use crate::error::ContainError;
use crate::region::Access;

/// The base directories that regions may lie in, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedBases {
    bases: Vec<PathBuf>,
}

/// A path that was found to be a regular file inside an allowed directory. There is no other way to
/// get one:
///
/// ```compile_fail,E0451
/// let uri = tensorpool_shm::ValidatedUri {
///     path: "/etc/passwd".into(),
///     device: 0,
///     inode: 0,
///     require_hugepages: false,
/// };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedUri {
    /// Canonical.
    path: PathBuf,
    device: u64,
    inode: u64,
    require_hugepages: bool,
}

// === impl AllowedBases ===

impl AllowedBases {
    /// Resolves each directory once; only these forms are used afterwards.
    ///
    /// # Errors
    /// [`ContainError`] names the first one that is not absolute, not there or not a directory.
    // spec: W-15.21a-9 W-15.21a-14
    pub fn new<P: AsRef<Path>>(bases: impl IntoIterator<Item = P>) -> Result<Self, ContainError> {
        let bases = bases.into_iter().map(|base| resolve(base.as_ref()));
        Ok(Self {
            bases: bases.collect::<Result<_, _>>()?,
        })
    }

    /// Like `new`, but leaves out directories that do not exist: for defaults that suit several kinds
    /// of machine.
    ///
    /// # Errors
    /// [`ContainError`] names the first one that is there but cannot be resolved.
    pub fn existing<P: AsRef<Path>>(
        bases: impl IntoIterator<Item = P>,
    ) -> Result<Self, ContainError> {
        let mut resolved = Vec::new();
        for base in bases {
            match resolve(base.as_ref()) {
                Ok(base) => resolved.push(base),
                Err(ContainError::Resolve { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { bases: resolved })
    }

    /// The directories in canonical form.
    #[must_use]
    pub fn as_slice(&self) -> &[PathBuf] {
        &self.bases
    }

    /// Checks that a region URI leads to a regular file inside one of the directories.
    ///
    /// # Errors
    /// [`ContainError`] names the rule that it breaks. There is no mapping then.
    // spec: W-15.22-6 D-4.2-18
    pub fn validate(&self, uri: &ShmUri) -> Result<ValidatedUri, ContainError> {
        self.validate_path(Path::new(uri.path()), uri.require_hugepages())
    }

    /// Checks that `path` leads to a regular file inside one of the directories.
    ///
    /// # Errors
    /// [`ContainError`] names the rule that the path breaks. There is no mapping then.
    // spec: W-15.21a-7 W-15.21a-8 W-15.21a-10 W-15.21a-11 W-15.21a-13 D-9-1
    pub fn validate_path(
        &self,
        path: &Path,
        require_hugepages: bool,
    ) -> Result<ValidatedUri, ContainError> {
        let canonical = resolve(path)?;
        // By components: /dev/shm2 is not inside /dev/shm.
        if !self.bases.iter().any(|base| canonical.starts_with(base)) {
            return Err(ContainError::Outside { path: canonical });
        }
        let stat = lstat(&canonical).map_err(|e| ContainError::Resolve {
            path: canonical.clone(),
            source: e.into(),
        })?;
        require_regular(&canonical, &stat)?;
        let (device, inode) = (stat.st_dev, stat.st_ino);
        Ok(ValidatedUri {
            path: canonical,
            device,
            inode,
            require_hugepages,
        })
    }
}

// === impl ValidatedUri ===

impl ValidatedUri {
    /// The file that its creator has just made and still holds open, at a canonical path.
    pub(crate) fn of_created(
        path: PathBuf,
        file: BorrowedFd<'_>,
        require_hugepages: bool,
    ) -> io::Result<Self> {
        let stat = fstat(file)?;
        let (device, inode) = (stat.st_dev, stat.st_ino);
        Ok(Self {
            path,
            device,
            inode,
            require_hugepages,
        })
    }

    /// The path in canonical form.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the region must be on hugepages.
    #[must_use]
    pub const fn require_hugepages(&self) -> bool {
        self.require_hugepages
    }

    /// Opens the file, one component after the other, following no link, and makes sure that it is
    /// the file that was validated.
    ///
    /// # Errors
    /// [`ContainError`] if anything changed since.
    // spec: W-15.21a-12 W-15.21a-13
    pub fn open(&self, access: Access) -> Result<OwnedFd, ContainError> {
        let failed = |source: io::Error| ContainError::Open {
            path: self.path.clone(),
            source,
        };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut names: Vec<&OsStr> = Vec::new();
        for component in self.path.components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => names.push(name),
                Component::Prefix(_) | Component::CurDir | Component::ParentDir => {
                    return Err(failed(io::ErrorKind::InvalidFilename.into()));
                }
            }
        }
        let Some((file, parents)) = names.split_last() else {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        };
        let mut at = openat(CWD, "/", directory, Mode::empty()).map_err(|e| failed(e.into()))?;
        for name in parents {
            at = openat(&at, *name, directory, Mode::empty()).map_err(|e| failed(e.into()))?;
        }
        let mode = match access {
            Access::ReadOnly => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        // NONBLOCK and NOCTTY: whatever took the name meanwhile, opening it neither waits nor acts.
        let flags = mode | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = openat(&at, *file, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let stat = fstat(file.as_fd()).map_err(|e| failed(e.into()))?;
        require_regular(&self.path, &stat)?;
        if (stat.st_dev, stat.st_ino) != (self.device, self.inode) {
            return Err(ContainError::Replaced {
                path: self.path.clone(),
            });
        }
        Ok(file)
    }
}

fn resolve(path: &Path) -> Result<PathBuf, ContainError> {
    if !path.is_absolute() {
        return Err(ContainError::NotAbsolute {
            path: path.to_path_buf(),
        });
    }
    path.canonicalize().map_err(|source| ContainError::Resolve {
        path: path.to_path_buf(),
        source,
    })
}

fn require_regular(path: &Path, stat: &Stat) -> Result<(), ContainError> {
    let found = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "file of unknown type",
    };
    Err(ContainError::NotRegular {
        path: path.to_path_buf(),
        found,
    })
}
