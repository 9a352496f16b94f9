//! One frame, in place, in memory that its producer will write again.
//!
//! A frame was whole when it was delivered. How long it stays whole is arithmetic: with a ring of
//! `nslots` slots, a producer of `rate` frames per second, and a consumer that holds a frame for
//! `hold` seconds, nothing is overwritten while **nslots ≥ 2 × rate × hold**. The factor of two leaves
//! half of the ring for the consumer to fall behind in. [`Frame::frames_until_overwrite`] shows the
//! rest at any moment, and [`Frame::copy_to`] checks after the copy.

use std::sync::Arc;

use tensorpool_shm::PayloadView;
use tensorpool_wire::{Dtype, Epoch, MajorOrder, MonoNanos, PoolId, Seq, Slot, Tensor, TraceId};

use crate::consumer::ConsumerShared;
use crate::error::FrameError;
use crate::mapping::Mapped;
use crate::metadata::Metadata;

/// A frame that its consumer lends. It ends with the next call on the consumer;
/// [`Frame::hold`] keeps it longer.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    mapped: &'a Arc<Mapped>,
    shared: &'a Arc<ConsumerShared>,
    slot: &'a Slot,
    trace: Option<TraceId>,
}

/// A frame that keeps its memory mapped. It does not keep the producer from overwriting it.
#[derive(Clone, Debug)]
pub struct HeldFrame {
    mapped: Arc<Mapped>,
    shared: Arc<ConsumerShared>,
    found: Found,
}

/// What was read of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) slot: Slot,
    pub(crate) trace: Option<TraceId>,
}

impl HeldFrame {
    /// The frame, to look at.
    #[must_use]
    pub const fn frame(&self) -> Frame<'_> {
        Frame {
            mapped: &self.mapped,
            shared: &self.shared,
            slot: &self.found.slot,
            trace: self.found.trace,
        }
    }
}

impl<'a> Frame<'a> {
    #[inline]
    pub(crate) const fn new(
        mapped: &'a Arc<Mapped>,
        shared: &'a Arc<ConsumerShared>,
        slot: &'a Slot,
        trace: Option<TraceId>,
    ) -> Self {
        Self {
            mapped,
            shared,
            slot,
            trace,
        }
    }

    /// The frame's number in its epoch.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        self.slot.seq
    }

    /// The epoch that the frame belongs to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.mapped.regions.layout().epoch()
    }

    /// Element type, shape, strides and order, all checked.
    #[must_use]
    pub const fn tensor(&self) -> &'a Tensor {
        &self.slot.tensor
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> Dtype {
        self.slot.tensor.dtype()
    }

    /// Elements per dimension; 1 to 8 numbers.
    #[must_use]
    pub fn shape(&self) -> &'a [u32] {
        self.slot.tensor.shape()
    }

    /// Bytes from one element to the next, per dimension.
    #[must_use]
    pub fn strides(&self) -> &'a [u32] {
        self.slot.tensor.strides()
    }

    /// Which dimension lies closest together.
    #[must_use]
    pub const fn major_order(&self) -> MajorOrder {
        self.slot.tensor.major_order()
    }

    /// When the frame was captured, `CLOCK_MONOTONIC` unless the producer says otherwise. This is the
    /// slot's time, never the descriptor's.
    // spec: W-10.2.1-9
    #[must_use]
    pub const fn timestamp_ns(&self) -> Option<MonoNanos> {
        self.slot.timestamp_ns
    }

    /// Version of the description that belongs to the frame, if the producer gave one.
    #[must_use]
    pub const fn meta_version(&self) -> Option<u32> {
        self.slot.meta_version
    }

    /// The description of that version, if it has arrived and is still the latest.
    #[must_use]
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        let latest = self.shared.metadata.get();
        (Some(latest.version) == self.slot.meta_version).then_some(latest)
    }

    /// The trace id of the descriptor. `None` for frames learned of from the ring: trace ids are not
    /// in the slot (X-2-64).
    #[must_use]
    pub const fn trace_id(&self) -> Option<TraceId> {
        self.trace
    }

    /// The pool that holds the payload.
    #[must_use]
    pub const fn pool(&self) -> PoolId {
        self.slot.pool_id
    }

    /// The payload in place: a raw pointer and a length, 64-byte aligned, never page-aligned.
    ///
    /// The producer may overwrite it at any time. Whoever reads through the pointer believes what was
    /// computed only if [`Frame::still_valid`] is true afterwards.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> PayloadView<'a> {
        self.mapped
            .regions
            .payload(self.slot)
            .expect("the slot was checked against this mapping's pools before it became a frame")
    }

    /// Bytes of the payload.
    #[must_use]
    pub const fn len_bytes(&self) -> u32 {
        self.slot.values_len_bytes
    }

    /// Copies the payload into `to`, which has exactly its length, and makes sure that every byte is
    /// this frame's.
    ///
    /// # Errors
    /// [`FrameError`]; `to` then holds bytes that mean nothing.
    // spec: W-8.3-7
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> Result<(), FrameError> {
        if self.shared.guard.is_forked_child() {
            return Err(FrameError::ForkedChild);
        }
        self.bytes().copy_to(to).map_err(FrameError::Copy)?;
        if self.mapped.life.is_over() {
            Err(FrameError::Ended)
        } else {
            Ok(())
        }
    }

    /// The payload as a vector of its own.
    ///
    /// # Errors
    /// [`FrameError`] if the frame was overwritten meanwhile.
    pub fn to_vec(&self) -> Result<Vec<u8>, FrameError> {
        let mut bytes = vec![0; self.bytes().len()];
        self.copy_to(&mut bytes).map(|()| bytes)
    }

    /// Whether everything that was read of the frame before this call is the frame's: its slot was not
    /// taken, its memory is not gone, its lease and epoch are not over.
    // spec: W-8.3-7 X-2-66 D-4.9-10
    #[must_use]
    #[inline]
    pub fn still_valid(&self) -> bool {
        !self.shared.guard.is_forked_child()
            && !self.mapped.life.is_over()
            && self.mapped.regions.is_still(self.slot.seq)
    }

    /// How many more frames the producer can begin before it takes this one's slot; 0 when it has.
    /// See the module for the rule that keeps this above 0.
    #[must_use]
    pub fn frames_until_overwrite(&self) -> u64 {
        if self.still_valid() {
            self.mapped.regions.frames_until_overwrite(self.slot.seq)
        } else {
            0
        }
    }

    /// Keeps the frame beyond the next call on its consumer. Its memory stays mapped as long.
    #[must_use]
    pub fn hold(&self) -> HeldFrame {
        HeldFrame {
            mapped: Arc::clone(self.mapped),
            shared: Arc::clone(self.shared),
            found: Found {
                slot: *self.slot,
                trace: self.trace,
            },
        }
    }
}
