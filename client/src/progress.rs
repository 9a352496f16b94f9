//! FrameProgress: how much of a frame is there before it is committed.
//!
//! It owns the producer's restraint (how often to tell, and whether anybody listens) and the
//! consumer's checks. Progress never replaces a commit (W-10.2.2-2).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tensorpool_wire::{Epoch, FrameProgress, FrameProgressState, MonoNanos, Seq, StreamId};

/// Nanoseconds between two progress messages, where no consumer hints at less.
pub(crate) const INTERVAL_NS: u64 = 250_000;
/// Bytes between two progress messages, where no consumer hints at less.
pub(crate) const BYTES_DELTA: u64 = 65_536;
/// Messages that may wait for the conductor or the application.
const ROOM: usize = 64;

/// The producer's side, shared by the conductor and the data path.
#[derive(Debug)]
pub(crate) struct ProgressDesk {
    wanted: AtomicBool,
    interval_ns: AtomicU64,
    bytes_delta: AtomicU64,
    outbox: Mutex<VecDeque<FrameProgress>>,
}

impl ProgressDesk {
    pub(crate) fn new() -> Self {
        Self {
            wanted: AtomicBool::new(false),
            interval_ns: AtomicU64::new(INTERVAL_NS),
            bytes_delta: AtomicU64::new(BYTES_DELTA),
            outbox: Mutex::new(VecDeque::with_capacity(ROOM)),
        }
    }

    /// Conductor: whether any consumer listens, and the smallest hints of those that do.
    // spec: W-10.2.2-6 W-10.2.2-7
    pub(crate) fn set(&self, hints: Option<Hints>) {
        self.wanted.store(hints.is_some(), Ordering::Relaxed);
        let hints = hints.unwrap_or_default();
        self.interval_ns.store(hints.interval_ns, Ordering::Relaxed);
        self.bytes_delta.store(hints.bytes_delta, Ordering::Relaxed);
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn post(&self, message: FrameProgress) {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        if outbox.len() == ROOM {
            outbox.pop_front();
        }
        outbox.push_back(message);
    }

    /// Conductor: the next message to send.
    pub(crate) fn next(&self) -> Option<FrameProgress> {
        self.outbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

/// What consumers ask for; the smallest of each counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hints {
    pub(crate) interval_ns: u64,
    pub(crate) bytes_delta: u64,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            interval_ns: INTERVAL_NS,
            bytes_delta: BYTES_DELTA,
        }
    }
}

impl Hints {
    /// Both wishes in one, not below the producer's floor of 1 kHz and 4 KiB.
    // spec: W-10.2.2-7
    pub(crate) fn merge(self, interval_us: Option<u32>, bytes_delta: Option<u32>) -> Self {
        let interval = interval_us
            .filter(|us| *us > 0)
            .map_or(INTERVAL_NS, |us| u64::from(us) * 1_000);
        let bytes = bytes_delta
            .filter(|bytes| *bytes > 0)
            .map_or(BYTES_DELTA, u64::from);
        Self {
            interval_ns: self.interval_ns.min(interval).max(200_000),
            bytes_delta: self.bytes_delta.min(bytes).max(4_096),
        }
    }
}

/// The progress of the frame that is being written.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    state: Option<FrameProgressState>,
    last: Option<MonoNanos>,
    told_bytes: u64,
}

/// Which frame a message is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) stream: StreamId,
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
}

impl Telling {
    /// Whether a message has named the frame, so that its number is spent.
    pub(crate) const fn has_begun(&self) -> bool {
        self.state.is_some()
    }

    /// Another frame begins.
    #[inline]
    pub(crate) const fn reset(&mut self) {
        self.state = None;
        self.last = None;
        self.told_bytes = 0;
    }

    /// `filled` bytes are there. Returns whether a message was posted.
    // spec: W-10.2.2-5 W-10.2.2-6
    pub(crate) fn tell(
        &mut self,
        desk: &ProgressDesk,
        about: About,
        now: MonoNanos,
        filled: u64,
    ) -> bool {
        if !desk.is_wanted() {
            return false;
        }
        let state = match self.state {
            None => FrameProgressState::Started,
            Some(FrameProgressState::Started | FrameProgressState::Progress) => {
                let interval = desk.interval_ns.load(Ordering::Relaxed);
                let delta = desk.bytes_delta.load(Ordering::Relaxed);
                let soon = self
                    .last
                    .is_some_and(|last| now.saturating_since(last) < interval);
                // spec: W-10.2.2-1: never decreases.
                if soon || filled < self.told_bytes.saturating_add(delta) {
                    return false;
                }
                FrameProgressState::Progress
            }
            Some(FrameProgressState::Complete | FrameProgressState::Unknown(_)) => return false,
        };
        self.post(desk, about, now, filled, state);
        true
    }

    /// The frame is committed: the final state is always told once progress has begun.
    // spec: W-10.2.2-6 W-15.18-2
    pub(crate) fn complete(
        &mut self,
        desk: &ProgressDesk,
        about: About,
        now: MonoNanos,
        len: u64,
    ) -> bool {
        if self.has_begun() {
            self.post(desk, about, now, len, FrameProgressState::Complete);
        }
        self.has_begun()
    }

