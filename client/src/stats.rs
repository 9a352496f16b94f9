//! What was counted, by reason. Written by the data path, read by anybody.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tensorpool_shm::{DropCounter, Miss, Skip};
use tensorpool_wire::{SlotReject, TensorReject};

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The bounded label for metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }

            pub(crate) fn index(self) -> usize {
                Self::ALL.iter().position(|reason| *reason == self).unwrap_or_default()
            }
        }
    };
}

mod messages;

pub(crate) use messages::MessageCounters;
pub use messages::{MessageStats, Unsent};

reasons! {
    /// Why a consumer did not deliver a frame.
    DropReason {
        /// The consumer fell too far behind and went to the newest frame.
        Lagged = "lagged",
        /// The producer lapped the consumer.
        Lapped = "lapped",
        /// The producer gave the frame up.
        Hole = "hole",
        /// The slot is marked with a frame of another slot.
        Remarked = "remarked",
        /// A later frame took the slot during the read.
        Overwritten = "overwritten",
        /// A sequence number above `2^63-2`.
        SeqOutOfRange = "seq_out_of_range",
        /// A descriptor named a frame that is not committed in its slot.
        NotCommitted = "not_committed",
        /// Sequence numbers without a descriptor.
        Gap = "gap",
        /// A descriptor whose number does not rise.
        SeqRegression = "seq_regression",
        /// A descriptor of another epoch than the mapped one.
        OtherEpoch = "other_epoch",
        /// Committed in an epoch that ended before this consumer had read so far.
        EpochEnded = "epoch_ended",
        /// At the beginning of a later epoch, and gone before this consumer looked there.
        MissedStart = "missed_start",
        /// Passed over at the caller's wish, to reach the newest frame.
        PassedOver = "passed_over",
        /// Left out to keep to the rate that was asked for.
        RateLimited = "rate_limited",
        /// The region lost its pages.
        Poisoned = "poisoned",
        /// The embedded header does not have 192 bytes.
        HeaderLength = "header_length",
        /// The embedded message is not a TensorHeader.
        EmbeddedHeader = "embedded_header",
        /// The payload slot does not exist.
        PayloadSlotOutOfRange = "payload_slot_out_of_range",
        /// The payload slot is not the header's index.
        PayloadSlot = "payload_slot",
        /// The payload does not start at its slot.
        PayloadOffset = "payload_offset",
        /// The pool is not mapped.
        Pool = "pool",
        /// The payload is longer than its slot.
        ValuesTooLong = "values_too_long",
        /// An unknown element type.
        Dtype = "dtype",
        /// An unknown major order.
        MajorOrder = "major_order",
        /// No dimension, or more than 8.
        Ndims = "ndims",
        /// A negative dimension.
        Dim = "dim",
        /// A negative stride, or one that overlaps or passes all bounds.
        Stride = "stride",
        /// The shape needs more bytes than the payload has.
        Extent = "extent",
        /// A progress unit that is unknown, or whose stride is wrong.
        Progress = "progress",
    }
}

impl From<Skip> for DropReason {
    fn from(skip: Skip) -> Self {
        match skip {
            Skip::Lagged { .. } => Self::Lagged,
            Skip::Lapped { .. } => Self::Lapped,
            Skip::Hole { .. } => Self::Hole,
            Skip::Remarked { .. } => Self::Remarked,
            Skip::Overwritten { .. } => Self::Overwritten,
            Skip::OutOfRange { .. } => Self::SeqOutOfRange,
        }
    }
}

impl From<Miss> for DropReason {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::NotCommitted => Self::NotCommitted,
            Miss::Overwritten => Self::Overwritten,
            Miss::SeqOutOfRange => Self::SeqOutOfRange,
        }
    }
}

impl From<&SlotReject> for DropReason {
    fn from(reject: &SlotReject) -> Self {
        match reject {
            SlotReject::InProgress => Self::NotCommitted,
            SlotReject::Seq { .. } => Self::Overwritten,
            SlotReject::SeqOutOfRange { .. } => Self::SeqOutOfRange,
            SlotReject::HeaderLength { .. } => Self::HeaderLength,
            SlotReject::EmbeddedHeader { .. } => Self::EmbeddedHeader,
            SlotReject::PayloadSlotOutOfRange { .. } => Self::PayloadSlotOutOfRange,
            SlotReject::PayloadSlot { .. } => Self::PayloadSlot,
            SlotReject::PayloadOffset { .. } => Self::PayloadOffset,
            SlotReject::Pool { .. } => Self::Pool,
            SlotReject::ValuesTooLong { .. } => Self::ValuesTooLong,
            SlotReject::Tensor(tensor) => match tensor {
                TensorReject::Dtype { .. } => Self::Dtype,
                TensorReject::MajorOrder { .. } => Self::MajorOrder,
                TensorReject::Ndims { .. } => Self::Ndims,
                TensorReject::Dim { .. } => Self::Dim,
                TensorReject::Stride { .. }
                | TensorReject::StrideCount { .. }
                | TensorReject::Overlap { .. }
                | TensorReject::StrideTooLong { .. } => Self::Stride,
                TensorReject::Extent { .. } => Self::Extent,
                TensorReject::ProgressUnit { .. } | TensorReject::ProgressStride { .. } => {
                    Self::Progress
                }
            },
        }
    }
}

