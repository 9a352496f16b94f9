//! One epoch of a stream, mapped: the reader's and the writer's end of it.
//!
//! A mapping exists only after every file was contained, long enough and carried the announced
//! superblock; one failure and nothing is mapped (W-15.13-1, W-15.22-6). It stands for one epoch;
//! another epoch is another mapping.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, fstat};
use tensorpool_wire::{ExpectedSlot, MonoNanos, Seq, Slot, SlotHeader, SlotReject, Superblock};

use crate::contain::ValidatedUri;
use crate::cursor::{Cursor, Look, Start, begun_since, newest_committed};
use crate::error::{BeginError, MapError, Poisoned};
use crate::hugepage::Backing;
use crate::layout::{RegionKind, StreamLayout};
use crate::pool::{PayloadMut, PayloadView};
use crate::region::{Access, MapOptions, Region, RegionError};
use crate::seqlock::{self, MAX_SEQ, Miss, Slots};
use crate::superblock::{self, Creator, SuperblockChange};
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

/// One slot as it was copied out, checked by the seqlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The frame.
    pub seq: Seq,
    /// The slot's 256 bytes, `seq_commit` first, for `wire` to parse.
    pub bytes: [u8; 256],
}

/// The consumer's and relay's end: every region read-only.
#[derive(Debug)]
pub struct ReadMapping {
    regions: Regions,
}

/// The producer's end: every region writable. There is one writer, so writing takes `&mut self`.
#[derive(Debug)]
pub struct WriteMapping {
    regions: Arc<Regions>,
}

/// Keeps a stream's activity word fresh from another thread than the one that writes frames.
#[derive(Clone, Debug)]
pub struct Activity {
    regions: Arc<Regions>,
}

/// A frame being written: begun, not committed. Dropping it leaves the slot in progress; the number
/// may then be begun again (docs/extensions.md, "Holes").
#[derive(Debug)]
pub struct SlotWrite<'a> {
    slot: &'a [AtomicU64; SLOT_WORDS],
    seq: u64,
    payload: PayloadMut<'a>,
}

#[derive(Debug)]
pub(crate) struct Regions {
    layout: StreamLayout,
    ring: Region,
    pools: Vec<Region>,
    header: Superblock,
}

// === impl ReadMapping ===

impl ReadMapping {
    /// Maps all regions of a stream, the header ring first, then the pools in the layout's order.
    ///
    /// # Errors
    /// [`MapError`] names the region and the first rule that it breaks.
    pub fn map(
        layout: StreamLayout,
        sources: Vec<RegionSource>,
        options: MapOptions,
    ) -> Result<Self, MapError> {
        Regions::map(layout, sources, Access::ReadOnly, options).map(|regions| Self { regions })
    }

    /// The shape that was mapped.
    #[must_use]
    pub const fn layout(&self) -> &StreamLayout {
        &self.regions.layout
    }

    /// Who created the regions.
    #[must_use]
    pub const fn creator(&self) -> Creator {
        let header = &self.regions.header;
        Creator {
            pid: header.pid,
            start: header.start_timestamp_ns,
        }
    }

    /// A cursor at the given place of this ring. It belongs to this mapping.
    #[must_use]
    pub fn start(&self, start: Start) -> Cursor {
        Cursor::start(&self.regions, start)
    }

    /// Takes one look at the cursor's next slot. Neither waits nor calls the system.
    ///
    /// # Errors
    /// [`Poisoned`] when the ring is gone: nothing will ever come.
    // spec: W-15.21-1 W-8.3-5
    pub fn poll(&self, cursor: &mut Cursor) -> Result<Look<Snapshot>, Poisoned> {
        let look = cursor.poll_slots(&self.regions);
        self.seen(look)
    }

    /// Like `poll`, and looks past holes too: to be called before each sleep.
    ///
    /// # Errors
    /// [`Poisoned`] when the ring is gone.
    pub fn poll_before_sleep(&self, cursor: &mut Cursor) -> Result<Look<Snapshot>, Poisoned> {
        let look = cursor.poll_slots_before_sleep(&self.regions);
        self.seen(look)
    }

    /// Moves the cursor to the newest committed frame; returns how many frames were passed over.
    pub fn skip_to_newest(&self, cursor: &mut Cursor) -> u64 {
        cursor.skip_slots_to_newest(&self.regions)
    }

