//! The consumer's end of a mapping: look, copy the slot, read the payload, ask whether it held.

use tensorpool_wire::{ExpectedSlot, MonoNanos, Seq, Slot, SlotHeader, SlotReject};

use crate::cursor::{Cursor, Look, Start, begun_since, newest_committed};
use crate::error::{MapError, Poisoned};
use crate::layout::StreamLayout;
use crate::mapping::{RegionSource, Regions};
use crate::memo::{SlotParser, difference};
use crate::pool::PayloadView;
use crate::region::{Access, MapOptions, Region};
use crate::seqlock::{self, MAX_SEQ, Miss, Slots};
use crate::superblock::{self, Creator, SuperblockChange};
use crate::sync::AtomicU64;
use crate::words::{self, SLOT_WORDS};

/// Words of a slot that mean something: up to byte 152, the last of which holds 5 bytes of pad.
pub(crate) const HEADER_WORDS: usize = 19;

/// The consumer's and relay's end: every region read-only.
#[derive(Debug)]
pub struct ReadMapping {
    regions: Regions,
}

/// One slot as it was copied out, checked by the seqlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The frame.
    pub seq: Seq,
    /// The slot's bytes, `seq_commit` first, for `wire` to parse. The pad at the end is zeros whatever
    /// the slot holds there: consumers ignore it, so its cache line is not fetched.
    // spec: W-8.2-4
    pub bytes: [u8; 256],
}

// === impl Snapshot ===

impl Snapshot {
    pub(crate) fn new(seq: Seq, words: &[u64; HEADER_WORDS]) -> Self {
        let mut bytes = [0; 256];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        Self { seq, bytes }
    }

    pub(crate) fn words(&self) -> [u64; HEADER_WORDS] {
        let mut words = [0; HEADER_WORDS];
        for (word, bytes) in words.iter_mut().zip(self.bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }
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
    #[inline]
    pub fn poll(&self, cursor: &mut Cursor) -> Result<Look<Snapshot>, Poisoned> {
        let look = cursor.poll_slots(&self.regions, |seq| self.read(Seq(seq)));
        self.unless_poisoned(look)
    }

    /// Like `poll`, and looks past holes too: to be called before each sleep.
    ///
    /// # Errors
    /// [`Poisoned`] when the ring is gone.
    pub fn poll_before_sleep(&self, cursor: &mut Cursor) -> Result<Look<Snapshot>, Poisoned> {
        let look = cursor.poll_slots_before_sleep(&self.regions, |seq| self.read(Seq(seq)));
        self.unless_poisoned(look)
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
    #[inline]
    pub fn read(&self, seq: Seq) -> Result<Snapshot, Miss> {
        let mut words = [0; HEADER_WORDS];
        self.read_each(seq, |i, word| words[i] = word)?;
        Ok(Snapshot::new(seq, &words))
    }

    /// `poll` and [`SlotParser::parse`] in one, without the copy in between.
    ///
    /// # Errors
    /// [`Poisoned`] when the ring is gone; [`SlotReject`] inside of [`Look::Frame`] names the rule that
    /// the slot breaks, and the frame is dropped.
    // spec: W-15.21-1 W-8.3-5 W-8.3-6 W-10.2.1-7
    #[inline]
    pub fn poll_frame<'p>(
        &self,
        cursor: &mut Cursor,
        parser: &'p mut SlotParser,
    ) -> Result<Look<Result<&'p Slot, SlotReject>>, Poisoned> {
        let pool_index = parser.last_pool();
        let look = cursor.poll_slots(&self.regions, |seq| self.read_frame(Seq(seq), parser));
        // A frame is two lines. Asked for only when the slot's has come, the payload's would take its
        // time after it; asked for while spinning, the two come side by side.
        if let (Look::Empty, Some(pool_index)) = (&look, pool_index) {
            self.prefetch_payload(cursor.next(), pool_index);
        }
        self.unless_poisoned(look)
    }

