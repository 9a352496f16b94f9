//! Where epochs live on disk: one namespace directory, its streams, their epochs.
//!
//! ```text
//! <base>/tensorpool-<user>/<namespace>/<stream_id>/<epoch>/{header.ring, <pool_id>.pool}
//! ```
//!
//! The store holds the namespace directory open and reaches everything below it one component at a
//! time, following no link. It creates, lists and removes; which epoch is to go is the driver's
//! decision.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;
use tensorpool_wire::{Epoch, MonoNanos, StreamId, Superblock};

use crate::directory::{
    absent_is_fine, effective_user, ensure_directory, entries, numbers_in, open_base, open_below,
    sanitise,
};
use crate::hugepage::{Backing, Filesystem};
use crate::permissions::Permissions;
use crate::reclaim::free_at_of;
use crate::superblock::Creator;

/// How a store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// `shm.base_dir`. Its last component is created if it is missing.
    pub base_dir: PathBuf,
    /// The user part of the path; the effective user if `None`. Sanitised.
    pub user: Option<String>,
    /// `shm.namespace`. Sanitised.
    pub namespace: String,
    /// Modes of what is created.
    pub permissions: Permissions,
    /// Refuse a base directory that is not on hugetlbfs.
    pub require_hugepages: bool,
    /// Refuse a filesystem with another page size.
    pub expected_page_bytes: Option<u64>,
    /// Touch every page of a new region once, so that no client pays for clearing it.
    pub prefault: bool,
    /// Keep new regions locked in memory as long as the epoch lives (D-17-5).
    pub lock: bool,
}

/// One stream's epochs as found on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochDir {
    /// The stream, from the directory's name.
    pub stream_id: StreamId,
    /// The epoch, from the directory's name.
    pub epoch: Epoch,
    /// Bytes that its files take from the filesystem.
    pub bytes: u64,
    /// Who created it, if its header ring is complete.
    pub creator: Option<Creator>,
    /// When it was last said to be alive, if its header ring is complete.
    pub activity: Option<MonoNanos>,
    /// When its memory may be taken from whoever has it ([`EpochStore::mark`]).
    pub free_at: Option<MonoNanos>,
}

/// A base directory with room for the epochs of one driver.
#[derive(Debug)]
pub struct EpochStore {
    directory: OwnedFd,
    path: PathBuf,
    page_bytes: u64,
    uses_hugepages: bool,
    options: StoreOptions,
}

