//! The lease machine: attach, keepalive, reattach and detach, without I/O (driver model §4).
//!
//! It owns the life of one lease at a time and of the one before it while a lost driver is away. It
//! decides when to connect, what to send, when memory must no longer be used. It refuses to touch
//! files, sockets and clocks: `now` comes in, actions go out in the order in which they must be done,
//! and what can fail is answered by an event. Random ids and jitter come from the seed alone, so that
//! a run replays. Ticks are harmless at any time.

mod action;
mod attach;
mod detach;
mod grant;
mod options;
mod phase;
mod random;
#[cfg(test)]
mod tests;

use tensorpool_wire::{
    ClientId, LeaseId, LeaseRevokeReason, Message, MonoNanos, ShmLeaseKeepalive, ShmLeaseRevoked,
    StreamId,
};

pub use action::{AttachFailure, LeaseAction, LeaseEnd, LeaseEvent, Retry};
pub use grant::{Grant, GrantError};
pub use options::{ClientIds, LeaseOptions, LeaseRole, LeaseTimings};

use phase::{Attempt, Carried, Phase};
use random::Random;

/// One lease's machine. Drive it with [`LeaseMachine::handle`], and again no later than
/// [`LeaseMachine::next_deadline`].
#[derive(Debug)]
pub struct LeaseMachine {
    options: LeaseOptions,
    phase: Phase,
    /// Memory of a lease whose driver was lost. Only in Unlinked, Attaching, Mapping and Backoff.
    carried: Option<Carried>,
    /// Failures since the last success: the exponent of backoff and reconnect delays.
    failures: u32,
    next_correlation: i64,
    /// The id of the next attach, kept while it may be used again.
    client: Option<ClientId>,
    /// The ids that it may choose from; any where there is none.
    client_ids: Option<ClientIds>,
    random: Random,
}

impl LeaseMachine {
    /// A machine that wants a lease. Its first `handle` asks to connect. `seed` decides every random
    /// choice; give each machine of a process another one.
    #[must_use]
    pub fn new(options: LeaseOptions, seed: u64) -> Self {
        let mut random = Random(seed);
        // spec: D-B.1-1: a random 62-bit start cannot meet late answers of an earlier run.
        let next_correlation = i64::try_from(random.next() >> 2).unwrap_or(1).max(1);
        // spec: D-B.2-1: 0 is never sent, it means "choose for me".
        let client = options.client_id.filter(|id| id.get() != 0);
        Self {
            options,
            phase: Phase::Unlinked {
                connect_at: MonoNanos(0),
                connecting: false,
            },
            carried: None,
            failures: 0,
            next_correlation,
            client,
            client_ids: None,
            random,
        }
    }

    /// What this machine was made for.
    #[must_use]
    pub const fn options(&self) -> &LeaseOptions {
        &self.options
    }

    /// Names the stream for the next attach, where it was not known when the machine was made. A lease
    /// that is held, or asked for, keeps its own.
    pub const fn set_stream(&mut self, stream: StreamId) {
        self.options.stream = stream;
    }

    /// The lease whose memory may be used now: the attached one, or the one of a lost driver until
    /// its deadline.
    #[must_use]
    pub fn usable_lease(&self) -> Option<LeaseId> {
        match &self.phase {
            Phase::Attached(held) => Some(held.grant.lease),
            Phase::Mapping(_)
            | Phase::Unlinked { .. }
            | Phase::Attaching(_)
            | Phase::Backoff { .. } => self.carried.as_ref().map(|carried| carried.lease),
            Phase::Leaving { .. } | Phase::Detaching { .. } | Phase::Done => None,
        }
    }

    /// The grant that is attached and in use, not one of a lost driver.
    #[must_use]
    pub const fn grant(&self) -> Option<&Grant> {
        match &self.phase {
            Phase::Attached(held) => Some(&held.grant),
            Phase::Mapping(_)
            | Phase::Unlinked { .. }
            | Phase::Attaching(_)
            | Phase::Backoff { .. }
            | Phase::Leaving { .. }
            | Phase::Detaching { .. }
            | Phase::Done => None,
        }
    }

    /// When the memory in use must be given up unless a keepalive is sent before. `None`: nothing in
    /// use, or the driver granted no time limit.
    #[must_use]
    pub fn lease_deadline(&self) -> Option<MonoNanos> {
        match &self.phase {
            Phase::Attached(held) => held.deadline,
            Phase::Mapping(_)
            | Phase::Unlinked { .. }
            | Phase::Attaching(_)
            | Phase::Backoff { .. } => self.carried.as_ref().map(|carried| carried.deadline),
            Phase::Leaving { .. } | Phase::Detaching { .. } | Phase::Done => None,
        }
    }

