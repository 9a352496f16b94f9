//! What holds for all messages, slots, shapes and URIs, not just for chosen ones.
//!
//! Not run under Miri, where thousands of cases take too long; the other tests are.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Unstructured};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;
use tensorpool_wire::{
    BlobAssembly, Dtype, ExpectedSlot, MajorOrder, Message, MetaBlobAnnounce, MetaBlobComplete,
    PoolId, PoolStride, ProgressUnit, SCHEMA_VERSION, SLOT_LEN, Seq, ShmUri, SlotHeader, StreamId,
    Superblock, Tensor, TensorHeader, blob_chunks, crc32c,
};

fn drawn<T: for<'a> Arbitrary<'a> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    vec(any::<u8>(), 0..600).prop_map(|bytes| {
        T::arbitrary(&mut Unstructured::new(&bytes)).expect("bytes that run out are zeros")
    })
}

/// Bytes that start with the header of some message, so that what follows is really looked at.
fn bytes_behind_a_header() -> impl Strategy<Value = Vec<u8>> {
    (drawn::<Message>(), vec(any::<u8>(), 0..400)).prop_map(|(message, body)| {
        let mut bytes = message.encode();
        bytes.truncate(8);
        bytes.extend(body);
        bytes
    })
}

/// A message with some bytes changed, cut out or put in.
fn damaged_message() -> impl Strategy<Value = Vec<u8>> {
    let damage = (
        any::<Index>(),
        0..3,
        select(vec![0, 1, 4, 0x7F, 0x80, 0xFF]),
    );
    (drawn::<Message>(), vec(damage, 1..6)).prop_map(|(message, damages)| {
        let mut bytes = message.encode();
        for (at, kind, byte) in damages {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

fn assert_reads_like_its_encoding(bytes: &[u8]) {
    match Message::decode(bytes) {
        Ok(message) => {
            let encoded = message.encode();
            assert_eq!(Message::decode(&encoded), Ok(message));
            // What was taken is what would be written, but for the two spellings that are tolerated.
            assert!(encoded == bytes || Message::decode(bytes).unwrap().schema_id() == 910);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn shape() -> impl Strategy<Value = Vec<u32>> {
    vec(0u32..5, 1..5)
}

fn order() -> impl Strategy<Value = MajorOrder> {
    select(MajorOrder::KNOWN)
}

fn dtype() -> impl Strategy<Value = Dtype> {
    select(Dtype::KNOWN)
}

/// Byte offsets of all elements, in no particular order.
fn offsets(tensor: &Tensor) -> Vec<u64> {
    let axes = tensor.shape().iter().zip(tensor.strides());
    axes.fold(vec![0], |offsets, (&dim, &stride)| {
        let steps = |offset| (0..u64::from(dim)).map(move |i| offset + i * u64::from(stride));
        offsets.into_iter().flat_map(steps).collect()
    })
}

fn assert_elements_are_apart_and_inside(tensor: &Tensor) {
    let size = u64::from(tensor.dtype().size_bytes().unwrap());
    let offsets = offsets(tensor);
    let count = offsets.len();
    let bytes: BTreeSet<u64> = offsets.iter().flat_map(|&at| at..at + size).collect();
    assert_eq!(
        u64::try_from(bytes.len()).unwrap(),
        u64::try_from(count).unwrap() * size
    );
    let extent = bytes.last().map_or(0, |last| last + 1);
    assert_eq!(tensor.extent_bytes(), extent);
    assert_eq!(
        tensor.is_contiguous(),
        u64::try_from(bytes.len()).unwrap() == extent
    );
}

/// The same cases in every run; `PROPTEST_RNG_SEED` gives others, `PROPTEST_CASES` more.
fn config() -> ProptestConfig {
    let from_environment = ProptestConfig::default();
    let rng_seed = match from_environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(910),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig {
        cases: from_environment.cases.max(1_000),
        failure_persistence: None,
        rng_seed,
        ..from_environment
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn decoding_undoes_encoding(message in drawn::<Message>()) {
        let bytes = message.encode();
        prop_assert_eq!(bytes.len(), message.encoded_len());
        // Drawn values can spell an absent or known value as a number; decoded ones cannot.
        let message = Message::decode(&bytes).unwrap();
        let encoded = message.encode();
        prop_assert_eq!(&encoded, &bytes);
        prop_assert_eq!(Message::decode(&encoded), Ok(message));
    }

    #[test]
    fn a_message_stands_alone(message in drawn::<Message>(), more in vec(any::<u8>(), 1..20)) {
        let mut bytes = message.encode();
        bytes.extend(more);
        // Only text that a discovery request may leave out can follow.
        let taken = Message::decode(&bytes);
        prop_assert!(taken.is_err());
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..400)) {
        assert_reads_like_its_encoding(&bytes);
    }

    #[test]
    fn arbitrary_bodies_are_read_or_refused(bytes in bytes_behind_a_header()) {
        assert_reads_like_its_encoding(&bytes);
    }

    #[test]
    fn damaged_messages_are_read_or_refused(bytes in damaged_message()) {
        assert_reads_like_its_encoding(&bytes);
    }

    // spec: D-4.4a-1, D-4.4a-2
    #[test]
    fn other_versions_are_refused_whatever_follows(
        message in drawn::<Message>(),
        version in any::<u16>().prop_filter("another one", |&version| version != SCHEMA_VERSION),
    ) {
        let mut bytes = message.encode();
        bytes[6..8].copy_from_slice(&version.to_le_bytes());
        prop_assert_eq!(Message::decode(&bytes).unwrap_err().reason(), "unsupported_version");
    }

    #[test]
    fn superblocks_survive_encoding(superblock in drawn::<Superblock>()) {
        let bytes = superblock.encode();
        let decoded = Superblock::decode(&bytes).unwrap();
        prop_assert_eq!(decoded.encode(), bytes);
        prop_assert_eq!(Superblock::decode(&decoded.encode()), Ok(decoded));
    }

    #[test]
    fn slots_survive_encoding(slot in drawn::<SlotHeader>(), seq in 0..=Seq::MAX.get()) {
        let bytes = SlotHeader { seq: Seq(seq), ..slot }.encode();
        let decoded = SlotHeader::decode(&bytes).unwrap();
        prop_assert_eq!(decoded.seq, Seq(seq));
        prop_assert_eq!(decoded.values_len_bytes, slot.values_len_bytes);
        prop_assert_eq!(SlotHeader::decode(&decoded.encode()), Ok(decoded));
        // Apart from time and metadata version, which have two spellings for absent.
        let written = decoded.encode();
        prop_assert_eq!(&written[..22], &bytes[..22]);
        prop_assert_eq!(&written[34..], &bytes[34..]);
    }

    #[test]
    fn whatever_stands_in_a_slot_is_a_frame_inside_its_pool_or_dropped(
        tensor in drawn::<TensorHeader>(),
        plain in any::<bool>(),
        changes in vec((any::<Index>(), any::<u8>()), 0..4),
        shape in shape(),
        values_len_bytes in 0u32..5_000,
    ) {
        let tensor = if plain {
            TensorHeader::contiguous(Dtype::Uint8, MajorOrder::Row, &shape).unwrap()
        } else {
            tensor
        };
        let slot = SlotHeader {
            seq: Seq(21),
            values_len_bytes,
            payload_slot: 5,
            pool_id: PoolId(3),
            payload_offset: 0,
            timestamp_ns: None,
            meta_version: None,
            tensor,
        };
        let mut bytes = slot.encode();
        for (at, byte) in changes {
            bytes[at.index(SLOT_LEN)] = byte;
        }
        let pools = [PoolStride { pool_id: PoolId(3), stride_bytes: 4_096 }];
        let expected = ExpectedSlot { seq: Seq(21), header_nslots: 8, pools: &pools };
        match SlotHeader::decode(&bytes).and_then(|slot| slot.validate(&expected)) {
            Ok(slot) => {
                prop_assert_eq!((slot.seq, slot.payload_slot, slot.pool_index), (Seq(21), 5, 0));
                prop_assert!(slot.values_len_bytes <= 4_096);
                prop_assert!((1..=8).contains(&slot.tensor.shape().len()));
                prop_assert_eq!(slot.tensor.shape().len(), slot.tensor.strides().len());
                prop_assert!(slot.tensor.dtype().size_bytes().is_some());
                let inside = slot.tensor.extent_bytes() <= u64::from(slot.values_len_bytes);
                let may_exceed = slot.values_len_bytes == 0 || slot.tensor.dtype() == Dtype::Bit;
                prop_assert!(inside || may_exceed);
            }
            Err(reject) => prop_assert!(!reject.reason().is_empty()),
        }
    }

    // spec: W-8.2-10
    #[test]
    fn what_a_producer_writes_without_strides_a_consumer_takes(
        dtype in dtype(),
        order in order(),
        shape in shape(),
    ) {
        let header = TensorHeader::contiguous(dtype, order, &shape).unwrap();
        let size = dtype.size_bytes().unwrap();
        let len: u32 = shape.iter().product::<u32>() * size;
        let tensor = header.validate(len).unwrap();
        prop_assert_eq!(tensor.shape(), shape.as_slice());
        prop_assert!(tensor.is_contiguous());
        assert_elements_are_apart_and_inside(&tensor);
    }

    // spec: W-8.2-10
    #[test]
    fn accepted_strides_keep_elements_apart_and_inside_the_payload(
        dtype in dtype(),
        order in order(),
        axes in vec((0u32..5, 0u32..40), 1..4),
        values_len_bytes in 0u32..400,
    ) {
        let (shape, strides): (Vec<_>, Vec<_>) = axes.into_iter().unzip();
        let header = TensorHeader::contiguous(dtype, order, &shape).unwrap();
        let header = header.with_strides(&strides).unwrap();
        if let Ok(tensor) = header.validate(values_len_bytes) {
            assert_elements_are_apart_and_inside(&tensor);
        }
    }

    // spec: W-8.2-11
    #[test]
    fn progress_of_a_producer_is_taken(
        order in order(),
        shape in shape(),
        unit in select(ProgressUnit::KNOWN),
    ) {
        let header = TensorHeader::contiguous(Dtype::Float64, order, &shape).unwrap();
        match header.with_progress(unit) {
            Ok(header) => prop_assert!(header.validate(8 * 5u32.pow(4)).is_ok()),
            Err(reject) => {
                prop_assert_eq!(reject.reason(), "progress_stride");
                prop_assert_eq!((unit, shape.len()), (ProgressUnit::Columns, 1));
            }
        }
    }

    // spec: W-15.22-1, W-15.22-2, W-15.22-3
    #[test]
    fn uris_that_we_write_are_read_back(path in "/[!->@-{}~]{0,40}", hugepages in any::<bool>()) {
        let uri = ShmUri::new(&path, hugepages).unwrap();
        prop_assert_eq!(ShmUri::parse(&uri.to_string()), Ok(uri));
    }

    // spec: W-15.22-1, W-15.22-2, W-15.22-3
    #[test]
    fn any_text_is_a_uri_or_refused(
        text in prop_oneof![
            ".{0,60}",
            "shm:file\\?path=/.{0,40}",
            "shm:file\\?path=/a(\\|(path|require_hugepages|x)?=?(true|false|1)?){0,3}",
        ],
    ) {
        match ShmUri::parse(&text) {
            Ok(uri) => {
                prop_assert!(text.starts_with("shm:file?path=/"));
                prop_assert!(uri.path().starts_with('/') && !uri.path().contains('|'));
                prop_assert_eq!(ShmUri::parse(&uri.to_string()), Ok(uri));
            }
            Err(error) => prop_assert!(!error.reason().is_empty()),
        }
    }

    // spec: W-10.3.3-1
    #[test]
    fn blobs_survive_being_cut(blob in vec(any::<u8>(), 0..300), chunk_len in 1usize..50) {
        let (stream_id, meta_version) = (StreamId(1), 2);
        let total_len = u64::try_from(blob.len()).unwrap();
        let checksum = u64::from(crc32c(&blob));
        let announce = MetaBlobAnnounce { stream_id, meta_version, blob_type: 0, total_len, checksum };
        let mut assembly = BlobAssembly::new(announce, total_len).unwrap();
        for chunk in blob_chunks(stream_id, meta_version, &blob, chunk_len) {
            assembly = assembly.push(&chunk).unwrap();
        }
        let complete = MetaBlobComplete { stream_id, meta_version, checksum };
        prop_assert_eq!(assembly.finish(&complete), Ok(blob));
    }
}
