//! What each fuzz target holds its input to. The tests of the crate replay the corpus through the same
//! functions (`wire/tests/corpus`).
//!
//! Run one with `cargo +nightly fuzz run <target> <scratch dir> fuzz/corpus/<target>` in `wire`: what is
//! found goes to the scratch directory.

use arbitrary::{Arbitrary, Unstructured};
use tensorpool_wire::{
    BlobAssembly, Dtype, Epoch, ExpectedKind, ExpectedRegion, ExpectedSlot, Message,
    MetaBlobAnnounce, MetaBlobChunk, MetaBlobComplete, PoolId, PoolStride, SLOT_LEN,
    SUPERBLOCK_LEN, Seq, ShmUri, SlotHeader, StreamId, Superblock,
};

/// Any bytes as a whole message.
pub fn message(data: &[u8]) {
    let message = match Message::decode(data) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let encoded = message.encode();
    assert_eq!(encoded.len(), message.encoded_len());
    // Only discovery has a second spelling: block length 4 for tags, and texts left out at the end.
    assert!(encoded == data || message.schema_id() == 910);
    assert_eq!(Message::decode(&encoded), Ok(message));
}

/// Any bytes behind the header of a discovery message: a request if the first byte is even.
pub fn discovery(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    let (block_length, template): (u16, u16) = if kind % 2 == 0 { (32, 1) } else { (9, 2) };
    let mut bytes = Vec::with_capacity(8 + body.len());
    for part in [block_length, template, 910, 1] {
        bytes.extend(part.to_le_bytes());
    }
    bytes.extend(body);
    message(&bytes);
}

/// Any 256 bytes as a slot. What is taken lies inside its pool.
pub fn slot(data: &[u8]) {
    let mut bytes = [0; SLOT_LEN];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    let Ok(header) = SlotHeader::decode(&bytes) else {
        return;
    };
    assert!(header.seq <= Seq::MAX);
    // Dimensions beyond `ndims` are ignored, and written as zeros.
    let written = header.encode();
    let again = SlotHeader::decode(&written).expect("what is written is read");
    assert_eq!(again.encode(), written);
    assert_eq!(again.tensor.validate(0), header.tensor.validate(0));
    let pools = [64, 4_096, 1 << 20].map(|stride_bytes| PoolStride {
        pool_id: PoolId(if stride_bytes == 1 << 20 { 1 } else { 2 }),
        stride_bytes,
    });
    let expected = ExpectedSlot {
        seq: header.seq,
        header_nslots: 64,
        pools: &pools,
    };
    let Ok(slot) = header.validate(&expected) else {
        return;
    };
    assert_eq!(u64::from(slot.payload_slot), slot.seq.get() % 64);
    let pool = pools[slot.pool_index];
    assert_eq!(pool.pool_id, slot.pool_id);
    assert!(slot.values_len_bytes <= pool.stride_bytes);
    assert!((1..=8).contains(&slot.tensor.shape().len()));
    let inside = slot.tensor.extent_bytes() <= u64::from(slot.values_len_bytes);
    assert!(inside || slot.values_len_bytes == 0 || slot.tensor.dtype() == Dtype::Bit);
}

/// Any 64 bytes as a superblock, matched against what they say themselves.
pub fn superblock(data: &[u8]) {
    let mut bytes = [0; SUPERBLOCK_LEN];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    let Ok(superblock) = Superblock::decode(&bytes) else {
        return;
    };
    assert_eq!(superblock.encode(), bytes);
    for kind in [
        ExpectedKind::HeaderRing,
        ExpectedKind::Pool {
            pool_id: superblock.pool_id,
            stride_bytes: superblock.stride_bytes,
        },
    ] {
        let expected = ExpectedRegion {
            layout_version: 1,
            epoch: superblock.epoch,
            stream_id: superblock.stream_id,
            header_nslots: superblock.nslots,
            kind,
        };
        if superblock.matches(&expected).is_ok() {
            assert!(superblock.nslots.is_power_of_two());
            let other = ExpectedRegion {
                epoch: Epoch(superblock.epoch.get() ^ 1),
                ..expected
            };
            assert!(superblock.matches(&other).is_err());
        }
    }
}

/// Any text as a URI. What is taken is written and read back.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(uri) = ShmUri::parse(text) else {
        return;
    };
    assert!(text.starts_with("shm:file?path=/"));
    assert!(uri.path().starts_with('/'));
    assert!(!uri.path().contains(['|', '\0']));
    assert_eq!(ShmUri::parse(&uri.to_string()), Ok(uri));
}

/// Chunks in any order. A blob that comes out is all of them, one after the other.
pub fn blob(data: &[u8]) {
    let Ok(steps) = Vec::<(u8, Vec<u8>)>::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let (stream_id, meta_version) = (StreamId(1), 1);
    let total_len = u64::from(data.first().copied().unwrap_or_default() / 4);
    let announce = MetaBlobAnnounce {
        stream_id,
        meta_version,
        blob_type: 0,
        total_len,
        checksum: 0,
    };
    let mut assembly = BlobAssembly::new(announce, 1 << 20).expect("it is short");
    let mut whole = Vec::new();
    for (offset, bytes) in steps {
        whole.extend_from_slice(&bytes);
        let chunk = MetaBlobChunk {
            stream_id,
            meta_version,
            chunk_offset: u64::from(offset),
            bytes,
        };
        match assembly.push(&chunk) {
            Ok(next) => assembly = next,
            Err(_) => return,
        }
    }
    let complete = MetaBlobComplete {
        stream_id,
        meta_version,
        checksum: 0,
    };
    if let Ok(blob) = assembly.finish(&complete) {
        assert_eq!(blob, whole);
        assert_eq!(u64::try_from(blob.len()), Ok(total_len));
    }
}
