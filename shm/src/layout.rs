//! The shape of one stream's memory: how many slots, which pools, how many bytes.
//!
//! A [`StreamLayout`] cannot hold an impossible shape, so everything below it computes without
//! checking again. All arithmetic is in `u64`: pools above 4 GiB are ordinary (ambiguities K-6).

use tensorpool_wire::{Epoch, PoolId, PoolStride, SLOT_LEN, SUPERBLOCK_LEN, StreamId, is_stride};

/// Bytes of the superblock that every region begins with.
pub(crate) const SUPERBLOCK_BYTES: u64 = 64;
/// Bytes of one header slot.
const SLOT_BYTES: u64 = 256;
const _: () = assert!(SUPERBLOCK_LEN == 64 && SLOT_LEN == 256);

/// Most slots that a ring may have. At 256 bytes each this is a header ring of 4 GiB.
pub const MAX_NSLOTS: u32 = 1 << 24;
/// Most pools that a stream may have.
pub const MAX_POOLS: usize = 256;

/// The shape of one stream's memory in one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLayout {
    stream_id: StreamId,
    epoch: Epoch,
    nslots: u32,
    pools: Vec<PoolStride>,
}

/// Why a shape is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// W-3-1: slot indices are masks.
    #[error("header_nslots is {nslots}; it must be a power of two from 1 to {MAX_NSLOTS}")]
    Nslots {
        /// The number given.
        nslots: u32,
    },
    /// D-4.3-4.
    #[error("stream {stream_id} has no payload pool; at least one is needed")]
    NoPools {
        /// The stream.
        stream_id: StreamId,
    },
    /// A bound of ours.
    #[error("stream {stream_id} has {count} payload pools; at most {MAX_POOLS} are supported")]
    TooManyPools {
        /// The stream.
        stream_id: StreamId,
        /// How many were given.
        count: usize,
    },
    /// W-15.22-5.
    #[error("pool {pool_id} has stride {stride_bytes}; it must be a multiple of 64, at least 64")]
    Stride {
        /// The pool.
        pool_id: PoolId,
        /// The stride given.
        stride_bytes: u32,
    },
    /// D-17-6.
    #[error("pool id {pool_id} is used twice; pool ids must be unique in a stream")]
    RepeatedPoolId {
        /// The id.
        pool_id: PoolId,
    },
}

/// One region of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// The header ring.
    HeaderRing,
    /// The payload pool of that id.
    Pool(PoolStride),
}

// === impl StreamLayout ===

impl StreamLayout {
    /// Checks a shape.
    ///
    /// # Errors
    /// [`LayoutError`] names the first rule that the shape breaks.
    // spec: W-3-1 W-15.22-5 D-17-6 W-15.22-7 D-4.3-4
    pub fn new(
        stream_id: StreamId,
        epoch: Epoch,
        nslots: u32,
        pools: Vec<PoolStride>,
    ) -> Result<Self, LayoutError> {
        if !nslots.is_power_of_two() || nslots > MAX_NSLOTS {
            return Err(LayoutError::Nslots { nslots });
        }
        if pools.is_empty() {
            return Err(LayoutError::NoPools { stream_id });
        }
        if pools.len() > MAX_POOLS {
            return Err(LayoutError::TooManyPools {
                stream_id,
                count: pools.len(),
            });
        }
        for (i, pool) in pools.iter().enumerate() {
            let PoolStride {
                pool_id,
                stride_bytes,
            } = *pool;
            if !is_stride(stride_bytes) {
                return Err(LayoutError::Stride {
                    pool_id,
                    stride_bytes,
                });
            }
            if pools
                .iter()
                .take(i)
                .any(|earlier| earlier.pool_id == pool_id)
            {
                return Err(LayoutError::RepeatedPoolId { pool_id });
            }
        }
        Ok(Self {
            stream_id,
            epoch,
            nslots,
            pools,
        })
    }

    /// The stream.
    #[must_use]
    pub const fn stream_id(&self) -> StreamId {
        self.stream_id
    }

    /// The incarnation.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Slots of the ring and of every pool (W-9-2).
    #[must_use]
    pub const fn nslots(&self) -> u32 {
        self.nslots
    }

    /// The pools, in the order given. A pool's place in it is its pool index.
    #[must_use]
    pub fn pools(&self) -> &[PoolStride] {
        &self.pools
    }

    /// The index of the pool with this id.
    #[must_use]
    pub fn pool_index(&self, pool_id: PoolId) -> Option<usize> {
        self.pools.iter().position(|pool| pool.pool_id == pool_id)
    }

    /// The index of the pool with the smallest stride that holds `values_len` bytes.
    // spec: W-9-3 W-9-4
    #[must_use]
    #[inline]
    pub fn smallest_pool_for(&self, values_len: u64) -> Option<usize> {
        self.pools
            .iter()
            .enumerate()
            .filter(|(_, pool)| u64::from(pool.stride_bytes) >= values_len)
            .min_by_key(|(_, pool)| pool.stride_bytes)
            .map(|(i, _)| i)
    }

    /// All regions, the header ring first, then the pools in order.
    pub fn regions(&self) -> impl Iterator<Item = RegionKind> + '_ {
        std::iter::once(RegionKind::HeaderRing)
            .chain(self.pools.iter().copied().map(RegionKind::Pool))
    }

    /// Bytes of one region as the protocol counts them, before any rounding to pages.
    // spec: W-8.1-1 W-9-1
    #[must_use]
    pub fn region_bytes(&self, kind: RegionKind) -> u64 {
        let slot_bytes = match kind {
            RegionKind::HeaderRing => SLOT_BYTES,
            RegionKind::Pool(pool) => u64::from(pool.stride_bytes),
        };
        // nslots is at most 2^24 and slot_bytes below 2^32, so this stays below 2^57.
        SUPERBLOCK_BYTES + u64::from(self.nslots) * slot_bytes
    }

    /// Bytes of all regions on a filesystem that allocates `page_bytes` at a time.
    #[must_use]
    pub fn total_bytes(&self, page_bytes: u64) -> u64 {
        self.regions()
            .map(|kind| crate::round_up(self.region_bytes(kind), page_bytes))
            .sum()
    }
}

impl RegionKind {
    /// The pool id as it stands in the superblock: 0 for the header ring (W-7.1-5).
    #[must_use]
    pub const fn pool_id(self) -> PoolId {
        match self {
            Self::HeaderRing => PoolId(0),
            Self::Pool(pool) => pool.pool_id,
        }
    }

    /// The region's file name in its epoch directory.
    // spec: W-15.21a-1 W-15.21a-4
    #[must_use]
    pub fn file_name(self) -> String {
        match self {
            Self::HeaderRing => "header.ring".to_owned(),
            Self::Pool(pool) => format!("{}.pool", pool.pool_id),
        }
    }
}
