//! From one epoch to the next: what was lost where one ended and the other began.
//!
//! From the frame at which a consumer began, each frame of its stream is delivered or counted once.
//! Within an epoch the cursor and the descriptors see to that. Between two epochs this does: it keeps
//! the place in the epoch that was left, counts what was committed there behind that place, and finds
//! the place again where the same epoch is mapped anew. It delivers nothing of an epoch that is over.

use std::collections::VecDeque;
use std::sync::Arc;

use tensorpool_shm::{Cursor, SlotParser};
use tensorpool_wire::{Epoch, MonoNanos, Seq, StreamId};

use super::Notify;
use crate::mapping::{Begin, Mapped};
use crate::stats::{ConsumerCounters, DropReason};

/// Epochs whose late descriptors are known for what they are.
const LEFT_KEPT: usize = 8;

/// After so many epochs without a frame, the one before them is not waited for any more.
const MOST_PASSED: u32 = 16;

/// A producer on Aeron whose driver died with its media driver sends keepalives for 2.5 s more before it
/// notices (2 s without a sign of life, looked for twice a second), and believes in its lease for as much
/// longer than one that sees its socket close.
const UNNOTICED_NS: u64 = 3_000_000_000;

/// One epoch being read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) mapped: Arc<Mapped>,
    pub(super) cursor: Cursor,
    /// Parses the slots of this mapping; quick while the shape stays the same.
    pub(super) parser: SlotParser,
    /// The number that a descriptor should carry next.
    pub(super) expected: Option<Seq>,
    /// Before the first descriptor: the frame from which on each one that has none is lost. `None`
    /// where reading began in the middle of the epoch, so that the first number seen is no gap.
    pub(super) since: Option<u64>,
}

impl Reading {
    fn id(&self) -> (StreamId, Epoch) {
        let layout = self.mapped.regions.layout();
        (layout.stream_id(), layout.epoch())
    }
}

/// Why an epoch is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Its producer is gone, or another epoch is there: its producer may still be writing.
    Epoch,
    /// This consumer's own lease is over: its memory goes at once.
    Lease,
}

/// The place in the epoch that was left.
#[derive(Debug)]
struct Former {
    id: (StreamId, Epoch),
    cursor: Cursor,
    expected: Option<Seq>,
    since: Option<u64>,
    /// The frame that would have come next. `None`: reading had not begun.
    next: Option<u64>,
    end: End,
    /// Epochs that were left meanwhile without a frame.
    passed: u32,
}

/// How far the epoch that was left has come.
#[derive(Debug)]
enum End {
    /// Still being watched: for as long as a producer that has lost its driver may go on writing. The
    /// first frame of the next epoch ends it sooner, since its producer is through with this one then.
    Watched {
        mapped: Arc<Mapped>,
        until: MonoNanos,
    },
    /// Frames committed when it was last looked at.
    Known(u64),
}

/// What lies between the epochs of one consumer.
#[derive(Debug, Default)]
pub(super) struct Passage {
    former: Option<Former>,
    /// The epochs that were left last, at most [`LEFT_KEPT`].
    left: VecDeque<Epoch>,
    /// Descriptors of a later epoch than the mapped one; each was counted when it came.
    early: Option<(Epoch, u64)>,
}

/// Frames committed in the ring so far, which is the number of the next one.
pub(crate) fn committed(mapped: &Mapped) -> u64 {
    let newest = mapped.regions.newest();
    newest.get() + u64::from(mapped.regions.is_still(newest))
}

/// Lets go of the pools, unless the application still holds frames in them: the ring is all that is
/// watched, and the pools are what takes memory.
fn without_pools(mapped: Arc<Mapped>) -> Arc<Mapped> {
    Arc::try_unwrap(mapped)
        .map(|mut mapped| {
            mapped.regions.drop_pools();
            Arc::new(mapped)
        })
        .unwrap_or_else(|shared| shared)
}

impl Former {
    /// Frames behind the place where it was left.
    fn lost(&self) -> u64 {
        let end = match &self.end {
            End::Watched { mapped, .. } => committed(mapped),
            End::Known(end) => *end,
        };
        self.next.map_or(0, |next| end.saturating_sub(next))
    }
}

impl Passage {
    /// Whether [`Passage::settle`] has something to do.
    #[inline]
    pub(super) const fn is_open(&self) -> bool {
        self.former.is_some()
    }

    /// Frames lost so far in the epoch that was left, and not yet counted.
    pub(super) fn lost(&self) -> u64 {
        self.former.as_ref().map_or(0, Former::lost)
    }

