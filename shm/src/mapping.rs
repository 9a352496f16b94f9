//! One epoch of a stream, mapped.
//!
//! A mapping exists only after every file was contained, long enough and carried the announced
//! superblock; one failure and nothing is mapped (W-15.13-1, W-15.22-6). It stands for one epoch;
//! another epoch is another mapping. `reader` and `writer` are the two ends built on it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, fstat};
use tensorpool_wire::Superblock;

use crate::contain::ValidatedUri;
use crate::error::MapError;
use crate::hugepage::Backing;
use crate::layout::{RegionKind, SUPERBLOCK_BYTES, StreamLayout};
use crate::region::{Access, MapOptions, Region, RegionError};
use crate::seqlock::Slots;
use crate::superblock::{self, SuperblockChange};
use crate::sync::AtomicU64;
use crate::words::{self, SLOT_WORDS};

/// Where the file of a region comes from.
#[derive(Debug)]
pub enum RegionSource {
    /// A path that was found inside the allowed directories.
    Path(ValidatedUri),
    /// An open file that the driver handed over its socket.
    File {
        /// The file, opened as the mapping needs it.
        file: OwnedFd,
        /// Whether the announce requires hugepages.
        require_hugepages: bool,
    },
}

/// All regions of one epoch, mapped alike.
#[derive(Debug)]
pub(crate) struct Regions {
    pub(crate) layout: StreamLayout,
    pub(crate) ring: Region,
    /// In the layout's order.
    pub(crate) pools: Vec<Region>,
    /// The header ring's superblock when it was mapped.
    pub(crate) header: Superblock,
}

// === impl Regions ===

impl Slots<SLOT_WORDS> for Regions {
    #[inline]
    fn mask(&self) -> u64 {
        u64::from(self.layout.nslots()) - 1
    }

    #[inline]
    fn slot(&self, seq: u64) -> &[AtomicU64; SLOT_WORDS] {
        words::slot(&self.ring, self.index(seq))
    }
}

impl Regions {
    pub(crate) fn map(
        layout: StreamLayout,
        sources: Vec<RegionSource>,
        access: Access,
        options: MapOptions,
    ) -> Result<Self, MapError> {
        let expected = 1 + layout.pools().len();
        if sources.len() != expected {
            return Err(MapError::RegionCount {
                expected,
                found: sources.len(),
            });
        }
        let mut mapped = Vec::with_capacity(expected);
        let mut header = None;
        for (kind, source) in layout.regions().zip(&sources) {
            let region = map_one(&layout, kind, source, access, options)?;
            let found = superblock::check(&region, &layout, kind);
            if region.is_poisoned() {
                return Err(MapError::Poisoned { region: kind });
            }
            let found = found.map_err(|source| MapError::Superblock {
                region: kind,
                source,
            })?;
            if header.get_or_insert(found).pid != found.pid {
                return Err(MapError::Creator { region: kind });
            }
            mapped.push(region);
        }
        let pools = mapped.split_off(1);
        let found = pools.len();
        match (mapped.pop(), header) {
            (Some(ring), Some(header)) => Ok(Self {
                layout,
                ring,
                pools,
                header,
            }),
            (None, _) | (_, None) => Err(MapError::RegionCount { expected, found }),
        }
    }

    /// The slot index of a frame. The mask keeps it below `nslots`, which fits any `usize` whose
    /// address space held the ring.
    // spec: W-10.2.1-3
    #[inline]
    fn index(&self, seq: u64) -> usize {
        usize::try_from(seq & self.mask()).unwrap_or(usize::MAX)
    }

    /// Where the slot of a frame lies in the ring.
    #[inline]
    pub(crate) fn slot_offset(&self, seq: u64) -> usize {
        words::slot_offset(self.index(seq))
    }

    #[inline]
    pub(crate) fn payload_offset(&self, seq: u64, pool_index: usize, len: u32) -> Option<usize> {
        let stride = self.layout.pools().get(pool_index)?.stride_bytes;
        let offset = SUPERBLOCK_BYTES + (seq & self.mask()) * u64::from(stride);
        if len <= stride {
            usize::try_from(offset).ok()
        } else {
            None
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (RegionKind, &Region)> {
        self.layout
            .regions()
            .zip(std::iter::once(&self.ring).chain(&self.pools))
    }

    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.ring.is_poisoned() || self.pools.iter().any(Region::is_poisoned)
    }

    pub(crate) fn recheck(&self) -> Result<(), SuperblockChange> {
        for (kind, region) in self.all() {
            let now = superblock::check(region, &self.layout, kind)?;
            if now.pid != self.header.pid {
                return Err(SuperblockChange::Initialised { pid: now.pid });
            }
        }
        Ok(())
    }
}

fn map_one(
    layout: &StreamLayout,
    kind: RegionKind,
    source: &RegionSource,
    access: Access,
    options: MapOptions,
) -> Result<Region, MapError> {
    match source {
        RegionSource::Path(uri) => {
            let file = uri.open(access).map_err(|source| MapError::Path {
                region: kind,
                source,
            })?;
            map_file(
                layout,
                kind,
                file.as_fd(),
                uri.require_hugepages(),
                access,
                options,
            )
        }
        RegionSource::File {
            file,
            require_hugepages,
        } => map_file(
            layout,
            kind,
            file.as_fd(),
            *require_hugepages,
            access,
            options,
        ),
    }
}

// spec: W-15.22-4 W-15.21a-11 W-15.13-1
fn map_file(
    layout: &StreamLayout,
    kind: RegionKind,
    file: BorrowedFd<'_>,
    require_hugepages: bool,
    access: Access,
    options: MapOptions,
) -> Result<Region, MapError> {
    let examine = |source: std::io::Error| MapError::Examine {
        region: kind,
        source,
    };
    let stat = fstat(file).map_err(|e| examine(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(MapError::NotRegular { region: kind });
    }
    let backing = Backing::of(file).map_err(examine)?;
    if require_hugepages && !backing.is_hugepages() {
        return Err(MapError::NotHugepages {
            region: kind,
            found: backing.filesystem,
        });
    }
    let needed = layout.region_bytes(kind);
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found < needed {
        return Err(MapError::TooShort {
            region: kind,
            needed,
            found,
        });
    }
    Region::map(file, needed, backing.page_bytes, access, options).map_err(|error| match error {
        RegionError::TooLarge => MapError::TooLarge { region: kind },
        RegionError::Map(source) | RegionError::DontFork(source) => MapError::Map {
            region: kind,
            source,
        },
        RegionError::Lock(source) => MapError::Lock {
            region: kind,
            source,
        },
    })
}
