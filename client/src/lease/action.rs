//! The vocabulary of the lease machine: what comes in, what goes out.

use tensorpool_wire::{LeaseId, Message, ResponseCode, ShmLeaseKeepalive};

use super::{Grant, GrantError};

/// What can happen to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent<'a> {
    /// Time passed.
    Tick,
    /// The way to the driver asked for by [`LeaseAction::Connect`] is there.
    LinkUp,
    /// The way to the driver could not be made; it is asked for again later.
    LinkFailed,
    /// The way to the driver broke without revocation or shutdown: the driver is lost.
    LinkDown,
    /// A message of the driver, or of anybody on a shared control stream.
    Received(&'a Message),
    /// The keepalive asked for last was sent.
    KeepaliveSent,
    /// The keepalive asked for last was not sent. `lasting`: more than momentary back-pressure.
    KeepaliveFailed {
        /// Whether trying again soon is useless.
        lasting: bool,
    },
    /// The regions of the grant are mapped and in use from now on, in place of older ones.
    Mapped {
        /// The lease of that grant.
        lease: LeaseId,
    },
    /// The regions of the grant were refused.
    MapFailed {
        /// The lease of that grant.
        lease: LeaseId,
    },
    /// The memory in use turned out useless; detach and attach again.
    GiveUp(LeaseEnd),
    /// The application is through with the stream.
    Detach,
}

/// What must be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// Make the way to the driver; answer with [`LeaseEvent::LinkUp`] or [`LeaseEvent::LinkFailed`].
    Connect,
    /// Send on the control stream. A loss is covered by retry or expiry.
    Send(Message),
    /// Send on the control stream and answer with [`LeaseEvent::KeepaliveSent`] or
    /// [`LeaseEvent::KeepaliveFailed`].
    SendKeepalive(ShmLeaseKeepalive),
    /// Validate and map these regions, put them in use in place of older ones, and answer with
    /// [`LeaseEvent::Mapped`] or [`LeaseEvent::MapFailed`].
    Map(Box<Grant>),
    /// Stop all use of the memory now, before anything else, and let it be unmapped (D-4.9-10).
    StopUsing(LeaseEnd),
    /// An attach or a mapping failed; the machine tries again by itself.
    Failed(AttachFailure),
    /// The detach is through; the machine does nothing any more.
    Detached,
}

/// Why a lease is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseEnd {
    /// This client detached, or was told so.
    #[error("the lease was detached")]
    Detached,
    /// The driver heard no keepalive in time, or no longer knows the lease.
    #[error("the driver let the lease expire: {text}")]
    Expired {
        /// The driver's words.
        text: String,
    },
    /// The driver took the lease back.
    #[error("the driver revoked the lease: {text}")]
    Revoked {
        /// The driver's words.
        text: String,
    },
    /// The driver stopped in order; all its leases are over.
    #[error("the driver shut down")]
    DriverShutdown,
    /// The driver went away and was not back before the lease's own deadline.
    #[error("the driver is gone and the lease's deadline has passed")]
    DriverLost,
    /// No keepalive could be sent before the deadline.
    #[error("no keepalive could be sent before the lease's deadline")]
    DeadlinePassed,
    /// A keepalive could not be sent, and not for lack of room.
    #[error("a keepalive could not be sent")]
    KeepaliveFailed,
    /// An announce shows a higher epoch: the stream has another producer or none.
    #[error("the stream went on to a higher epoch without this producer")]
    Superseded,
    /// A driver that was lost came back and gave new memory in place of the old.
    #[error("the driver came back and replaced the stream's memory")]
    Replaced,
    /// The regions are not what was granted, or no longer.
    #[error("the mapped regions can no longer be used")]
    Unusable,
}

impl LeaseEnd {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Expired { .. } => "expired",
            Self::Revoked { .. } => "revoked",
            Self::DriverShutdown => "driver_shutdown",
            Self::DriverLost => "driver_lost",
            Self::DeadlinePassed => "deadline_passed",
            Self::KeepaliveFailed => "keepalive_failed",
            Self::Superseded => "superseded",
            Self::Replaced => "replaced",
            Self::Unusable => "unusable",
        }
    }
}

/// Why an attach did not lead to a lease in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachFailure {
    /// The driver said no.
    #[error("the driver refused the attach ({code:?}): {text}")]
    Refused {
        /// The driver's code.
        code: ResponseCode,
        /// The driver's words.
        text: String,
    },
    /// The driver said yes, but not in a way that can be used.
    #[error("the driver's answer cannot be used: {0}")]
    Malformed(#[source] GrantError),
    /// No answer in time.
    #[error("the driver did not answer the attach within {} ms", timeout_ns / 1_000_000)]
    TimedOut {
        /// How long was waited, in nanoseconds.
        timeout_ns: u64,
    },
    /// The regions were refused; the one that maps knows why.
    #[error("the granted regions could not be mapped")]
    MapFailed,
}

/// Whether asking again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Retry {
    /// It may be different soon.
    Backoff,
    /// Not before somebody changes something.
    AwaitChange,
    /// Never with this request.
    Never,
}

impl AttachFailure {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => match code {
                ResponseCode::Ok => "refused_ok",
                ResponseCode::Unsupported => "unsupported",
                ResponseCode::InvalidParams => "invalid_params",
                ResponseCode::Rejected => "rejected",
                ResponseCode::InternalError => "internal_error",
                ResponseCode::Unknown(_) => "unknown_code",
            },
            Self::Malformed(_) => "malformed",
            Self::TimedOut { .. } => "timed_out",
            Self::MapFailed => "map_failed",
        }
    }

    /// Whether asking again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { code, text } => match code {
                ResponseCode::Unsupported | ResponseCode::InvalidParams => Retry::Never,
                // These end by themselves: a dying producer, a draining driver, a stale client id.
                ResponseCode::Rejected
                    if text.contains("already attached") || text.contains("draining") =>
                {
                    Retry::Backoff
                }
                ResponseCode::Rejected => Retry::AwaitChange,
                ResponseCode::Ok | ResponseCode::InternalError | ResponseCode::Unknown(_) => {
                    Retry::Backoff
                }
            },
            Self::Malformed(_) | Self::TimedOut { .. } => Retry::Backoff,
            Self::MapFailed => Retry::AwaitChange,
        }
    }
}
