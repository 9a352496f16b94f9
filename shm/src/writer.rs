//! The producer's end of a mapping: begin a slot, write its payload, commit it.

use std::sync::Arc;

use tensorpool_wire::{MonoNanos, Seq};

use crate::error::{BeginError, MapError, Poisoned};
use crate::layout::StreamLayout;
use crate::mapping::{RegionSource, Regions};
use crate::memo::{FrameMark, HeaderEncoder};
use crate::pool::PayloadMut;
use crate::region::{Access, MapOptions, Region};
use crate::seqlock::{self, MAX_SEQ, Slots};
use crate::superblock;
use crate::sync::AtomicU64;
use crate::words::{self, SLOT_WORDS};

/// The producer's end: every region writable. There is one writer, so writing takes `&mut self`.
#[derive(Debug)]
pub struct WriteMapping {
    regions: Arc<Regions>,
}

/// A frame that readers can see. Dropping it is all right; consumers that sleep then find the frame
/// when their nap is over.
#[derive(Debug)]
pub struct Committed<'a> {
    pub(crate) mark: &'a AtomicU64,
}

/// Keeps a stream's activity word fresh from another thread than the one that writes frames.
#[derive(Clone, Debug)]
pub struct Activity {
    regions: Arc<Regions>,
}

/// A frame being written: not committed. One at a time:
///
/// ```compile_fail,E0499
/// # use tensorpool_wire::Seq;
/// fn misuse(mut writer: tensorpool_shm::WriteMapping) {
///     let first = writer.begin(Seq(0), 0);
///     let second = writer.begin(Seq(1), 0);
///     drop(first);
/// }
/// ```
///
/// Dropping it leaves the slot in progress; the number
/// may then be begun again (docs/extensions.md, "Holes").
#[derive(Debug)]
#[must_use = "a frame that is not committed is never seen"]
pub struct SlotWrite<'a> {
    slot: &'a [AtomicU64; SLOT_WORDS],
    seq: u64,
    /// Whether the slot is marked as being written.
    is_open: bool,
    /// Whether all words behind the first cache line are there already.
    has_shape: bool,
    payload: PayloadMut<'a>,
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
    #[inline]
    pub fn begin(&mut self, seq: Seq, pool_index: usize) -> Result<SlotWrite<'_>, BeginError> {
        let mut slot = self.slot(seq, pool_index)?;
        slot.open();
        Ok(slot)
    }

    /// Like `begin`, for a frame of the shape that the encoder took last; the slot is begun when its
    /// payload is first asked for, or by the commit. A reader that watches the slot takes its cache
    /// line away between begin and commit, so in a short frame the two should lie close together.
    ///
    /// # Errors
    /// As for [`WriteMapping::begin`].
    // spec: W-8.3-2 W-15.4-1
    #[inline]
    pub fn claim(
        &mut self,
        seq: Seq,
        pool_index: usize,
        encoder: &HeaderEncoder,
    ) -> Result<SlotWrite<'_>, BeginError> {
        let mut slot = self.slot(seq, pool_index)?;
        slot.has_shape = seqlock::has_rest(slot.slot, encoder.last_words());
        Ok(slot)
    }

    #[inline]
    fn slot(&mut self, seq: Seq, pool_index: usize) -> Result<SlotWrite<'_>, BeginError> {
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
        let len = usize::try_from(stride).map_err(|_| no_such_pool)?;
        Ok(SlotWrite {
            slot: regions.slot(seq.get()),
            seq: seq.get(),
            is_open: false,
            has_shape: false,
            payload: PayloadMut::new(pool, offset, len),
        })
    }

    /// Asks for the first line of frame `seq`'s payload, so that it is this core's by the time that it
    /// is written. A hint, worth the time of one cache miss in a short frame.
    #[inline]
    pub fn prefetch_payload(&self, seq: Seq, pool_index: usize) {
        let regions = &*self.regions;
        if let Some(pool) = regions.pools.get(pool_index)
            && let Some(offset) = regions.payload_offset(seq.get(), pool_index, 0)
        {
            words::prefetch_to_write(pool, offset);
        }
    }

    /// Asks for the line of frame `seq`'s slot that changes. Only where no reader watches the slot:
    /// one that does takes the line away again before it is written.
    #[inline]
    pub fn prefetch_slot(&self, seq: Seq) {
        let regions = &*self.regions;
        words::prefetch_to_write(&regions.ring, regions.slot_offset(seq.get()));
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

    /// The whole payload slot, `stride_bytes` long. From here on no reader takes the slot's former
    /// frame.
    // spec: W-8.3-2
    #[inline]
    pub fn payload(&mut self) -> &mut PayloadMut<'a> {
        self.open();
        &mut self.payload
    }

    // spec: W-8.3-2
    #[inline]
    fn open(&mut self) {
        if !self.is_open {
            seqlock::begin(self.slot, self.seq);
            self.is_open = true;
        }
    }

    /// Gives the frame up: the same as dropping it.
    pub fn abandon(self) {}

    /// Writes the slot header and commits the frame. The first eight bytes of `header` are ignored:
    /// `seq_commit` is written last, with release.
    // spec: W-8.3-3 W-8.3-4
    #[inline]
    pub fn commit(mut self, header: &[u8; 256]) -> Committed<'a> {
        // The claim compared the slot with its encoder's shape, which need not be this header's.
        self.has_shape = false;
        let mut words = [0; SLOT_WORDS];
        for (word, bytes) in words.iter_mut().zip(header.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.commit_words(&words)
    }

    /// `commit` of a header that was encoded as words.
    #[inline]
    fn commit_words(mut self, header: &[u64; SLOT_WORDS]) -> Committed<'a> {
        self.open();
        if self.has_shape {
            seqlock::write_first(self.slot, header);
        } else {
            seqlock::write_words(self.slot, header);
        }
        seqlock::commit(self.slot, self.seq);
        Committed {
            mark: &self.slot[0],
        }
    }

    /// `commit` of a frame of the shape that the encoder took before the claim.
    // spec: W-8.3-3 W-8.3-4
    #[inline]
    pub fn commit_with(self, encoder: &mut HeaderEncoder, frame: &FrameMark) -> Committed<'a> {
        self.commit_words(encoder.words(frame))
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
