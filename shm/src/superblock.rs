//! The 64 bytes at the start of every region: written once by the creator, checked by everybody.
//!
//! What they mean is `wire`'s; this module moves them in and out of memory. The magic is stored last,
//! so a region that shows it is complete. Afterwards only the activity word changes. Readers have
//! read-only mappings, so they use relaxed loads and a fence.

use tensorpool_wire::{
    ExpectedKind, ExpectedRegion, LAYOUT_VERSION, MAGIC, MonoNanos, RegionType, SLOT_LEN,
    SUPERBLOCK_LEN, Superblock, SuperblockReject,
};

use crate::layout::{RegionKind, StreamLayout};
use crate::region::Region;
use crate::sync::{Ordering, fence};
use crate::words;

/// Word of the activity timestamp, the only one that changes.
const ACTIVITY_WORD: usize = 7;

/// Who creates a region, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Process id of the driver; constant for the life of the epoch (ambiguities A-6).
    pub pid: u64,
    /// `CLOCK_MONOTONIC` at creation, and the first activity.
    pub start: MonoNanos,
}

/// What a mapped superblock no longer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockChange {
    /// It is no longer the superblock of the announced region.
    #[error(transparent)]
    Reject(#[from] SuperblockReject),
    /// It describes the announced region, made by somebody else or at another time.
    #[error("the region was initialised again, by process {pid}")]
    Initialised {
        /// The process that it names now.
        pid: u64,
    },
}

/// Writes the superblock of a new region; the magic last.
///
/// A pool's `slot_bytes` is its stride, which some implementations check (ambiguities A-3).
// spec: W-7.1-1 W-7.1-2 W-7.1-5 W-15.14-1 W-6-2 W-13-1
pub(crate) fn publish(region: &Region, layout: &StreamLayout, kind: RegionKind, creator: Creator) {
    let header_slot = u32::try_from(SLOT_LEN).expect("a slot has 256 bytes");
    let (region_type, slot_bytes, stride_bytes) = match kind {
        RegionKind::HeaderRing => (RegionType::HeaderRing, header_slot, 0),
        RegionKind::Pool(pool) => (
            RegionType::PayloadPool,
            pool.stride_bytes,
            pool.stride_bytes,
        ),
    };
    let superblock = Superblock {
        layout_version: LAYOUT_VERSION,
        epoch: layout.epoch(),
        stream_id: layout.stream_id(),
        region_type,
        pool_id: kind.pool_id(),
        nslots: layout.nslots(),
        slot_bytes,
        stride_bytes,
        pid: creator.pid,
        start_timestamp_ns: creator.start,
        activity_timestamp_ns: creator.start,
    };
    let bytes = superblock.encode();
    let words = words::superblock(region);
    for (cell, word) in words.iter().zip(bytes.as_chunks().0).skip(1) {
        cell.store(u64::from_le_bytes(*word), Ordering::Relaxed);
    }
    words[0].store(MAGIC, Ordering::Release); // SUPERBLOCK-DONE
}

/// Compares the superblock with what was announced and returns it.
// spec: W-7.1-3 W-15.1-1 W-15.13-1 W-8.2-5 W-15.20-1
pub(crate) fn check(
    region: &Region,
    layout: &StreamLayout,
    kind: RegionKind,
) -> Result<Superblock, SuperblockReject> {
    let superblock = Superblock::decode(&snapshot(region))?;
    superblock.matches(&ExpectedRegion {
        layout_version: LAYOUT_VERSION,
        epoch: layout.epoch(),
        stream_id: layout.stream_id(),
        header_nslots: layout.nslots(),
        kind: match kind {
            RegionKind::HeaderRing => ExpectedKind::HeaderRing,
            RegionKind::Pool(pool) => ExpectedKind::Pool {
                pool_id: pool.pool_id,
                stride_bytes: pool.stride_bytes,
            },
        },
    })?;
    Ok(superblock)
}

/// When somebody last said that the region is alive.
// spec: W-15.1-3
pub(crate) fn activity(region: &Region) -> MonoNanos {
    MonoNanos(words::superblock(region)[ACTIVITY_WORD].load(Ordering::Relaxed))
}

/// Says that the region is alive.
// spec: W-7.1-4
pub(crate) fn refresh_activity(region: &Region, now: MonoNanos) {
    words::superblock(region)[ACTIVITY_WORD].store(now.get(), Ordering::Relaxed);
}

fn snapshot(region: &Region) -> [u8; SUPERBLOCK_LEN] {
    let words = words::superblock(region);
    let magic = words[0].load(Ordering::Relaxed);
    fence(Ordering::Acquire); // pairs with SUPERBLOCK-DONE
    let mut bytes = [0; SUPERBLOCK_LEN];
    for (i, chunk) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = if i == 0 {
            magic
        } else {
            words[i].load(Ordering::Relaxed)
        };
        *chunk = word.to_le_bytes();
    }
    bytes
}
