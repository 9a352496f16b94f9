//! Everything that the driver can be told.
//!
//! The wiring polls all inputs to empty, hands each thing over as one event, and only then hands over
//! [`Event::Tick`]: so a keepalive that waited in a queue always counts before its lease expires.

use tensorpool_wire::{ConnectionId, Epoch, LogicalStream, MonoNanos, Origin, StreamId};

use crate::assigned::ClientRange;
use crate::config::{Access, BaseId, Policy};

/// Names one effect that can fail, so that its result finds its way back. Never reused by a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// All inputs were polled to empty; time passes. Spurious ticks are harmless.
    Tick,
    /// One whole message arrived. On [`LogicalStream::Status`] the body of a status request.
    Message {
        /// Who sent it.
        origin: Origin,
        /// Which of the protocol's streams it came on.
        stream: LogicalStream,
        /// The SBE message.
        bytes: &'a [u8],
    },
    /// A socket connection was accepted.
    ConnectionOpened {
        /// The new connection. Never used before.
        connection: ConnectionId,
        /// What whoever holds this connection may do: the attachment's identity.
        access: Access,
        /// Peer's process id, for status and logs only; 0 across PID namespaces.
        pid: u32,
        /// Peer's user id, for logs only.
        uid: u32,
    },
    /// The transport will cut this connection off (garbage, flood, overflow); last words are due.
    ConnectionClosing {
        /// The connection that will end.
        connection: ConnectionId,
        /// The rule, its limit and what was seen; sent to the peer.
        text: String,
    },
    /// A connection is gone; everything that it had sent was handed over before.
    ConnectionClosed {
        /// The connection that is gone.
        connection: ConnectionId,
    },
    /// The Aeron sessions of the driver's own publications, from now on. What comes from one of them
    /// is never forwarded.
    OwnSessions(Vec<i32>),
    /// The number of an epoch is in the journal, for good.
    EpochPersisted {
        /// From [`crate::Action::PersistEpoch`].
        op: OpId,
    },
    /// The journal could not be written.
    EpochPersistFailed {
        /// From [`crate::Action::PersistEpoch`].
        op: OpId,
        /// What went wrong, for the answer and the log.
        error: String,
    },
    /// All files of an epoch exist, are fully allocated and carry their superblocks.
    RegionsReady {
        /// From [`crate::Action::CreateRegions`].
        op: OpId,
    },
    /// An epoch's files could not be made. Nothing of them was left behind.
    RegionsFailed {
        /// From [`crate::Action::CreateRegions`].
        op: OpId,
        /// Why not.
        error: RegionsError,
    },
    /// An epoch's directory is gone.
    EpochRemoved {
        /// From [`crate::Action::RemoveEpoch`].
        op: OpId,
    },
    /// An epoch was not removed, since somebody has its files.
    EpochInUse {
        /// From [`crate::Action::RemoveEpoch`] with [`crate::Reclaim::IfUnused`].
        op: OpId,
    },
    /// An epoch's directory could not be removed; it is tried again later.
    EpochRemoveFailed {
        /// From [`crate::Action::RemoveEpoch`].
        op: OpId,
        /// What went wrong, for the log.
        error: String,
    },
    /// What a later scan of the base directories found. The scan at start is part of
    /// [`crate::Restored`].
    EpochsFound(Vec<ExistingEpoch>),
    /// A region of this epoch is not what was made: its producer changed the file.
    RegionPoisoned {
        /// Whose region.
        stream: StreamId,
        /// The epoch that the region belongs to.
        epoch: Epoch,
        /// What is wrong with it.
        damage: Damage,
    },
    /// What whoever holds this connection may do changed.
    AccessChanged {
        /// The connection.
        connection: ConnectionId,
        /// From now on.
        access: Access,
        /// Why, for whom it takes a lease from.
        text: String,
    },
    /// What the holder of these client ids may do on Aeron changed.
    AeronClients {
        /// Whose.
        clients: ClientRange,
        /// From now on; `None`: nobody holds them any more.
        access: Option<Access>,
        /// Why, for whom it takes a lease from.
        text: String,
    },
    /// The policy changed. All of it, not the difference.
    PolicyChanged(Box<Policy>),
    /// The process was asked to end.
    Shutdown(ShutdownMode),
}

/// What a producer did to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Damage {
    /// It truncated or punched the file: pages are gone.
    LostPages,
    /// It made the file longer than it was made.
    Grew,
}

impl Damage {
    /// What the producer and the log are told.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::LostPages => "region lost its pages",
            Self::Grew => "region was made longer than it may be",
        }
    }
}

/// How the process ends (X-2-28).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShutdownMode {
    /// Refuse attaches, announce once more, send ShmDriverShutdown after the shutdown timeout, stop.
    Drain,
    /// Stop at once and say nothing: a successor takes over and clients find it by themselves.
    Handover,
}

/// Why the files of an epoch could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionsError {
    /// The mount has too few free pages.
    #[error(
        "{needed_bytes} bytes needed, {free_bytes} bytes free{}",
        free_where(*.needed_bytes, *.free_bytes, *.node)
    )]
    NoSpace {
        /// Bytes of all files of the epoch.
        needed_bytes: u64,
        /// Bytes that the mount had free, or the NUMA node.
        free_bytes: u64,
        /// The NUMA node that has too few, where the memory must come from one.
        node: Option<u16>,
    },
    /// Huge pages are required and the base directory does not give them.
    #[error("no hugepages: {0}")]
    NoHugepages(String),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

fn free_where(needed: u64, free: u64, node: Option<u16>) -> String {
    match node {
        Some(node) => format!(" on NUMA node {node}"),
        None if free >= needed => {
            " (and not given: the control group of the driver may have no more)".to_owned()
        }
        None => String::new(),
    }
}

/// An epoch directory that lies under a base directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExistingEpoch {
    /// From the directory's name.
    pub stream: StreamId,
    /// From the directory's name.
    pub epoch: Epoch,
    /// Where it lies.
    pub base: BaseId,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Newest activity timestamp in its superblocks, [`MonoNanos`] 0 if none could be read.
    pub activity: MonoNanos,
    /// Whether the process in its superblocks still runs.
    pub owner: Owner,
    /// From when on an earlier driver would have emptied it ([`crate::Action::MarkEpoch`]).
    pub free_at: Option<MonoNanos>,
}

/// The process that made an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// This process, or an earlier one with its process id.
    Mine,
    /// No such process runs.
    Dead,
    /// Another process with this id runs.
    Alive,
}

/// What is known at start of drivers that ran before on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The highest epoch in the journal.
    pub last_epoch: Option<Epoch>,
    /// The epoch directories that were found.
    pub existing: Vec<ExistingEpoch>,
}
