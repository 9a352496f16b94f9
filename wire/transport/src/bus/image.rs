//! One subscriber's view of one publication's log.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_wire::MonoNanos;

/// What is on its way to one subscriber, and how far it has read.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) tethered: bool,
    pub(crate) phase: ImagePhase,
    /// By arrival, then by the order of sending.
    queue: BTreeMap<(MonoNanos, u64), Queued>,
    /// Log positions of what is queued, with how often.
    starts: BTreeMap<u64, u32>,
    /// When the last message that keeps its order arrives.
    last_arrival: MonoNanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImagePhase {
    /// Messages arrive. An untethered one remembers since when it is far behind.
    Active { behind_since: Option<MonoNanos> },
    /// An untethered subscriber that was too slow; it is not waited for and loses messages.
    Resting { until: MonoNanos },
}

#[derive(Debug)]
struct Queued {
    start: u64,
    bytes: Arc<[u8]>,
}

impl Image {
    pub(crate) const fn new(tethered: bool) -> Self {
        Self {
            tethered,
            phase: ImagePhase::Active { behind_since: None },
            queue: BTreeMap::new(),
            starts: BTreeMap::new(),
            last_arrival: MonoNanos(0),
        }
    }

    pub(crate) const fn is_active(&self) -> bool {
        matches!(self.phase, ImagePhase::Active { .. })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How far the subscriber has read of a log that is written up to `end`.
    pub(crate) fn position(&self, end: u64) -> u64 {
        self.starts
            .first_key_value()
            .map_or(end, |(start, _)| *start)
    }

    /// Puts a message on its way. One that is `in_order` arrives after all in-order ones before it.
    pub(crate) fn push(
        &mut self,
        at: MonoNanos,
        order: u64,
        in_order: bool,
        start: u64,
        bytes: Arc<[u8]>,
    ) {
        let at = if in_order {
            at.max(self.last_arrival)
        } else {
            at
        };
        if in_order {
            self.last_arrival = at;
        }
        *self.starts.entry(start).or_default() += 1;
        self.queue.insert((at, order), Queued { start, bytes });
    }

    /// When and in which order the next message arrives.
    pub(crate) fn next(&self) -> Option<(MonoNanos, u64)> {
        self.queue.first_key_value().map(|(key, _)| *key)
    }

    /// Takes the next message.
    pub(crate) fn pop(&mut self) -> Option<Arc<[u8]>> {
        let (_, Queued { start, bytes }) = self.queue.pop_first()?;
        if let Some(count) = self.starts.get_mut(&start) {
            *count -= 1;
            if *count == 0 {
                self.starts.remove(&start);
            }
        }
        Some(bytes)
    }

    /// Loses everything that is on its way.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.starts.clear();
    }
}
