//! Everything that the driver can want done. The order of the list is the order to keep.
//!
//! Contract with the wiring:
//! - Messages to one destination go out in the order of their actions.
//! - [`Action::CreateRegions`] and [`Action::RemoveEpoch`] are done one after the other, in order, off
//!   the duty cycle, since a creation may need the space of the removals before it;
//!   [`Action::PersistEpoch`] likewise, and neither has to wait for the other. Each is answered by
//!   exactly one event.
//! - [`Action::StopRelay`] takes effect before any later action.

use tensorpool_wire::{
    ClientId, ConnectionId, Epoch, LeaseId, LeaseRevokeReason, LogicalStream, Message, MonoNanos,
    PoolId, Role, StreamId,
};

use crate::config::BaseId;
use crate::event::{Damage, OpId};
use crate::status::StatusSnapshot;

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send one message.
    Send {
        /// To whom.
        to: To,
        /// Which of the protocol's streams carries it.
        stream: LogicalStream,
        /// What.
        message: Message,
        /// Send the regions of this epoch along as writable descriptors, header ring first, then the
        /// pools in the order of the message (X-2-8). Only with [`To::Origin`] of a connection.
        regions: Option<EpochKey>,
    },
    /// Answer a status request on its connection (X-2-50).
    AnswerStatus {
        /// Who asked.
        connection: ConnectionId,
        /// What that connection may see.
        snapshot: Box<StatusSnapshot>,
    },
    /// Write an epoch's number to the journal.
    PersistEpoch {
        /// For [`crate::Event::EpochPersisted`].
        op: OpId,
        /// Whose epoch, and which.
        key: EpochKey,
    },
    /// Make all files of an epoch, fully allocated, superblock magic last; map them for activity
    /// refreshes.
    CreateRegions {
        /// For [`crate::Event::RegionsReady`].
        op: OpId,
        /// What to make.
        regions: RegionSet,
    },
    /// Unmap an epoch's files here and remove its directory.
    RemoveEpoch {
        /// For [`crate::Event::EpochRemoved`].
        op: OpId,
        /// Whose epoch, and which.
        key: EpochKey,
        /// On which base it lies.
        base: BaseId,
        /// Where it lies.
        directory: String,
        /// What becomes of files that somebody still has.
        reclaim: Reclaim,
        /// For the log.
        why: RemoveReason,
    },
    /// Write beside an epoch's files when they may be emptied under whoever has them, for a driver that
    /// starts anew. Not answered: without it that driver leaves the memory to them.
    MarkEpoch {
        /// Whose epoch, and which.
        key: EpochKey,
        /// On which base it lies.
        base: BaseId,
        /// From this time on.
        free_at: MonoNanos,
    },
    /// Store the present time as activity timestamp of all regions of a current epoch.
    RefreshActivity {
        /// Whose epoch, and which.
        key: EpochKey,
    },
    /// Relay descriptors of a socket producer to Aeron while somebody subscribes there (X-2-58).
    StartRelay {
        /// Whose epoch, and which.
        key: EpochKey,
    },
    /// Drop the relay's cursor of this stream.
    StopRelay {
        /// Whose relay.
        stream: StreamId,
    },
    /// Hold a drained, untethered descriptor subscription: the stream has an Aeron producer and
    /// socket consumers (X-1-6).
    HoldDescriptors {
        /// Whose descriptors.
        stream: StreamId,
    },
    /// Give that subscription up.
    ReleaseDescriptors {
        /// Whose descriptors.
        stream: StreamId,
    },
    /// This connection's attach is taken: the limit for idle connections no longer holds (X-2-36), however
    /// long its memory takes to make.
    MarkAttached {
        /// Which connection.
        connection: ConnectionId,
    },
    /// End a connection after what was sent to it before.
    Disconnect {
        /// Which connection.
        connection: ConnectionId,
    },
    /// Something an operator wants in the log. Changes of state only, so its volume is bounded.
    Note(Note),
    /// End the process. The last action ever.
    Stop,
}

/// To whom a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Only whoever sent what is answered: a connection, or the Aeron publication of the logical
    /// stream, where all read it.
    Origin(tensorpool_wire::Origin),
    /// The Aeron publication of the logical stream if `aeron`, then each of the connections.
    All {
        /// Whether Aeron is among them.
        aeron: bool,
        /// The sockets among them, in ascending order.
        connections: Vec<ConnectionId>,
    },
    /// The Aeron channel and stream id that a DiscoveryRequest named (DI-4.3-1).
    Endpoint {
        /// Aeron channel.
        channel: String,
        /// Aeron stream id.
        stream_id: i32,
    },
}

/// One epoch of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochKey {
    /// Whose epoch.
    pub stream: StreamId,
    /// Which epoch.
    pub epoch: Epoch,
}

/// All files of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSet {
    /// Whose epoch, and which.
    pub key: EpochKey,
    /// On which base.
    pub base: BaseId,
    /// Absolute directory to make: `<base>/tensorpool-<user>/<namespace>/<stream>/<epoch>`
    /// (W-15.21a-1).
    pub directory: String,
    /// Slots of the header ring and of every pool. A power of two.
    pub nslots: u32,
    /// The pools, in the order of the messages.
    pub pools: Vec<PoolFile>,
    /// Bytes of all files, before rounding up to pages.
    pub bytes: u64,
    /// Whether peers on Aeron may have them.
    pub on_aeron: bool,
    /// Which NUMA node the pages come from; `None`: any.
    pub numa: Option<Numa>,
}

