//! Views: for each attachment one directory of hard links to exactly the files that it may use.
//!
//! ```text
//! <base>/tensorpool-<user>/<namespace>/<stream>/<epoch>/…          the files, as announced
//! <base>/views/<volume>/tensorpool-<user>/<namespace>/<stream>/<epoch>/…   the same files for one pod
//! <base>/views/<volume>/driver.sock                                        its socket
//! ```
//!
//! A view is what gets mounted into the pod, so a new epoch appears there by itself. The file worker
//! links an epoch into every view of its stream before the epoch is announced, and takes it out of all
//! views before its files go. Pods see views through read-only mounts: nobody else writes here.
//!
//! Only epochs that this process made are linked. What a driver before it made is taken out when a view
//! is opened again: nobody may map it anew, and it is held in memory by those only who still use it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tensorpool_driver_core::EpochKey;
use tensorpool_wire::StreamId;

use super::volume::VolumeId;

/// The directory of all views in a base.
pub const DIRECTORY: &str = "views";
/// The socket in a view.
const SOCKET: &str = "driver.sock";
/// Anybody may pass through: the mount decides who gets here.
const DIRECTORY_MODE: u32 = 0o755;

/// Why a view could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[error("could not {step} {}", path.display())]
pub struct ViewError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// All views of this driver. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Views {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    views: BTreeMap<VolumeId, View>,
    /// What exists now and may be linked, by namespace directory.
    made: BTreeSet<(PathBuf, EpochKey)>,
}

#[derive(Debug)]
struct View {
    /// The namespace directory of its base (`EpochStore::path`).
    store: PathBuf,
    streams: BTreeSet<StreamId>,
}

impl Views {
    /// An epoch's files are there: they appear in every view of the stream. Called before anybody hears
    /// of the epoch. A view that cannot have it is named in the log, and does not hold up the others.
    pub fn epoch_made(&self, store: &Path, key: EpochKey) {
        let mut table = self.lock();
        table.made.insert((store.to_owned(), key));
        for (volume, view) in &table.views {
            if view.store == store
                && view.streams.contains(&key.stream)
                && let Err(error) = link(store, volume, key)
            {
                tracing::error!(%volume, stream = %key.stream, epoch = %key.epoch, error = crate::files::in_words(&error), "the pod of this volume cannot see the new epoch");
            }
        }
    }

    /// An epoch's files are about to go: they go from every view first.
    pub fn epoch_goes(&self, store: &Path, key: EpochKey) {
        let mut table = self.lock();
        table.made.remove(&(store.to_owned(), key));
        for (volume, view) in &table.views {
            if view.store == store
                && let Err(error) = unlink(store, volume, key)
            {
                tracing::error!(%volume, stream = %key.stream, epoch = %key.epoch, error = crate::files::in_words(&error), "an old epoch stays in a view, and its memory stays taken");
            }
        }
    }

    /// Makes the view of a volume, or changes it to these streams, and returns its directory. What else
    /// is in it, but for its socket, goes.
    ///
    /// # Errors
    /// [`ViewError`]; the volume has no view then.
    pub fn open(
        &self,
        volume: &VolumeId,
        store: &Path,
        streams: BTreeSet<StreamId>,
    ) -> Result<PathBuf, ViewError> {
        let mut table = self.lock();
        let directory = directory_of(store, volume);
        let made = fill(&table.made, volume, store, &streams);
        if let Err(error) = made {
            table.views.remove(volume);
            remove(&directory)?;
            return Err(error);
        }
        let store = store.to_owned();
        table.views.insert(volume.clone(), View { store, streams });
        Ok(directory)
    }

    /// Changes which streams an open view shows. A volume without one is left alone.
    ///
    /// # Errors
    /// [`ViewError`]; the view may show less than it should.
    pub fn show(&self, volume: &VolumeId, streams: BTreeSet<StreamId>) -> Result<(), ViewError> {
        let mut table = self.lock();
        let Some(view) = table.views.get_mut(volume) else {
            return Ok(());
        };
        view.streams = streams;
        let view = &table.views[volume];
        fill(&table.made, volume, &view.store, &view.streams)
    }

    /// Removes a volume's view, also one that only lies on disk. None is no error.
    ///
    /// # Errors
    /// [`ViewError`]; calling it again goes on.
    pub fn close(&self, volume: &VolumeId, store: &Path) -> Result<(), ViewError> {
        let mut table = self.lock();
        table.views.remove(volume);
        remove(&directory_of(store, volume))
    }

