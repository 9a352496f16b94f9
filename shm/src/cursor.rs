//! Where a consumer stands in a ring: learns of frames from the slots themselves.
//!
//! A committed slot says that frame `n` exists: slot `n & mask` holds `n << 1 | 1`. A [`Cursor`] keeps
//! the next number it wants and looks there; nothing else is shared. Each call of `poll` takes one
//! look and never waits (W-15.21-1). The rules are those of docs/extensions.md, "Cursor":
//!
//! - *lapped*: the slot holds a later frame of the same index. Go to the newest frame.
//! - *lag*: when the slot `G` ahead is taken too, go to the newest frame before being lapped; the
//!   oldest would be lapped again at once.
//! - *holes*: an aborted claim of another implementation leaves its slot in progress for a lap. A
//!   committed slot further on proves that: after an acquire fence every earlier frame that will
//!   ever be committed by an ordered writer is visible, so the slots between are read again and only
//!   those still uncommitted are lost. Looking ahead without reading again, or reading again without
//!   the fence, loses frames that are there; `tests` keeps both as models that must fail.

use tensorpool_wire::Seq;

use crate::seqlock::{MAX_SEQ, Miss, Slots, committed, seq_of};
use crate::sync::{Ordering, fence};

/// Look-ahead for holes reaches this many slots at most.
const HOLE_REACH: u64 = 64;
/// Every how many empty polls one slot ahead is looked at.
const HOLE_POLLS: u32 = 64;
/// The largest gap that a cursor lets grow before it goes to the newest frame (W-15.4-3).
const MAX_GAP: u64 = 256;

/// Where a cursor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The newest committed frame, itself included.
    Newest,
    /// The first frame after the newest.
    Next,
    /// Frame 0 if its slot still holds it or nothing yet, else the newest: after an epoch change.
    First,
}

/// What one look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look<T> {
    /// No frame yet. Look again later.
    Empty,
    /// The next frame, copied out and checked by the seqlock.
    Frame(T),
    /// Frames were lost; count them, then look again.
    Skipped(Skip),
}

/// Frames that a cursor gave up, by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The producer was more than `gap` frames ahead; the cursor went to the newest.
    Lagged {
        /// Frames passed over.
        lost: u64,
        /// The limit that was exceeded.
        gap: u64,
    },
    /// The producer had lapped the cursor; it went to the newest.
    Lapped {
        /// Frames passed over.
        lost: u64,
    },
    /// The producer abandoned these frames and went on.
    Hole {
        /// Frames passed over.
        lost: u64,
    },
    /// The slot is marked with a later frame that does not belong into it.
    Remarked {
        /// The frame passed over.
        seq: Seq,
    },
    /// The frame was overwritten while it was copied.
    Overwritten {
        /// The frame passed over.
        seq: Seq,
    },
    /// The slot is marked with a number above `2^63-2`.
    OutOfRange {
        /// The frame passed over.
        seq: Seq,
    },
}

/// The two counters that QosConsumer reports (W-15.4-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropCounter {
    /// `drops_gap`: frames that were never looked at.
    Gap,
    /// `drops_late`: frames whose slot had changed.
    Late,
}

/// A place in one ring, in one epoch. Dropped with the mapping of that epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The frame wanted next; above `MAX_SEQ` when the numbers are used up.
    next: u64,
    /// Every frame below this is either committed and visible or a hole.
    settled: u64,
    /// Polls since the last frame that found nothing.
    empty_polls: u32,
    /// How far ahead the last look for holes went.
    reach: u64,
}

/// What a cursor found before anything is copied.
#[derive(Clone, Copy, Debug)]
enum Step {
    Empty,
    /// The frame is committed, and the cursor has gone past it.
    Committed(u64),
    Skipped(Skip),
}

// === impl Skip ===

impl Skip {
    /// Frames lost.
    #[must_use]
    pub const fn lost(self) -> u64 {
        match self {
            Self::Lagged { lost, .. } | Self::Lapped { lost } | Self::Hole { lost } => lost,
            Self::Remarked { .. } | Self::Overwritten { .. } | Self::OutOfRange { .. } => 1,
        }
    }

    /// Which of the protocol's counters these frames belong to.
    // spec: W-15.4-2 W-15.3-2
    #[must_use]
    pub const fn counter(self) -> DropCounter {
        match self {
            Self::Lagged { .. } | Self::Lapped { .. } | Self::Hole { .. } => DropCounter::Gap,
            Self::Remarked { .. } | Self::Overwritten { .. } | Self::OutOfRange { .. } => {
                DropCounter::Late
            }
        }
    }