impl DropReason {
    /// Which of the protocol's two counters the reason belongs to, if any: what the application asked
    /// to be left out is no drop, and the protocol's counters know nothing between two epochs.
    // spec: W-15.4-2 W-15.3-2
    #[must_use]
    pub const fn counter(self) -> Option<DropCounter> {
        match self {
            Self::Lagged | Self::Lapped | Self::Hole | Self::Gap => Some(DropCounter::Gap),
            Self::PassedOver | Self::RateLimited | Self::EpochEnded | Self::MissedStart => None,
            Self::Remarked
            | Self::Overwritten
            | Self::SeqOutOfRange
            | Self::NotCommitted
            | Self::SeqRegression
            | Self::OtherEpoch
            | Self::Poisoned
            | Self::HeaderLength
            | Self::EmbeddedHeader
            | Self::PayloadSlotOutOfRange
            | Self::PayloadSlot
            | Self::PayloadOffset
            | Self::Pool
            | Self::ValuesTooLong
            | Self::Dtype
            | Self::MajorOrder
            | Self::Ndims
            | Self::Dim
            | Self::Stride
            | Self::Extent
            | Self::Progress => Some(DropCounter::Late),
        }
    }
}

/// A consumer's counters since it was built.
#[derive(Debug)]
pub(crate) struct ConsumerCounters {
    pub(crate) delivered: AtomicU64,
    /// The last delivered number plus 1; 0: none yet.
    pub(crate) seen: AtomicU64,
    pub(crate) lag: AtomicU64,
    pub(crate) messages: MessageCounters,
    drops: [AtomicU64; DropReason::ALL.len()],
}

impl ConsumerCounters {
    pub(crate) const fn new() -> Self {
        Self {
            delivered: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            lag: AtomicU64::new(0),
            messages: MessageCounters::new(),
            drops: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
        }
    }

    /// Counts `frames` dropped frames. One thread writes, so a load and a store are enough.
    pub(crate) fn drop_frames(&self, reason: DropReason, frames: u64) {
        if let Some(counter) = self.drops.get(reason.index()) {
            bump(counter, frames);
        }
    }

    /// A frame that was counted as delivered is left out after all.
    pub(crate) fn leave_out(&self, reason: DropReason) {
        self.delivered.store(
            self.delivered.load(Ordering::Relaxed).wrapping_sub(1),
            Ordering::Relaxed,
        );
        self.drop_frames(reason, 1);
    }

    /// Counts frames at the end of an epoch: the data path's of one that it read, the conductor's of
    /// one that the data path never saw.
    pub(crate) fn lose_end(&self, frames: u64) {
        if let Some(counter) = self.drops.get(DropReason::EpochEnded.index()) {
            counter.fetch_add(frames, Ordering::Relaxed);
        }
    }

    /// `ending`: frames at the end of an epoch that are lost and not counted yet.
    pub(crate) fn snapshot(&self, ending: u64) -> ConsumerStats {
        let mut drops = [0; DropReason::ALL.len()];
        for (to, from) in drops.iter_mut().zip(&self.drops) {
            *to = from.load(Ordering::Relaxed);
        }
        drops[DropReason::EpochEnded.index()] += ending;
        ConsumerStats {
            delivered: self.delivered.load(Ordering::Relaxed),
            largest_lag: self.lag.load(Ordering::Relaxed),
            messages: self.messages.snapshot(),
            drops,
        }
    }
}

/// Adds to a counter that one thread writes.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

/// A consumer's counters since it was built, as one snapshot. Its `Debug` names the reasons that
/// occurred.
///
/// From the frame at which the consumer began, each frame that was published while it held a lease is
/// delivered or counted under one reason, over changes of epoch, media driver and driver as well.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConsumerStats {
    /// Frames delivered.
    pub delivered: u64,
    /// The furthest that the consumer was seen behind the producer, in frames (X-1-15).
    pub largest_lag: u64,
    /// Messages to and from the driver and the producer.
    pub messages: MessageStats,
    drops: [u64; DropReason::ALL.len()],
}

impl fmt::Debug for ConsumerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ConsumerStats");
        shown.field("delivered", &self.delivered);
        shown.field("largest_lag", &self.largest_lag);
        for (reason, frames) in self.drops() {
            shown.field(reason.label(), &frames);
        }
        if self.messages != MessageStats::default() {
            shown.field("messages", &self.messages);
        }
        shown.finish()
    }
}

