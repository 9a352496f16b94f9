//! Which epoch a consumer should have mapped: the announce rules, without I/O.
//!
//! It owns the judgement of ShmPoolAnnounce and of revocations of the stream's producer (wire spec
//! §10.1.1, §15.2, driver model §4.9). It refuses to map anything: it says what should be mapped or
//! unmapped and is told what is.

#[cfg(test)]
mod tests;

use tensorpool_wire::{
    ClockDomain, Epoch, LeaseRevokeReason, MonoNanos, Role, ShmLeaseRevoked, ShmPoolAnnounce,
    StreamId, WallNanos,
};

/// The only layout that this client reads.
const LAYOUT_VERSION: u32 = 1;
/// Announces and activity older than this many announce periods are stale (W-10.1.1-1, W-15.1-3).
const FRESH_PERIODS: u64 = 3;

/// Follows one stream's announces.
#[derive(Debug)]
pub(crate) struct EpochWatch {
    stream: StreamId,
    announce_period_ns: u64,
    /// When this client could first have heard an announce; older ones are replays.
    joined_at: MonoNanos,
    state: State,
    /// The highest epoch known to be real. Lower ones are not mapped.
    floor: Epoch,
    /// When the floor may fall, because the mapped epoch above it turned out dead.
    floor_until: Option<MonoNanos>,
    last_announce: Option<MonoNanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unmapped,
    Mapped {
        epoch: Epoch,
    },
    /// The producer is gone; the next epoch must be higher than this.
    Remapping {
        above: Epoch,
        until: MonoNanos,
    },
}

/// What an announce asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing, for this reason.
    Ignore(Ignored),
    /// It confirms the mapped epoch: look at the superblocks again (W-15.1-2).
    Recheck,
    /// It shows a lower epoch: keep the mapping if its superblock is still active, else unmap and
    /// tell [`EpochWatch::on_regression`].
    CheckRegression,
    /// Unmap what is mapped, and map what it names.
    Remap,
}

/// Why an announce counts for nothing. Bounded: a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ignored {
    OtherStream,
    Unstamped,
    Stale,
    FromTheFuture,
    BeforeJoin,
    UnknownClock,
    Layout,
    LowerEpoch,
}

/// What time alone asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// No higher epoch came after the producer's revocation (D-4.9-8): unmap.
    NoNewEpoch,
    /// No announce for longer than the freshness window: unmap if the activity is stale as well.
    NoAnnounce,
}

impl EpochWatch {
    pub(crate) const fn new(
        stream: StreamId,
        announce_period_ns: u64,
        joined_at: MonoNanos,
    ) -> Self {
        Self {
            stream,
            announce_period_ns,
            joined_at,
            state: State::Unmapped,
            floor: Epoch(0),
            floor_until: None,
            last_announce: None,
        }
    }

    pub(crate) const fn stream(&self) -> StreamId {
        self.stream
    }

    /// How old an announce or an activity stamp may be, in nanoseconds.
    pub(crate) const fn fresh_ns(&self) -> u64 {
        self.announce_period_ns.saturating_mul(FRESH_PERIODS)
    }

    /// The attach answered with this epoch, and it is mapped: the driver's word beats what announces
    /// of an earlier driver said.
    pub(crate) const fn on_attached(&mut self, now: MonoNanos, epoch: Epoch) {
        self.floor = epoch;
        self.floor_until = None;
        self.last_announce = Some(now);
        self.state = State::Mapped { epoch };
    }

    /// What the announce asked for is mapped.
    pub(crate) fn on_mapped(&mut self, epoch: Epoch) {
        self.floor = self.floor.max(epoch);
        self.floor_until = None;
        self.state = State::Mapped { epoch };
    }

    /// Nothing is mapped any more.
    pub(crate) const fn on_unmapped(&mut self) {
        self.state = State::Unmapped;
    }

    /// The mapped epoch is dead and a lower one was announced: it may be taken when no higher one
    /// shows up within the freshness window.
    pub(crate) const fn on_regression(&mut self, now: MonoNanos) {
        self.state = State::Unmapped;
        self.floor_until = Some(now.saturating_add(self.fresh_ns()));
    }

