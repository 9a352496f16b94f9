//! The memory of Tensorpool: regions, rings, pools, and who may map what.
//!
//! This crate owns every byte of shared memory: creating regions in the canonical layout, finding out
//! whether a path may be mapped, mapping it, the sequence lock of a slot, the cursor that walks a ring,
//! and surviving a file that shrinks. It refuses policy: it never decides which stream exists, who may
//! attach or when an epoch goes; it knows no socket and no message, and reads no clock.
//!
//! - A driver creates epochs with [`EpochStore`], refreshes their activity and removes them.
//! - A consumer maps with [`ReadMapping`], walks with a [`Cursor`] and reads through [`PayloadView`].
//! - A producer maps with [`WriteMapping`] and writes through [`SlotWrite`].
//!
//! `unsafe` is confined to `region` (mapping), `fault` (the SIGBUS handler) and `words` (casts and
//! the payload copy). Nothing on the path of a frame allocates or calls the system.
#![deny(unsafe_code)]

mod cursor;
mod seqlock;
mod sync;

#[cfg(not(loom))]
mod backing;
#[cfg(not(loom))]
mod contain;
#[cfg(not(loom))]
mod directory;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod fault;
#[cfg(not(loom))]
mod hugepage;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod mapping;
#[cfg(not(loom))]
mod memo;
#[cfg(not(loom))]
mod numa;
#[cfg(not(loom))]
mod permissions;
#[cfg(not(loom))]
mod pool;
#[cfg(not(loom))]
mod reader;
#[cfg(not(loom))]
mod reclaim;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod region;
#[cfg(not(loom))]
mod store;
#[cfg(not(loom))]
mod superblock;
#[cfg(not(loom))]
mod wait;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod words;
#[cfg(not(loom))]
mod writer;

pub use cursor::{Cursor, DropCounter, Look, Skip, Start};
pub use seqlock::Miss;

#[cfg(not(loom))]
pub use backing::{CreateOptions, CreatedEpoch, FileChange};
#[cfg(not(loom))]
pub use contain::{AllowedBases, ValidatedUri};
#[cfg(not(loom))]
pub use error::{BeginError, ContainError, CopyError, CreateError, MapError, Poisoned};
#[cfg(not(loom))]
pub use fault::{FaultError, install_fault_handler};
#[cfg(not(loom))]
pub use hugepage::{Backing, Filesystem};
#[cfg(not(loom))]
pub use layout::{LayoutError, MAX_NSLOTS, MAX_POOLS, RegionKind, StreamLayout};
#[cfg(not(loom))]
pub use mapping::RegionSource;
#[cfg(not(loom))]
pub use memo::{FrameMark, HeaderEncoder, SlotParser};
#[cfg(not(loom))]
pub use numa::{NodePages, NodeShare, Numa, NumaError, hugepage_bytes, numa_nodes, numa_pages};
#[cfg(not(loom))]
pub use permissions::Permissions;
#[cfg(not(loom))]
pub use pool::{PayloadMut, PayloadView};
#[cfg(not(loom))]
pub use reader::{ReadMapping, Snapshot};
#[cfg(not(loom))]
pub use region::{Access, ForkGuard, MapOptions, Region};
#[cfg(not(loom))]
pub use store::{EpochDir, EpochStore, StoreError, StoreOptions};
#[cfg(not(loom))]
pub use superblock::{Creator, SuperblockChange};
#[cfg(not(loom))]
pub use wait::{
    Idle, IdlePolicy, LONGEST_NAP, LONGEST_NAP_WITH_WAKES, Nap, SPIN, WAKE_AFTER, WakePolicy,
};
#[cfg(not(loom))]
pub use writer::{Activity, Committed, SlotWrite, WriteMapping};

/// `bytes` rounded up to a multiple of `page_bytes`.
#[cfg(not(loom))]
pub(crate) fn round_up(bytes: u64, page_bytes: u64) -> u64 {
    bytes
        .div_ceil(page_bytes.max(1))
        .saturating_mul(page_bytes.max(1))
}