    /// The reason as a label, one of six.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Lagged { .. } => "lagged",
            Self::Lapped { .. } => "lapped",
            Self::Hole { .. } => "hole",
            Self::Remarked { .. } => "remarked",
            Self::Overwritten { .. } => "overwritten",
            Self::OutOfRange { .. } => "out_of_range",
        }
    }
}

// === impl Cursor ===

impl Cursor {
    pub(crate) fn start<S: Slots<N>, const N: usize>(slots: &S, start: Start) -> Self {
        let next = match start {
            Start::Newest => newest_committed(slots),
            Start::Next => {
                let newest = newest_begun(slots);
                if slots.mark(newest) == committed(newest) {
                    newest + 1
                } else {
                    newest
                }
            }
            Start::First if seq_of(slots.mark(0)) == 0 => 0,
            Start::First => newest_committed(slots),
        };
        Self {
            next,
            settled: 0,
            empty_polls: 0,
            reach: 0,
        }
    }

    /// The frame that the cursor wants next.
    #[must_use]
    pub const fn next(&self) -> Seq {
        Seq(self.next)
    }

    /// One look at the next slot. `read` copies the frame that the cursor found committed; it gets one
    /// attempt.
    // spec: W-15.21-1 X-1-1
    #[inline]
    pub(crate) fn poll_slots<S: Slots<N>, const N: usize, T>(
        &mut self,
        slots: &S,
        read: impl FnOnce(u64) -> Result<T, Miss>,
    ) -> Look<T> {
        let step = match self.step(slots) {
            Step::Empty => self.look_ahead_while_spinning(slots),
            step @ (Step::Committed(_) | Step::Skipped(_)) => step,
        };
        taken(step, read)
    }

    /// One look at the next slot and, if it is empty, at all slots that a hole could hide: to be
    /// taken before each sleep, so that a hole never costs more than one nap.
    pub(crate) fn poll_slots_before_sleep<S: Slots<N>, const N: usize, T>(
        &mut self,
        slots: &S,
        read: impl FnOnce(u64) -> Result<T, Miss>,
    ) -> Look<T> {
        let step = match self.step(slots) {
            Step::Empty => {
                let furthest = HOLE_REACH.min(slots.mask());
                if (1..=furthest).any(|reach| self.settle(slots, reach)) {
                    self.step(slots)
                } else {
                    Step::Empty
                }
            }
            step @ (Step::Committed(_) | Step::Skipped(_)) => step,
        };
        taken(step, read)
    }

    /// Goes to the newest committed frame and returns how many were passed over.
    #[cfg(not(loom))]
    pub(crate) fn skip_slots_to_newest<S: Slots<N>, const N: usize>(&mut self, slots: &S) -> u64 {
        let newest = newest_committed(slots);
        let passed = newest.saturating_sub(self.next);
        self.next += passed;
        passed
    }

    #[inline]
    fn step<S: Slots<N>, const N: usize>(&mut self, slots: &S) -> Step {
        if self.next > MAX_SEQ {
            return Step::Empty;
        }
        let mark = slots.mark(self.next);
        if mark == committed(self.next) {
            if let Some(skip) = self.lagging(slots) {
                return Step::Skipped(skip);
            }
            self.next += 1;
            self.empty_polls = 0;
            return Step::Committed(self.next - 1);
        }
        if seq_of(mark) > self.next {
            return Step::Skipped(self.overtaken(slots, seq_of(mark)));
        }
        if self.next < self.settled {
            return Step::Skipped(self.pass_hole(slots));
        }
        Step::Empty
    }

    /// After every 64th empty poll, one slot ahead.
    #[inline]
    fn look_ahead_while_spinning<S: Slots<N>, const N: usize>(&mut self, slots: &S) -> Step {
        self.empty_polls = self.empty_polls.wrapping_add(1);
        if !self.empty_polls.is_multiple_of(HOLE_POLLS) {
            return Step::Empty;
        }
        self.look_ahead(slots)
    }

    #[cold]
    fn look_ahead<S: Slots<N>, const N: usize>(&mut self, slots: &S) -> Step {
        let furthest = HOLE_REACH.min(slots.mask());
        self.reach = if self.reach >= furthest {
            1
        } else {
            self.reach + 1
        };
        if self.reach <= furthest && self.settle(slots, self.reach) {
            self.step(slots)
        } else {
            Step::Empty
        }
    }

    // spec: W-15.4-3
    #[inline]
    fn lagging<S: Slots<N>, const N: usize>(&mut self, slots: &S) -> Option<Skip> {
        let gap = max_gap(slots.mask());
        let probe = self.next + gap;
        if gap == 0 || seq_of(slots.mark(probe)) < probe {
            return None;
        }
        self.catch_up(slots, gap)
    }