    /// Judges an announce. `now` and `wall` are the receipt.
    pub(crate) fn on_announce(
        &mut self,
        now: MonoNanos,
        wall: WallNanos,
        announce: &ShmPoolAnnounce,
    ) -> Verdict {
        if let Err(why) = self.judge(now, wall, announce) {
            return Verdict::Ignore(why);
        }
        self.last_announce = Some(now);
        if self.floor_until.is_some_and(|until| now > until) {
            self.floor = Epoch(0);
            self.floor_until = None;
        }
        let epoch = announce.epoch;
        match self.state {
            // spec: W-15.21-3: the mapped epoch again is a sign of life, not a cause to map again.
            State::Mapped { epoch: mapped } if epoch == mapped => Verdict::Recheck,
            // spec: W-10.1.1-5 W-15.2-1
            State::Mapped { epoch: mapped } if epoch > mapped => Verdict::Remap,
            // spec: W-15.2-1
            State::Mapped { .. } => Verdict::CheckRegression,
            // spec: D-4.9-7 D-4.9-9: strictly greater than the revoked one.
            State::Remapping { above, .. } if epoch > above => Verdict::Remap,
            State::Unmapped if epoch >= self.floor => Verdict::Remap,
            State::Remapping { .. } | State::Unmapped => Verdict::Ignore(Ignored::LowerEpoch),
        }
    }

    /// A revocation of the stream's producer: stop taking frames until a higher epoch is announced.
    /// Returns whether it is one.
    // spec: D-4.9-7 D-4.9-8 D-4.9-4
    pub(crate) fn on_revoked(&mut self, now: MonoNanos, revoked: &ShmLeaseRevoked) -> bool {
        let is_producer = match revoked.role {
            Role::Producer => true,
            Role::Consumer | Role::Unknown(_) => false,
        };
        let is_known = match revoked.reason {
            LeaseRevokeReason::Detached
            | LeaseRevokeReason::Expired
            | LeaseRevokeReason::Revoked => true,
            LeaseRevokeReason::Unknown(_) => false,
        };
        match self.state {
            State::Mapped { epoch }
                if is_producer && is_known && revoked.stream_id == self.stream =>
            {
                let until = now.saturating_add(self.fresh_ns());
                self.state = State::Remapping {
                    above: epoch,
                    until,
                };
                true
            }
            State::Mapped { .. } | State::Remapping { .. } | State::Unmapped => false,
        }
    }

    /// What time alone asks for.
    pub(crate) fn on_tick(&mut self, now: MonoNanos) -> Option<Overdue> {
        match self.state {
            State::Remapping { above, until } if now > until => {
                self.state = State::Unmapped;
                self.floor = self.floor.max(Epoch(above.get().saturating_add(1)));
                Some(Overdue::NoNewEpoch)
            }
            State::Mapped { .. }
                if self
                    .last_announce
                    .is_some_and(|at| now.saturating_since(at) > self.fresh_ns()) =>
            {
                Some(Overdue::NoAnnounce)
            }
            State::Mapped { .. } | State::Remapping { .. } | State::Unmapped => None,
        }
    }

    fn judge(
        &self,
        now: MonoNanos,
        wall: WallNanos,
        announce: &ShmPoolAnnounce,
    ) -> Result<(), Ignored> {
        if announce.stream_id != self.stream {
            return Err(Ignored::OtherStream);
        }
        // spec: W-15.1-1 W-15.14-4
        if announce.layout_version != LAYOUT_VERSION {
            return Err(Ignored::Layout);
        }
        let stamp = announce.announce_timestamp_ns.get();
        if stamp == 0 {
            return Err(Ignored::Unstamped);
        }
        let received = match announce.announce_clock_domain {
            ClockDomain::Monotonic => {
                // spec: W-10.1.1-2
                if stamp < self.joined_at.get() {
                    return Err(Ignored::BeforeJoin);
                }
                now.get()
            }
            // spec: W-10.1.1-3 W-10.1.1-4: only the freshness, by the disciplined clock.
            ClockDomain::RealtimeSynced => wall.get(),
            ClockDomain::Unknown(_) => return Err(Ignored::UnknownClock),
        };
        // spec: W-10.1.1-1
        if received.saturating_sub(stamp) > self.fresh_ns() {
            return Err(Ignored::Stale);
        }
        if stamp.saturating_sub(received) > self.fresh_ns() {
            return Err(Ignored::FromTheFuture);
        }
        Ok(())
    }
}
