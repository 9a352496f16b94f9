//! The states of the lease machine, each with the data that is valid in it.

use tensorpool_wire::{CorrelationId, LeaseId, MonoNanos, ShmAttachRequest, ShmDetachRequest};

use super::{Grant, LeaseTimings};

#[derive(Debug)]
pub(super) enum Phase {
    /// No way to the driver: one is wanted at `connect_at`, or being made.
    Unlinked {
        connect_at: MonoNanos,
        connecting: bool,
    },
    /// An attach is out.
    Attaching(Attempt),
    /// Granted, the regions are being mapped.
    Mapping(Held),
    /// In use.
    Attached(Held),
    /// Waiting before the next attach. An unanswered request may still be answered.
    Backoff {
        until: MonoNanos,
        unanswered: Option<Attempt>,
    },
    /// The application is through, and an attach is unanswered: a lease that is still granted goes
    /// back.
    Leaving {
        request: ShmAttachRequest,
        give_up_at: MonoNanos,
    },
    /// The detach is out.
    Detaching {
        correlation: CorrelationId,
        grant: Grant,
        give_up_at: MonoNanos,
    },
    /// Detached for good.
    Done,
}

impl Phase {
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Unlinked { .. } => "unlinked",
            Self::Attaching(_) => "attaching",
            Self::Mapping(_) => "mapping",
            Self::Attached(_) => "attached",
            Self::Backoff { .. } => "backoff",
            Self::Leaving { .. } => "leaving",
            Self::Detaching { .. } => "detaching",
            Self::Done => "done",
        }
    }
}

/// One attach request and when it is due again.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) request: ShmAttachRequest,
    pub(super) resend_at: MonoNanos,
    pub(super) give_up_at: MonoNanos,
}

/// A lease of a driver that was lost, whose memory is used until the deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried {
    pub(super) lease: LeaseId,
    pub(super) deadline: MonoNanos,
}

/// A lease that is held, and how long.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) grant: Grant,
    /// Time from the answer to the first expiry; each keepalive sent grants it anew.
    granted_ns: Option<u64>,
    pub(super) deadline: Option<MonoNanos>,
    pub(super) interval_ns: u64,
    pub(super) keepalive_at: MonoNanos,
}

impl Held {
    pub(super) fn new(grant: Grant, now: MonoNanos, timings: &LeaseTimings) -> Self {
        // spec: D-4.2-7: a given expiry is a hard deadline. It has not passed: Grant checked it.
        let granted_ns = grant.expires_at.map(|at| at.saturating_since(now));
        // spec: D-4.4-1: three keepalives fit into what was granted, whatever the configured interval.
        let interval_ns = granted_ns
            .map_or(timings.keepalive_interval_ns, |granted| {
                timings.keepalive_interval_ns.min(granted / 3)
            })
            .max(1);
        Self {
            deadline: grant.expires_at,
            granted_ns,
            interval_ns,
            keepalive_at: now.saturating_add(interval_ns),
            grant,
        }
    }

    /// A keepalive went out now.
    pub(super) fn extend(&mut self, now: MonoNanos) {
        if let (Some(granted), Some(deadline)) = (self.granted_ns, self.deadline) {
            self.deadline = Some(deadline.max(now.saturating_add(granted)));
        }
    }

    pub(super) fn is_past(&self, now: MonoNanos) -> bool {
        self.deadline.is_some_and(|deadline| now > deadline)
    }

    pub(super) fn next_deadline(&self) -> MonoNanos {
        self.deadline.map_or(self.keepalive_at, |deadline| {
            self.keepalive_at.min(deadline.saturating_add(1))
        })
    }

    pub(super) fn detach_request(&self, correlation: i64) -> ShmDetachRequest {
        ShmDetachRequest {
            correlation_id: CorrelationId(correlation),
            lease_id: self.grant.lease,
            stream_id: self.grant.stream,
            client_id: self.grant.client,
            role: self.grant.role.to_wire(),
        }
    }
}
