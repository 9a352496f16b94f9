//! The same shape again: slot headers parsed and encoded without doing all of it anew.
//!
//! Frames of one stream differ in number, slot and time, hardly ever in shape. Both memos are plain
//! functions of their arguments that happen to remember their last result; they compare everything
//! that the result depends on and are never a guess about memory. (What a *slot* holds is another
//! matter: it is one lap old, and only comparing it with itself tells. See `seqlock::write_words`.)
//!
//! Both work on the slot's little-endian words. Byte 12 of the slot, the payload slot, is the upper
//! half of word 1; bytes 22 to 29, the time of capture, are the top of word 2 and most of word 3.

use tensorpool_wire::{Epoch, MonoNanos, Seq, Slot, SlotHeader, SlotReject, StreamId};

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

/// Encodes slot headers. Remembers the last one.
#[derive(Clone, Debug, Default)]
pub struct HeaderEncoder {
    last: Option<(SlotHeader, [u64; SLOT_WORDS])>,
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
        self.parse_words(mapping, snapshot.seq, &snapshot.words())
            .copied()
    }

    /// The pool of the frame before.
    #[inline]
    pub(crate) fn last_pool(&self) -> Option<usize> {
        self.last.as_ref().map(|last| last.slot.pool_index)
    }

    // spec: W-8.3-6 W-10.2.1-7
    #[inline]
    pub(crate) fn parse_words(
        &mut self,
        mapping: &ReadMapping,
        seq: Seq,
        words: &[u64; HEADER_WORDS],
    ) -> Result<&Slot, SlotReject> {
        let index = seq.index(mapping.layout().nslots());
        let stream = (mapping.layout().stream_id(), mapping.layout().epoch());
        let is_known = self.last.as_ref().is_some_and(|last| {
            last.stream == stream
                && is_same_shape(&last.words, words)
                && words[0] == committed(seq.get())
                && words[1] >> 32 == u64::from(index)
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

impl HeaderEncoder {
    /// What [`SlotHeader::encode`] returns for the same header.
    #[must_use]
    pub fn encode(&mut self, header: &SlotHeader) -> [u8; 256] {
        let mut bytes = [0; 256];
        for (bytes, word) in bytes
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(self.words(header).iter())
        {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// [`SlotHeader::encode`] as little-endian words.
    #[inline]
    pub(crate) fn words(&mut self, header: &SlotHeader) -> &[u64; SLOT_WORDS] {
        let SlotHeader {
            seq,
            payload_slot,
            timestamp_ns,
            ..
        } = *header;
        let is_known = self.last.as_ref().is_some_and(|(last, _)| {
            *last
                == SlotHeader {
                    seq: last.seq,
                    payload_slot: last.payload_slot,
                    timestamp_ns: last.timestamp_ns,
                    ..*header
                }
        });
        if !is_known {
            self.last = Some((*header, words_of(header)));
        }
        let (_, words) = self.last.as_mut().expect("known, or encoded just now");
        let nanos = timestamp_ns.map_or(u64::MAX, MonoNanos::get);
        words[0] = seq.committed_word();
        words[1] = words[1] & SHAPE[1] | u64::from(payload_slot) << 32;
        words[2] = words[2] & SHAPE[2] | nanos << 48;
        words[3] = words[3] & SHAPE[3] | nanos >> 16;
        words
    }
}

fn words_of(header: &SlotHeader) -> [u64; SLOT_WORDS] {
    let mut words = [0; SLOT_WORDS];
    for (word, bytes) in words.iter_mut().zip(header.encode().as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Whether two slots are equal but for number, slot and time.
#[inline]
fn is_same_shape(a: &[u64; HEADER_WORDS], b: &[u64; HEADER_WORDS]) -> bool {
    let differences = a.iter().zip(b).zip(&SHAPE);
    differences.fold(0, |seen, ((a, b), mask)| seen | (a ^ b) & mask) == 0
}