    #[cold]
    fn catch_up<S: Slots<N>, const N: usize>(&mut self, slots: &S, gap: u64) -> Option<Skip> {
        let newest = self.next + begun_since(slots, self.next);
        let lost = last_committed(slots, newest).saturating_sub(self.next);
        self.next += lost;
        (lost > 0).then_some(Skip::Lagged { lost, gap })
    }

    #[cold]
    fn overtaken<S: Slots<N>, const N: usize>(&mut self, slots: &S, taken_by: u64) -> Skip {
        let passed = self.next;
        if taken_by > MAX_SEQ {
            self.next += 1;
            return Skip::OutOfRange { seq: Seq(passed) };
        }
        if (taken_by & slots.mask()) != (passed & slots.mask()) {
            self.next += 1;
            return Skip::Remarked { seq: Seq(passed) };
        }
        let newest = taken_by + begun_since(slots, taken_by);
        self.next = last_committed(slots, newest).max(passed + 1);
        Skip::Lapped {
            lost: self.next - passed,
        }
    }

    /// Looks whether frame `next + reach` is committed. If so, everything before it is settled.
    fn settle<S: Slots<N>, const N: usize>(&mut self, slots: &S, reach: u64) -> bool {
        let ahead = self.next.saturating_add(reach);
        if ahead > MAX_SEQ || slots.mark(ahead) != committed(ahead) {
            return false;
        }
        fence(Ordering::Acquire); // pairs with SLOT-COMMIT of `ahead`
        self.settled = ahead;
        true
    }

    /// Counts the uncommitted run that begins at `next`, below `settled`.
    #[cold]
    fn pass_hole<S: Slots<N>, const N: usize>(&mut self, slots: &S) -> Skip {
        let first = self.next;
        self.next += 1;
        while self.next < self.settled && is_uncommitted(slots, self.next) {
            self.next += 1;
        }
        Skip::Hole {
            lost: self.next - first,
        }
    }
}

/// A step's outcome, with the frame copied out.
#[inline]
fn taken<T>(step: Step, read: impl FnOnce(u64) -> Result<T, Miss>) -> Look<T> {
    match step {
        Step::Empty => Look::Empty,
        Step::Skipped(skip) => Look::Skipped(skip),
        Step::Committed(seq) => match read(seq) {
            Ok(frame) => Look::Frame(frame),
            Err(_) => Look::Skipped(Skip::Overwritten { seq: Seq(seq) }),
        },
    }
}

/// Whether the slot of `seq` is in progress with it or holds something older.
fn is_uncommitted<S: Slots<N>, const N: usize>(slots: &S, seq: u64) -> bool {
    let mark = slots.mark(seq);
    mark != committed(seq) && seq_of(mark) <= seq
}

/// How far a cursor may fall behind in a ring of `mask + 1` slots.
fn max_gap(mask: u64) -> u64 {
    let half = mask.div_ceil(2);
    MAX_GAP.min(half)
}

/// How many frames after `from` have been begun, at most `mask`.
///
/// `from` must have been begun. "Slot of `from + j` holds at least that" is true up to the newest
/// frame and false after it, and only ever turns true, so the answer was right at some instant of
/// the search.
pub(crate) fn begun_since<S: Slots<N>, const N: usize>(slots: &S, from: u64) -> u64 {
    let (mut begun, mut beyond) = (0, slots.mask() + 1);
    while beyond - begun > 1 {
        let middle = begun + (beyond - begun) / 2;
        let seq = from.saturating_add(middle);
        if seq_of(slots.mark(seq)) >= seq {
            begun = middle
        } else {
            beyond = middle
        }
    }
    begun
}

/// The newest frame that has been begun; 0 on a ring that was never written.
// spec: X-1-13
fn newest_begun<S: Slots<N>, const N: usize>(slots: &S) -> u64 {
    // A re-marked slot names a frame of another index; the next slots are asked instead.
    let from = (0..=slots.mask().min(3))
        .map(|index| (index, seq_of(slots.mark(index))))
        .find(|&(index, seq)| seq <= MAX_SEQ && (seq & slots.mask()) == index)
        .map_or(0, |(_, seq)| seq);
    (from + begun_since(slots, from)).min(MAX_SEQ)
}

/// The newest committed frame; where none is, the one that will be the first.
pub(crate) fn newest_committed<S: Slots<N>, const N: usize>(slots: &S) -> u64 {
    last_committed(slots, newest_begun(slots))
}

/// `newest`, or the frame before it if `newest` is still in progress and that one is there.
fn last_committed<S: Slots<N>, const N: usize>(slots: &S, newest: u64) -> u64 {
    match newest.checked_sub(1) {
        Some(before)
            if slots.mark(newest) != committed(newest)
                && slots.mark(before) == committed(before) =>
        {
            before
        }
        Some(_) | None => newest,
    }
}

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;
