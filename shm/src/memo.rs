//! The same shape again: slot headers parsed and encoded without doing all of it anew.
//!
//! Frames of one stream differ in number, slot and time, hardly ever in shape. Both memos are plain
//! functions of their arguments that happen to remember their last result; they compare everything
//! that the result depends on and are never a guess about memory. (What a *slot* holds is another
//! matter: it is one lap old, and only comparing it with itself tells. See `seqlock::write_words`.)
//!
//! Both work on the slot's little-endian words. Byte 12 of the slot, the payload slot, is the upper
//! half of word 1; bytes 22 to 29, the time of capture, are the top of word 2 and most of word 3.

use tensorpool_wire::{
    Epoch, MonoNanos, PoolId, Seq, Slot, SlotHeader, SlotReject, StreamId, TensorHeader,
};

use crate::reader::{HEADER_WORDS, ReadMapping, Snapshot};
use crate::seqlock::committed;
use crate::words::SLOT_WORDS;

/// Which bits of the slot's words are the shape: all that mean something, but for the number, the
/// payload slot and the time of capture. What lies behind byte 147 is pad.
const SHAPE: [u64; HEADER_WORDS] = {
    let mut mask = [u64::MAX; HEADER_WORDS];
    mask[0] = 0;
    mask[1] = 0x0000_0000_ffff_ffff;
    mask[2] = 0x0000_ffff_ffff_ffff;
    mask[3] = 0xffff_0000_0000_0000;
    mask[18] = 0x0000_0000_00ff_ffff;
    mask
};

/// Parses the slots of one mapping. Remembers the last one that was valid.
#[derive(Clone, Debug, Default)]
pub struct SlotParser {
    last: Option<Parsed>,
}

#[derive(Clone, Debug)]
struct Parsed {
    stream: (StreamId, Epoch),
    words: [u64; HEADER_WORDS],
    slot: Slot,
}

/// Encodes slot headers. Remembers the last shape.
#[derive(Clone, Debug)]
pub struct HeaderEncoder {
    /// `None` before the first one.
    shape: Option<Shape>,
    words: [u64; SLOT_WORDS],
}

/// What the frames of a stream hardly ever differ in.
#[derive(Clone, Debug)]
struct Shape {
    tensor: TensorHeader,
    values_len_bytes: u32,
    pool_id: PoolId,
}

/// What is different in each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMark {
    /// The frame.
    pub seq: Seq,
    /// Slot of the pool that holds the payload.
    pub payload_slot: u32,
    /// When it was captured.
    pub timestamp_ns: Option<MonoNanos>,
    /// Version of the metadata that describes it.
    pub meta_version: Option<u32>,
}

// === impl SlotParser ===

impl SlotParser {
    /// What [`ReadMapping::parse`] returns for the same arguments.
    ///
    /// # Errors
    /// [`SlotReject`] names the rule that the slot breaks; the frame is dropped.
    // spec: W-8.3-6 W-10.2.1-7
    #[inline]
    pub fn parse(
        &mut self,
        mapping: &ReadMapping,
        snapshot: &Snapshot,
    ) -> Result<Slot, SlotReject> {
        let words = snapshot.words();
        let last = self.last_words();
        let compared = words.iter().enumerate();
        let differences = compared.fold(0, |seen, (i, word)| seen | difference(last, i, *word));
        self.parse_words(mapping, snapshot.seq, &words, differences == 0)
            .copied()
    }

    /// The pool of the frame before.
    #[inline]
    pub(crate) fn last_pool(&self) -> Option<usize> {
        self.last().map(|slot| slot.pool_index)
    }

    /// The slot that was parsed last.
    #[must_use]
    #[inline]
    pub fn last(&self) -> Option<&Slot> {
        self.last.as_ref().map(|last| &last.slot)
    }

    /// The words of that slot; zeros before the first.
    #[inline]
    pub(crate) fn last_words(&self) -> &[u64; HEADER_WORDS] {
        self.last
            .as_ref()
            .map_or(&[0; HEADER_WORDS], |last| &last.words)
    }

