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
//! A view for Aeron has the files below the last two directories of the base as well, such as
//! `shm/2Mi/tensorpool-…`: mounted at the directory that these are in, the announced paths hold there. It
//! has an empty directory `aeron`, over which the media driver's is mounted. The pod of an Aeron
//! producer can write to its view, so here everything in a view is reached from the view's own open
//! directory, without following links (`sweep`).
//!
//! Only epochs that this process made are linked. What a driver before it made is taken out when a view
//! is opened again: nobody may map it anew, and it is held in memory by those only who still use it.

mod inside;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tensorpool_driver_core::EpochKey;
use tensorpool_wire::StreamId;

use self::inside::Inside;
use super::volume::VolumeId;

/// The directory of all views in a base.
pub const DIRECTORY: &str = "views";
/// Where the media driver's directory is mounted in a view.
pub const AERON: &str = "aeron";
/// The socket in a view.
const SOCKET: &str = "driver.sock";

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
    kind: Kind,
}

/// Which way a view's pod attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Through the view's socket.
    Socket,
    /// As a peer on Aeron: by the announced paths.
    Aeron,
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
                && let Err(error) = link(view, volume, key)
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
                && let Err(error) = unlink(view, volume, key)
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
        kind: Kind,
    ) -> Result<PathBuf, ViewError> {
        let mut table = self.lock();
        let view = View {
            store: store.to_owned(),
            streams,
            kind,
        };
        if let Err(error) = fill(&table.made, volume, &view) {
            table.views.remove(volume);
            Inside::remove(base_of(store), volume)?;
            return Err(error);
        }
        table.views.insert(volume.clone(), view);
        Ok(directory_of(store, volume))
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
        fill(&table.made, volume, &table.views[volume])
    }

    /// From now on nothing is linked into a volume's view. What is in it stays.
    pub fn leave(&self, volume: &VolumeId) {
        self.lock().views.remove(volume);
    }

    /// Removes a volume's view, also one that only lies on disk. None is no error.
    ///
    /// # Errors
    /// [`ViewError`]; calling it again goes on.
    pub fn close(&self, volume: &VolumeId, store: &Path) -> Result<(), ViewError> {
        let mut table = self.lock();
        table.views.remove(volume);
        Inside::remove(base_of(store), volume)
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
        match Inside::open(base_of(store), volume)? {
            Some(view) => view.empty(),
            None => Ok(()),
        }
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

/// The directory of a store below its base.
fn namespace_of(store: &Path) -> &Path {
    store.strip_prefix(base_of(store)).unwrap_or(store)
}

impl View {
    fn base(&self) -> &Path {
        base_of(&self.store)
    }

    /// Where the view has what the store has.
    fn namespace(&self) -> PathBuf {
        let namespace = namespace_of(&self.store);
        match self.kind {
            Kind::Socket => namespace.to_owned(),
            Kind::Aeron => below_node_dir(self.base()).join(namespace),
        }
    }
}

/// The last two directories of a base: `shm/2Mi` of `/run/tensorpool/shm/2Mi`.
fn below_node_dir(base: &Path) -> &Path {
    let node_dir = base.parent().and_then(Path::parent);
    node_dir.map_or(base, |dir| base.strip_prefix(dir).unwrap_or(base))
}

/// Makes the view's directory show exactly what was made of its streams.
fn fill(
    made: &BTreeSet<(PathBuf, EpochKey)>,
    volume: &VolumeId,
    view: &View,
) -> Result<(), ViewError> {
    let inside = Inside::make(view.base(), volume)?;
    let wanted: BTreeSet<EpochKey> = made
        .iter()
        .filter(|(of, key)| *of == view.store && view.streams.contains(&key.stream))
        .map(|(_, key)| *key)
        .collect();
    let namespace = view.namespace();
    // A driver that was killed may have left a socket under its temporary name.
    let mut kept = vec![Path::new(SOCKET), namespace.as_path()];
    if view.kind == Kind::Aeron {
        kept.push(Path::new(AERON));
        inside.make_directories(Path::new(AERON))?;
    }
    inside.keep_only(Path::new(""), |name| {
        kept.iter().any(|kept| kept.starts_with(name))
    })?;
    for stream in inside.names(&namespace)? {
        let below = namespace.join(&stream);
        inside.keep_only(&below, |epoch| {
            let is_it = |key: &&EpochKey| {
                Path::new(&key.stream.to_string()) == Path::new(&stream)
                    && Path::new(&key.epoch.to_string()) == epoch
            };
            wanted.iter().any(|key| is_it(&key))
        })?;
        inside.remove_if_empty(&below);
    }
    let mut wanted = wanted.into_iter();
    wanted.try_for_each(|key| link_into(&inside, view, key))
}

/// Links the files of an epoch into a view. What is linked already stays.
fn link(view: &View, volume: &VolumeId, key: EpochKey) -> Result<(), ViewError> {
    link_into(&Inside::make(view.base(), volume)?, view, key)
}

fn link_into(inside: &Inside, view: &View, key: EpochKey) -> Result<(), ViewError> {
    let files = view.store.join(epoch_directory(key));
    let target = view.namespace().join(epoch_directory(key));
    for file in names_in(&files)? {
        if let Some(name) = file.file_name() {
            inside.link(&file, &target, name)?;
        }
    }
    Ok(())
}

fn unlink(view: &View, volume: &VolumeId, key: EpochKey) -> Result<(), ViewError> {
    let Some(inside) = Inside::open(view.base(), volume)? else {
        return Ok(());
    };
    let stream = view.namespace().join(key.stream.to_string());
    let epoch = key.epoch.to_string();
    inside.keep_only(&stream, |name| name != Path::new(&epoch))?;
    inside.remove_if_empty(&stream);
    Ok(())
}

/// Below a store's directory.
fn epoch_directory(key: EpochKey) -> PathBuf {
    Path::new(&key.stream.to_string()).join(key.epoch.to_string())
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