    /// Whether the detach asked for is through.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// A bounded label of the state, for logs.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        self.phase.label()
    }

    /// The time at which [`LeaseEvent::Tick`] is due. `None`: only an event can change anything.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonoNanos> {
        let phase = match &self.phase {
            Phase::Unlinked {
                connecting: true, ..
            }
            | Phase::Done => None,
            Phase::Unlinked {
                connect_at,
                connecting: false,
            } => Some(*connect_at),
            Phase::Attaching(attempt) => Some(attempt.resend_at.min(attempt.give_up_at)),
            Phase::Mapping(held) | Phase::Attached(held) => Some(held.next_deadline()),
            Phase::Backoff { until, .. } => Some(*until),
            Phase::Leaving { give_up_at, .. } | Phase::Detaching { give_up_at, .. } => {
                Some(*give_up_at)
            }
        };
        let carried = self
            .carried
            .as_ref()
            .map(|carried| carried.deadline.saturating_add(1));
        match (phase, carried) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes one event and appends what must be done, in order. Call it with a `now` that never falls.
    pub fn handle(&mut self, now: MonoNanos, event: LeaseEvent<'_>, out: &mut Vec<LeaseAction>) {
        // A deadline that passed while nobody ran us counts before anything that arrived since.
        self.on_tick(now, out);
        match event {
            LeaseEvent::Tick => {}
            LeaseEvent::LinkUp => self.on_link_up(now, out),
            LeaseEvent::LinkFailed => self.on_link_failed(now),
            LeaseEvent::LinkDown => self.on_link_down(now),
            LeaseEvent::Received(message) => self.on_message(now, message, out),
            LeaseEvent::KeepaliveSent => self.on_keepalive_sent(now),
            LeaseEvent::KeepaliveFailed { lasting } => self.on_keepalive_failed(now, lasting, out),
            LeaseEvent::Mapped { lease } => self.on_mapped(lease, out),
            LeaseEvent::MapFailed { lease } => self.on_map_failed(now, lease, out),
            LeaseEvent::GiveUp(end) => self.on_give_up(now, end, out),
            LeaseEvent::Detach => self.on_detach(now, out),
        }
    }

    fn on_tick(&mut self, now: MonoNanos, out: &mut Vec<LeaseAction>) {
        if self
            .carried
            .as_ref()
            .is_some_and(|carried| now > carried.deadline)
        {
            // spec: D-10-1, D-4.13-6: past its own deadline a lost driver's memory is stale.
            self.carried = None;
            out.push(LeaseAction::StopUsing(LeaseEnd::DriverLost));
        }
        match &mut self.phase {
            Phase::Unlinked {
                connect_at,
                connecting,
            } if !*connecting && now >= *connect_at => {
                *connecting = true;
                out.push(LeaseAction::Connect);
            }
            Phase::Attaching(attempt) if now >= attempt.give_up_at => {
                let attempt = attempt.clone();
                out.push(LeaseAction::Failed(AttachFailure::TimedOut {
                    timeout_ns: self.options.timings.attach_timeout_ns,
                }));
                // The driver may only be slow: the same request is asked again, and its late answer
                // is still taken (D-4.8-2: one request at a time).
                self.back_off(now, Some(attempt));
            }
            Phase::Attaching(attempt) if now >= attempt.resend_at => {
                attempt.resend_at = now.saturating_add(self.options.timings.attach_retry_ns);
                out.push(LeaseAction::Send(attempt.request.clone().into()));
            }
            Phase::Backoff { until, .. } if now >= *until => self.attach(now, out),
            Phase::Mapping(held) | Phase::Attached(held) if held.is_past(now) => {
                let detach = held.detach_request(next_correlation(&mut self.next_correlation));
                // The driver thinks the same within one grace; telling it frees the stream sooner.
                self.end_lease(now, LeaseEnd::DeadlinePassed, out);
                out.push(LeaseAction::Send(detach.into()));
            }
            Phase::Mapping(held) | Phase::Attached(held) if now >= held.keepalive_at => {
                held.keepalive_at = now.saturating_add(held.interval_ns);
                out.push(LeaseAction::SendKeepalive(ShmLeaseKeepalive {
                    lease_id: held.grant.lease,
                    stream_id: held.grant.stream,
                    client_id: held.grant.client,
                    role: held.grant.role.to_wire(),
                    client_timestamp_ns: now,
                }));
            }
            Phase::Leaving { give_up_at, .. } | Phase::Detaching { give_up_at, .. }
                if now >= *give_up_at =>
            {
                self.finish(out);
            }
            Phase::Unlinked { .. }
            | Phase::Attaching(_)
            | Phase::Backoff { .. }
            | Phase::Mapping(_)
            | Phase::Attached(_)
            | Phase::Leaving { .. }
            | Phase::Detaching { .. }
            | Phase::Done => {}
        }
    }

    fn on_link_up(&mut self, now: MonoNanos, out: &mut Vec<LeaseAction>) {
        match self.phase {
            Phase::Unlinked { .. } => {
                self.failures = 0;
                self.attach(now, out);
            }
            Phase::Attaching(_)
            | Phase::Backoff { .. }
            | Phase::Mapping(_)
            | Phase::Attached(_)
            | Phase::Leaving { .. }
            | Phase::Detaching { .. }
            | Phase::Done => {}
        }
    }

    fn on_link_failed(&mut self, now: MonoNanos) {
        if let Phase::Unlinked { .. } = self.phase {
            let delay = self.reconnect_delay_ns();
            self.phase = Phase::Unlinked {
                connect_at: now.saturating_add(delay),
                connecting: false,
            };
        }
    }

    fn on_link_down(&mut self, now: MonoNanos) {
        let phase = core::mem::replace(&mut self.phase, Phase::Done);
        match phase {
            // spec: D-10-1: a lost driver is not yet a lost lease: the memory stays in use until the
            // deadline that this client set itself by its last keepalive.
            Phase::Attached(held) => {
                let fallback = now.saturating_add(self.options.timings.fallback_grant_ns());
                self.carried = Some(Carried {
                    lease: held.grant.lease,
                    deadline: held.deadline.unwrap_or(fallback),
                });
            }
            Phase::Unlinked { .. }
            | Phase::Attaching(_)
            | Phase::Backoff { .. }
            | Phase::Mapping(_) => {}
            Phase::Leaving { .. } | Phase::Detaching { .. } | Phase::Done => return,
        }
        // The new driver does not know the old client id; a chosen one is made anew.
        self.client = self.options.client_id.filter(|id| id.get() != 0);
        let delay = self.reconnect_delay_ns();
        self.phase = Phase::Unlinked {
            connect_at: now.saturating_add(delay),
            connecting: false,
        };
    }

    fn on_message(&mut self, now: MonoNanos, message: &Message, out: &mut Vec<LeaseAction>) {
        match message {
            Message::ShmAttachResponse(response) => self.on_attach_response(now, response, out),
            Message::ShmLeaseRevoked(revoked) => self.on_revoked(now, revoked, out),
            Message::ShmDetachResponse(response) => {
                if let Phase::Detaching { correlation, .. } = self.phase
                    && response.correlation_id == correlation
                {
                    self.finish(out);
                }
            }
            // spec: D-4.13-5: every lease of the driver is over at once.
            Message::ShmDriverShutdown(_) => match self.phase {
                Phase::Leaving { .. } | Phase::Detaching { .. } => self.finish(out),
                Phase::Done => {}
                Phase::Unlinked { .. }
                | Phase::Attaching(_)
                | Phase::Backoff { .. }
                | Phase::Mapping(_)
                | Phase::Attached(_) => self.end_lease(now, LeaseEnd::DriverShutdown, out),
            },
            Message::ShmPoolAnnounce(announce) => {
                // A higher epoch means that the driver has given the stream to somebody else, also if
                // its revocation never reached us (D-4.13-6, D-6-1).
                if let Phase::Attached(held) = &self.phase
                    && held.grant.role == LeaseRole::Producer
                    && announce.stream_id == held.grant.stream
                    && announce.epoch > held.grant.epoch
                {
                    self.end_lease(now, LeaseEnd::Superseded, out);
                }
            }
            // Everything else is not about leases.
            _ => {}
        }
    }

    fn on_revoked(
        &mut self,
        now: MonoNanos,
        revoked: &ShmLeaseRevoked,
        out: &mut Vec<LeaseAction>,
    ) {
        // spec: D-4.9-4: an unknown role or reason is refused as a whole.
        let Some(role) = LeaseRole::from_wire(revoked.role) else {
            return;
        };
        let end = match revoked.reason {
            LeaseRevokeReason::Detached => LeaseEnd::Detached,
            LeaseRevokeReason::Expired => LeaseEnd::Expired {
                text: revoked.error_message.clone(),
            },
            LeaseRevokeReason::Revoked => LeaseEnd::Revoked {
                text: revoked.error_message.clone(),
            },
            LeaseRevokeReason::Unknown(_) => return,
        };
        match &self.phase {
            // spec: D-4.9-1, D-4.9-2, D-4.9-3: all four fields, or it is somebody else's.
            Phase::Mapping(held) | Phase::Attached(held) => {
                if held.grant.is_named_by(revoked, role) {
                    self.end_lease(now, end, out);
                }
            }
            Phase::Detaching { grant, .. } => {
                if grant.is_named_by(revoked, role) {
                    self.finish(out);
                }
            }
            // spec: D-4.9-5: a repeated one finds no lease and does nothing.
            Phase::Unlinked { .. }
            | Phase::Attaching(_)
            | Phase::Backoff { .. }
            | Phase::Leaving { .. }
            | Phase::Done => {}
        }
    }

    fn on_keepalive_sent(&mut self, now: MonoNanos) {
        if let Phase::Mapping(held) | Phase::Attached(held) = &mut self.phase {
            held.extend(now);
        }
    }

    fn on_keepalive_failed(&mut self, now: MonoNanos, lasting: bool, out: &mut Vec<LeaseAction>) {
        if let Phase::Mapping(held) | Phase::Attached(held) = &mut self.phase {
            if lasting {
                // spec: D-4.4-2
                self.end_lease(now, LeaseEnd::KeepaliveFailed, out);
            } else {
                held.keepalive_at = now.saturating_add(held.interval_ns / 10);
            }
        }
    }

    fn on_mapped(&mut self, lease: LeaseId, out: &mut Vec<LeaseAction>) {
        match core::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Mapping(held) if held.grant.lease == lease => {
                self.failures = 0;
                self.carried = None;
                self.phase = Phase::Attached(held);
            }
            // The lease ended while it was being mapped.
            other => {
                let current = matches!(&other, Phase::Attached(held) if held.grant.lease == lease);
                self.phase = other;
                if !current {
                    out.push(LeaseAction::StopUsing(LeaseEnd::Unusable));
                }
            }
        }
    }

    fn on_map_failed(&mut self, now: MonoNanos, lease: LeaseId, out: &mut Vec<LeaseAction>) {
        if let Phase::Mapping(held) = &self.phase
            && held.grant.lease == lease
        {
            // spec: W-15.22-6, W-15.13-1: nothing of it is used, and the lease goes back.
            let detach = held.detach_request(next_correlation(&mut self.next_correlation));
            out.push(LeaseAction::Send(detach.into()));
            out.push(LeaseAction::Failed(AttachFailure::MapFailed));
            self.back_off(now, None);
        }
    }

    fn on_give_up(&mut self, now: MonoNanos, end: LeaseEnd, out: &mut Vec<LeaseAction>) {
        match &self.phase {
            Phase::Mapping(held) | Phase::Attached(held) => {
                let detach = held.detach_request(next_correlation(&mut self.next_correlation));
                self.end_lease(now, end, out);
                out.push(LeaseAction::Send(detach.into()));
            }
            Phase::Unlinked { .. } | Phase::Attaching(_) | Phase::Backoff { .. } => {
                if self.carried.take().is_some() {
                    out.push(LeaseAction::StopUsing(end));
                }
            }
            Phase::Leaving { .. } | Phase::Detaching { .. } | Phase::Done => {}
        }
    }

    // spec: D-4.7-1 D-4.9-10
    fn end_lease(&mut self, now: MonoNanos, end: LeaseEnd, out: &mut Vec<LeaseAction>) {
        let in_use = self.usable_lease().is_some();
        self.carried = None;
        if in_use {
            out.push(LeaseAction::StopUsing(end));
        }
        // spec: D-4.8-1: the next lease has its own id.
        if self.chooses_client_id() {
            self.client = None;
        }
        if !matches!(self.phase, Phase::Unlinked { .. }) {
            self.back_off(now, None);
        }
    }

    fn back_off(&mut self, now: MonoNanos, unanswered: Option<Attempt>) {
        let timings = &self.options.timings;
        let delay = self.random.delay_ns(
            timings.backoff_min_ns,
            timings.backoff_max_ns,
            self.failures,
        );
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Backoff {
            until: now.saturating_add(delay),
            unanswered,
        };
    }

    fn reconnect_delay_ns(&mut self) -> u64 {
        let timings = &self.options.timings;
        let delay = self.random.delay_ns(
            timings.reconnect_min_ns,
            timings.reconnect_max_ns,
            self.failures,
        );
        self.failures = self.failures.saturating_add(1);
        delay
    }
}

const fn next_correlation(next: &mut i64) -> i64 {
    let id = *next;
    *next = if id == i64::MAX { 1 } else { id + 1 };
    id
}
