//! The attachments themselves: each step of opening, changing and closing one, undone where it fails.
//!
//! The order is that of a crash: a record is there before anything that it must outlive, and goes after
//! everything that it accounts for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::rand::{GetRandomFlags, getrandom};
use tensorpool_driver_core::ClientRange;
use tensorpool_driver_core::config::{Access, AeronPlace, Roles, Visible};
use tensorpool_transport::socket::ListenError;
use tensorpool_wire::StreamId;

use super::attributes::VolumeAccess;
use super::protocol::Held;
use super::record::{Record, RecordError, Records};
use super::refusal::PublishError;
use super::views::{Kind, ViewError, Views, directory_of};
use super::volume::VolumeId;
use crate::control::{AttachmentId, Control, ControlError, OpenError, Opening};
use crate::files::in_words;

/// Volumes that one node may have published: several for each of the most pods that a node may have.
pub(super) const LIMIT: usize = 4_096;
/// Whoever has the mount may connect: the mount is the permission.
const SOCKET_MODE: u32 = 0o666;

/// Why an attachment could not be let go of.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReleaseError {
    /// The duty cycle.
    #[error("its clients could not be told")]
    Control(#[from] ControlError),
    /// The view.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The published volumes, what is kept of them, and where.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) node: String,
    /// Namespace directories (`EpochStore::path`) by the name of their base.
    pub(super) stores: BTreeMap<String, PathBuf>,
    pub(super) views: Views,
    pub(super) control: Control,
    /// The media driver's directory, where there is one.
    pub(super) aeron_dir: Option<PathBuf>,
    records: Records,
    held: BTreeMap<VolumeId, Record>,
    /// Those whose last change was not carried out to its end.
    unsettled: BTreeSet<VolumeId>,
    /// Those that an earlier driver recorded and that could not be opened yet.
    unopened: BTreeSet<VolumeId>,
}

impl Table {
    pub(super) const fn new(
        node: String,
        stores: BTreeMap<String, PathBuf>,
        views: Views,
        control: Control,
        aeron_dir: Option<PathBuf>,
        records: Records,
    ) -> Self {
        Self {
            node,
            stores,
            views,
            control,
            aeron_dir,
            records,
            held: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            unopened: BTreeSet::new(),
        }
    }

    pub(super) fn get(&self, volume: &VolumeId) -> Option<&Record> {
        self.held.get(volume)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (&VolumeId, &Record)> {
        self.held.iter()
    }

    /// A number that no attachment has.
    ///
    /// # Errors
    /// [`PublishError::Full`].
    pub(super) fn free_number(&self) -> Result<u32, PublishError> {
        if self.held.len() >= LIMIT {
            return Err(PublishError::Full {
                node: self.node.clone(),
                limit: LIMIT,
            });
        }
        let used: BTreeSet<u32> = self.held.values().map(|record| record.attachment).collect();
        let highest = used.last().copied().unwrap_or(0);
        let next = highest.checked_add(1);
        let free = next.or_else(|| (1..u32::MAX).find(|number| !used.contains(number)));
        Ok(free.expect("LIMIT is far below the count of numbers"))
    }

    /// Client ids on Aeron that no attachment has.
    ///
    /// # Errors
    /// [`PublishError::Random`].
    pub(super) fn free_clients(&self) -> Result<ClientRange, PublishError> {
        loop {
            let mut bytes = [0; 4];
            getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| {
                PublishError::Random {
                    node: self.node.clone(),
                    source: errno.into(),
                }
            })?;
            let prefix = u32::from_le_bytes(bytes) & ClientRange::PREFIXES;
            // At most LIMIT of eight million are taken.
            if let Some(range) = ClientRange::of_prefix(prefix)
                && !self
                    .held
                    .values()
                    .any(|it| it.aeron_clients == Some(range.first()))
            {
                return Ok(range);
            }
        }
    }

    /// Records a volume, makes its view and listens in it.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is left of it then.
    pub(super) async fn add(&mut self, record: Record) -> Result<(), PublishError> {
        let volume = VolumeId::new(record.volume.as_str())?;
        let kept = self.records.keep(&record);
        kept.map_err(|source| PublishError::Record {
            node: self.node.clone(),
            source,
        })?;
        if let Err(error) = self.open(&volume, &record).await {
            self.undo(&volume, &record);
            return Err(error);
        }
        self.held.insert(volume, record);
        Ok(())
    }

