//! What is due when. One ordered set for the whole driver, so that no tick looks at more than is due.
//!
//! Entries may be early: a keepalive only moves its lease's expiry, and the entry is put back with the
//! new time when it comes up. So a keepalive costs one look-up and no reordering.

use std::collections::BTreeSet;

use tensorpool_wire::{LeaseId, MonoNanos, StreamId};

use crate::action::EpochKey;

/// What comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A lease may have expired.
    Lease(LeaseId),
    /// A consumer's own streams may be stale.
    Consumer(LeaseId),
    /// A stream is announced.
    Announce(StreamId),
    /// An epoch that is being made has taken too long.
    Making(StreamId),
    /// A failed epoch is tried again.
    Retry(StreamId),
    /// Old epochs of a stream may have become old enough.
    Collect(StreamId),
    /// Somebody had an epoch's files when it was to go; another look is due.
    InUse(EpochKey),
    /// The drain is over.
    Stop,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    queue: BTreeSet<(MonoNanos, Due)>,
}

impl Deadlines {
    /// Adds an entry and returns its time, for whoever has to [`Deadlines::cancel`] it.
    pub(crate) fn set(&mut self, at: MonoNanos, due: Due) -> MonoNanos {
        self.queue.insert((at, due));
        at
    }

    pub(crate) fn cancel(&mut self, at: MonoNanos, due: Due) {
        self.queue.remove(&(at, due));
    }

    pub(crate) fn first(&self) -> Option<MonoNanos> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the earliest entry that is due.
    pub(crate) fn pop(&mut self, now: MonoNanos) -> Option<Due> {
        let (at, due) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        Some(due)
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }
}