    /// Copies the slot of frame `seq`, which a descriptor named. One attempt, no waiting.
    ///
    /// # Errors
    /// [`Miss`] says whether it is not there yet or no more; either is one `drops_late`.
    // spec: W-8.3-5 W-10.2.1-3 W-10.2.1-4
    pub fn read(&self, seq: Seq) -> Result<Snapshot, Miss> {
        let words = seqlock::read(self.regions.slot(seq.get()), seq.get())?;
        Ok(Snapshot::from_words(&words))
    }

    /// Parses a snapshot and checks it against this mapping.
    ///
    /// # Errors
    /// [`SlotReject`] names the rule that the slot breaks; the frame is dropped.
    // spec: W-8.3-6 W-10.2.1-7
    pub fn parse(&self, snapshot: &Snapshot) -> Result<Slot, SlotReject> {
        SlotHeader::decode(&snapshot.bytes)?.validate(&ExpectedSlot {
            seq: snapshot.seq,
            header_nslots: self.regions.layout.nslots(),
            pools: self.regions.layout.pools(),
        })
    }

    /// Whether the slot still holds frame `seq`: everything read of it before this call was whole.
    // spec: W-8.3-7
    #[must_use]
    pub fn is_still(&self, seq: Seq) -> bool {
        seq.get() <= MAX_SEQ
            && seqlock::is_still(self.regions.slot(seq.get()), seq.get())
            && !self.is_poisoned()
    }

    /// The payload of a parsed frame, in place. `None` only if `slot` is not of this mapping.
    // spec: W-9-1 W-10.2.1-5 W-10.2.1-6
    #[must_use]
    pub fn payload(&self, slot: &Slot) -> Option<PayloadView<'_>> {
        let pool = self.regions.pools.get(slot.pool_index)?;
        let len = slot.values_len_bytes;
        let offset = self
            .regions
            .payload_offset(slot.seq.get(), slot.pool_index, len)?;
        Some(PayloadView::new(
            self,
            pool,
            slot.seq,
            offset,
            usize::try_from(len).ok()?,
        ))
    }

    /// The newest committed frame; the one that will be first where there is none.
    #[must_use]
    pub fn newest(&self) -> Seq {
        Seq(newest_committed(&self.regions))
    }

    /// How many more frames the producer can begin before it takes the slot of frame `seq`. 0 when it
    /// has.
    #[must_use]
    pub fn frames_until_overwrite(&self, seq: Seq) -> u64 {
        if self.is_still(seq) {
            self.regions.mask() - begun_since(&self.regions, seq.get())
        } else {
            0
        }
    }

    /// When the creator or producer last said that the stream is alive (header ring).
    // spec: W-15.1-3
    #[must_use]
    pub fn activity(&self) -> MonoNanos {
        superblock::activity(&self.regions.ring)
    }

    /// Compares every superblock again with what was mapped: magic, layout, epoch and creator.
    ///
    /// # Errors
    /// [`SuperblockChange`] names the first difference; unmap and wait for another epoch.
    // spec: W-15.1-2 W-15.14-3 W-15.14-4
    pub fn recheck(&self) -> Result<(), SuperblockChange> {
        self.regions.recheck()
    }

    /// Whether any region has lost its file.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.regions.is_poisoned()
    }

    /// The mapped regions, the header ring first: for registering memory with a device.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.all().map(|(_, region)| region)
    }

    pub(crate) fn mark_word(&self, seq: Seq) -> &AtomicU64 {
        &self.regions.slot(seq.get())[0]
    }

    fn seen(&self, look: Look<[u64; SLOT_WORDS]>) -> Result<Look<Snapshot>, Poisoned> {
        match look {
            Look::Frame(words) => Ok(Look::Frame(Snapshot::from_words(&words))),
            // Zeros in place of the ring look like frames that are not there yet.
            Look::Empty if self.regions.ring.is_poisoned() => Err(Poisoned),
            Look::Empty => Ok(Look::Empty),
            Look::Skipped(skip) => Ok(Look::Skipped(skip)),
        }
    }
}

// === impl WriteMapping ===

impl WriteMapping {
    /// Maps all regions of a stream for writing, the header ring first, then the pools in order.
    ///
    /// # Errors
    /// [`MapError`] names the region and the first rule that it breaks.
    // spec: D-2.2-1
    pub fn map(
        layout: StreamLayout,
        sources: Vec<RegionSource>,
        options: MapOptions,
    ) -> Result<Self, MapError> {
        Regions::map(layout, sources, Access::ReadWrite, options).map(|regions| Self {
            regions: Arc::new(regions),
        })
    }

    /// The shape that was mapped.
    #[must_use]
    pub fn layout(&self) -> &StreamLayout {
        &self.regions.layout
    }