    /// Takes up a volume that an earlier driver recorded.
    ///
    /// # Errors
    /// [`PublishError`]; it is held all the same, so that it can be let go of, and [`Table::reopen`]
    /// tries again.
    pub(super) async fn restore(&mut self, record: Record) -> Result<(), PublishError> {
        let volume = VolumeId::new(record.volume.as_str())?;
        self.held.insert(volume.clone(), record);
        self.unopened.insert(volume.clone());
        self.reopen(&volume).await
    }

    /// Opens a volume that could not be opened when it was taken up; others are left alone.
    ///
    /// # Errors
    /// [`PublishError`]; calling it again tries again.
    pub(super) async fn reopen(&mut self, volume: &VolumeId) -> Result<(), PublishError> {
        if let Some(record) = self.held.get(volume)
            && self.unopened.contains(volume)
        {
            self.open(volume, record).await?;
            self.unopened.remove(volume);
        }
        Ok(())
    }

    /// Changes what a volume may do. Leases that it may no longer have are revoked before its view
    /// loses the files.
    ///
    /// # Errors
    /// [`ReleaseError`]; the next change goes on.
    pub(super) async fn change(
        &mut self,
        volume: &VolumeId,
        allowed: bool,
        stream_id: Option<u32>,
        text: String,
    ) -> Result<(), ReleaseError> {
        let Some(held) = self.held.get_mut(volume) else {
            return Ok(());
        };
        let changed = Record {
            allowed,
            stream_id,
            ..held.clone()
        };
        if changed == *held && !self.unsettled.contains(volume) {
            return Ok(());
        }
        // A permission that goes is gone from now on, whatever fails below.
        *held = changed.clone();
        self.unsettled.insert(volume.clone());
        let kept = self.records.keep(&changed);
        let attachment = AttachmentId(changed.attachment);
        if is_open(&changed) {
            self.views.show(volume, streams(&changed))?;
        }
        self.control
            .set_access(attachment, self.access(&changed), text)
            .await?;
        if !is_open(&changed) {
            self.views.show(volume, BTreeSet::new())?;
        }
        kept?;
        self.unsettled.remove(volume);
        Ok(())
    }

    /// Ends a volume: its leases, its socket, its view, its record. One that is not held is no error.
    ///
    /// # Errors
    /// [`ReleaseError`]; calling it again goes on.
    pub(super) async fn release(&mut self, volume: &VolumeId) -> Result<Released, ReleaseError> {
        if let Some(record) = self.held.get(volume) {
            let attachment = AttachmentId(record.attachment);
            let text = "the pod's volume was unmounted".to_owned();
            let closed = self.control.close(attachment, text).await?;
            tracing::info!(%volume, stream = %record.stream, leases = closed.leases, "volume released");
        }
        // Nothing is linked any more into what somebody else removes.
        self.views.leave(volume);
        if let Some(base) = self.to_sweep(volume) {
            return Ok(Released::Sweep { base });
        }
        // Its base may not be known any more, or never have been.
        for store in self.stores.values() {
            self.views.close(volume, store)?;
        }
        self.records.forget(volume)?;
        self.held.remove(volume);
        self.unsettled.remove(volume);
        self.unopened.remove(volume);
        Ok(Released::Done)
    }

    /// The base of a view that this process might not be able to remove: a pod could write to it, or
    /// nobody knows whose it was.
    fn to_sweep(&self, volume: &VolumeId) -> Option<String> {
        if self.held.get(volume).is_some_and(|it| !it.is_writable()) {
            return None;
        }
        let lies_there = |store: &PathBuf| directory_of(store, volume).exists();
        let mut stores = self.stores.iter();
        let found = stores.find(|(_, store)| lies_there(store));
        found.map(|(base, _)| base.clone())
    }

    /// What is held, and views that only lie on disk.
    pub(super) fn list(&self) -> Vec<Held> {
        let held = self.held.iter().map(|(volume, record)| Held {
            volume: volume.to_string(),
            target_path: Some(record.target_path.clone()),
        });
        let mut all: Vec<Held> = held.collect();
        for volume in self.unknown_views() {
            all.push(Held {
                volume: volume.to_string(),
                target_path: None,
            });
        }
        all
    }

