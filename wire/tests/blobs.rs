//! Metadata blobs are whole or nothing.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tensorpool_wire::{
    BlobAssembly, BlobReject, MetaBlobAnnounce, MetaBlobChunk, MetaBlobComplete, StreamId,
    blob_chunks, crc32c,
};

const STREAM: StreamId = StreamId(10_000);
const VERSION: u32 = 3;
const BLOB: &[u8] = b"intrinsics and extrinsics";

fn announce(checksum: u64) -> MetaBlobAnnounce {
    MetaBlobAnnounce {
        stream_id: STREAM,
        meta_version: VERSION,
        blob_type: 1,
        total_len: 25,
        checksum,
    }
}

fn complete(checksum: u64) -> MetaBlobComplete {
    MetaBlobComplete {
        stream_id: STREAM,
        meta_version: VERSION,
        checksum,
    }
}

fn chunk(chunk_offset: u64, bytes: &[u8]) -> MetaBlobChunk {
    MetaBlobChunk {
        stream_id: STREAM,
        meta_version: VERSION,
        chunk_offset,
        bytes: bytes.to_vec(),
    }
}

fn started() -> BlobAssembly {
    BlobAssembly::new(announce(0), 1_000)
        .unwrap()
        .push(&chunk(0, &BLOB[..10]))
        .unwrap()
}

// spec: W-10.3.3-1
#[test]
fn chunks_of_any_length_make_the_blob_again() {
    for chunk_len in [0, 1, 7, 24, 25, 26, 1_000] {
        let mut assembly = BlobAssembly::new(announce(0), 25).unwrap();
        for chunk in blob_chunks(STREAM, VERSION, BLOB, chunk_len) {
            assert!(chunk.bytes.len() <= chunk_len.max(1));
            assembly = assembly.push(&chunk).unwrap();
        }
        assert_eq!(assembly.finish(&complete(0)), Ok(BLOB.to_vec()));
    }
}

// spec: W-10.3.3-1
#[test]
fn gaps_overlaps_and_repetitions_throw_the_blob_away() {
    for (found, name) in [(11, "a gap"), (9, "an overlap"), (0, "a repetition")] {
        let pushed = started().push(&chunk(found, &BLOB[10..]));
        assert_eq!(
            pushed,
            Err(BlobReject::Offset {
                expected: 10,
                found
            }),
            "{name}"
        );
    }
    assert_eq!(
        started().push(&chunk(10, b"")),
        Err(BlobReject::EmptyChunk { offset: 10 })
    );
}

// spec: W-10.3.3-1
#[test]
fn chunks_must_end_where_the_blob_does() {
    let short = started().finish(&complete(0));
    assert_eq!(
        short,
        Err(BlobReject::Length {
            total_len: 25,
            found: 10
        })
    );
    let long = started().push(&chunk(10, &[0; 16]));
    assert_eq!(
        long,
        Err(BlobReject::Length {
            total_len: 25,
            found: 26
        })
    );
}

// spec: W-10.3.3-1, W-10.3.3-2
#[test]
fn a_checksum_that_is_given_must_be_right() {
    let right = u64::from(crc32c(BLOB));
    let whole = |announced| {
        let assembly = BlobAssembly::new(announce(announced), 25).unwrap();
        assembly.push(&chunk(0, BLOB)).unwrap()
    };
    for (announced, completed) in [(0, 0), (right, 0), (0, right), (right, right)] {
        assert_eq!(
            whole(announced).finish(&complete(completed)),
            Ok(BLOB.to_vec())
        );
    }
    let wrong = right ^ 1 << 40;
    for (announced, completed) in [(wrong, right), (right, wrong), (0, wrong)] {
        let reject = whole(announced).finish(&complete(completed)).unwrap_err();
        let expected = BlobReject::Checksum {
            expected: wrong,
            found: right,
        };
        assert_eq!(reject, expected);
    }
}

#[test]
fn parts_of_another_blob_are_not_mixed_in() {
    let other = MetaBlobChunk {
        meta_version: 4,
        ..chunk(10, &BLOB[10..])
    };
    let expected = BlobReject::OtherBlob {
        stream_id: STREAM,
        meta_version: 4,
    };
    assert_eq!(started().push(&other), Err(expected));
    let stream_id = StreamId(1);
    let other = MetaBlobComplete {
        stream_id,
        ..complete(0)
    };
    let expected = BlobReject::OtherBlob {
        stream_id,
        meta_version: VERSION,
    };
    assert_eq!(started().finish(&other), Err(expected));
}

#[test]
fn a_blob_longer_than_the_reader_takes_is_refused_at_its_announce() {
    let refused = BlobAssembly::new(announce(0), 24);
    assert_eq!(
        refused,
        Err(BlobReject::TooLong {
            total_len: 25,
            max_len: 24
        })
    );
}

// spec: W-10.3.3-2
#[test]
fn the_checksum_is_crc_32c() {
    assert_eq!(crc32c(b""), 0);
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
}
