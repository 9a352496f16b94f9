//! What `status` and `/metrics` show. Plain data, taken at one instant.

use tensorpool_wire::{ClientId, ConnectionId, Epoch, LeaseId, Mode, MonoNanos, NodeId, StreamId};

use crate::config::{BaseId, QuotaSpec};
use crate::counters::Counters;

/// The driver at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSnapshot {
    /// When it was taken.
    pub now: MonoNanos,
    /// `driver.instance_id`.
    pub instance_id: String,
    /// Running, draining or stopped.
    pub lifecycle: Lifecycle,
    /// Live leases.
    pub leases: u32,
    /// Attaches that wait for files.
    pub pending_attaches: u32,
    /// Known connections.
    pub connections: u32,
    /// Bytes of all epoch directories that exist.
    pub memory_bytes: u64,
    /// The streams that may be seen, by id.
    pub streams: Vec<StreamStatus>,
    /// Streams that the policy does not have any more and that still take memory, by id. This and the
    /// next three are empty for a connection with limited access.
    pub departed: Vec<DepartedStatus>,
    /// Where regions lie, by id.
    pub bases: Vec<BaseStatus>,
    /// The classes of the policy, by name.
    pub classes: Vec<ClassStatus>,
    /// The quotas of the policy, by name.
    pub quotas: Vec<QuotaStatus>,
    /// Since start. Empty for a connection with limited access.
    pub counters: Counters,
}

/// Where the driver is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lifecycle {
    /// Serving.
    Running,
    /// Attaches are refused; the end comes at the given time.
    Draining {
        /// When ShmDriverShutdown goes out.
        until: MonoNanos,
    },
    /// Over.
    Stopped,
}

/// One stream at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Its id.
    pub stream_id: StreamId,
    /// Its configured name; empty for a dynamic stream.
    pub name: String,
    /// Its namespace in a cluster, else empty.
    pub namespace: String,
    /// Tells it from another stream of the same name, in a cluster; else empty.
    pub uid: String,
    /// Its class; empty for none.
    pub class: String,
    /// Who gets memory first: the higher one.
    pub priority: i32,
    /// Whether a client brought it into being.
    pub dynamic: bool,
    /// Where it is in its life.
    pub phase: StreamPhase,
    /// The announced epoch.
    pub epoch: Option<Epoch>,
    /// Why the last attempt to make an epoch failed, if it did.
    pub error: Option<String>,
    /// The same as a bounded label.
    pub error_reason: Option<&'static str>,
    /// It could not get memory and comes before lower ones until it does, or until nobody asks for it
    /// any more.
    pub waits_for_memory: bool,
    /// Layout version of the announced epoch.
    pub layout_version: u32,
    /// Where the announced epoch's regions are; empty without one.
    pub uris: Uris,
    /// Bytes of one epoch; 0 where the stream has no base on this node.
    pub epoch_bytes: u64,
    /// Slots of the ring.
    pub nslots: u32,
    /// Canonical directory of the announced epoch; empty without one.
    pub directory: String,
    /// The producer, if there is one.
    pub producer: Option<ProducerStatus>,
    /// The consumers, by lease id.
    pub consumers: Vec<ConsumerStatus>,
    /// Attaches that wait for files.
    pub pending_attaches: u32,
    /// Every epoch directory that exists, by epoch.
    pub memory: Vec<EpochStatus>,
}

impl StreamStatus {
    /// `namespace/name`, or the name alone where there is no namespace.
    #[must_use]
    pub fn full_name(&self) -> String {
        crate::policy::full_name(&self.namespace, &self.name)
    }
}

/// The regions of an epoch as announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uris {
    /// Of the header ring.
    pub header: String,
    /// Of the pools, in the order of the messages.
    pub pools: Vec<String>,
}

/// A stream that is served no more, while old epochs of it still lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepartedStatus {
    /// Its id.
    pub stream_id: StreamId,
    /// Its namespace in a cluster, else empty.
    pub namespace: String,
    /// Its configured name.
    pub name: String,
    /// Its uid in a cluster, else empty.
    pub uid: String,
    /// Bytes of its epochs.
    pub bytes: u64,
    /// Of these, bytes that somebody had when they were to go.
    pub in_use_bytes: u64,
}

/// Memory on one base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseStatus {
    /// Which one.
    pub base: BaseId,
    /// Its name.
    pub name: String,
    /// The announced directory.
    pub directory: String,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Whether it is a hugetlbfs.
    pub hugepages: bool,
    /// Bytes that the policy's classes want there.
    pub wanted_bytes: u64,
    /// Bytes of all epoch directories there but those that somebody had when they were to go: these are
    /// as pinned as memory that was unlinked.
    pub used_bytes: u64,
}

/// Memory of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// Name of its base.
    pub base: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes of announced epochs and of those that are being made.
    pub current_bytes: u64,
    /// Bytes of old epochs that still lie there.
    pub old_bytes: u64,
}

/// One quota and its use on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    /// Its name.
    pub name: String,
    /// Its limits.
    pub hard: QuotaSpec,
    /// What counts against them.
    pub used: QuotaUse,
}

/// What counts against a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaUse {
    /// Bytes of all its epochs.
    pub bytes: u64,
    /// Producers, attached or waiting for files.
    pub producers: u64,
    /// Consumers, attached or waiting for files.
    pub consumers: u64,
    /// Both.
    pub leases: u64,
}

/// Where a stream is in its life. Bounded label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamPhase {
    /// No epoch yet.
    Absent,
    /// Files are being made; an earlier epoch may still be announced.
    Provisioning,
    /// An epoch is announced.
    Ready,
    /// The last attempt failed and is repeated each announce period.
    Failed,
}

impl StreamPhase {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// How a lease's holder talks to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On Aeron.
    Aeron,
    /// On a socket.
    Socket {
        /// The connection.
        connection: ConnectionId,
        /// Peer's process id, 0 across PID namespaces.
        pid: u32,
    },
}

/// A stream's producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerStatus {
    /// Its lease.
    pub lease: LeaseId,
    /// Its client id.
    pub client: ClientId,
    /// How it talks to the driver.
    pub way: Way,
    /// Its node id.
    pub node: Option<NodeId>,
    /// When the lease expires without a keepalive.
    pub expiry: MonoNanos,
    /// Frames published in this epoch, as its last QosProducer said.
    pub frames: Option<u64>,
    /// When that came.
    pub qos_at: Option<MonoNanos>,
}

/// One consumer of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// Its lease.
    pub lease: LeaseId,
    /// Its client id.
    pub client: ClientId,
    /// How it talks to the driver.
    pub way: Way,
    /// Its node id.
    pub node: Option<NodeId>,
    /// When the lease expires without a keepalive.
    pub expiry: MonoNanos,
    /// Its last QosConsumer.
    pub qos: Option<ConsumerQos>,
    /// Aeron stream id of its own descriptor stream.
    pub descriptor_stream_id: Option<u32>,
    /// Aeron stream id of its own control stream.
    pub control_stream_id: Option<u32>,
}

/// What a consumer last said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerQos {
    /// When.
    pub at: MonoNanos,
    /// The epoch it reads.
    pub epoch: Epoch,
    /// Last sequence number seen.
    pub last_seq: u64,
    /// Frames it never saw.
    pub drops_gap: u64,
    /// Frames that were overwritten under it.
    pub drops_late: u64,
    /// How it consumes.
    pub mode: Mode,
}

/// One epoch directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStatus {
    /// Which epoch.
    pub epoch: Epoch,
    /// Bytes of its files.
    pub bytes: u64,
    /// Whether it is the announced one.
    pub current: bool,
}