    /// `is_same_shape` says that no word has a [`difference`] to the last ones.
    // spec: W-8.3-6 W-10.2.1-7
    #[inline]
    pub(crate) fn parse_words(
        &mut self,
        mapping: &ReadMapping,
        seq: Seq,
        words: &[u64; HEADER_WORDS],
        is_same_shape: bool,
    ) -> Result<&Slot, SlotReject> {
        let layout = mapping.layout();
        let index = seq.index(layout.nslots());
        let is_known = is_same_shape
            && words[0] == committed(seq.get())
            && words[1] >> 32 == u64::from(index)
            && self.last.as_ref().is_some_and(|last| {
                last.stream.0 == layout.stream_id() && last.stream.1 == layout.epoch()
            });
        if !is_known {
            self.parse_anew(mapping, seq, words)?;
        }
        let last = self.last.as_mut().expect("known, or parsed just now");
        last.slot.seq = seq;
        last.slot.payload_slot = index;
        last.slot.timestamp_ns = match words[2] >> 48 | words[3] << 16 {
            0 | u64::MAX => None,
            nanos => Some(MonoNanos(nanos)),
        };
        Ok(&last.slot)
    }

    #[cold]
    fn parse_anew(
        &mut self,
        mapping: &ReadMapping,
        seq: Seq,
        words: &[u64; HEADER_WORDS],
    ) -> Result<(), SlotReject> {
        let slot = mapping.parse(&Snapshot::new(seq, words))?;
        self.last = Some(Parsed {
            stream: (mapping.layout().stream_id(), mapping.layout().epoch()),
            words: *words,
            slot,
        });
        Ok(())
    }
}

// === impl HeaderEncoder ===

impl Default for HeaderEncoder {
    fn default() -> Self {
        Self {
            shape: None,
            words: [0; SLOT_WORDS],
        }
    }
}

impl HeaderEncoder {
    /// The next frames mean this, have so many bytes, and lie in this pool.
    // spec: W-8.3-3 W-8.2-1
    #[inline]
    pub fn take_shape(&mut self, tensor: &TensorHeader, values_len_bytes: u32, pool_id: PoolId) {
        let is_known = self.shape.as_ref().is_some_and(|last| {
            last.values_len_bytes == values_len_bytes
                && last.pool_id == pool_id
                && last.tensor == *tensor
        });
        if !is_known {
            self.encode_shape(Shape {
                tensor: *tensor,
                values_len_bytes,
                pool_id,
            });
        }
    }

    #[cold]
    fn encode_shape(&mut self, shape: Shape) {
        let header = SlotHeader {
            seq: Seq(0),
            values_len_bytes: shape.values_len_bytes,
            payload_slot: 0,
            pool_id: shape.pool_id,
            payload_offset: 0,
            timestamp_ns: None,
            meta_version: None,
            tensor: shape.tensor,
        };
        for (word, bytes) in self.words.iter_mut().zip(header.encode().as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.shape = Some(shape);
    }

    /// The words as they were encoded last.
    #[inline]
    pub(crate) const fn last_words(&self) -> &[u64; SLOT_WORDS] {
        &self.words
    }

    /// The slot of one frame of the shape that was taken last: [`SlotHeader::encode`] as little-endian
    /// words.
    // spec: W-8.3-3 W-8.2-1
    #[inline]
    pub(crate) fn words(&mut self, frame: &FrameMark) -> &[u64; SLOT_WORDS] {
        let nanos = frame.timestamp_ns.map_or(u64::MAX, MonoNanos::get);
        let meta = u64::from(frame.meta_version.unwrap_or(u32::MAX));
        let words = &mut self.words;
        words[0] = frame.seq.committed_word();
        words[1] = words[1] & SHAPE[1] | u64::from(frame.payload_slot) << 32;
        words[2] = words[2] & SHAPE[2] | nanos << 48;
        // Bytes 30 to 33 are the version: the top of word 3 and the bottom of word 4.
        words[3] = nanos >> 16 | meta << 48;
        words[4] = words[4] & !0xffff | meta >> 16;
        words
    }

    /// What [`SlotHeader::encode`] returns for a frame of the shape that was taken last.
    #[must_use]
    pub fn encode(&mut self, frame: &FrameMark) -> [u8; 256] {
        let mut bytes = [0; 256];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.words(frame)) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }
}

/// In which bits of the shape word `i` differs from the last one.
#[inline]
pub(crate) const fn difference(last: &[u64; HEADER_WORDS], i: usize, word: u64) -> u64 {
    (word ^ last[i]) & SHAPE[i]
}