    /// Begins frame `seq` with its payload in the pool at `pool_index`: from here on no reader takes
    /// the slot's former frame. Never waits (W-15.4-1).
    ///
    /// # Errors
    /// [`BeginError`]; no byte was changed.
    // spec: W-8.3-2 W-15.4-1
    pub fn begin(&mut self, seq: Seq, pool_index: usize) -> Result<SlotWrite<'_>, BeginError> {
        let regions = &*self.regions;
        if seq.get() > MAX_SEQ {
            return Err(BeginError::SeqOutOfRange);
        }
        let no_such_pool = BeginError::NoSuchPool { index: pool_index };
        let pool = regions.pools.get(pool_index).ok_or(no_such_pool)?;
        let stride = regions
            .layout
            .pools()
            .get(pool_index)
            .ok_or(no_such_pool)?
            .stride_bytes;
        let offset = regions
            .payload_offset(seq.get(), pool_index, stride)
            .ok_or(no_such_pool)?;
        if regions.ring.is_poisoned() || pool.is_poisoned() {
            return Err(Poisoned.into());
        }
        let slot = regions.slot(seq.get());
        seqlock::begin(slot, seq.get());
        let len = usize::try_from(stride).map_err(|_| no_such_pool)?;
        Ok(SlotWrite {
            slot,
            seq: seq.get(),
            payload: PayloadMut::new(pool, offset, len),
        })
    }

    /// The mapped regions, the header ring first: for registering memory with a device.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.all().map(|(_, region)| region)
    }

    /// A handle that refreshes the activity words from any thread. It keeps the memory mapped.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity {
            regions: Arc::clone(&self.regions),
        }
    }

    /// Whether any region has lost its file.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.regions.is_poisoned()
    }

    pub(crate) fn mark_word(&self, seq: Seq) -> &AtomicU64 {
        &self.regions.slot(seq.get())[0]
    }
}

// === impl SlotWrite ===

impl<'a> SlotWrite<'a> {
    /// The frame.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        Seq(self.seq)
    }

    pub(crate) const fn mark_word(&self) -> &'a AtomicU64 {
        &self.slot[0]
    }

    /// The whole payload slot, `stride_bytes` long.
    pub const fn payload(&mut self) -> &mut PayloadMut<'a> {
        &mut self.payload
    }

    /// Writes the slot header and commits the frame. The first eight bytes of `header` are ignored:
    /// `seq_commit` is written last, with release.
    // spec: W-8.3-3 W-8.3-4
    pub fn commit(self, header: &[u8; 256]) {
        let mut words = [0; SLOT_WORDS];
        for (word, bytes) in words.iter_mut().zip(header.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        seqlock::write_words(self.slot, &words);
        seqlock::commit(self.slot, self.seq);
    }
}

// === impl Activity ===

impl Activity {
    /// Says in every superblock that the stream is alive at `now`.
    // spec: W-7.1-4
    pub fn refresh(&self, now: MonoNanos) {
        for (_, region) in self.regions.all() {
            superblock::refresh_activity(region, now);
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    fn from_words(words: &[u64; SLOT_WORDS]) -> Self {
        let mut bytes = [0; 256];
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        Self {
            seq: Seq(seqlock::seq_of(words[0])),
            bytes,
        }
    }
}

// === impl Regions ===

impl Slots<SLOT_WORDS> for Regions {
    fn mask(&self) -> u64 {
        u64::from(self.layout.nslots()) - 1
    }

    fn slot(&self, seq: u64) -> &[AtomicU64; SLOT_WORDS] {
        words::slot(&self.ring, self.index(seq))
    }
}

impl Regions {
    fn map(
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
    fn index(&self, seq: u64) -> usize {
        usize::try_from(seq & self.mask()).unwrap_or(usize::MAX)
    }

    fn payload_offset(&self, seq: u64, pool_index: usize, len: u32) -> Option<usize> {
        let stride = self.layout.pools().get(pool_index)?.stride_bytes;
        let offset = 64 + (seq & self.mask()) * u64::from(stride);
        if len <= stride {
            usize::try_from(offset).ok()
        } else {
            None
        }
    }

    fn all(&self) -> impl Iterator<Item = (RegionKind, &Region)> {
        self.layout
            .regions()
            .zip(std::iter::once(&self.ring).chain(&self.pools))
    }

    fn is_poisoned(&self) -> bool {
        self.ring.is_poisoned() || self.pools.iter().any(Region::is_poisoned)
    }

    fn recheck(&self) -> Result<(), SuperblockChange> {
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
