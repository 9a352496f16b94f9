//! What a lease is asked for with, and its times.

use tensorpool_wire::{ClientId, HugepagesPolicy, NodeId, PublishMode, Role, StreamId};

/// The role of a lease. Unlike [`Role`] it has no unknown value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseRole {
    /// Writes frames. One per stream.
    Producer,
    /// Reads frames.
    Consumer,
}

impl LeaseRole {
    /// The role as messages carry it.
    #[must_use]
    pub const fn to_wire(self) -> Role {
        match self {
            Self::Producer => Role::Producer,
            Self::Consumer => Role::Consumer,
        }
    }

    /// The role in a message, if it is a known one.
    #[must_use]
    pub const fn from_wire(role: Role) -> Option<Self> {
        match role {
            Role::Producer => Some(Self::Producer),
            Role::Consumer => Some(Self::Consumer),
            Role::Unknown(_) => None,
        }
    }
}

/// Client ids from which one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIds {
    first: u32,
    last: u32,
}

impl ClientIds {
    /// Ids from `first` to `last`, both included; `None` where that is none, or 0 is among them.
    #[must_use]
    pub const fn new(first: u32, last: u32) -> Option<Self> {
        if first == 0 || first > last {
            None
        } else {
            Some(Self { first, last })
        }
    }

    /// Any id that may be chosen.
    // spec: D-4.8-1, some peers shift an id by one.
    pub(super) const ANY: Self = Self {
        first: 1,
        last: 0x7FFF_FFFF,
    };

    /// One of them, by a random number.
    pub(super) fn pick(self, random: u64) -> ClientId {
        let count = u64::from(self.last - self.first) + 1;
        let offset = u32::try_from(random % count).unwrap_or(0);
        ClientId(self.first + offset)
    }
}

/// What a lease is asked for with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseOptions {
    /// The stream; 0 lets a driver with dynamic streams choose one.
    pub stream: StreamId,
    /// Producer or consumer.
    pub role: LeaseRole,
    /// A fixed client id. `None` or 0: a random one for each lease.
    pub client_id: Option<ClientId>,
    /// Whether the driver may create the stream.
    pub publish_mode: PublishMode,
    /// The layout version that the client wants, 0 for the driver's.
    pub expected_layout_version: u32,
    /// Which pages the regions must have.
    pub hugepages: HugepagesPolicy,
    /// A node id that trace ids shall carry. The driver refuses one that is taken.
    pub desired_node_id: Option<NodeId>,
    /// Intervals and limits.
    pub timings: LeaseTimings,
}

impl LeaseOptions {
    /// Options with the defaults of this implementation: existing streams only, layout version 1, any
    /// pages, a random client id.
    #[must_use]
    pub const fn new(stream: StreamId, role: LeaseRole) -> Self {
        Self {
            stream,
            role,
            client_id: None,
            publish_mode: PublishMode::RequireExisting,
            expected_layout_version: 1,
            hugepages: HugepagesPolicy::Unspecified,
            desired_node_id: None,
            timings: LeaseTimings::DEFAULT,
        }
    }
}

/// Times of a lease, all in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimings {
    /// How long one attach may take before it counts as failed.
    pub attach_timeout_ns: u64,
    /// How often an unanswered attach is sent again.
    pub attach_retry_ns: u64,
    /// Keepalive interval; a third of the granted time where that is shorter (D-4.4-1).
    pub keepalive_interval_ns: u64,
    /// How many intervals a lease without an expiry may outlive its driver.
    pub grace_intervals: u32,
    /// First delay before attaching again; it doubles.
    pub backoff_min_ns: u64,
    /// Longest delay before attaching again.
    pub backoff_max_ns: u64,
    /// First delay before connecting again; it doubles.
    pub reconnect_min_ns: u64,
    /// Longest delay before connecting again.
    pub reconnect_max_ns: u64,
    /// How long a detach waits for its answer.
    pub detach_timeout_ns: u64,
}

impl LeaseTimings {
    /// 5 s and 500 ms for an attach, keepalive 1 s with grace 3, backoff 100 ms to 3 s, reconnect
    /// 10 ms to 1 s, 1 s for a detach.
    pub const DEFAULT: Self = Self {
        attach_timeout_ns: 5_000_000_000,
        attach_retry_ns: 500_000_000,
        keepalive_interval_ns: 1_000_000_000,
        grace_intervals: 3,
        backoff_min_ns: 100_000_000,
        backoff_max_ns: 3_000_000_000,
        reconnect_min_ns: 10_000_000,
        reconnect_max_ns: 1_000_000_000,
        detach_timeout_ns: 1_000_000_000,
    };

    pub(super) fn fallback_grant_ns(&self) -> u64 {
        self.keepalive_interval_ns
            .saturating_mul(u64::from(self.grace_intervals))
    }
}

impl Default for LeaseTimings {
    fn default() -> Self {
        Self::DEFAULT
    }
}
