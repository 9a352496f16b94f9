//! Waiting for a frame without spinning for ever, and waking who waits.
//!
//! A consumer sleeps on the low half of the next slot's `seq_commit` (`FUTEX_WAIT`, which works on a
//! read-only shared mapping), in naps of at most one millisecond: a producer of another implementation
//! never wakes, and a hole must be noticed. A producer that has just ended a nap by a wake is one that
//! wakes and leaves no holes, so the next naps may be longer. Our producer wakes after a commit only
//! when its previous frame is more than 100 µs old; a consumer of a fast stream spins for 120 µs after
//! a frame, so such a stream neither sleeps nor wakes (docs/extensions.md, "Waiting without
//! spinning").

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;
use tensorpool_wire::{MonoNanos, Seq};

use crate::reader::ReadMapping;
use crate::seqlock::{committed, seq_of};
use crate::sync::Ordering;
use crate::words;
use crate::writer::{Committed, WriteMapping};

/// How long a consumer spins after its last frame. Longer than [`WAKE_AFTER`].
pub const SPIN: Duration = Duration::from_micros(120);
/// A producer wakes only if its previous frame is older than this.
pub const WAKE_AFTER: Duration = Duration::from_micros(100);
/// The longest nap where nothing is known of the producer.
pub const LONGEST_NAP: Duration = Duration::from_millis(1);
/// The longest nap where the producer is known to wake.
pub const LONGEST_NAP_WITH_WAKES: Duration = Duration::from_millis(4);
/// A stream whose last two frames were further apart than this is slow: spinning for the next one
/// would be in vain.
const SLOW: Duration = Duration::from_millis(1);

/// Why a nap ended. None of them promises a frame: poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nap {
    /// The slot had changed before the nap began; the thread did not sleep.
    Ready,
    /// A producer woke the sleeper, or the kernel did for no reason.
    Woken,
    /// The time is over.
    TimedOut,
}

/// What a waiting consumer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Poll again at once.
    Spin,
    /// Call `poll_before_sleep`, then nap for at most this long.
    Nap(Duration),
    /// The caller's time is over.
    TimedOut,
}

/// The consumer's choice between spinning and sleeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IdlePolicy {
    last_frame: Option<MonoNanos>,
    is_slow: bool,
    /// How the naps since the last frame ended, the last one of them.
    last_nap: Option<Nap>,
    /// The last frame that ended a nap came with a wake.
    is_woken: bool,
}

/// The producer's choice whether to wake anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WakePolicy {
    last_commit: Option<MonoNanos>,
}

// === impl ReadMapping ===

impl ReadMapping {
    /// Sleeps until the slot of frame `next` changes, a producer wakes it, or `at_most` (four
    /// milliseconds at the longest) is over. One system call.
    pub fn nap(&self, next: Seq, at_most: Duration) -> Nap {
        let word = self.mark_word(next);
        let mark = word.load(Ordering::Relaxed);
        if mark == committed(next.get()) || seq_of(mark) > next.get() {
            return Nap::Ready;
        }
        let [a, b, c, d, ..] = mark.to_le_bytes();
        let timeout = at_most.min(LONGEST_NAP_WITH_WAKES);
        let timeout = futex::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // Not FUTEX_PRIVATE: the producer that wakes is another process.
        let flags = futex::Flags::empty();
        let low = u32::from_le_bytes([a, b, c, d]);
        match futex::wait(words::low_half(word), flags, low, Some(&timeout)) {
            Ok(()) | Err(Errno::INTR) => Nap::Woken,
            Err(Errno::TIMEDOUT) => Nap::TimedOut,
            // EAGAIN: it changed between the load and the call. EFAULT: the file was truncated, and
            // the next poll finds out.
            Err(_) => Nap::Ready,
        }
    }
}

// === impl WriteMapping ===

impl WriteMapping {
    /// Wakes every consumer that sleeps on frame `seq`; returns how many. One system call.
    ///
    /// # Errors
    /// The kernel refused; consumers then wake by themselves within a millisecond.
    pub fn wake(&self, seq: Seq) -> io::Result<usize> {
        let everybody = u32::MAX >> 1;
        let word = words::low_half(self.mark_word(seq));
        Ok(futex::wake(word, futex::Flags::empty(), everybody)?)
    }
}

// === impl Committed ===

impl Committed<'_> {
    /// Wakes every consumer that sleeps on the slot; returns how many. One system call.
    ///
    /// # Errors
    /// The kernel refused; consumers then wake by themselves within a millisecond.
    pub fn wake(self) -> io::Result<usize> {
        let word = words::low_half(self.mark);
        Ok(futex::wake(word, futex::Flags::empty(), u32::MAX >> 1)?)
    }
}

