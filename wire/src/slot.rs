//! One slot of the header ring: what a frame is, and every reason to drop it.
//!
//! A slot is copied out of shared memory as 256 bytes before anything here looks at it. Reading has two
//! steps, in the order that the protocol's slot life cycle gives: [`SlotHeader::decode`] for what the
//! bytes are by themselves, [`SlotHeader::validate`] for what they are to the reader. Whether the slot
//! was overwritten during the copy is for the reader to see: the second look at the commit word is not
//! in the copy.

use crate::layout::SLOT_LEN;
use crate::message::SCHEMA_WIRE;
use crate::sbe::{
    Body, Field, MESSAGE_HEADER_LEN, MessageHeader, Reader, Reserved, SCHEMA_VERSION, SliceSink,
};
use crate::table::body;
use crate::tensor::{Tensor, TensorBlock, TensorHeader, TensorReject, first};
use crate::{MonoNanos, PoolId, Seq};

/// Bytes of the embedded message: its header and its block.
// spec: W-8.2-2
pub const TENSOR_HEADER_LEN: u32 = 192;
const TENSOR_TEMPLATE: u16 = 52;

body! {
    /// The fixed part of a slot. It has no message header; the commit word stands first.
    // spec: W-8.2-1
    #[derive(Clone, Copy, Debug)]
    struct SlotBlock, block 60 {
        /// `seq << 1`, plus 1 when committed.
        @0 seq_commit: u64,
        /// See [`SlotHeader`].
        @8 values_len_bytes: u32,
        /// See [`SlotHeader`].
        @12 payload_slot: u32,
        /// See [`SlotHeader`].
        @16 pool_id: PoolId,
        /// See [`SlotHeader`].
        @18 payload_offset: u32,
        /// See [`SlotHeader`].
        @22 timestamp_ns: u64,
        /// See [`SlotHeader`].
        @30 meta_version: u32,
        /// Ignored.
        @34 pad: Reserved<26>,
    }
}

const _: () = assert!(SlotBlock::BLOCK_LEN as usize + 4 + 192 == SLOT_LEN);
const _: () = assert!(MESSAGE_HEADER_LEN + TensorBlock::BLOCK_LEN as usize == 192);

/// A committed slot as it stands in memory. Only [`SlotHeader::validate`] says whether it is a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct SlotHeader {
    /// The frame.
    pub seq: Seq,
    /// Bytes of the payload; 0 is a frame without payload.
    pub values_len_bytes: u32,
    /// Slot of the pool that holds the payload; always the index of this slot.
    pub payload_slot: u32,
    /// The pool that holds the payload.
    pub pool_id: PoolId,
    /// Where in its slot the payload starts; always 0.
    pub payload_offset: u32,
    /// When it was captured. 0 and the u64 null are read as absent; absent is written as the null.
    pub timestamp_ns: Option<MonoNanos>,
    /// Version of the metadata that describes it. 0 and the u32 null are read as unknown; unknown is
    /// written as the null.
    pub meta_version: Option<u32>,
    /// What the payload means.
    pub tensor: TensorHeader,
}

/// One pool that the reader has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStride {
    /// The pool.
    pub pool_id: PoolId,
    /// Bytes from one payload slot to the next.
    pub stride_bytes: u32,
}

/// What a reader knows before it looks at a slot.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedSlot<'a> {
    /// The frame that it looks for.
    pub seq: Seq,
    /// Slots of the mapped ring, a power of two. Every pool has as many.
    pub header_nslots: u32,
    /// The mapped pools.
    pub pools: &'a [PoolStride],
}

/// A frame that may be delivered if the commit word is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The frame.
    pub seq: Seq,
    /// Which of [`ExpectedSlot::pools`] holds the payload.
    pub pool_index: usize,
    /// That pool's id.
    pub pool_id: PoolId,
    /// Slot of the pool that holds the payload.
    pub payload_slot: u32,
    /// Bytes of the payload; with 0 nothing is to be read.
    pub values_len_bytes: u32,
    /// When it was captured, in the clock that the announce names.
    pub timestamp_ns: Option<MonoNanos>,
    /// Version of the metadata that describes it.
    pub meta_version: Option<u32>,
    /// What the payload means.
    pub tensor: Tensor,
}

