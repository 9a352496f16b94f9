//! The first 64 bytes of every region.
//!
//! Written once by whoever creates the region; only the activity time changes afterwards. A reader
//! compares all of it with what was announced, except the slot length of a pool, which the two
//! drivers in use fill differently.

use crate::layout::{LAYOUT_VERSION, MAGIC, SLOT_LEN, SUPERBLOCK_LEN, is_stride};
use crate::sbe::{Body, Reader, SliceSink};
use crate::table::{body, wire_enum};
use crate::{Epoch, MonoNanos, PoolId, StreamId};

wire_enum! {
    /// What a region holds.
    // spec: W-10.1.2-1
    pub enum RegionType: i16 {
        /// The header slots of a stream.
        HeaderRing = 1,
        /// The payload slots of one pool.
        PayloadPool = 2,
    }
}

body! {
    /// The superblock as it stands in memory. It has no message header.
    #[derive(Clone, Copy, Debug)]
    struct Block, block 64 {
        /// [`MAGIC`], stored last by the creator.
        @0 magic: u64,
        /// See [`Superblock`].
        @8 layout_version: u32,
        /// See [`Superblock`].
        @12 epoch: Epoch,
        /// See [`Superblock`].
        @20 stream_id: StreamId,
        /// See [`Superblock`].
        @24 region_type: RegionType,
        /// See [`Superblock`].
        @26 pool_id: PoolId,
        /// See [`Superblock`].
        @28 nslots: u32,
        /// See [`Superblock`].
        @32 slot_bytes: u32,
        /// See [`Superblock`].
        @36 stride_bytes: u32,
        /// See [`Superblock`].
        @40 pid: u64,
        /// See [`Superblock`].
        @48 start_timestamp_ns: MonoNanos,
        /// See [`Superblock`].
        @56 activity_timestamp_ns: MonoNanos,
    }
}

/// What a region says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Superblock {
    /// Version of the memory layout, 1.
    pub layout_version: u32,
    /// Incarnation of the stream's memory.
    pub epoch: Epoch,
    /// The stream.
    pub stream_id: StreamId,
    /// What the region holds.
    pub region_type: RegionType,
    /// The pool, 0 in a header ring.
    pub pool_id: PoolId,
    /// Slots in the region, a power of two.
    pub nslots: u32,
    /// Bytes of a slot: 256 in a header ring. In a pool the stride, by some writers `u32::MAX`.
    pub slot_bytes: u32,
    /// Bytes from one payload slot to the next; 0 in a header ring.
    pub stride_bytes: u32,
    /// Process that created the region. Proves nothing by itself (W-15.1-2).
    pub pid: u64,
    /// When it was created.
    pub start_timestamp_ns: MonoNanos,
    /// Refreshed about once per announce period; the only field that changes.
    pub activity_timestamp_ns: MonoNanos,
}

/// Which slots a region should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedKind {
    /// The header ring.
    HeaderRing,
    /// One payload pool.
    Pool {
        /// Its announced number.
        pool_id: PoolId,
        /// Its announced stride in bytes.
        stride_bytes: u32,
    },
}

/// What was announced about a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedRegion {
    /// The announced layout version.
    pub layout_version: u32,
    /// The announced epoch.
    pub epoch: Epoch,
    /// The announced stream.
    pub stream_id: StreamId,
    /// The announced slots of the *header ring*: every pool has as many (W-9-2).
    pub header_nslots: u32,
    /// Header ring or which pool.
    pub kind: ExpectedKind,
}