    /// `poll_before_sleep` and [`SlotParser::parse`] in one.
    ///
    /// # Errors
    /// As for [`ReadMapping::poll_frame`].
    pub fn poll_frame_before_sleep<'p>(
        &self,
        cursor: &mut Cursor,
        parser: &'p mut SlotParser,
    ) -> Result<Look<Result<&'p Slot, SlotReject>>, Poisoned> {
        let look =
            cursor.poll_slots_before_sleep(&self.regions, |seq| self.read_frame(Seq(seq), parser));
        self.unless_poisoned(look)
    }

    /// `read` and [`SlotParser::parse`] in one, without the copy in between.
    ///
    /// # Errors
    /// [`Miss`] as for [`ReadMapping::read`]; [`SlotReject`] names the rule that the slot breaks.
    // spec: W-8.3-5 W-8.3-6 W-10.2.1-3 W-10.2.1-4 W-10.2.1-7
    #[inline]
    pub fn read_frame<'p>(
        &self,
        seq: Seq,
        parser: &'p mut SlotParser,
    ) -> Result<Result<&'p Slot, SlotReject>, Miss> {
        // The payload's line is most likely in the producer's cache, and most likely in the pool of
        // the frame before: its way here begins while the slot is read.
        if let Some(pool_index) = parser.last_pool() {
            self.prefetch_payload(seq, pool_index);
        }
        // Compared as it comes: what was just stored word by word could not be loaded again at once.
        let mut words = [0; HEADER_WORDS];
        let mut differences = 0;
        let last = parser.last_words();
        self.read_each(seq, |i, word| {
            words[i] = word;
            differences |= difference(last, i, word);
        })?;
        Ok(parser.parse_words(self, seq, &words, differences == 0))
    }

    /// Asks for the slot of frame `seq`, whose commit is known from elsewhere, before it is read.
    #[inline]
    pub fn prefetch_slot(&self, seq: Seq) {
        words::prefetch_to_read(&self.regions.ring, self.regions.slot_offset(seq.get()));
    }

    #[inline]
    fn prefetch_payload(&self, seq: Seq, pool_index: usize) {
        if let Some(pool) = self.regions.pools.get(pool_index)
            && let Some(offset) = self.regions.payload_offset(seq.get(), pool_index, 0)
        {
            words::prefetch_to_read(pool, offset);
        }
    }

    #[inline]
    fn read_each(&self, seq: Seq, put: impl FnMut(usize, u64)) -> Result<(), Miss> {
        let slot = self.regions.slot(seq.get());
        seqlock::read_each::<SLOT_WORDS, HEADER_WORDS>(slot, seq.get(), put)
    }

    /// Parses a snapshot and checks it against this mapping.
    ///
    /// # Errors
    /// [`SlotReject`] names the rule that the slot breaks; the frame is dropped.
    // spec: W-8.3-6 W-10.2.1-7
    #[inline]
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
    #[inline]
    pub fn is_still(&self, seq: Seq) -> bool {
        seq.get() <= MAX_SEQ
            && seqlock::is_still(self.regions.slot(seq.get()), seq.get())
            && !self.is_poisoned()
    }

    /// The payload of a parsed frame, in place. `None` only if `slot` is not of this mapping.
    // spec: W-9-1 W-10.2.1-5 W-10.2.1-6
    #[must_use]
    #[inline]
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

    /// Unmaps all pools. What is left is the ring: how many frames it got can still be seen, none can be
    /// read.
    pub fn drop_pools(&mut self) {
        self.regions.pools.clear();
    }

    /// Whether any region has lost its file.
    #[must_use]
    #[inline]
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

    /// Zeros in place of the ring look like frames that are not there yet.
    #[inline]
    fn unless_poisoned<T>(&self, look: Look<T>) -> Result<Look<T>, Poisoned> {
        if matches!(look, Look::Empty) && self.regions.ring.is_poisoned() {
            return Err(Poisoned);
        }
        Ok(look)
    }
}