    /// Takes everything out of a view that nobody opened: its volume may still be mounted, and must not
    /// show anything.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn empty(&self, volume: &VolumeId, store: &Path) -> Result<(), ViewError> {
        let table = self.lock();
        if table.views.contains_key(volume) {
            return Ok(());
        }
        for path in names_in(&directory_of(store, volume))? {
            remove(&path)?;
        }
        Ok(())
    }

    /// The volumes that have a view on disk under the base of `store`, open or not.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn on_disk(&self, store: &Path) -> Result<Vec<VolumeId>, ViewError> {
        let mut volumes = Vec::new();
        for path in names_in(&base_of(store).join(DIRECTORY))? {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(volume) = name.and_then(|name| VolumeId::new(name).ok()) {
                volumes.push(volume);
            }
        }
        Ok(volumes)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is one step; what is on disk is compared with it, not assumed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory of a volume's view.
#[must_use]
pub fn directory_of(store: &Path, volume: &VolumeId) -> PathBuf {
    base_of(store).join(DIRECTORY).join(volume.as_str())
}

/// `<base>` of `<base>/tensorpool-<user>/<namespace>`.
fn base_of(store: &Path) -> &Path {
    store.parent().and_then(Path::parent).unwrap_or(store)
}

/// The directory of an epoch below a view, or below the base.
fn epoch_directory(below: &Path, store: &Path, key: EpochKey) -> PathBuf {
    let namespace = store.strip_prefix(base_of(store)).unwrap_or(store);
    below
        .join(namespace)
        .join(key.stream.to_string())
        .join(key.epoch.to_string())
}

/// Makes the view's directory show exactly what was made of `streams`.
fn fill(
    made: &BTreeSet<(PathBuf, EpochKey)>,
    volume: &VolumeId,
    store: &Path,
    streams: &BTreeSet<StreamId>,
) -> Result<(), ViewError> {
    let view = directory_of(store, volume);
    make(&base_of(store).join(DIRECTORY))?;
    make(&view)?;
    let wanted: BTreeSet<EpochKey> = made
        .iter()
        .filter(|(of, key)| of == store && streams.contains(&key.stream))
        .map(|(_, key)| *key)
        .collect();
    let namespace = view.join(store.strip_prefix(base_of(store)).unwrap_or(store));
    for path in names_in(&view)? {
        // A driver that was killed may have left a socket under its temporary name.
        if !namespace.starts_with(&path) && path != view.join(SOCKET) {
            remove(&path)?;
        }
    }
    for stream in names_in(&namespace)? {
        for epoch in names_in(&stream)? {
            let is_wanted = |key: &EpochKey| epoch_directory(&view, store, *key) == epoch;
            if !wanted.iter().any(is_wanted) {
                remove(&epoch)?;
            }
        }
        // Stays where another epoch is in it.
        let _stays = fs::remove_dir(&stream);
    }
    wanted
        .into_iter()
        .try_for_each(|key| link(store, volume, key))
}

/// Links the files of an epoch into a view. What is linked already stays.
fn link(store: &Path, volume: &VolumeId, key: EpochKey) -> Result<(), ViewError> {
    let files = epoch_directory(base_of(store), store, key);
    let view = directory_of(store, volume);
    let target = epoch_directory(&view, store, key);
    let below: Vec<&Path> = target
        .ancestors()
        .take_while(|path| *path != view)
        .collect();
    below.into_iter().rev().try_for_each(make)?;
    for file in names_in(&files)? {
        let Some(name) = file.file_name() else {
            continue;
        };
        let here = target.join(name);
        match fs::hard_link(&file, &here) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !same_file(&file, &here).map_err(at("compare", &here))? {
                    remove(&here)?;
                    fs::hard_link(&file, &here).map_err(at("link", &here))?;
                }
            }
            Err(error) => return Err(at("link", &here)(error)),
        }
    }
    Ok(())
}

fn unlink(store: &Path, volume: &VolumeId, key: EpochKey) -> Result<(), ViewError> {
    let epoch = epoch_directory(&directory_of(store, volume), store, key);
    remove(&epoch)?;
    if let Some(stream) = epoch.parent() {
        // Stays where another epoch is in it.
        let _stays = fs::remove_dir(stream);
    }
    Ok(())
}

fn same_file(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// One directory, with its mode whatever the umask is.
fn make(path: &Path) -> Result<(), ViewError> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
            .map_err(at("set the mode of", path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(at("make", path)(error)),
    }
}

/// A file, a socket, or a directory with everything in it. What is not there is fine.
fn remove(path: &Path) -> Result<(), ViewError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What lies in a directory, by name; nothing where there is none.
fn names_in(directory: &Path) -> Result<Vec<PathBuf>, ViewError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("list", directory)(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()
        .map_err(at("list", directory))?;
    paths.sort();
    Ok(paths)
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ViewError + 'a {
    move |source| ViewError {
        step,
        path: path.to_owned(),
        source,
    }
}