/// Why a store could not be opened, listed or cleaned.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Others may read or write; A-10.
    #[error(
        "permissions_mode {mode:o} gives other users access; use 660 or 600, or force it explicitly"
    )]
    OtherBits {
        /// The mode.
        mode: u32,
    },
    /// Not a usable mode for data files.
    #[error("permissions_mode {mode:o} must give its owner reading and writing, and no execution")]
    Mode {
        /// The mode.
        mode: u32,
    },
    /// The path cannot stand in a region URI (ambiguities A-13).
    #[error(
        "base directory {} must be absolute and printable ASCII without space, '?' and '|'",
        path.display()
    )]
    BasePath {
        /// The path given.
        path: PathBuf,
    },
    /// A directory could not be made or opened.
    #[error("directory {} could not be prepared", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else owns a directory where ours belongs.
    #[error("directory {} belongs to user {owner}, not to user {ours}", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// `require_hugepages` without hugepages.
    #[error(
        "hugepages are required, but {} lies on {found}; mount a hugetlbfs there, name a directory on one, \
         or do without require_hugepages",
        path.display()
    )]
    NotHugepages {
        /// The base directory.
        path: PathBuf,
        /// What it lies on.
        found: Filesystem,
    },
    /// The filesystem has another page size than configured.
    #[error("{} has pages of {found} bytes, but {expected} are configured", path.display())]
    PageSize {
        /// The base directory.
        path: PathBuf,
        /// Configured.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// Reading a directory failed.
    #[error("directory {} could not be listed", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be looked at or emptied.
    #[error("{} could not be emptied under whoever has it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mark could not be written.
    #[error("{} could not be written: a driver that starts anew leaves the memory to whoever has it", path.display())]
    Mark {
        /// The mark.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Removing an epoch failed part-way.
    #[error("{} could not be removed", path.display())]
    Remove {
        /// What could not be removed.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

// === impl EpochStore ===

impl EpochStore {
    /// Opens the store and makes its directories.
    ///
    /// # Errors
    /// [`StoreError`] names the directory and the rule.
    // spec: W-15.21a-1 W-15.21a-2 W-15.21a-3 W-15.22-4
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let given = &options.base_dir;
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'|');
        if !given.is_absolute() || !given.as_os_str().as_encoded_bytes().iter().all(is_plain) {
            return Err(StoreError::BasePath {
                path: given.clone(),
            });
        }
        let mode = options.permissions.directory_mode();
        let base = open_base(given, mode)?;
        let (path, base) = base;
        let backing = Backing::of(base.as_fd()).map_err(|source| StoreError::Directory {
            path: path.clone(),
            source,
        })?;
        if options.require_hugepages && !backing.is_hugepages() {
            return Err(StoreError::NotHugepages {
                path,
                found: backing.filesystem,
            });
        }
        match options.expected_page_bytes {
            Some(expected) if expected != backing.page_bytes => {
                return Err(StoreError::PageSize {
                    path,
                    expected,
                    found: backing.page_bytes,
                });
            }
            Some(_) | None => {}
        }
        let user = options.user.clone().unwrap_or_else(effective_user);
        let user_name = format!("tensorpool-{}", sanitise(&user));
        let namespace = sanitise(&options.namespace);
        let user_path = path.join(&user_name);
        let path = user_path.join(&namespace);
        let (user_directory, _) =
            ensure_directory(base.as_fd(), &user_name, mode).map_err(|e| e.at(user_path))?;
        let (directory, _) = ensure_directory(user_directory.as_fd(), &namespace, mode)
            .map_err(|e| e.at(path.clone()))?;
        Ok(Self {
            directory,
            path,
            page_bytes: backing.page_bytes,
            uses_hugepages: backing.is_hugepages(),
            options,
        })
    }

    /// The namespace directory, canonical.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the store was opened.
    #[must_use]
    pub const fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// The filesystem under the store, with what is free now.
    ///
    /// # Errors
    /// `fstatfs` failed.
    pub fn backing(&self) -> io::Result<Backing> {
        Backing::of(self.directory.as_fd())
    }

    /// Bytes of the filesystem's pages: what file sizes are rounded up to.
    #[must_use]
    pub const fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// Whether what is created here lies on hugepages.
    #[must_use]
    pub const fn uses_hugepages(&self) -> bool {
        self.uses_hugepages
    }

    /// All epochs of all streams, by stream, then epoch. Names that are not numbers are left out.
    ///
    /// # Errors
    /// [`StoreError::List`] names the directory. What vanishes meanwhile is left out.
    // spec: W-15.21a-15
    pub fn list(&self) -> Result<Vec<EpochDir>, StoreError> {
        let mut found = Vec::new();
        for stream in numbers_in(self.directory.as_fd(), &self.path)? {
            let Ok(id) = u32::try_from(stream) else {
                continue;
            };
            let path = self.path.join(stream.to_string());
            let Some(directory) = open_below(self.directory.as_fd(), &stream.to_string(), &path)?
            else {
                continue;
            };
            for epoch in numbers_in(directory.as_fd(), &path)? {
                let path = path.join(epoch.to_string());
                let below = open_below(directory.as_fd(), &epoch.to_string(), &path)?;
                if let Some(below) = below {
                    let entry = self.examine(StreamId(id), Epoch(epoch), below.as_fd(), &path)?;
                    found.push(entry);
                }
            }
        }
        found.sort_by_key(|entry| (entry.stream_id, entry.epoch));
        Ok(found)
    }

    /// Removes one epoch's files and directory, and its stream's directory if that was the last.
    /// Mappings of it live on. An epoch that is not there is no error.
    ///
    /// # Errors
    /// [`StoreError`] names what could not be removed.
    // spec: D-3-1
    pub fn remove(&self, stream_id: StreamId, epoch: Epoch) -> Result<(), StoreError> {
        let stream_name = stream_id.to_string();
        let stream_path = self.path.join(&stream_name);
        let Some(stream) = open_below(self.directory.as_fd(), &stream_name, &stream_path)? else {
            return Ok(());
        };
        let epoch_name = epoch.to_string();
        let epoch_path = stream_path.join(&epoch_name);
        if let Some(directory) = open_below(stream.as_fd(), &epoch_name, &epoch_path)? {
            for (name, _) in entries(directory.as_fd(), &epoch_path)? {
                absent_is_fine(unlinkat(&directory, name.as_str(), AtFlags::empty())).map_err(
                    |source| StoreError::Remove {
                        path: epoch_path.join(name),
                        source,
                    },
                )?;
            }
        }
        absent_is_fine(unlinkat(&stream, epoch_name.as_str(), AtFlags::REMOVEDIR)).map_err(
            |source| StoreError::Remove {
                path: epoch_path,
                source,
            },
        )?;
        match unlinkat(&self.directory, stream_name.as_str(), AtFlags::REMOVEDIR) {
            // Other epochs are still there.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(e) => Err(StoreError::Remove {
                path: stream_path,
                source: e.into(),
            }),
        }
    }

    /// Bytes held by epochs that a newer one of their stream has replaced, all of `creating`'s
    /// included. As far as they can be listed.
    pub(crate) fn held_by_old_epochs(&self, creating: StreamId) -> u64 {
        let epochs = self.list().unwrap_or_default();
        let newest = |of: &EpochDir| {
            epochs
                .iter()
                .filter(|e| e.stream_id == of.stream_id)
                .map(|e| e.epoch)
                .max()
        };
        epochs
            .iter()
            .filter(|e| e.stream_id == creating || newest(e) != Some(e.epoch))
            .map(|e| e.bytes)
            .sum()
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn examine(
        &self,
        stream_id: StreamId,
        epoch: Epoch,
        directory: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<EpochDir, StoreError> {
        let mut bytes = 0_u64;
        let mut free_at = None;
        for (name, _) in entries(directory, path)? {
            free_at = free_at.or_else(|| free_at_of(&name));
            if let Ok(stat) = statat(directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                bytes = bytes.saturating_add(crate::round_up(size, self.page_bytes));
            }
        }
        let seen = read_superblock(directory);
        Ok(EpochDir {
            stream_id,
            epoch,
            bytes,
            creator: seen.map(|(creator, _)| creator),
            activity: seen.map(|(_, activity)| activity),
            free_at,
        })
    }
}

/// Creator and activity of an epoch's header ring, read rather than mapped: it may be of any length.
fn read_superblock(directory: BorrowedFd<'_>) -> Option<(Creator, MonoNanos)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(directory, "header.ring", flags, Mode::empty()).ok()?;
    let mut bytes = [0; 64];
    let read = rustix::io::pread(&file, &mut bytes, 0).ok()?;
    let found = Superblock::decode(&bytes).ok()?;
    let creator = Creator {
        pid: found.pid,
        start: found.start_timestamp_ns,
    };
    (read == bytes.len()).then_some((creator, found.activity_timestamp_ns))
}
