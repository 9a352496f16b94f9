//! The names, help texts and kinds of all metric families. An interface: a snapshot test holds it.

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Constant 1 with the version.
    Info,
    /// Whether attaches are refused.
    Draining,
    /// Whether Aeron is served.
    MediaDriverConnected,
    /// Streams by phase.
    Streams,
    /// Live leases by stream and role.
    Leases,
    /// Attaches that wait for files.
    PendingAttaches,
    /// Open connections.
    Connections,
    /// Bytes of epochs by stream.
    MemoryBytes,
    /// Bytes of epochs by class.
    ClassMemory,
    /// What a class may take.
    ClassSize,
    /// What a quota limits.
    QuotaHard,
    /// What counts against it.
    QuotaUsed,
    /// Mounts by page size.
    MountBytes,
    /// Requests to the API server.
    ApiRequests,
    /// Frames as producers report them.
    Frames,
    /// Drops as consumers report them.
    ConsumerDrops,
    /// Answers to attaches.
    Attaches,
    /// Ends of leases.
    LeasesEnded,
    /// Keepalives that counted.
    Keepalives,
    /// New epochs.
    Epochs,
    /// Epochs that could not be made.
    EpochsFailed,
    /// Epoch directories removed.
    EpochsRemoved,
    /// Bytes that were taken from whoever still had them.
    ForcedBytes,
    /// Passes for lack of space.
    SpaceReclaims,
    /// Messages dropped by the core.
    MessagesDropped,
    /// Messages that crossed between the worlds.
    Forwarded,
    /// Answers to discovery.
    Discoveries,
    /// Messages in.
    Received,
    /// Messages out.
    Sent,
    /// Messages not sent.
    Unsent,
    /// Connections accepted.
    ConnectionsOpened,
    /// Connections turned away.
    ConnectionsRefused,
    /// Connections ended.
    ConnectionsClosed,
    /// Messages that gave way to newer ones of their kind.
    Superseded,
    /// Descriptors relayed.
    Relayed,
    /// Frames not relayed.
    RelayDrops,
    /// Messages to Aeron dropped while they waited.
    GivenUp,
    /// Descriptors read for nobody.
    Drained,
    /// Media drivers connected to.
    MediaDriverConnects,
    /// Media drivers lost.
    MediaDriverLosses,
    /// Epochs in the journal.
    EpochsPersisted,
    /// Failed file operations.
    FileFailures,
    /// Rounds of the duty cycle.
    Cycles,
    /// The longest round.
    LongestCycle,
    /// Stalls of the duty cycle.
    Stalls,
    /// Time in them.
    StalledSeconds,
    /// Times that went backwards.
    ClockRegressions,
}

/// How a family's numbers move.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
}