/// Why a slot is dropped. Never an error of the reader, never a reason to wait.
// spec: W-15.21-1
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotReject {
    /// The producer is writing it, or gave it up.
    // spec: W-8.3-1, W-8.3-5
    #[error("the slot is in progress")]
    InProgress,
    /// A sequence number that no producer may use.
    // spec: W-8.3-1
    #[error("sequence number {found} is above 2^63-2")]
    SeqOutOfRange {
        /// What stands there.
        found: u64,
    },
    /// The embedded message does not have 192 bytes.
    // spec: W-8.2-2, W-8.3-6
    #[error("the embedded header has {found} bytes, not 192")]
    HeaderLength {
        /// What stands there.
        found: u32,
    },
    /// The embedded message is not a TensorHeader of version 1.
    // spec: W-8.3-6, J-14-2
    #[error("the embedded message is {found:?}, not a TensorHeader")]
    EmbeddedHeader {
        /// What stands there.
        found: MessageHeader,
    },
    /// Another frame than the one looked for: overwritten, or not there yet.
    // spec: W-8.2-6, W-10.2.1-4
    #[error("the slot holds frame {found}, {expected} was looked for")]
    Seq {
        /// What was looked for.
        expected: Seq,
        /// What stands there.
        found: Seq,
    },
    /// The payload would lie outside the pool.
    // spec: W-10.2.1-5
    #[error("payload slot {found} does not exist, the pool has {nslots}")]
    PayloadSlotOutOfRange {
        /// Slots of the pool.
        nslots: u32,
        /// What stands there.
        found: u32,
    },
    /// The payload lies in another slot than the header.
    // spec: W-15.5-1
    #[error("payload slot {found} is not the header's index {expected}")]
    PayloadSlot {
        /// Index of the header slot.
        expected: u32,
        /// What stands there.
        found: u32,
    },
    /// The payload does not start at the start of its slot.
    // spec: W-8.2-8
    #[error("payload offset is {found}, not 0")]
    PayloadOffset {
        /// What stands there.
        found: u32,
    },
    /// No such pool is mapped.
    #[error("pool {found} is not mapped")]
    Pool {
        /// What stands there.
        found: PoolId,
    },
    /// The payload is longer than its slot.
    // spec: W-10.2.1-6
    #[error("the payload has {found} bytes, its slot {stride_bytes}")]
    ValuesTooLong {
        /// Bytes of the slot.
        stride_bytes: u32,
        /// What stands there.
        found: u32,
    },
    /// The shape breaks a rule.
    #[error(transparent)]
    Tensor(#[from] TensorReject),
}

impl SlotReject {
    /// Bounded label for metrics and drop counters.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::SeqOutOfRange { .. } => "seq_out_of_range",
            Self::HeaderLength { .. } => "header_length",
            Self::EmbeddedHeader { .. } => "embedded_header",
            Self::Seq { .. } => "seq",
            Self::PayloadSlotOutOfRange { .. } => "payload_slot_out_of_range",
            Self::PayloadSlot { .. } => "payload_slot",
            Self::PayloadOffset { .. } => "payload_offset",
            Self::Pool { .. } => "pool",
            Self::ValuesTooLong { .. } => "values_too_long",
            Self::Tensor(reject) => reject.reason(),
        }
    }
}

const EMBEDDED: MessageHeader = MessageHeader {
    block_length: TensorBlock::BLOCK_LEN,
    template_id: TENSOR_TEMPLATE,
    schema_id: SCHEMA_WIRE,
    version: SCHEMA_VERSION,
};

impl SlotHeader {
    /// Reads a snapshot of a slot by itself: committed, and with a TensorHeader in it.
    ///
    /// # Errors
    /// [`SlotReject`], the first rule that is broken.
    // spec: W-8.2-1, W-8.2-2, W-8.2-4, W-8.3-1, W-8.3-6, J-14-2
    #[inline]
    pub fn decode(bytes: &[u8; SLOT_LEN]) -> Result<Self, SlotReject> {
        Self::read(&mut Reader::new(bytes)).expect("the parts fill a slot, see the asserts above")
    }

    #[inline]
    fn read(from: &mut Reader<'_>) -> Option<Result<Self, SlotReject>> {
        let block = SlotBlock::read(from).ok()?;
        let Some(seq) = Seq::from_committed_word(block.seq_commit) else {
            return Some(Err(if block.seq_commit & 1 == 0 {
                SlotReject::InProgress
            } else {
                SlotReject::SeqOutOfRange {
                    found: block.seq_commit >> 1,
                }
            }));
        };
        let found = u32::read(from).ok()?;
        if found != TENSOR_HEADER_LEN {
            return Some(Err(SlotReject::HeaderLength { found }));
        }
        let found = MessageHeader::read(from).ok()?;
        if found != EMBEDDED {
            return Some(Err(SlotReject::EmbeddedHeader { found }));
        }
        let tensor = TensorBlock::read(from).ok()?;
        Some(Ok(Self {
            seq,
            values_len_bytes: block.values_len_bytes,
            payload_slot: block.payload_slot,
            pool_id: block.pool_id,
            payload_offset: block.payload_offset,
            timestamp_ns: match block.timestamp_ns {
                0 | u64::MAX => None,
                nanos => Some(MonoNanos(nanos)),
            },
            meta_version: match block.meta_version {
                0 | u32::MAX => None,
                version => Some(version),
            },
            tensor: TensorHeader {
                dtype: tensor.dtype,
                major_order: tensor.major_order,
                ndims: tensor.ndims,
                progress_unit: tensor.progress_unit,
                progress_stride_bytes: tensor.progress_stride_bytes,
                dims: tensor.dims,
                strides: tensor.strides,
            },
        }))
    }

