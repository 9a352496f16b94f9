//! The relay of descriptors: frames of a socket producer, told to Aeron consumers.
//!
//! Streams with the same Aeron stream id share a publication and form a [`Group`]; while nobody
//! subscribes to it the whole group costs one look. A relay walks the ring with the same cursor as a consumer, only while somebody subscribes, starts at
//! the newest frame, and never keeps a descriptor: what the publication refuses is dropped and
//! counted, since the next one supersedes it.

#[cfg(test)]
mod tests;

use tensorpool_driver_core::EpochKey;
use tensorpool_shm::{Cursor, Look, ReadMapping, Skip, Start};
use tensorpool_transport::pubsub::Publication;
use tensorpool_wire::{FrameDescriptor, SlotHeader, StreamId};

use crate::counters::Counters;

/// Descriptors of one stream in one cycle.
// spec: X-2-60
const PER_CYCLE: usize = 64;

/// One stream's relay, in one epoch.
#[derive(Debug)]
pub(crate) struct Relay {
    key: EpochKey,
    mapping: ReadMapping,
    /// None after a time in which nobody subscribed any more.
    cursor: Option<Cursor>,
}

/// What one cycle of one relay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// So many looks at the ring had a result.
    Walked(usize),
    /// The ring lost its pages.
    Poisoned,
}

impl Relay {
    /// A relay over a mapped epoch, at its newest frame. What is published before the first subscriber
    /// is there waits in the ring: whoever holds a lease by now loses nothing while its publication
    /// opens.
    #[must_use]
    pub(crate) fn new(key: EpochKey, mapping: ReadMapping) -> Self {
        let cursor = Some(mapping.start(Start::Newest));
        Self {
            key,
            mapping,
            cursor,
        }
    }

    /// Whose frames it relays.
    #[must_use]
    pub(crate) const fn stream(&self) -> StreamId {
        self.key.stream
    }

    /// Publishes what is new, at most 64 descriptors, to a publication that has subscribers.
    // spec: X-2-58, X-2-60, X-2-61, X-1-21
    pub(crate) fn work(
        &mut self,
        publication: &mut impl Publication,
        counters: &mut Counters,
    ) -> Outcome {
        let cursor = self
            .cursor
            .get_or_insert_with(|| self.mapping.start(Start::Newest));
        let mut walked = 0;
        for _ in 0..PER_CYCLE {
            match self.mapping.poll(cursor) {
                Ok(Look::Empty) => break,
                Ok(Look::Frame(snapshot)) => {
                    let descriptor = describe(self.key, &snapshot);
                    match publication.offer(&descriptor.encode_array()) {
                        Ok(()) => Counters::bump(&mut counters.relayed, self.key.stream),
                        Err(error) => Counters::bump(
                            &mut counters.relay_drops,
                            (self.key.stream, error.reason()),
                        ),
                    }
                }
                Ok(Look::Skipped(skip)) => Counters::add(
                    &mut counters.relay_drops,
                    (self.key.stream, skip_label(skip)),
                    skip.lost(),
                ),
                Err(_) => return Outcome::Poisoned,
            }
            walked += 1;
        }
        Outcome::Walked(walked)
    }
}

/// The relays of one publication.
#[derive(Debug, Default)]
pub(crate) struct Group {
    relays: Vec<Relay>,
    /// Where the present cycle begins.
    first: usize,
    /// Whether anybody has subscribed since the last rest.
    walks: bool,
}

impl Group {
    /// Adds a relay, in place of an earlier one of its stream.
    pub(crate) fn add(&mut self, relay: Relay) {
        self.remove(relay.stream());
        self.relays.push(relay);
    }

    /// Ends a stream's relay; its ring is unmapped when this returns.
    pub(crate) fn remove(&mut self, stream: StreamId) {
        self.relays.retain(|relay| relay.stream() != stream);
    }

    /// Whether no relay is left.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.relays.is_empty()
    }

    /// Nobody subscribes any more, or nobody yet: whoever comes after somebody left starts at the newest
    /// frames.
    // spec: X-2-58
    pub(crate) fn rest(&mut self) {
        if std::mem::take(&mut self.walks) {
            for relay in &mut self.relays {
                relay.cursor = None;
            }
        }
    }

    /// Publishes what is new of each stream; whoever was first in this cycle is last in the next.
    // spec: X-2-60
    pub(crate) fn work(
        &mut self,
        publication: &mut impl Publication,
        counters: &mut Counters,
        mut tell: impl FnMut(EpochKey, Outcome),
    ) {
        self.walks = true;
        let count = self.relays.len();
        self.first = (self.first + 1) % count.max(1);
        let (last, first) = self.relays.split_at_mut(self.first);
        for relay in first.iter_mut().chain(last) {
            let outcome = relay.work(publication, counters);
            tell(relay.key, outcome);
        }
    }
}

/// The descriptor of a committed slot.
// spec: X-2-59, W-10.2.1-1
fn describe(key: EpochKey, snapshot: &tensorpool_shm::Snapshot) -> FrameDescriptor {
    // A slot that a consumer would refuse is still announced: judging it is the consumer's part.
    let meta_version = SlotHeader::decode(&snapshot.bytes)
        .ok()
        .and_then(|slot| slot.meta_version);
    FrameDescriptor {
        stream_id: key.stream,
        epoch: key.epoch,
        seq: snapshot.seq,
        timestamp_ns: None,
        meta_version,
        trace_id: None,
    }
}

/// Lagging and lapping are one thing to an operator: the relay was too slow.
const fn skip_label(skip: Skip) -> &'static str {
    match skip {
        Skip::Lagged { .. } | Skip::Lapped { .. } => "relay_lapped",
        Skip::Hole { .. } => "hole",
        Skip::Remarked { .. } => "remarked",
        Skip::Overwritten { .. } => "overwritten",
        Skip::OutOfRange { .. } => "out_of_range",
    }
}
