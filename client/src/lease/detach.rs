//! The detaching half of the lease machine: giving a lease back, also one that is only just granted.

use tensorpool_wire::{CorrelationId, MonoNanos};

use super::phase::{Held, Phase};
use super::{LeaseAction, LeaseEnd, LeaseMachine, next_correlation};

impl LeaseMachine {
    pub(super) fn on_detach(&mut self, now: MonoNanos, out: &mut Vec<LeaseAction>) {
        if self.usable_lease().is_some() {
            out.push(LeaseAction::StopUsing(LeaseEnd::Detached));
        }
        self.carried = None;
        match core::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Mapping(held) | Phase::Attached(held) => self.give_back(now, held, out),
            Phase::Detaching {
                correlation,
                grant,
                give_up_at,
            } => {
                self.phase = Phase::Detaching {
                    correlation,
                    grant,
                    give_up_at,
                };
            }
            Phase::Leaving {
                request,
                give_up_at,
            } => {
                self.phase = Phase::Leaving {
                    request,
                    give_up_at,
                };
            }
            Phase::Attaching(attempt)
            | Phase::Backoff {
                unanswered: Some(attempt),
                ..
            } => {
                self.phase = Phase::Leaving {
                    request: attempt.request,
                    give_up_at: now.saturating_add(self.options.timings.detach_timeout_ns),
                };
            }
            Phase::Done => {}
            Phase::Unlinked { .. }
            | Phase::Backoff {
                unanswered: None, ..
            } => out.push(LeaseAction::Detached),
        }
    }

    pub(super) fn give_back(&mut self, now: MonoNanos, held: Held, out: &mut Vec<LeaseAction>) {
        let correlation = CorrelationId(next_correlation(&mut self.next_correlation));
        let detach = held.detach_request(correlation.get());
        out.push(LeaseAction::Send(detach.into()));
        self.phase = Phase::Detaching {
            correlation,
            grant: held.grant,
            give_up_at: now.saturating_add(self.options.timings.detach_timeout_ns),
        };
    }

    pub(super) fn finish(&mut self, out: &mut Vec<LeaseAction>) {
        self.phase = Phase::Done;
        out.push(LeaseAction::Detached);
    }
}