    /// Checks the slot against what the reader has mapped and looks for.
    ///
    /// # Errors
    /// [`SlotReject`], the first rule that is broken.
    // spec: W-8.2-6, W-8.2-7, W-8.2-8, W-8.2-10, W-8.2-11, W-8.2-12, W-10.2.1-3, W-10.2.1-4
    // spec: W-10.2.1-5, W-10.2.1-6, W-10.2.1-7, W-15.5-1
    #[inline]
    pub fn validate(&self, expected: &ExpectedSlot<'_>) -> Result<Slot, SlotReject> {
        if self.seq != expected.seq {
            return Err(SlotReject::Seq {
                expected: expected.seq,
                found: self.seq,
            });
        }
        let found = self.payload_slot;
        if found >= expected.header_nslots {
            return Err(SlotReject::PayloadSlotOutOfRange {
                nslots: expected.header_nslots,
                found,
            });
        }
        let index = expected.seq.index(expected.header_nslots);
        if found != index {
            return Err(SlotReject::PayloadSlot {
                expected: index,
                found,
            });
        }
        if self.payload_offset != 0 {
            return Err(SlotReject::PayloadOffset {
                found: self.payload_offset,
            });
        }
        let pool = expected
            .pools
            .iter()
            .enumerate()
            .find(|(_, pool)| pool.pool_id == self.pool_id);
        let Some((pool_index, pool)) = pool else {
            return Err(SlotReject::Pool {
                found: self.pool_id,
            });
        };
        if self.values_len_bytes > pool.stride_bytes {
            return Err(SlotReject::ValuesTooLong {
                stride_bytes: pool.stride_bytes,
                found: self.values_len_bytes,
            });
        }
        let tensor = self.tensor.validate(self.values_len_bytes)?;
        Ok(Slot {
            seq: self.seq,
            pool_index,
            pool_id: self.pool_id,
            payload_slot: self.payload_slot,
            values_len_bytes: self.values_len_bytes,
            timestamp_ns: self.timestamp_ns,
            meta_version: self.meta_version,
            tensor,
        })
    }

    /// All 256 bytes of the slot in its committed state. Every byte is defined, pads are 0, and
    /// dimensions beyond `ndims` are 0 whatever the header holds there.
    ///
    /// A producer stores bytes 8.. of it, then the commit word, which is the first 8.
    // spec: W-8.3-3, W-8.2-1, W-8.2-2, W-8.2-9, W-13-1
    #[must_use]
    #[inline]
    pub fn encode(&self) -> [u8; SLOT_LEN] {
        let block = SlotBlock {
            seq_commit: self.seq.committed_word(),
            values_len_bytes: self.values_len_bytes,
            payload_slot: self.payload_slot,
            pool_id: self.pool_id,
            payload_offset: self.payload_offset,
            timestamp_ns: self.timestamp_ns.map_or(u64::MAX, MonoNanos::get),
            meta_version: self.meta_version.unwrap_or(u32::MAX),
            pad: Reserved,
        };
        let ndims = usize::from(self.tensor.ndims);
        let tensor = TensorBlock {
            dtype: self.tensor.dtype,
            major_order: self.tensor.major_order,
            ndims: self.tensor.ndims,
            pad_align: Reserved,
            progress_unit: self.tensor.progress_unit,
            progress_stride_bytes: self.tensor.progress_stride_bytes,
            dims: first(ndims, &self.tensor.dims),
            strides: first(ndims, &self.tensor.strides),
            pad: Reserved,
        };
        let mut bytes = [0; SLOT_LEN];
        let mut sink = SliceSink::new(&mut bytes);
        block.write(&mut sink);
        TENSOR_HEADER_LEN.write(&mut sink);
        EMBEDDED.write(&mut sink);
        tensor.write(&mut sink);
        bytes
    }
}
