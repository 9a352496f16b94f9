//! Taking the memory of an epoch back from whoever has its files open or mapped.
//!
//! An unlinked file lives on for who has it, and nobody else can get at it any more. So files that are to
//! be emptied later stay where they are, and a mark beside them tells a driver that starts anew when that
//! is due.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, chmodat, ftruncate, openat};
use rustix::io::Errno;
use tensorpool_wire::{Epoch, MonoNanos, StreamId};

use crate::directory::{entries, open_below};
use crate::region;
use crate::store::{EpochStore, StoreError};

/// The name of a mark begins so; CLOCK_MONOTONIC in nanoseconds follows.
const MARK: &str = "free-at.";

impl EpochStore {
    /// Removes an epoch unless somebody has one of its files open or mapped, and says whether it is gone.
    /// Where the kernel does not tell, somebody has. An epoch that is not there is gone.
    ///
    /// # Errors
    /// [`StoreError`] names what could not be looked at or removed.
    pub fn remove_if_unused(&self, stream: StreamId, epoch: Epoch) -> Result<bool, StoreError> {
        let mut is_used = false;
        self.each_file(stream, epoch, |directory, name, path| {
            is_used = is_used || is_in_use(directory, name, path)?;
            Ok(())
        })?;
        if is_used {
            return Ok(false);
        }
        self.remove(stream, epoch)?;
        Ok(true)
    }

    /// Empties an epoch's files under whoever has them, whose next load from them raises SIGBUS, and
    /// removes it. Pages that the kernel itself holds for a device come back when the device lets go.
    ///
    /// # Errors
    /// [`StoreError`] names what could not be emptied or removed; calling it again goes on.
    pub fn empty_and_remove(&self, stream: StreamId, epoch: Epoch) -> Result<(), StoreError> {
        self.each_file(stream, epoch, |directory, name, path| {
            let emptied = open_own(directory, name).and_then(|file| match file {
                Some(file) => ftruncate(&file, 0),
                None => Ok(()),
            });
            emptied.map_err(|errno| StoreError::Empty {
                path: path.join(name),
                source: errno.into(),
            })
        })?;
        self.remove(stream, epoch)
    }

    /// Writes beside an epoch's files when they may be emptied; an earlier mark stays. An epoch that is
    /// not there has none.
    ///
    /// # Errors
    /// [`StoreError::Mark`] names the mark.
    pub fn mark(
        &self,
        stream: StreamId,
        epoch: Epoch,
        free_at: MonoNanos,
    ) -> Result<(), StoreError> {
        let Some(directory) = self.open_epoch(stream, epoch)? else {
            return Ok(());
        };
        let path = self.epoch_path(stream, epoch);
        let names = entries(directory.as_fd(), &path)?;
        if names.iter().any(|(name, _)| free_at_of(name).is_some()) {
            return Ok(());
        }
        let name = format!("{MARK}{}", free_at.get());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&directory, name.as_str(), flags, Mode::RUSR | Mode::WUSR);
        made.map(drop).map_err(|errno| StoreError::Mark {
            path: path.join(name),
            source: errno.into(),
        })
    }

    /// Every file of an epoch but its mark.
    fn each_file(
        &self,
        stream: StreamId,
        epoch: Epoch,
        mut act: impl FnMut(BorrowedFd<'_>, &str, &Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(directory) = self.open_epoch(stream, epoch)? else {
            return Ok(());
        };
        let path = self.epoch_path(stream, epoch);
        for (name, _) in entries(directory.as_fd(), &path)? {
            if free_at_of(&name).is_none() {
                act(directory.as_fd(), &name, &path)?;
            }
        }
        Ok(())
    }

    fn open_epoch(&self, stream: StreamId, epoch: Epoch) -> Result<Option<OwnedFd>, StoreError> {
        let path = self.epoch_path(stream, epoch);
        let stream = stream.to_string();
        match open_below(self.directory(), &stream, &path)? {
            Some(directory) => open_below(directory.as_fd(), &epoch.to_string(), &path),
            None => Ok(None),
        }
    }

    fn epoch_path(&self, stream: StreamId, epoch: Epoch) -> std::path::PathBuf {
        self.path().join(stream.to_string()).join(epoch.to_string())
    }
}

/// The time in the name of a mark; `None` for any other name.
pub(crate) fn free_at_of(name: &str) -> Option<MonoNanos> {
    name.strip_prefix(MARK)?.parse().ok().map(MonoNanos)
}

fn is_in_use(directory: BorrowedFd<'_>, name: &str, path: &Path) -> Result<bool, StoreError> {
    match open_own(directory, name) {
        // On a filesystem without leases nobody can tell.
        Ok(Some(file)) => Ok(region::is_used_by_others(file.as_fd()).unwrap_or(true)),
        Ok(None) => Ok(false),
        // Somebody has a lease on it.
        Err(Errno::AGAIN) => Ok(true),
        Err(errno) => Err(StoreError::Empty {
            path: path.join(name),
            source: errno.into(),
        }),
    }
}

/// Opens a file of ours for writing, without waiting for anybody. Who runs as the same user may have
/// changed its mode.
fn open_own(directory: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = || openat(directory, name, flags, Mode::empty());
    let opened = match open() {
        Err(Errno::ACCESS) => {
            chmodat(directory, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
            open()
        }
        opened => opened,
    };
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