    /// Takes everything out of views whose records are lost: they may still be mounted.
    pub(super) fn empty_unknown_views(&self) {
        for volume in self.unknown_views() {
            for store in self.stores.values() {
                match self.views.empty(&volume, store) {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::error!(%volume, error = in_words(&error), "a view without a record cannot be emptied");
                    }
                }
            }
            tracing::warn!(%volume, "a view has no record: its pod sees nothing until kubelet publishes the volume again");
        }
    }

    fn unknown_views(&self) -> BTreeSet<VolumeId> {
        let mut unknown = BTreeSet::new();
        for store in self.stores.values() {
            match self.views.on_disk(store) {
                Ok(volumes) => unknown.extend(volumes),
                Err(error) => {
                    tracing::warn!(error = in_words(&error), "views cannot be listed");
                }
            }
        }
        unknown.retain(|volume| !self.held.contains_key(volume));
        unknown
    }

    async fn open(&self, volume: &VolumeId, record: &Record) -> Result<(), PublishError> {
        let node = || self.node.clone();
        let store = self
            .stores
            .get(&record.base)
            .ok_or_else(|| PublishError::BaseGone {
                node: node(),
                base: record.base.clone(),
            })?;
        let kind = match record.aeron_clients {
            Some(_) => Kind::Aeron,
            None => Kind::Socket,
        };
        let view = self.views.open(volume, store, streams(record), kind);
        let view = view.map_err(|source| PublishError::View {
            node: node(),
            source,
        })?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(CWD, &view, flags, Mode::empty()).map_err(|errno| {
            let source = ListenError::Io {
                path: view.clone(),
                step: "open the directory",
                source: errno.into(),
            };
            PublishError::Open {
                node: node(),
                source: source.into(),
            }
        })?;
        let opening = Opening {
            attachment: AttachmentId(record.attachment),
            directory,
            mode: SOCKET_MODE,
            access: self.access(record),
        };
        let opened = self.control.open(opening).await;
        opened.map_err(|source: OpenError| PublishError::Open {
            node: node(),
            source,
        })
    }

    /// What whoever connects through the volume's socket may do, or has its client ids on Aeron.
    fn access(&self, record: &Record) -> Access {
        let roles = match record.access {
            VolumeAccess::Produce => Roles {
                produce: true,
                consume: false,
            },
            VolumeAccess::Consume => Roles {
                produce: false,
                consume: true,
            },
        };
        let visible = streams(record).into_iter().map(|id| (id, roles));
        Access {
            visible: Visible::Only(visible.collect()),
            leases: u32::MAX,
            aeron: self.place(record),
        }
    }

    fn place(&self, record: &Record) -> Option<AeronPlace> {
        let clients = record.aeron_clients.and_then(ClientRange::from_first)?;
        // Without a media driver nobody can be there.
        let directory = self.aeron_dir.as_ref()?.to_string_lossy().into_owned();
        Some(AeronPlace { clients, directory })
    }

    fn undo(&self, volume: &VolumeId, record: &Record) {
        let viewed = self.stores.get(&record.base);
        let view_gone = viewed.map_or(Ok(()), |store| self.views.close(volume, store));
        // Without its view the record stands for nothing; with it, the next start finds both.
        let undone = view_gone
            .map_err(ReleaseError::from)
            .and_then(|()| Ok(self.records.forget(volume)?));
        if let Err(error) = undone {
            tracing::error!(%volume, error = in_words(&error), "a volume that could not be published cannot be undone");
        }
    }
}

/// What became of a volume that is let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// Nothing of it is left.
    Done,
    /// Its view in this base has to be removed by somebody else first.
    Sweep {
        /// Name of the base.
        base: String,
    },
}

fn is_open(record: &Record) -> bool {
    record.allowed && record.stream_id.is_some()
}

fn streams(record: &Record) -> BTreeSet<StreamId> {
    let id = record.stream_id.filter(|_| record.allowed);
    id.into_iter().map(StreamId).collect()
}