/// How the memory of a stream is placed on a machine with several NUMA nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numa {
    /// On this one while it has free pages, then on others.
    Preferred(u16),
    /// On this one only.
    Bind(u16),
}

/// One payload pool's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFile {
    /// Its id, also its file name: `<pool_id>.pool`.
    pub pool: PoolId,
    /// Bytes per slot, a multiple of 64.
    pub stride_bytes: u32,
}

/// What becomes of an epoch's files that somebody still has open or mapped when it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reclaim {
    /// They are unlinked, and the kernel keeps their memory for as long as somebody has them.
    Unlink,
    /// They stay where they are, out of every view, and [`crate::Event::EpochInUse`] says so. Files that
    /// nobody has are unlinked.
    IfUnused,
    /// They are emptied under whoever has them, and unlinked.
    Empty,
}

/// Why an epoch directory is removed. Bounded label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RemoveReason {
    /// Enough newer ones exist, it is old enough, nobody refers to it (GC-1).
    Collected,
    /// Its space is needed at once for a new epoch.
    NoSpace,
    /// The making of it was given up; it was never announced.
    Abandoned,
    /// It was to go before, somebody had it, and its time is over.
    Forced,
}

impl RemoveReason {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Collected,
        Self::NoSpace,
        Self::Abandoned,
        Self::Forced,
    ];

    /// Bounded label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Collected => "collected",
            Self::NoSpace => "no_space",
            Self::Abandoned => "abandoned",
            Self::Forced => "forced",
        }
    }
}

/// Why a stream got a new epoch. Bounded label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EpochCause {
    /// A consumer attached to a stream that had none yet.
    FirstConsumer,
    /// The policy wants its memory before anybody asks.
    Eager,
    /// A producer attached.
    ProducerAttached,
    /// The producer's lease ended (detach, expiry, revoke, close).
    ProducerEnded,
    /// The configured layout changed.
    LayoutChanged,
    /// A producer changed a region's file.
    Poisoned,
    /// An earlier attempt failed.
    Retry,
}

impl EpochCause {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::FirstConsumer,
        Self::Eager,
        Self::ProducerAttached,
        Self::ProducerEnded,
        Self::LayoutChanged,
        Self::Poisoned,
        Self::Retry,
    ];

    /// Bounded label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::FirstConsumer => "first_consumer",
            Self::Eager => "eager",
            Self::ProducerAttached => "producer_attached",
            Self::ProducerEnded => "producer_ended",
            Self::LayoutChanged => "layout_changed",
            Self::Poisoned => "poisoned",
            Self::Retry => "retry",
        }
    }
}

/// What the log should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A lease was granted.
    LeaseGranted {
        /// The lease.
        lease: LeaseId,
        /// Its stream.
        stream: StreamId,
        /// Its holder.
        client: ClientId,
        /// Its role.
        role: Role,
    },
    /// A lease ended.
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
        /// Its stream.
        stream: StreamId,
        /// Its holder.
        client: ClientId,
        /// Its role.
        role: Role,
        /// As in ShmLeaseRevoked.
        reason: LeaseRevokeReason,
        /// As in ShmLeaseRevoked.
        text: String,
    },
    /// A stream's new epoch was announced.
    EpochAnnounced {
        /// Whose epoch, and which.
        key: EpochKey,
        /// Why it was made.
        cause: EpochCause,
    },
    /// An epoch could not be made. Waiting attaches were refused. Not repeated while the text is the
    /// same.
    EpochFailed {
        /// Whose epoch, and which.
        key: EpochKey,
        /// What was sent to those who waited.
        text: String,
    },
    /// Space ran out; old epochs are being removed for this one, which is then made.
    SpaceReclaimed {
        /// The epoch that had no space.
        key: EpochKey,
        /// How many epoch directories are removed for it.
        removed: u32,
        /// Their bytes.
        bytes: u64,
        /// What there was too little of.
        error: String,
    },
    /// An epoch directory could not be removed.
    RemoveFailed {
        /// Whose epoch, and which.
        key: EpochKey,
        /// What went wrong.
        error: String,
    },
    /// An epoch was to be removed, and somebody still has its files.
    MemoryInUse {
        /// Whose epoch, and which.
        key: EpochKey,
        /// `namespace/name` of the stream; empty where it is not known any more.
        name: String,
        /// Bytes of its files.
        bytes: u64,
        /// How long they have it at most, in nanoseconds.
        left_ns: u64,
    },
    /// The memory of an epoch was taken from whoever still had it.
    MemoryForced {
        /// Whose epoch, and which.
        key: EpochKey,
        /// As in [`Note::MemoryInUse`].
        name: String,
        /// Bytes of its files.
        bytes: u64,
    },
    /// The duty cycle stood still for longer than a keepalive interval; every lease was extended.
    Stalled {
        /// For how long, in nanoseconds.
        gap_ns: u64,
    },
    /// A region is not what was made.
    Poisoned {
        /// Whose epoch, and which.
        key: EpochKey,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A stream is served no more; its epochs are collected when they are old enough.
    StreamGone {
        /// Which stream.
        stream: StreamId,
    },
    /// A valid shutdown request or signal came in.
    Draining,
    /// What a connection may do changed.
    AccessChanged {
        /// Which connection.
        connection: ConnectionId,
        /// Leases that it lost.
        revoked: u32,
    },
    /// A policy change was taken over.
    PolicyApplied {
        /// Streams that are new.
        added: u32,
        /// Streams that are gone.
        removed: u32,
        /// Streams with another layout.
        changed: u32,
    },
}
