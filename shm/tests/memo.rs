//! A memo returns what the function itself returns, whatever came before.

mod harness;

use harness::{EPOCH, STREAM, header, stream};
use proptest::prelude::*;
use tensorpool_shm::{FrameMark, HeaderEncoder, SlotParser, Snapshot};
use tensorpool_wire::{
    Dtype, MajorOrder, MonoNanos, PoolId, ProgressUnit, Seq, SlotHeader, TensorHeader,
};

const NSLOTS: u32 = 4;

/// Sequence number, whether it lies in the second pool, words of payload, and bytes changed by place.
type Slot = (u64, bool, u32, Vec<(usize, u8)>);

/// Committed slots, some with up to two bytes changed.
fn snapshots() -> impl Strategy<Value = Vec<Slot>> {
    let change = (
        0..256_usize,
        prop_oneof![Just(0), Just(1), Just(255), any::<u8>()],
    );
    let changes = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(change, 1..3)];
    prop::collection::vec((0..64_u64, any::<bool>(), 0..3_u32, changes), 1..40)
}

fn headers() -> impl Strategy<Value = Vec<SlotHeader>> {
    let header = (
        0..1_000_u64,
        0..4_u32,
        1..3_u16,
        any::<Option<u16>>(),
        0..3_u32,
        1..4_u32,
    );
    let header = header.prop_map(|(seq, payload_slot, pool, time, meta, dim)| SlotHeader {
        seq: Seq(seq),
        values_len_bytes: dim * 4,
        payload_slot,
        pool_id: PoolId(pool),
        payload_offset: 0,
        timestamp_ns: time.map(|time| MonoNanos(u64::from(time) + 1)),
        meta_version: (meta > 0).then_some(meta),
        tensor: TensorHeader {
            progress_unit: ProgressUnit::None,
            ..TensorHeader::contiguous(Dtype::Int32, MajorOrder::Row, &[dim]).expect("a shape")
        },
    });
    prop::collection::vec(header, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // spec: W-8.3-6 W-10.2.1-7 W-15.5-1
    #[test]
    fn a_remembered_parse_is_the_parse(snapshots in snapshots()) {
        let base = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let s = stream(base.path(), NSLOTS, &[64, 128]);
        let layout = s.reader.layout();
        let mut parser = SlotParser::default();
        for (seq, second_pool, words, changes) in snapshots {
            let mut bytes = header(layout, seq, usize::from(second_pool), words * 8);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let snapshot = Snapshot { seq: Seq(seq), bytes };
            prop_assert_eq!(parser.parse(&s.reader, &snapshot), s.reader.parse(&snapshot));
        }
    }

    // spec: W-8.3-3
    #[test]
    fn a_remembered_encoding_is_the_encoding(headers in headers()) {
        let mut encoder = HeaderEncoder::default();
        for header in headers {
            encoder.take_shape(&header.tensor, header.values_len_bytes, header.pool_id);
            let frame = FrameMark {
                seq: header.seq,
                payload_slot: header.payload_slot,
                timestamp_ns: header.timestamp_ns,
                meta_version: header.meta_version,
            };
            prop_assert_eq!(encoder.encode(&frame), header.encode());
        }
    }
}

#[test]
fn a_parse_is_not_remembered_for_another_epoch() {
    let (base, other_base) = (tempfile::tempdir(), tempfile::tempdir());
    let (base, other_base) = (base.expect("a directory"), other_base.expect("a directory"));
    let s = stream(base.path(), NSLOTS, &[64, 128]);
    let store = harness::store(other_base.path());
    // The same pool ids at other places.
    let pools = [128, 64].map(|stride_bytes| tensorpool_wire::PoolStride {
        pool_id: PoolId(if stride_bytes == 64 { 1 } else { 2 }),
        stride_bytes,
    });
    let other = tensorpool_wire::Epoch(EPOCH.get() + 1);
    let layout = tensorpool_shm::StreamLayout::new(STREAM, other, NSLOTS, pools.to_vec());
    let other = store
        .create(layout.expect("a layout"), harness::CREATOR)
        .expect("an epoch");
    let other = harness::map_reader(other_base.path(), &other);
    let mut parser = SlotParser::default();
    let snapshot = Snapshot {
        seq: Seq(0),
        bytes: header(s.reader.layout(), 0, 0, 8),
    };
    let first = parser.parse(&s.reader, &snapshot).expect("a valid slot");
    let second = parser.parse(&other, &snapshot).expect("a valid slot");
    assert_eq!((first.pool_index, second.pool_index), (0, 1));
}

// spec: W-8.3-3
#[test]
fn a_header_of_another_shape_than_the_claims_is_stored_whole() {
    let base = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let mut s = stream(base.path(), 1, &[64]);
    let claimed = TensorHeader::contiguous(Dtype::Int32, MajorOrder::Row, &[2]).expect("a shape");
    let mut encoder = HeaderEncoder::default();
    encoder.take_shape(&claimed, 8, PoolId(1));
    let frame = FrameMark {
        seq: Seq(0),
        payload_slot: 0,
        timestamp_ns: None,
        meta_version: None,
    };
    let slot = s.writer.claim(Seq(0), 0, &encoder).expect("a claim");
    let _ = slot.commit_with(&mut encoder, &frame);
    // The slot holds the encoder's shape now; this header has another one.
    let other = header(s.reader.layout(), 1, 0, 16);
    let slot = s.writer.claim(Seq(1), 0, &encoder).expect("a claim");
    let _ = slot.commit(&other);
    let read = s.reader.read(Seq(1)).expect("frame 1");
    assert_eq!(read.bytes[..147], other[..147]);
}
