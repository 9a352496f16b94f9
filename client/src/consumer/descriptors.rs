//! Learning of frames from descriptors.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tensorpool_transport::pubsub::Subscription;
use tensorpool_wire::{FrameDescriptor, Seq};

use super::passage::{Passage, Reading};
use super::{ConsumerShared, Looked, check};
use crate::stats::DropReason;

/// Where frames are learned of, on its way to the data path.
pub(crate) enum Source {
    /// The ring.
    Ring,
    /// This subscription of descriptors.
    Descriptors(Box<dyn Subscription + Send>),
    /// From nowhere: the way is gone, and what was read from holds its media driver's memory.
    Gone,
}

#[derive(Default)]
pub(crate) struct DescriptorMail(Mutex<Option<Source>>);

impl fmt::Debug for DescriptorMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DescriptorMail")
    }
}

impl DescriptorMail {
    pub(crate) fn post(&self, source: Source) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    pub(super) fn take(&self) -> Option<Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Reads the frame that a descriptor names. One attempt, no waiting.
#[inline]
pub(super) fn follow(
    shared: &ConsumerShared,
    reading: &mut Reading,
    passage: &mut Passage,
    descriptor: &FrameDescriptor,
) -> Looked {
    // Both lines are in the producer's cache: the slot's is asked for while the descriptor is looked
    // at, the payload's in `read_frame`.
    reading.mapped.regions.prefetch_slot(descriptor.seq);
    let layout = reading.mapped.regions.layout();
    // Descriptors of several streams may share a channel: another stream's is not a drop.
    if descriptor.stream_id != layout.stream_id() {
        return Looked::Dropped;
    }
    // spec: W-10.2.1-2
    if descriptor.epoch != layout.epoch() {
        if passage.is_drop(layout.epoch(), descriptor.epoch) {
            shared.counters.drop_frames(DropReason::OtherEpoch, 1);
        }
        return Looked::Dropped;
    }
    let seq = descriptor.seq;
    match reading.expected {
        Some(expected) if seq < expected => {
            shared.counters.drop_frames(DropReason::SeqRegression, 1);
            return Looked::Dropped;
        }
        // spec: W-15.4-2: the first number seen is no gap.
        Some(expected) if seq > expected => {
            shared
                .counters
                .drop_frames(DropReason::Gap, seq.get() - expected.get());
        }
        Some(_) => {}
        None => {
            let missed = reading
                .since
                .map_or(0, |since| seq.get().saturating_sub(since));
            shared.counters.drop_frames(DropReason::MissedStart, missed);
        }
    }
    if seq <= Seq::MAX {
        reading.expected = Some(Seq(seq.get() + 1));
    }
    match reading.mapped.regions.read_frame(seq, &mut reading.parser) {
        Ok(parsed) => check(shared, parsed),
        // spec: W-15.3-1 W-15.3-2
        Err(miss) => {
            shared.counters.drop_frames(miss.into(), 1);
            Looked::Dropped
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tensorpool_transport::pubsub::{Dead, Delivery};

    use super::*;
    use crate::consumer::Consumer;
    use crate::handover::Handover;
    use crate::mapping::Mapped;
    use crate::{Client, ClientOptions};

    /// While it is let go, the conductor has another one.
    struct Old {
        shared: Arc<ConsumerShared>,
        handover: Arc<Handover<Arc<Mapped>>>,
    }

    struct New;

    impl Drop for Old {
        fn drop(&mut self) {
            let source = Source::Descriptors(Box::new(New));
            self.shared.descriptors.post(source);
            self.handover.nudge();
        }
    }

    impl Subscription for Old {
        fn poll(&mut self, _: usize, _: &mut dyn FnMut(&[u8], Delivery)) -> Result<usize, Dead> {
            Ok(0)
        }

        fn image_count(&self) -> usize {
            0
        }
    }

    impl Subscription for New {
        fn poll(&mut self, _: usize, _: &mut dyn FnMut(&[u8], Delivery)) -> Result<usize, Dead> {
            Ok(0)
        }

        fn image_count(&self) -> usize {
            1
        }
    }

    // spec: X-2-77
    #[test]
    fn a_source_that_comes_while_the_one_before_is_let_go_is_taken() {
        let (client, _agent) = Client::agent(ClientOptions::default()).expect("descriptors");
        let consumer = Consumer::builder(7).client(&client).start();
        let mut consumer = consumer.expect("a page for the guard");
        let (shared, handover) = (
            Arc::clone(&consumer.shared),
            Arc::clone(&consumer.seat.handover),
        );
        shared.descriptors.post(Source::Descriptors(Box::new(Old {
            shared: Arc::clone(&shared),
            handover: Arc::clone(&handover),
        })));
        handover.nudge();
        assert!(consumer.next().expect("no end").is_none());
        let images = |consumer: &Consumer| consumer.descriptors.as_ref().map(|it| it.image_count());
        assert_eq!(images(&consumer), Some(0));
        shared.descriptors.post(Source::Gone);
        handover.nudge();
        assert!(consumer.next().expect("no end").is_none());
        assert!(consumer.next().expect("no end").is_none());
        assert_eq!(images(&consumer), Some(1), "the new one");
    }
}