    fn post(
        &mut self,
        desk: &ProgressDesk,
        about: About,
        now: MonoNanos,
        filled: u64,
        state: FrameProgressState,
    ) {
        self.state = Some(state);
        self.last = Some(now);
        self.told_bytes = filled;
        desk.post(FrameProgress {
            stream_id: about.stream,
            epoch: about.epoch,
            seq: about.seq,
            payload_bytes_filled: filled,
            state,
        });
    }
}

/// The consumer's side: messages that kept to the rules, in order.
#[derive(Debug, Default)]
pub(crate) struct ProgressInbox(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    last: Option<FrameProgress>,
    waiting: VecDeque<FrameProgress>,
}

impl ProgressInbox {
    /// Conductor: takes a message in. One that goes back, in bytes or in state, is dropped.
    // spec: W-10.2.2-1 W-10.2.2-5
    pub(crate) fn hear(&self, message: &FrameProgress) -> bool {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rank(message.state).is_none() {
            return false;
        }
        if let Some(last) = heard.last
            && last.epoch == message.epoch
            && last.seq == message.seq
            && (message.payload_bytes_filled < last.payload_bytes_filled
                || rank(message.state) < rank(last.state))
        {
            return false;
        }
        heard.last = Some(*message);
        if heard.waiting.len() == ROOM {
            heard.waiting.pop_front();
        }
        heard.waiting.push_back(*message);
        true
    }

    /// Data path: the next message.
    pub(crate) fn next(&self) -> Option<FrameProgress> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .pop_front()
    }

    /// Conductor: the epoch is over, and what was said about its frames.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Heard::default();
    }
}

const fn rank(state: FrameProgressState) -> Option<u8> {
    match state {
        FrameProgressState::Started => Some(0),
        FrameProgressState::Progress => Some(1),
        FrameProgressState::Complete => Some(2),
        FrameProgressState::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About = About {
        stream: StreamId(1),
        epoch: Epoch(2),
        seq: Seq(3),
    };

    fn told(desk: &ProgressDesk) -> Vec<(u64, FrameProgressState)> {
        std::iter::from_fn(|| desk.next())
            .map(|message| (message.payload_bytes_filled, message.state))
            .collect()
    }

    // spec: W-10.2.2-6
    #[test]
    fn nothing_is_told_while_nobody_listens() {
        let desk = ProgressDesk::new();
        let mut telling = Telling::default();
        assert!(!telling.tell(&desk, ABOUT, MonoNanos(0), 1 << 20));
        assert!(!telling.complete(&desk, ABOUT, MonoNanos(0), 1 << 20));
        assert!(!telling.has_begun());
        assert_eq!(told(&desk), []);
    }

    // spec: W-10.2.2-5 W-10.2.2-6
    #[test]
    fn started_once_then_progress_by_time_and_bytes_then_complete() {
        let desk = ProgressDesk::new();
        desk.set(Some(Hints::default()));
        let mut telling = Telling::default();
        let mut tell =
            |at_us: u64, bytes| telling.tell(&desk, ABOUT, MonoNanos(at_us * 1_000), bytes);
        assert!(tell(0, 0));
        assert!(!tell(249, 200_000), "too soon");
        assert!(!tell(251, 65_535), "too few bytes");
        assert!(tell(252, 65_536));
        assert!(!tell(600, 65_536), "nothing new");
        assert!(telling.complete(&desk, ABOUT, MonoNanos(700_000), 100_000));
        use FrameProgressState::{Complete, Progress, Started};
        assert_eq!(
            told(&desk),
            [(0, Started), (65_536, Progress), (100_000, Complete)]
        );
    }

    // spec: W-10.2.2-7
    #[test]
    fn the_smallest_hints_count_down_to_the_floor() {
        let hints = Hints::default()
            .merge(Some(500), None)
            .merge(Some(220), Some(8_192));
        assert_eq!(
            hints,
            Hints {
                interval_ns: 220_000,
                bytes_delta: 8_192
            }
        );
        let floor = hints.merge(Some(1), Some(1));
        assert_eq!(
            floor,
            Hints {
                interval_ns: 200_000,
                bytes_delta: 4_096
            }
        );
        assert_eq!(
            Hints::default().merge(Some(0), None),
            Hints::default(),
            "0 is no hint"
        );
    }

    // spec: W-10.2.2-1 W-10.2.2-5
    #[test]
    fn a_step_back_is_dropped_and_a_lone_complete_is_taken() {
        let inbox = ProgressInbox::default();
        let message = |seq, bytes, state| FrameProgress {
            stream_id: StreamId(1),
            epoch: Epoch(1),
            seq: Seq(seq),
            payload_bytes_filled: bytes,
            state,
        };
        use FrameProgressState::{Complete, Progress, Started, Unknown};
        assert!(inbox.hear(&message(1, 10, Progress)));
        assert!(!inbox.hear(&message(1, 9, Progress)));
        assert!(!inbox.hear(&message(1, 11, Started)));
        assert!(!inbox.hear(&message(1, 11, Unknown(0))));
        assert!(
            inbox.hear(&message(2, 5, Complete)),
            "another frame, and C sends only this"
        );
        assert_eq!(inbox.next().map(|m| m.seq), Some(Seq(1)));
        assert_eq!(inbox.next().map(|m| m.seq), Some(Seq(2)));
        assert_eq!(inbox.next(), None);
    }
}