/// Why a region may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockReject {
    /// Not a region at all, or one that is not finished.
    // spec: W-7.1-1
    #[error("the magic number is {found:#x}, not {MAGIC:#x}")]
    Magic {
        /// What stands there.
        found: u64,
    },
    /// Another layout, or one that this crate does not know.
    // spec: W-15.1-1, W-7.1-7
    #[error("layout version is {found}, {expected} was announced and {LAYOUT_VERSION} is known")]
    LayoutVersion {
        /// What was announced.
        expected: u32,
        /// What stands there.
        found: u32,
    },
    /// Another incarnation.
    #[error("epoch is {found}, {expected} was announced")]
    Epoch {
        /// What was announced.
        expected: Epoch,
        /// What stands there.
        found: Epoch,
    },
    /// Another stream's memory.
    #[error("stream id is {found}, {expected} was announced")]
    StreamId {
        /// What was announced.
        expected: StreamId,
        /// What stands there.
        found: StreamId,
    },
    /// A pool in place of the ring, the reverse, or neither.
    #[error("region type is {found:?}, {expected:?} was announced")]
    RegionType {
        /// What was announced.
        expected: RegionType,
        /// What stands there.
        found: RegionType,
    },
    /// Another pool, or a header ring whose pool id is not 0.
    // spec: W-7.1-5
    #[error("pool id is {found}, {expected} was announced")]
    PoolId {
        /// What was announced; 0 for the header ring.
        expected: PoolId,
        /// What stands there.
        found: PoolId,
    },
    /// Another number of slots than announced for the header ring.
    // spec: W-9-2
    #[error("the region has {found} slots, the announced header ring {expected}")]
    Nslots {
        /// What was announced for the header ring.
        expected: u32,
        /// What stands there.
        found: u32,
    },
    /// Slot indices are masks, so the number of slots must be a power of two.
    // spec: W-3-1
    #[error("{found} slots are not a power of two")]
    NslotsNotPowerOfTwo {
        /// What stands there.
        found: u32,
    },
    /// The header ring's slots are not 256 bytes long.
    #[error("header slots have {found} bytes, not 256")]
    SlotBytes {
        /// What stands there.
        found: u32,
    },
    /// Another stride than announced.
    #[error("the stride is {found} bytes, {expected} were announced")]
    StrideBytes {
        /// What was announced.
        expected: u32,
        /// What stands there.
        found: u32,
    },
    /// A stride that no pool may have.
    // spec: W-15.22-5
    #[error("the stride is {found} bytes; it must be a multiple of 64, and not 0")]
    StrideRule {
        /// What was announced and stands there.
        found: u32,
    },
}

impl SuperblockReject {
    /// Bounded label for metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Magic { .. } => "magic",
            Self::LayoutVersion { .. } => "layout_version",
            Self::Epoch { .. } => "epoch",
            Self::StreamId { .. } => "stream_id",
            Self::RegionType { .. } => "region_type",
            Self::PoolId { .. } => "pool_id",
            Self::Nslots { .. } => "nslots",
            Self::NslotsNotPowerOfTwo { .. } => "nslots_not_power_of_two",
            Self::SlotBytes { .. } => "slot_bytes",
            Self::StrideBytes { .. } => "stride_bytes",
            Self::StrideRule { .. } => "stride_rule",
        }
    }
}

impl Superblock {
    /// The superblock in `bytes`, a snapshot of a region's first 64.
    ///
    /// # Errors
    /// [`SuperblockReject::Magic`]; nothing else is checked here.
    pub fn decode(bytes: &[u8; SUPERBLOCK_LEN]) -> Result<Self, SuperblockReject> {
        let block =
            Block::read(&mut Reader::new(bytes)).expect("a block of 64 bytes is in 64 bytes");
        if block.magic != MAGIC {
            return Err(SuperblockReject::Magic { found: block.magic });
        }
        Ok(Self {
            layout_version: block.layout_version,
            epoch: block.epoch,
            stream_id: block.stream_id,
            region_type: block.region_type,
            pool_id: block.pool_id,
            nslots: block.nslots,
            slot_bytes: block.slot_bytes,
            stride_bytes: block.stride_bytes,
            pid: block.pid,
            start_timestamp_ns: block.start_timestamp_ns,
            activity_timestamp_ns: block.activity_timestamp_ns,
        })
    }