impl Metric {
    /// Name without the prefix `tensorpool_driver_` and without `_total`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Draining => "draining",
            Self::MediaDriverConnected => "media_driver_connected",
            Self::Streams => "streams",
            Self::Leases => "leases",
            Self::PendingAttaches => "pending_attaches",
            Self::Connections => "connections",
            Self::MemoryBytes => "memory_bytes",
            Self::ClassMemory => "class_memory_bytes",
            Self::ClassSize => "class_size_bytes",
            Self::QuotaHard => "quota_hard",
            Self::QuotaUsed => "quota_used",
            Self::MountBytes => "mount_bytes",
            Self::ApiRequests => "api_requests",
            Self::Frames => "stream_frames",
            Self::ConsumerDrops => "consumer_drops",
            Self::Attaches => "attaches",
            Self::LeasesEnded => "leases_ended",
            Self::Keepalives => "keepalives",
            Self::Epochs => "epochs",
            Self::EpochsFailed => "epochs_failed",
            Self::EpochsRemoved => "epochs_removed",
            Self::ForcedBytes => "forced_bytes",
            Self::SpaceReclaims => "space_reclaims",
            Self::MessagesDropped => "messages_dropped",
            Self::Forwarded => "messages_forwarded",
            Self::Discoveries => "discoveries",
            Self::Received => "messages_received",
            Self::Sent => "messages_sent",
            Self::Unsent => "messages_unsent",
            Self::ConnectionsOpened => "connections_opened",
            Self::ConnectionsRefused => "connections_refused",
            Self::ConnectionsClosed => "connections_closed",
            Self::Superseded => "messages_superseded",
            Self::Relayed => "relay_descriptors",
            Self::RelayDrops => "relay_drops",
            Self::GivenUp => "aeron_messages_given_up",
            Self::Drained => "drained_descriptors",
            Self::MediaDriverConnects => "media_driver_connects",
            Self::MediaDriverLosses => "media_driver_losses",
            Self::EpochsPersisted => "journal_epochs",
            Self::FileFailures => "file_failures",
            Self::Cycles => "cycles",
            Self::LongestCycle => "longest_cycle_seconds",
            Self::Stalls => "stalls",
            Self::StalledSeconds => "stalled_seconds",
            Self::ClockRegressions => "clock_regressions",
        }
    }

    pub(super) const fn help(self) -> &'static str {
        match self {
            Self::Info => "Version of the driver",
            Self::Draining => "1 while attaches are refused before the end",
            Self::MediaDriverConnected => "1 while Aeron clients are served",
            Self::Streams => "Streams by phase",
            Self::Leases => "Live leases",
            Self::PendingAttaches => "Attaches that wait for files",
            Self::Connections => "Open socket connections",
            Self::MemoryBytes => "Bytes of all epochs that exist",
            Self::ClassMemory => {
                "Bytes of epochs of a class: announced ones and those being made, and old ones"
            }
            Self::ClassSize => "Bytes that the epochs of a class may take",
            Self::QuotaHard => "Limits of a quota on this node",
            Self::QuotaUsed => "What counts against a quota on this node",
            Self::MountBytes => {
                "Bytes of a mount: all, free, wanted by classes, and pinned by clients that still map removed files"
            }
            Self::ApiRequests => {
                "Requests to the Kubernetes API server: writes of the node's status and Lease, questions whether a pod may use a stream, and watches that broke"
            }
            Self::Frames => "Frames of the current epoch, as the producer last reported",
            Self::ConsumerDrops => {
                "Frames that consumers with a live lease missed, as they last reported"
            }
            Self::Attaches => "Attach requests by answer",
            Self::LeasesEnded => "Leases that ended",
            Self::Keepalives => "Keepalives that extended a lease",
            Self::Epochs => "Epochs announced first",
            Self::EpochsFailed => "Epochs that could not be made",
            Self::EpochsRemoved => "Epoch directories removed",
            Self::ForcedBytes => "Bytes of epochs that were taken from clients that did not let go",
            Self::SpaceReclaims => "Times that all old epochs were removed for lack of space",
            Self::MessagesDropped => "Inbound messages that were not acted on",
            Self::Forwarded => "Messages that crossed between Aeron and sockets",
            Self::Discoveries => "Discovery requests by answer",
            Self::Received => "Messages that arrived",
            Self::Sent => "Messages that went out",
            Self::Unsent => "Messages that could not be sent",
            Self::ConnectionsOpened => "Socket connections accepted",
            Self::ConnectionsRefused => "Socket connections closed at once because of a limit",
            Self::ConnectionsClosed => "Socket connections that ended",
            Self::Superseded => {
                "Waiting announces, QoS and metadata that gave way to a newer or more important message"
            }
            Self::Relayed => "Descriptors published for socket producers",
            Self::RelayDrops => {
                "Frames of socket producers without a descriptor for Aeron consumers"
            }
            Self::GivenUp => {
                "Messages to Aeron that waited for a listener or for room and were dropped"
            }
            Self::Drained => "Descriptors of Aeron producers read so that they see a subscriber",
            Self::MediaDriverConnects => "Connections made to a media driver",
            Self::MediaDriverLosses => "Media drivers that were lost",
            Self::EpochsPersisted => "Epochs written to the journal",
            Self::FileFailures => "File operations that failed",
            Self::Cycles => "Rounds of the duty cycle",
            Self::LongestCycle => "The longest round of the duty cycle since the last scrape",
            Self::Stalls => "Gaps between rounds longer than a keepalive interval",
            Self::StalledSeconds => "Sum of those gaps",
            Self::ClockRegressions => "Times that the monotonic clock went backwards",
        }
    }

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Info
            | Self::Draining
            | Self::MediaDriverConnected
            | Self::Streams
            | Self::Leases
            | Self::PendingAttaches
            | Self::Connections
            | Self::MemoryBytes
            | Self::ClassMemory
            | Self::ClassSize
            | Self::QuotaHard
            | Self::QuotaUsed
            | Self::MountBytes
            | Self::Frames
            | Self::ConsumerDrops
            | Self::LongestCycle => Kind::Gauge,
            Self::ApiRequests
            | Self::Attaches
            | Self::LeasesEnded
            | Self::Keepalives
            | Self::Epochs
            | Self::EpochsFailed
            | Self::EpochsRemoved
            | Self::ForcedBytes
            | Self::SpaceReclaims
            | Self::MessagesDropped
            | Self::Forwarded
            | Self::Discoveries
            | Self::Received
            | Self::Sent
            | Self::Unsent
            | Self::ConnectionsOpened
            | Self::ConnectionsRefused
            | Self::ConnectionsClosed
            | Self::Superseded
            | Self::Relayed
            | Self::RelayDrops
            | Self::GivenUp
            | Self::Drained
            | Self::MediaDriverConnects
            | Self::MediaDriverLosses
            | Self::EpochsPersisted
            | Self::FileFailures
            | Self::Cycles
            | Self::Stalls
            | Self::StalledSeconds
            | Self::ClockRegressions => Kind::Counter,
        }
    }
}
