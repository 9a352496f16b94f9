//! One error per operation. Messages are sentences, causes are `source`, `reason` is a bounded label.

use std::io;
use std::path::PathBuf;

use tensorpool_wire::{Epoch, StreamId, SuperblockReject};

use crate::layout::RegionKind;
use crate::numa::NumaError;
use crate::store::StoreError;

/// Why a path was not accepted as a region.
#[derive(Debug, thiserror::Error)]
pub enum ContainError {
    /// W-15.21a-7.
    #[error("{} is not an absolute path", path.display())]
    NotAbsolute {
        /// The path given.
        path: PathBuf,
    },
    /// W-15.21a-8, W-15.21a-9: no canonical form.
    #[error("{} cannot be resolved", path.display())]
    Resolve {
        /// The path given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// W-15.21a-10.
    #[error("{} lies outside the allowed base directories", path.display())]
    Outside {
        /// The path in canonical form.
        path: PathBuf,
    },
    /// W-15.21a-11.
    #[error("{} is a {found}; a region must be a regular file", path.display())]
    NotRegular {
        /// The path in canonical form.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// W-15.21a-12: a component is a symbolic link now, or cannot be opened.
    #[error("{} cannot be opened without following links", path.display())]
    Open {
        /// The path in canonical form.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// W-15.21a-12: between the check and the opening another file took the name.
    #[error("{} became another file while it was opened", path.display())]
    Replaced {
        /// The path in canonical form.
        path: PathBuf,
    },
}

/// Why a stream could not be mapped. Nothing stays mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Fewer or more files than the layout has regions.
    #[error("the stream has {expected} regions, but {found} files were given")]
    RegionCount {
        /// Regions in the layout, the header ring included.
        expected: usize,
        /// Files given.
        found: usize,
    },
    /// The path is not acceptable.
    #[error("{} was refused", name(*region))]
    Path {
        /// Which region.
        region: RegionKind,
        /// Why.
        #[source]
        source: ContainError,
    },
    /// The file could not be looked at.
    #[error("{} could not be examined", name(*region))]
    Examine {
        /// Which region.
        region: RegionKind,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A received file is a device, FIFO, socket or directory.
    #[error("{} is not a regular file", name(*region))]
    NotRegular {
        /// Which region.
        region: RegionKind,
    },
    /// The file is shorter than the layout says, which would fault at the first use.
    #[error("{} has {found} bytes, but the layout needs {needed}", name(*region))]
    TooShort {
        /// Which region.
        region: RegionKind,
        /// Bytes that the layout needs.
        needed: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// W-15.22-4: hugepages are required and the file has none.
    #[error("{} must be on hugepages, but lies on {found}", name(*region))]
    NotHugepages {
        /// Which region.
        region: RegionKind,
        /// The filesystem found.
        found: crate::Filesystem,
    },
    /// The region exceeds the address space.
    #[error("{} is too large for this process to map", name(*region))]
    TooLarge {
        /// Which region.
        region: RegionKind,
    },
    /// `mmap` or `madvise` failed.
    #[error("{} could not be mapped", name(*region))]
    Map {
        /// Which region.
        region: RegionKind,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `mlock` failed; raise RLIMIT_MEMLOCK or turn the option off (D-17-5, D-17-9).
    #[error("{} could not be locked in memory; raise the limit of locked memory", name(*region))]
    Lock {
        /// Which region.
        region: RegionKind,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The superblock is not the one that was announced.
    #[error("{} does not match its announce", name(*region))]
    Superblock {
        /// Which region.
        region: RegionKind,
        /// The difference.
        #[source]
        source: SuperblockReject,
    },
    /// The file lost pages while it was mapped and checked.
    #[error("{} was truncated while it was mapped", name(*region))]
    Poisoned {
        /// Which region.
        region: RegionKind,
    },
    /// The regions name different creators, so they are not of one epoch.
    #[error("{} was created by another process than the header ring", name(*region))]
    Creator {
        /// Which region.
        region: RegionKind,
    },
}

/// Every region of the mapping has lost its file: unmap, and attach again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a region of the stream was truncated while it was mapped")]
pub struct Poisoned;

/// Why a slot cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// No frame can have this number; a new epoch starts at 0 again.
    #[error("the epoch has used up its sequence numbers")]
    SeqOutOfRange,
    /// The layout has no such pool.
    #[error("the stream has no pool at index {index}")]
    NoSuchPool {
        /// The index given.
        index: usize,
    },
    /// The memory is gone.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// Why a payload was not copied. The destination holds bytes that mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// Range and payload, or source and destination, do not fit.
    #[error("{len} bytes from offset {offset} do not fit a payload of {payload_len} bytes")]
    OutOfBounds {
        /// First byte.
        offset: usize,
        /// Bytes wanted.
        len: usize,
        /// Bytes of the payload.
        payload_len: usize,
    },
    /// The producer overwrote the frame during the copy: one `drops_late`.
    #[error("the frame was overwritten while it was copied")]
    Overwritten,
    /// The memory is gone.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// Why an epoch could not be created. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Epochs are never reused (ambiguities B-20).
    #[error("epoch directory {} exists already; epochs are never reused", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A directory could not be prepared.
    #[error(transparent)]
    Directory(#[from] StoreError),
    /// The filesystem or the hugepage pool is exhausted.
    #[error(
        "stream {stream_id} epoch {epoch} needs {needed} bytes ({} pages of {page_bytes} bytes), \
         but {free} are free and {held_by_old_epochs} are held by older epochs in {}; enlarge the \
         mount, the hugepage pool or the control group's limit of huge pages, make the stream smaller, or \
         keep fewer epochs",
        needed / page_bytes,
        path.display()
    )]
    NoSpace {
        /// The stream.
        stream_id: StreamId,
        /// The epoch.
        epoch: Epoch,
        /// Bytes that its files need, in whole pages.
        needed: u64,
        /// Bytes that were free after the attempt was undone.
        free: u64,
        /// Bytes in epochs that a newer one has replaced, this stream's included.
        held_by_old_epochs: u64,
        /// Bytes of one page of the filesystem.
        page_bytes: u64,
        /// The store's directory.
        path: PathBuf,
    },
    /// The NUMA node that the pages must come from has too few.
    #[error(
        "stream {stream_id} epoch {epoch} needs {needed} bytes ({} pages of {page_bytes} bytes) on NUMA node \
         {node}, but {had} bytes could be had there; give the node more pages, name another node, or let \
         the policy be Preferred",
        needed / page_bytes
    )]
    NodeFull {
        /// The stream.
        stream_id: StreamId,
        /// The epoch.
        epoch: Epoch,
        /// Number of the NUMA node.
        node: u16,
        /// Bytes that its files need, in whole pages.
        needed: u64,
        /// Bytes that were free on the node, or that came from there.
        had: u64,
        /// Bytes of one page of the filesystem.
        page_bytes: u64,
    },
    /// Pages cannot be taken from the NUMA node, or not be seen to come from there.
    #[error(transparent)]
    Node(#[from] NumaError),
    /// A file could not be made.
    #[error("region file {} could not be created", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be mapped.
    #[error("region file {} could not be mapped by its creator", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `mlock` failed, which is fatal where it was asked for (D-17-5).
    #[error(
        "region file {} could not be locked in memory; raise RLIMIT_MEMLOCK or set mlock_shm = false",
        path.display()
    )]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

// === impl ContainError ===

impl ContainError {
    /// The reason as a label, one of six.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotAbsolute { .. } => "not_absolute",
            Self::Resolve { .. } => "resolve",
            Self::Outside { .. } => "outside",
            Self::NotRegular { .. } => "not_regular",
            Self::Open { .. } => "open",
            Self::Replaced { .. } => "replaced",
        }
    }
}

