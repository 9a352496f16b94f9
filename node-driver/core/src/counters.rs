//! What is counted, and under which bounded labels.

use std::collections::BTreeMap;

/// Why an inbound message was dropped. Together with the message's name the label of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The bytes are no message of ours.
    Undecodable,
    /// Longer than the limit.
    TooLong,
    /// Only a driver sends it: our own, or another driver's on a shared stream (B-10).
    DriverMessage,
    /// Nobody may send it this way (X-2-53).
    NotForwarded,
    /// It came on another logical stream than its own.
    WrongStream,
    /// It came back from the driver's own Aeron session (X-2-54).
    OwnSession,
    /// No stream of this driver.
    UnknownStream,
    /// The sender does not hold the lease that the message needs.
    NoLease,
    /// The ids in it are not those of the lease (X-2-55).
    IdMismatch,
    /// It speaks of an epoch that is not the current one.
    StaleEpoch,
    /// More per second than are forwarded.
    RateLimit,
    /// A keepalive or detach came through another way or connection than its lease's (X-2-17).
    ForeignOrigin,
    /// The connection is not known, or was cut off.
    UnknownConnection,
    /// An unknown lease was answered within the last second, or too many are remembered.
    UnknownLease,
    /// No response channel, or a stream id that cannot be answered (DI-5.1-2).
    NoEndpoint,
    /// The shutdown token is missing, wrong, or the feature is off (D-4.13-2).
    BadToken,
    /// A second attach of one client while the first still waits: answered once.
    AttachPending,
    /// The driver has stopped.
    Stopped,
}

impl DropReason {
    /// All of them, for metrics that must exist before the first one happens.
    pub const ALL: [Self; 18] = [
        Self::Undecodable,
        Self::TooLong,
        Self::DriverMessage,
        Self::NotForwarded,
        Self::WrongStream,
        Self::OwnSession,
        Self::UnknownStream,
        Self::NoLease,
        Self::IdMismatch,
        Self::StaleEpoch,
        Self::RateLimit,
        Self::ForeignOrigin,
        Self::UnknownConnection,
        Self::UnknownLease,
        Self::NoEndpoint,
        Self::BadToken,
        Self::AttachPending,
        Self::Stopped,
    ];

    /// Bounded label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::TooLong => "too_long",
            Self::DriverMessage => "driver_message",
            Self::NotForwarded => "not_forwarded",
            Self::WrongStream => "wrong_stream",
            Self::OwnSession => "own_session",
            Self::UnknownStream => "unknown_stream",
            Self::NoLease => "no_lease",
            Self::IdMismatch => "id_mismatch",
            Self::StaleEpoch => "stale_epoch",
            Self::RateLimit => "rate_limit",
            Self::ForeignOrigin => "foreign_origin",
            Self::UnknownConnection => "unknown_connection",
            Self::UnknownLease => "unknown_lease",
            Self::NoEndpoint => "no_endpoint",
            Self::BadToken => "bad_token",
            Self::AttachPending => "attach_pending",
            Self::Stopped => "stopped",
        }
    }
}

/// Everything that only ever rises, since the driver started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were dropped, by reason and by the message's name in the schema
    /// (`undecodable` where it is not known).
    pub drops: BTreeMap<(DropReason, &'static str), u64>,
    /// Attach answers by code name and, if refused, by the rule's label.
    pub attaches: BTreeMap<&'static str, u64>,
    /// Leases that ended, by reason label: `detached`, `expired`, `revoked`.
    pub leases_ended: BTreeMap<&'static str, u64>,
    /// Epochs that were announced first, by cause label.
    pub epochs: BTreeMap<&'static str, u64>,
    /// Epochs that could not be made.
    pub epochs_failed: u64,
    /// Epoch directories whose removal was asked for, by reason label.
    pub epochs_removed: BTreeMap<&'static str, u64>,
    /// Bytes of epochs that were taken from whoever still had them.
    pub forced_bytes: u64,
    /// Passes that removed all epochs but the current ones for lack of space.
    pub space_reclaims: u64,
    /// Gaps between ticks that were longer than one keepalive interval.
    pub stalls: u64,
    /// Sum of those gaps in nanoseconds.
    pub stalled_ns: u64,
    /// Times that went backwards; they are taken as standing still.
    pub clock_regressions: u64,
    /// Keepalives that extended a lease.
    pub keepalives: u64,
    /// Messages that crossed between the worlds, by name.
    pub forwarded: BTreeMap<&'static str, u64>,
    /// Discovery requests that were answered, by status label.
    pub discoveries: BTreeMap<&'static str, u64>,
}

impl Counters {
    pub(crate) fn drop(&mut self, reason: DropReason, message: &'static str) {
        bump(&mut self.drops, (reason, message));
    }
}

/// Adds one to a labelled counter.
pub(crate) fn bump<K: Ord>(counters: &mut BTreeMap<K, u64>, label: K) {
    let count = counters.entry(label).or_insert(0);
    *count = count.saturating_add(1);
}
