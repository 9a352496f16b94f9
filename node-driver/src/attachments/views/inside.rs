//! One view from the inside: every path starts at its open directory.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, fchmod, linkat, mkdirat, statat, unlinkat};
use rustix::io::Errno;

use super::{DIRECTORY, ViewError, at};
use crate::attachments::sweep;
use crate::attachments::volume::VolumeId;

/// Anybody may pass through: the mount decides who gets here.
const DIRECTORY_MODE: u32 = 0o755;

/// An open view.
pub(super) struct Inside {
    directory: OwnedFd,
    /// For words.
    path: PathBuf,
}

impl Inside {
    /// The view of a volume, if there is one.
    ///
    /// # Errors
    /// [`ViewError`].
    pub(super) fn open(base: &Path, volume: &VolumeId) -> Result<Option<Self>, ViewError> {
        let path = base.join(DIRECTORY).join(volume.as_str());
        let views = match File::open(base.join(DIRECTORY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(at("open the directory above", &path))?,
        };
        match sweep::open_beneath(views.as_fd(), Path::new(volume.as_str())) {
            Ok(directory) => Ok(Some(Self { directory, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(at("open", &path)(errno.into())),
        }
    }

    /// The view of a volume, made if it is not there.
    ///
    /// # Errors
    /// [`ViewError`].
    pub(super) fn make(base: &Path, volume: &VolumeId) -> Result<Self, ViewError> {
        let views = base.join(DIRECTORY);
        let path = views.join(volume.as_str());
        make(&views)?;
        make(&path)?;
        let opened = Self::open(base, volume)?;
        opened.ok_or_else(|| at("open", &path)(io::ErrorKind::NotFound.into()))
    }

    /// Removes the view of a volume with everything in it. None is no error.
    ///
    /// # Errors
    /// [`ViewError`]; part of it may be gone.
    pub(super) fn remove(base: &Path, volume: &VolumeId) -> Result<(), ViewError> {
        let path = base.join(DIRECTORY).join(volume.as_str());
        match File::open(base.join(DIRECTORY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at("open the directory above", &path)(error)),
            Ok(views) => sweep::remove(views.as_fd(), OsStr::new(volume.as_str()))
                .map_err(at("remove", &path)),
        }
    }

    /// Removes everything in it.
    ///
    /// # Errors
    /// [`ViewError`]; part of it may be gone.
    pub(super) fn empty(&self) -> Result<(), ViewError> {
        sweep::empty(self.directory.as_fd()).map_err(at("empty", &self.path))
    }

    /// The names in a directory of the view, as many as are read at one go; none where there is none.
    ///
    /// # Errors
    /// [`ViewError`].
    pub(super) fn names(&self, below: &Path) -> Result<Vec<std::ffi::OsString>, ViewError> {
        match self.directory(below)? {
            Some(directory) => {
                sweep::names(directory.as_fd()).map_err(at("list", &self.path.join(below)))
            }
            None => Ok(Vec::new()),
        }
    }

    /// Removes what `is_kept` does not want in a directory of the view, with everything in it.
    ///
    /// # Errors
    /// [`ViewError`]; the others are removed all the same.
    pub(super) fn keep_only(
        &self,
        below: &Path,
        is_kept: impl Fn(&Path) -> bool,
    ) -> Result<(), ViewError> {
        let Some(directory) = self.directory(below)? else {
            return Ok(());
        };
        let mut outcome = Ok(());
        for name in self.names(below)? {
            if !is_kept(Path::new(&name)) {
                let path = self.path.join(below).join(&name);
                let removed = sweep::remove(directory.as_fd(), &name);
                let removed = removed.map_err(at("remove", &path));
                // The first error is told.
                outcome = outcome.and(removed);
            }
        }
        outcome
    }

    /// Removes a directory of the view if nothing is in it.
    pub(super) fn remove_if_empty(&self, below: &Path) {
        let parent = below.parent().unwrap_or_else(|| Path::new(""));
        if let (Ok(Some(parent)), Some(name)) = (self.directory(parent), below.file_name()) {
            // Stays where something is in it.
            let _stays = unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
    }

    /// Links a file under this name into a directory of the view, which is made if it is not there.
    /// Another file of that name is replaced.
    ///
    /// # Errors
    /// [`ViewError`].
    pub(super) fn link(&self, file: &Path, below: &Path, name: &OsStr) -> Result<(), ViewError> {
        let directory = self.make_directories(below)?;
        let here = self.path.join(below).join(name);
        let linked = || linkat(CWD, file, &directory, name, AtFlags::empty());
        match linked() {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(at("link", &here)(errno.into())),
        }
        let found = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let found = found.map_err(|errno| at("look at", &here)(errno.into()))?;
        let wanted = fs::symlink_metadata(file).map_err(at("look at", file))?;
        if (found.st_dev, found.st_ino) == (wanted.dev(), wanted.ino()) {
            return Ok(());
        }
        sweep::remove(directory.as_fd(), name).map_err(at("remove", &here))?;
        linked().map_err(|errno| at("link", &here)(errno.into()))
    }

    /// Opens a directory of the view, and makes it and those above it where they are missing. What is
    /// in the way is removed.
    ///
    /// # Errors
    /// [`ViewError`].
    pub(super) fn make_directories(&self, below: &Path) -> Result<OwnedFd, ViewError> {
        let mut here = self.path.clone();
        let mut directory = self.open_itself()?;
        for name in below.iter() {
            here.push(name);
            let failed = |step| move |errno: Errno| (step, io::Error::from(errno));
            let mode = Mode::from_raw_mode(DIRECTORY_MODE);
            let there = match sweep::open_beneath(directory.as_fd(), Path::new(name)) {
                Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                    sweep::remove(directory.as_fd(), name).map_err(at("remove", &here))?;
                    Err(Errno::NOENT)
                }
                opened => opened,
            };
            let made = match there {
                Ok(there) => Ok(there),
                Err(Errno::NOENT) => mkdirat(&directory, name, mode)
                    .map_err(failed("make"))
                    .and_then(|()| {
                        let made = sweep::open_beneath(directory.as_fd(), Path::new(name));
                        made.map_err(failed("open"))
                    })
                    .and_then(|made| {
                        // Whatever the umask is.
                        fchmod(&made, mode).map_err(failed("set the mode of"))?;
                        Ok(made)
                    }),
                Err(errno) => Err(failed("open")(errno)),
            };
            directory = made.map_err(|(step, source)| at(step, &here)(source))?;
        }
        Ok(directory)
    }

    /// A directory of the view; `None` where there is none, or something else under its name.
    fn directory(&self, below: &Path) -> Result<Option<OwnedFd>, ViewError> {
        if below.as_os_str().is_empty() {
            return self.open_itself().map(Some);
        }
        match sweep::open_beneath(self.directory.as_fd(), below) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(errno) => Err(at("open", &self.path.join(below))(errno.into())),
        }
    }

    fn open_itself(&self) -> Result<OwnedFd, ViewError> {
        let cloned = self.directory.try_clone();
        cloned.map_err(at("open", &self.path))
    }
}

/// One directory above those of pods, with its mode whatever the umask is.
fn make(path: &Path) -> Result<(), ViewError> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
            .map_err(at("set the mode of", path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(at("make", path)(error)),
    }
}