    /// The 64 bytes, magic included. A creator stores the magic last.
    #[must_use]
    pub fn encode(&self) -> [u8; SUPERBLOCK_LEN] {
        let block = Block {
            magic: MAGIC,
            layout_version: self.layout_version,
            epoch: self.epoch,
            stream_id: self.stream_id,
            region_type: self.region_type,
            pool_id: self.pool_id,
            nslots: self.nslots,
            slot_bytes: self.slot_bytes,
            stride_bytes: self.stride_bytes,
            pid: self.pid,
            start_timestamp_ns: self.start_timestamp_ns,
            activity_timestamp_ns: self.activity_timestamp_ns,
        };
        let mut bytes = [0; SUPERBLOCK_LEN];
        block.write(&mut SliceSink::new(&mut bytes));
        bytes
    }

    /// Whether the region is the announced one.
    ///
    /// # Errors
    /// [`SuperblockReject`], the first rule that is broken; the region must not be used then.
    // spec: W-7.1-3, W-15.1-1, W-15.1-2, W-7.1-5, W-9-2, W-3-1, W-15.22-5
    pub fn matches(&self, expected: &ExpectedRegion) -> Result<(), SuperblockReject> {
        let (region_type, pool_id) = match expected.kind {
            ExpectedKind::HeaderRing => (RegionType::HeaderRing, PoolId(0)),
            ExpectedKind::Pool { pool_id, .. } => (RegionType::PayloadPool, pool_id),
        };
        if self.layout_version != expected.layout_version || self.layout_version != LAYOUT_VERSION {
            return Err(SuperblockReject::LayoutVersion {
                expected: expected.layout_version,
                found: self.layout_version,
            });
        }
        if self.epoch != expected.epoch {
            return Err(SuperblockReject::Epoch {
                expected: expected.epoch,
                found: self.epoch,
            });
        }
        if self.stream_id != expected.stream_id {
            return Err(SuperblockReject::StreamId {
                expected: expected.stream_id,
                found: self.stream_id,
            });
        }
        if self.region_type != region_type {
            return Err(SuperblockReject::RegionType {
                expected: region_type,
                found: self.region_type,
            });
        }
        if self.pool_id != pool_id {
            return Err(SuperblockReject::PoolId {
                expected: pool_id,
                found: self.pool_id,
            });
        }
        if self.nslots != expected.header_nslots {
            return Err(SuperblockReject::Nslots {
                expected: expected.header_nslots,
                found: self.nslots,
            });
        }
        if !self.nslots.is_power_of_two() {
            return Err(SuperblockReject::NslotsNotPowerOfTwo { found: self.nslots });
        }
        self.matches_slots(expected.kind)
    }

    fn matches_slots(&self, expected: ExpectedKind) -> Result<(), SuperblockReject> {
        match expected {
            ExpectedKind::HeaderRing => {
                if usize::try_from(self.slot_bytes) == Ok(SLOT_LEN) {
                    return Ok(());
                }
                Err(SuperblockReject::SlotBytes {
                    found: self.slot_bytes,
                })
            }
            ExpectedKind::Pool { stride_bytes, .. } => {
                if self.stride_bytes != stride_bytes {
                    return Err(SuperblockReject::StrideBytes {
                        expected: stride_bytes,
                        found: self.stride_bytes,
                    });
                }
                if !is_stride(stride_bytes) {
                    return Err(SuperblockReject::StrideRule {
                        found: stride_bytes,
                    });
                }
                Ok(())
            }
        }
    }

    /// Whether `now`, a later look at the same region, is still the same incarnation by the same
    /// creator. Only the activity time may differ.
    // spec: W-15.1-2, W-7.1-2, W-15.14-3, W-15.14-4
    #[must_use]
    pub fn is_same_incarnation(&self, now: &Self) -> bool {
        *self
            == Self {
                activity_timestamp_ns: self.activity_timestamp_ns,
                ..*now
            }
    }
}
