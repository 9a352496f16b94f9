//! One epoch's regions, mapped for this client, and how long they may be used.
//!
//! The only way to slots is through a [`Mapped`] or [`Writable`], and there is one per epoch: what an
//! attach or an announce names is resolved, contained, mapped and compared with its superblocks as a
//! whole, or not at all (W-15.13-1). It refuses to create or guess anything.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tensorpool_shm::{
    AllowedBases, ContainError, Cursor, LayoutError, MapError, MapOptions, ReadMapping,
    RegionSource, Start, StreamLayout, ValidatedUri, WriteMapping,
};
use tensorpool_wire::{
    Epoch, MonoNanos, PayloadPool, PoolStride, ShmPoolAnnounce, ShmUri, StreamId, UriError,
};

use crate::find::Rebase;
use crate::lease::{Grant, LeaseEnd};

/// The regions that an attach answer or an announce names.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) stream: StreamId,
    pub(crate) epoch: Epoch,
    nslots: u32,
    slot_bytes: u16,
    header_uri: String,
    pools: Vec<PayloadPool>,
}

/// Where regions may be looked for and how they are mapped.
#[derive(Clone, Debug)]
pub(crate) struct MapRules {
    pub(crate) bases: Vec<PathBuf>,
    pub(crate) rebase: Option<Rebase>,
    pub(crate) options: MapOptions,
}

/// Why the regions of an epoch were refused. Nothing of them is mapped.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The names and sizes cannot be a stream's.
    #[error("the granted layout is impossible")]
    Layout(#[source] LayoutError),
    /// Header slots that are not 256 bytes.
    #[error("the announced header slots have {bytes} bytes, they must have 256")]
    SlotBytes {
        /// The announced size, in bytes.
        bytes: u16,
    },
    /// A pool with another number of slots than the ring.
    #[error("pool {pool} has {found} slots, the header ring {expected}")]
    PoolSlots {
        /// The pool.
        pool: u16,
        /// Slots of the ring.
        expected: u32,
        /// Slots of the pool.
        found: u32,
    },
    /// A region's URI is malformed.
    #[error("`{uri}` is not a region's URI")]
    Uri {
        /// The URI.
        uri: String,
        /// Why.
        #[source]
        source: UriError,
    },
    /// A region's path may not be mapped.
    #[error(
        "a region may not be mapped; if its directory can be trusted, name it in TENSORPOOL_ALLOWED_BASE_DIRS"
    )]
    Contain(#[source] ContainError),
    /// The driver's files do not match its message.
    #[error("the driver sent {found} region files, the message names {expected}")]
    Files {
        /// Regions in the message.
        expected: usize,
        /// Files received.
        found: usize,
    },
    /// A file could not be mapped, or is not what was granted.
    #[error("the regions could not be mapped")]
    Map(#[source] MapError),
}

impl RegionError {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Layout(_) => "layout",
            Self::SlotBytes { .. } => "slot_bytes",
            Self::PoolSlots { .. } => "pool_slots",
            Self::Uri { source, .. } => source.reason(),
            Self::Contain(error) => error.reason(),
            Self::Files { .. } => "files",
            Self::Map(error) => error.reason(),
        }
    }
}

/// Whether a mapping may still be used. Private memory, shared by the conductor and the data path.
#[derive(Debug)]
pub(crate) struct Life {
    over: AtomicBool,
    /// Set before `over`, so that whoever finds it over also finds why.
    why: OnceLock<LeaseEnd>,
    /// `CLOCK_MONOTONIC` at which the lease ends without a keepalive; `u64::MAX`: no limit.
    deadline: AtomicU64,
}

impl Life {
    const fn new() -> Self {
        Self {
            over: AtomicBool::new(false),
            why: OnceLock::new(),
            deadline: AtomicU64::new(u64::MAX),
        }
    }

    /// Ends all use: before the new state is handed over, so that no frame is believed in between.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// The same with the reason, for who finds it over before the new state is handed over.
    pub(crate) fn end_because(&self, why: LeaseEnd) {
        // The first reason stays: a life ends once.
        let _ = self.why.set(why);
        self.end();
    }

    /// Why it is over. [`LeaseEnd::Replaced`] where other memory took its place.
    #[cold]
    pub(crate) fn why_over(&self) -> LeaseEnd {
        // With the release of `end`: what was stored before it is seen.
        self.over.load(Ordering::Acquire);
        self.why.get().cloned().unwrap_or(LeaseEnd::Replaced)
    }

    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn set_deadline(&self, deadline: Option<MonoNanos>) {
        self.deadline
            .store(deadline.map_or(u64::MAX, MonoNanos::get), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_past(&self, now: MonoNanos) -> bool {
        now.get() > self.deadline.load(Ordering::Relaxed)
    }
}

/// What the beginning of a mapping means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// In the middle of the stream: what came before is not this consumer's.
    Anywhere,
    /// At the first frame of the epoch, or at the place where the same epoch was left: all that comes
    /// after that is this consumer's.
    Epoch,
}

/// A consumer's mapping of one epoch. Unmapped when the last frame, consumer and conductor let go.
// spec: X-2-67
#[derive(Debug)]
pub(crate) struct Mapped {
    pub(crate) life: Life,
    pub(crate) regions: ReadMapping,
    /// Where reading begins, as of the mapping: nothing committed later is missed.
    pub(crate) first: Cursor,
    pub(crate) begin: Begin,
    /// How long the lease may last without a word of the driver, in nanoseconds; that of the stream's
    /// producer lasts as long.
    pub(crate) granted_ns: u64,
}

/// A producer's mapping of one epoch.
#[derive(Debug)]
pub(crate) struct Writable {
    pub(crate) life: Arc<Life>,
    pub(crate) regions: WriteMapping,
}

impl Target {
    pub(crate) fn of_grant(grant: &Grant) -> Self {
        Self {
            stream: grant.stream,
            epoch: grant.epoch,
            nslots: grant.header_nslots,
            slot_bytes: 256,
            header_uri: grant.header_uri.clone(),
            pools: grant.pools.clone(),
        }
    }

