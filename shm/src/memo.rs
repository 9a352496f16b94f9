//! The same shape again: slot headers parsed and encoded without doing all of it anew.
//!
//! Frames of one stream differ in number, slot and time, hardly ever in shape. Both memos are plain
//! functions of their arguments that happen to remember their last result; they compare everything
//! that the result depends on and are never a guess about memory. (What a *slot* holds is another
//! matter: it is one lap old, and only comparing it with itself tells. See `seqlock::write_words`.)

use tensorpool_wire::{Epoch, MonoNanos, Slot, SlotHeader, SlotReject, StreamId};

use crate::reader::{ReadMapping, Snapshot};

/// Bytes of a slot that change with every frame: the number, the slot, the time of capture.
const SEQ: std::ops::Range<usize> = 0..8;
const PAYLOAD_SLOT: std::ops::Range<usize> = 12..16;
const TIMESTAMP: std::ops::Range<usize> = 22..30;
/// All other bytes that mean something: the rest from 147 on is pad.
const SHAPE: [std::ops::Range<usize>; 3] = [8..12, 16..22, 30..147];

/// Parses the slots of one mapping. Remembers the last one that was valid.
#[derive(Clone, Debug, Default)]
pub struct SlotParser {
    last: Option<Parsed>,
}

#[derive(Clone, Debug)]
struct Parsed {
    stream: (StreamId, Epoch),
    bytes: [u8; 256],
    slot: Slot,
}

/// Encodes slot headers. Remembers the last one.
#[derive(Clone, Debug, Default)]
pub struct HeaderEncoder {
    last: Option<(SlotHeader, [u8; 256])>,
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
        let index = snapshot.seq.index(mapping.layout().nslots());
        let stream = (mapping.layout().stream_id(), mapping.layout().epoch());
        if let Some(last) = &self.last
            && last.stream == stream
            && is_same_shape(&last.bytes, &snapshot.bytes)
            && snapshot.bytes[SEQ] == snapshot.seq.committed_word().to_le_bytes()
            && snapshot.bytes[PAYLOAD_SLOT] == index.to_le_bytes()
        {
            let mut nanos = [0; 8];
            nanos.copy_from_slice(&snapshot.bytes[TIMESTAMP]);
            return Ok(Slot {
                seq: snapshot.seq,
                payload_slot: index,
                timestamp_ns: match u64::from_le_bytes(nanos) {
                    0 | u64::MAX => None,
                    nanos => Some(MonoNanos(nanos)),
                },
                ..last.slot
            });
        }
        let slot = mapping.parse(snapshot)?;
        let bytes = snapshot.bytes;
        self.last = Some(Parsed {
            stream,
            bytes,
            slot,
        });
        Ok(slot)
    }
}

// === impl HeaderEncoder ===

impl HeaderEncoder {
    /// What [`SlotHeader::encode`] returns for the same header.
    #[inline]
    pub fn encode(&mut self, header: &SlotHeader) -> &[u8; 256] {
        let (last, bytes) = self.last.get_or_insert_with(|| (*header, header.encode()));
        let SlotHeader {
            seq,
            payload_slot,
            timestamp_ns,
            ..
        } = *header;
        if *last
            != (SlotHeader {
                seq: last.seq,
                payload_slot: last.payload_slot,
                timestamp_ns: last.timestamp_ns,
                ..*header
            })
        {
            (*last, *bytes) = (*header, header.encode());
        }
        bytes[SEQ].copy_from_slice(&seq.committed_word().to_le_bytes());
        bytes[PAYLOAD_SLOT].copy_from_slice(&payload_slot.to_le_bytes());
        let nanos = timestamp_ns.map_or(u64::MAX, MonoNanos::get);
        bytes[TIMESTAMP].copy_from_slice(&nanos.to_le_bytes());
        bytes
    }
}

/// Whether two slots are equal but for number, slot and time. The pad behind the shape is ignored, as
/// it is in parsing.
#[inline]
fn is_same_shape(a: &[u8; 256], b: &[u8; 256]) -> bool {
    SHAPE.iter().all(|part| a[part.clone()] == b[part.clone()])
}
