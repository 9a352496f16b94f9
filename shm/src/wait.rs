//! Waiting for a frame without spinning for ever, and waking who waits.
//!
//! A consumer sleeps on the low half of the next slot's `seq_commit` (`FUTEX_WAIT`, which works on a
//! read-only shared mapping), in naps of at most one millisecond: a producer of another implementation
//! never wakes, and a hole must be noticed. Our producer wakes after a commit only when its previous
//! frame is more than 100 µs old; a consumer spins for 120 µs after a frame, so a fast stream neither
//! sleeps nor wakes (docs/extensions.md, "Waiting without spinning").

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
/// The longest nap.
pub const LONGEST_NAP: Duration = Duration::from_millis(1);

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
}

/// The producer's choice whether to wake anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WakePolicy {
    last_commit: Option<MonoNanos>,
}

// === impl ReadMapping ===

impl ReadMapping {
    /// Sleeps until the slot of frame `next` changes, a producer wakes it, or `at_most` (one
    /// millisecond at the longest) is over. One system call.
    pub fn nap(&self, next: Seq, at_most: Duration) -> Nap {
        let word = self.mark_word(next);
        let mark = word.load(Ordering::Relaxed);
        if mark == committed(next.get()) || seq_of(mark) > next.get() {
            return Nap::Ready;
        }
        let [a, b, c, d, ..] = mark.to_le_bytes();
        let timeout = at_most.min(LONGEST_NAP);
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
    pub const fn on_frame(&mut self, now: MonoNanos) {
        self.last_frame = Some(now);
    }

    /// What to do at `now` with nothing there and the caller's `deadline`.
    #[must_use]
    pub fn next(&self, now: MonoNanos, deadline: MonoNanos) -> Idle {
        let left = Duration::from_nanos(deadline.saturating_since(now));
        if left.is_zero() {
            return Idle::TimedOut;
        }
        match self.last_frame {
            Some(last) if Duration::from_nanos(now.saturating_since(last)) < SPIN => Idle::Spin,
            Some(_) | None => Idle::Nap(left.min(LONGEST_NAP)),
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