// === impl MapError ===

impl MapError {
    /// The reason as a label, one of twelve.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::RegionCount { .. } => "region_count",
            Self::Path { .. } => "path",
            Self::Examine { .. } => "examine",
            Self::NotRegular { .. } => "not_regular",
            Self::TooShort { .. } => "too_short",
            Self::NotHugepages { .. } => "not_hugepages",
            Self::TooLarge { .. } => "too_large",
            Self::Map { .. } => "map",
            Self::Lock { .. } => "lock",
            Self::Superblock { .. } => "superblock",
            Self::Poisoned { .. } => "poisoned",
            Self::Creator { .. } => "creator",
        }
    }
}

// === impl CopyError ===

impl CopyError {
    /// The reason as a label, one of three.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::OutOfBounds { .. } => "out_of_bounds",
            Self::Overwritten => "overwritten",
            Self::Poisoned(_) => "poisoned",
        }
    }
}

fn name(region: RegionKind) -> String {
    match region {
        RegionKind::HeaderRing => "the header ring".to_owned(),
        RegionKind::Pool(pool) => format!("pool {}", pool.pool_id),
    }
}

// === impl CreateError ===

impl CreateError {
    /// The reason as a label, one of eight.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "exists",
            Self::Directory(_) => "directory",
            Self::NoSpace { .. } => "no_space",
            Self::NodeFull { .. } => "node_full",
            Self::Node(_) => "node",
            Self::File { .. } => "file",
            Self::Map { .. } => "map",
            Self::Lock { .. } => "lock",
        }
    }
}