    /// Leaves an epoch.
    // spec: X-2-67 X-2-69 D-4.9-10
    pub(super) fn leave(
        &mut self,
        reading: Reading,
        by: Notify,
        why: Leave,
        now: MonoNanos,
        counters: &ConsumerCounters,
    ) {
        self.left.push_back(reading.id().1);
        if self.left.len() > LEFT_KEPT {
            self.left.pop_front();
        }
        if why == Leave::Lease {
            self.let_go();
        }
        if committed(&reading.mapped) == 0
            && let Some(former) = &mut self.former
        {
            // An epoch without a producer, between two that have one: the one before may still be
            // written to. Only its ring is mapped, but a ring is memory too.
            former.passed += 1;
            if former.passed >= MOST_PASSED {
                self.let_go();
            }
            return;
        }
        self.close(counters);
        let id = reading.id();
        let next = match by {
            Notify::Ring => Some(reading.cursor.next().get()),
            Notify::Descriptor => reading.expected.map(Seq::get).or(reading.since),
        };
        let end = match why {
            Leave::Epoch => End::Watched {
                until: now
                    .saturating_add(reading.mapped.granted_ns)
                    .saturating_add(UNNOTICED_NS),
                mapped: without_pools(reading.mapped),
            },
            Leave::Lease => End::Known(committed(&reading.mapped)),
        };
        self.former = Some(Former {
            id,
            passed: 0,
            cursor: reading.cursor,
            expected: reading.expected,
            since: reading.since,
            next,
            end,
        });
    }

    /// This consumer's own lease is over: the memory of the epoch before goes as well.
    pub(super) fn let_go(&mut self) {
        if let Some(former) = &mut self.former
            && let End::Watched { mapped, .. } = &former.end
        {
            former.end = End::Known(committed(mapped));
        }
    }

    /// Begins an epoch: where it was left if it is the same again, else where its mapping says.
    // spec: X-1-19 X-2-69
    pub(super) fn enter(
        &mut self,
        mapped: Arc<Mapped>,
        by: Notify,
        counters: &ConsumerCounters,
    ) -> Reading {
        let fresh = Reading {
            cursor: mapped.first.clone(),
            parser: SlotParser::default(),
            expected: None,
            since: None,
            mapped,
        };
        let id = fresh.id();
        match fresh.mapped.begin {
            Begin::Anywhere => {
                // The producer has gone back in its own epoch: no place in it means anything.
                self.former.take_if(|former| former.id == id);
                fresh
            }
            Begin::Epoch => match self.former.take_if(|former| former.id == id) {
                Some(former) => Reading {
                    cursor: former.cursor,
                    expected: former.expected,
                    since: former.since,
                    ..fresh
                },
                None => {
                    let early = self.early.take_if(|(epoch, _)| *epoch <= id.1);
                    let early = early.filter(|(epoch, _)| *epoch == id.1);
                    if by == Notify::Ring {
                        let missed = fresh.cursor.next().get();
                        counters.drop_frames(DropReason::MissedStart, missed);
                    }
                    Reading {
                        since: Some(early.map_or(0, |(_, counted)| counted)),
                        ..fresh
                    }
                }
            },
        }
    }

    /// A descriptor of another epoch than the mapped one. Returns whether it counts as a drop: frames
    /// of the epoch that was left are counted where that ended.
    pub(super) fn is_drop(&mut self, mapped: Epoch, of: Epoch) -> bool {
        if self.left.contains(&of) {
            return false;
        }
        if of > mapped {
            match &mut self.early {
                Some((epoch, count)) if *epoch == of => *count += 1,
                Some(_) | None => self.early = Some((of, 1)),
            }
        }
        true
    }

    /// After a poll while the passage is open: closes it with the first frame of the new epoch, and
    /// lets the memory go when it was watched long enough.
    #[cold]
    pub(super) fn settle(&mut self, now: MonoNanos, has_frame: bool, counters: &ConsumerCounters) {
        if has_frame {
            self.close(counters);
        } else if let Some(Former {
            end: End::Watched { until, .. },
            ..
        }) = &self.former
            && now > *until
        {
            self.let_go();
        }
    }

    fn close(&mut self, counters: &ConsumerCounters) {
        let lost = self.lost();
        self.former = None;
        counters.lose_end(lost);
    }
}

#[cfg(test)]
#[path = "passage_tests.rs"]
mod tests;