    pub(crate) fn of_announce(announce: &ShmPoolAnnounce) -> Self {
        Self {
            stream: announce.stream_id,
            epoch: announce.epoch,
            nslots: announce.header_nslots,
            slot_bytes: announce.header_slot_bytes,
            header_uri: announce.header_region_uri.clone(),
            pools: announce.payload_pools.clone(),
        }
    }

    /// Maps by path, read-only: a consumer.
    // spec: D-2.3-1 W-15.21a-6 X-2-9
    pub(crate) fn map_to_read(
        &self,
        rules: &MapRules,
        start: Start,
        granted_ns: u64,
    ) -> Result<Mapped, RegionError> {
        let layout = self.layout()?;
        let sources = self.by_path(rules)?;
        let regions = ReadMapping::map(layout, sources, rules.options).map_err(RegionError::Map)?;
        let first = regions.start(start);
        let begin = match start {
            Start::Newest | Start::Next => Begin::Anywhere,
            Start::First => Begin::Epoch,
        };
        Ok(Mapped {
            life: Life::new(),
            regions,
            first,
            begin,
            granted_ns,
        })
    }

    /// Maps for writing: the files that the driver sent, or by path where it sent none.
    // spec: D-2.2-1 X-2-8
    pub(crate) fn map_to_write(
        &self,
        rules: &MapRules,
        files: Vec<OwnedFd>,
    ) -> Result<Writable, RegionError> {
        let layout = self.layout()?;
        let sources = if files.is_empty() {
            self.by_path(rules)?
        } else {
            self.by_file(files)?
        };
        let regions =
            WriteMapping::map(layout, sources, rules.options).map_err(RegionError::Map)?;
        Ok(Writable {
            life: Arc::new(Life::new()),
            regions,
        })
    }

    fn layout(&self) -> Result<StreamLayout, RegionError> {
        // spec: W-15.1-1 W-9-2
        if self.slot_bytes != 256 {
            return Err(RegionError::SlotBytes {
                bytes: self.slot_bytes,
            });
        }
        if let Some(pool) = self
            .pools
            .iter()
            .find(|pool| pool.pool_nslots != self.nslots)
        {
            return Err(RegionError::PoolSlots {
                pool: pool.pool_id.get(),
                expected: self.nslots,
                found: pool.pool_nslots,
            });
        }
        let pools = self
            .pools
            .iter()
            .map(|pool| PoolStride {
                pool_id: pool.pool_id,
                stride_bytes: pool.stride_bytes,
            })
            .collect();
        StreamLayout::new(self.stream, self.epoch, self.nslots, pools).map_err(RegionError::Layout)
    }

    fn uris(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.header_uri.as_str())
            .chain(self.pools.iter().map(|pool| pool.region_uri.as_str()))
    }

    // spec: D-4.2-18 W-15.22-6 W-15.21a-13
    fn by_path(&self, rules: &MapRules) -> Result<Vec<RegionSource>, RegionError> {
        let bases = AllowedBases::existing(&rules.bases).map_err(RegionError::Contain)?;
        self.uris()
            .map(|uri| resolve(uri, rules, &bases).map(RegionSource::Path))
            .collect()
    }

    fn by_file(&self, files: Vec<OwnedFd>) -> Result<Vec<RegionSource>, RegionError> {
        let (expected, found) = (1 + self.pools.len(), files.len());
        if expected != found {
            return Err(RegionError::Files { expected, found });
        }
        let sources = self.uris().zip(files).map(|(uri, file)| {
            let require_hugepages = parse(uri)?.require_hugepages();
            Ok(RegionSource::File {
                file,
                require_hugepages,
            })
        });
        sources.collect()
    }
}

fn parse(uri: &str) -> Result<ShmUri, RegionError> {
    ShmUri::parse(uri).map_err(|source| RegionError::Uri {
        uri: uri.to_owned(),
        source,
    })
}

fn resolve(uri: &str, rules: &MapRules, bases: &AllowedBases) -> Result<ValidatedUri, RegionError> {
    let uri = parse(uri)?;
    let path = PathBuf::from(uri.path());
    let path = rules
        .rebase
        .as_ref()
        .map_or_else(|| path.clone(), |rebase| rebase.apply(&path));
    bases
        .validate_path(&path, uri.require_hugepages())
        .map_err(RegionError::Contain)
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: D-4.9-5
    #[test]
    fn whoever_finds_a_life_over_finds_why() {
        for _ in 0..200 {
            let life = Life::new();
            std::thread::scope(|scope| {
                scope.spawn(|| life.end_because(LeaseEnd::DriverShutdown));
                while !life.is_over() {
                    std::hint::spin_loop();
                }
                assert_eq!(life.why_over(), LeaseEnd::DriverShutdown);
            });
            life.end_because(LeaseEnd::Replaced);
            assert_eq!(life.why_over(), LeaseEnd::DriverShutdown, "it ended once");
        }
    }
}