// === impl IdlePolicy ===

impl IdlePolicy {
    /// A frame came at `now`.
    pub fn on_frame(&mut self, now: MonoNanos) {
        let last = self.last_frame.replace(now);
        let gap = last.map(|last| Duration::from_nanos(now.saturating_since(last)));
        self.is_slow = gap.is_some_and(|gap| gap > SLOW);
        match self.last_nap.take() {
            Some(Nap::Woken) => self.is_woken = true,
            Some(Nap::TimedOut) => self.is_woken = false,
            Some(Nap::Ready) | None => {}
        }
    }

    /// A nap ended.
    pub const fn on_nap(&mut self, nap: Nap) {
        self.last_nap = Some(nap);
    }

    /// What to do at `now` with nothing there and the caller's `deadline`.
    // spec: X-1-22 X-1-24
    #[must_use]
    pub fn next(&self, now: MonoNanos, deadline: MonoNanos) -> Idle {
        let left = Duration::from_nanos(deadline.saturating_since(now));
        if left.is_zero() {
            return Idle::TimedOut;
        }
        let spin = self.last_frame.and_then(|last| {
            SPIN.checked_sub(Duration::from_nanos(now.saturating_since(last)))
                .filter(|spin| !spin.is_zero())
        });
        match spin {
            Some(_) if !self.is_slow => Idle::Spin,
            // A producer does not wake for a frame that follows another within 100 µs.
            Some(spin) => Idle::Nap(left.min(spin)),
            None if self.is_woken => Idle::Nap(left.min(LONGEST_NAP_WITH_WAKES)),
            None => Idle::Nap(left.min(LONGEST_NAP)),
        }
    }
}

// === impl WakePolicy ===

impl WakePolicy {
    /// A frame was committed at `now`; whether consumers may be asleep and should be woken.
    #[must_use]
    pub fn on_commit(&mut self, now: MonoNanos) -> bool {
        let quiet = self
            .last_commit
            .replace(now)
            .map(|last| now.saturating_since(last));
        quiet.is_none_or(|quiet| Duration::from_nanos(quiet) > WAKE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(micros: u64) -> MonoNanos {
        MonoNanos(micros * 1_000)
    }

    const LATER: MonoNanos = at(1_000_000);
    const MILLI: Duration = Duration::from_millis(1);

    // spec: X-1-22
    #[test]
    fn a_fast_stream_is_spun_for_and_a_slow_one_is_not() {
        let mut idle = IdlePolicy::default();
        assert_eq!(idle.next(at(0), LATER), Idle::Nap(MILLI));
        idle.on_frame(at(0));
        idle.on_frame(at(50));
        assert_eq!(idle.next(at(60), LATER), Idle::Spin);
        assert_eq!(idle.next(at(169), LATER), Idle::Spin);
        assert_eq!(idle.next(at(170), LATER), Idle::Nap(MILLI));
        idle.on_frame(at(33_000));
        // The next frame may follow within 100 µs, and nobody would wake for it.
        let rest = Duration::from_micros(110);
        assert_eq!(idle.next(at(33_010), LATER), Idle::Nap(rest));
        assert_eq!(idle.next(at(33_120), LATER), Idle::Nap(MILLI));
        idle.on_frame(at(33_130));
        assert_eq!(idle.next(at(33_140), LATER), Idle::Spin);
    }

    // spec: X-1-22
    #[test]
    fn naps_are_longer_only_while_the_producer_wakes() {
        let mut idle = IdlePolicy::default();
        idle.on_frame(at(0));
        idle.on_nap(Nap::Woken);
        assert_eq!(idle.next(at(200), LATER), Idle::Nap(MILLI), "no frame yet");
        idle.on_frame(at(33_000));
        let four = Duration::from_millis(4);
        assert_eq!(idle.next(at(34_000), LATER), Idle::Nap(four));
        idle.on_nap(Nap::TimedOut);
        assert_eq!(idle.next(at(38_000), LATER), Idle::Nap(four));
        idle.on_nap(Nap::TimedOut);
        idle.on_frame(at(39_000));
        assert_eq!(
            idle.next(at(40_000), LATER),
            Idle::Nap(MILLI),
            "it woke nobody"
        );
    }

    // spec: X-1-24
    #[test]
    fn nothing_lasts_longer_than_the_callers_time() {
        let idle = IdlePolicy::default();
        let little = Duration::from_micros(20);
        assert_eq!(idle.next(at(100), at(120)), Idle::Nap(little));
        assert_eq!(idle.next(at(120), at(120)), Idle::TimedOut);
    }
}