impl ConsumerStats {
    /// Frames dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason.index()).copied().unwrap_or_default()
    }

    /// Reasons that occurred, with their counts.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, self.dropped(reason)))
            .filter(|&(_, frames)| frames > 0)
    }

    /// Frames of one of the protocol's counters.
    // spec: W-15.4-2
    #[must_use]
    pub fn counted(&self, counter: DropCounter) -> u64 {
        self.drops()
            .filter(|(reason, _)| reason.counter() == Some(counter))
            .map(|(_, frames)| frames)
            .sum()
    }
}

reasons! {
    /// Why a producer did not publish a frame, or nobody was told of one.
    ProducerDrop {
        /// No pool is large enough (W-9-4).
        TooLarge = "too_large",
        /// The frame is committed, its descriptor was refused for lack of room.
        DescriptorBackpressure = "descriptor_backpressure",
        /// The frame is committed, nobody listens for descriptors.
        DescriptorNotConnected = "descriptor_not_connected",
        /// The frame is committed, its descriptor could not be sent at all.
        DescriptorFailed = "descriptor_failed",
        /// The claim was abandoned; its number is used again.
        Abandoned = "abandoned",
        /// The frame is committed, the kernel refused to wake those that sleep; they find it when
        /// their nap is over.
        WakeRefused = "wake_refused",
    }
}

/// A producer's counters since it was built.
#[derive(Debug)]
pub(crate) struct ProducerCounters {
    pub(crate) published: AtomicU64,
    /// The number of the next frame of this epoch: what QosProducer reports.
    pub(crate) next: AtomicU64,
    pub(crate) messages: MessageCounters,
    drops: [AtomicU64; ProducerDrop::ALL.len()],
}

impl ProducerCounters {
    pub(crate) const fn new() -> Self {
        Self {
            published: AtomicU64::new(0),
            next: AtomicU64::new(0),
            messages: MessageCounters::new(),
            drops: [const { AtomicU64::new(0) }; ProducerDrop::ALL.len()],
        }
    }

    /// A new epoch: numbers start at 0 again.
    pub(crate) fn restart(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, reason: ProducerDrop) {
        if let Some(counter) = self.drops.get(reason.index()) {
            bump(counter, 1);
        }
    }

    pub(crate) fn snapshot(&self) -> ProducerStats {
        let mut drops = [0; ProducerDrop::ALL.len()];
        for (to, from) in drops.iter_mut().zip(&self.drops) {
            *to = from.load(Ordering::Relaxed);
        }
        ProducerStats {
            published: self.published.load(Ordering::Relaxed),
            messages: self.messages.snapshot(),
            drops,
        }
    }
}

/// A producer's counters since it was built, as one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStats {
    /// Frames committed.
    pub published: u64,
    /// Messages to and from the driver and the consumers.
    pub messages: MessageStats,
    drops: [u64; ProducerDrop::ALL.len()],
}

impl ProducerStats {
    /// How often this happened.
    #[must_use]
    pub fn dropped(&self, reason: ProducerDrop) -> u64 {
        self.drops.get(reason.index()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: W-15.4-2
    #[test]
    fn drops_are_counted_by_reason_and_by_the_protocols_counters() {
        let counters = ConsumerCounters::new();
        for (frames, &reason) in (1..).zip(DropReason::ALL) {
            counters.drop_frames(reason, frames);
        }
        let stats = counters.snapshot(0);
        for (frames, &reason) in (1..).zip(DropReason::ALL) {
            assert_eq!(stats.dropped(reason), frames, "{reason:?}");
        }
        let all: u64 = stats.drops().map(|(_, frames)| frames).sum();
        let left_out: u64 = [
            DropReason::PassedOver,
            DropReason::RateLimited,
            DropReason::EpochEnded,
            DropReason::MissedStart,
        ]
        .map(|reason| stats.dropped(reason))
        .iter()
        .sum();
        let counted = stats.counted(DropCounter::Gap) + stats.counted(DropCounter::Late);
        assert_eq!(
            counted + left_out,
            all,
            "each is in one counter, or was asked for, or lies between epochs"
        );
    }

    #[test]
    fn labels_are_different_and_only_what_occurred_is_shown() {
        let mut labels: Vec<_> = DropReason::ALL
            .iter()
            .map(|reason| reason.label())
            .collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());
        let counters = ConsumerCounters::new();
        counters.drop_frames(DropReason::Hole, 2);
        let shown = format!("{:?}", counters.snapshot(0));
        assert_eq!(
            shown,
            "ConsumerStats { delivered: 0, largest_lag: 0, hole: 2 }"
        );
    }
}
