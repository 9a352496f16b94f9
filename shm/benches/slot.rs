//! One frame through mapped memory, both ends in one thread: what the code itself costs, without the
//! cache misses between two cores (`cargo xtask bench` measures those).

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tensorpool_shm::{
    AllowedBases, Creator, EpochStore, Look, MapOptions, Permissions, ReadMapping, RegionSource,
    Start, StoreOptions, StreamLayout, WriteMapping,
};
use tensorpool_wire::{
    Dtype, Epoch, MajorOrder, MonoNanos, PoolId, PoolStride, Seq, SlotHeader, StreamId,
    TensorHeader,
};

const NSLOTS: u32 = 64;

struct Stream {
    _base: tempfile::TempDir,
    writer: WriteMapping,
    reader: ReadMapping,
}

fn stream(stride_bytes: u32) -> Stream {
    let base = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
    let store = EpochStore::open(StoreOptions {
        base_dir: base.path().to_path_buf(),
        user: Some("bench".to_owned()),
        namespace: "default".to_owned(),
        permissions: Permissions::PRIVATE,
        require_hugepages: false,
        expected_page_bytes: None,
        prefault: true,
        lock: false,
    });
    let pool = PoolStride {
        pool_id: PoolId(1),
        stride_bytes,
    };
    let layout = StreamLayout::new(StreamId(1), Epoch(1), NSLOTS, vec![pool]).expect("a layout");
    let creator = Creator {
        pid: 1,
        start: MonoNanos(1),
    };
    let epoch = store
        .expect("a store")
        .create(layout.clone(), creator)
        .expect("an epoch");
    let bases = AllowedBases::new([base.path()]).expect("an allowed base");
    let sources = || -> Vec<_> {
        let uris = epoch.uris().expect("uris");
        let validated = uris
            .iter()
            .map(|uri| bases.validate(uri).expect("a contained path"));
        validated.map(RegionSource::Path).collect()
    };
    let options = MapOptions::default();
    let writer = WriteMapping::map(layout.clone(), sources(), options).expect("a writer");
    let reader = ReadMapping::map(layout, sources(), options).expect("a reader");
    Stream {
        _base: base,
        writer,
        reader,
    }
}

fn header(seq: u64, len: u32) -> [u8; 256] {
    SlotHeader {
        seq: Seq(seq),
        values_len_bytes: len,
        payload_slot: u32::try_from(seq % u64::from(NSLOTS)).expect("an index"),
        pool_id: PoolId(1),
        payload_offset: 0,
        timestamp_ns: Some(MonoNanos(seq + 1)),
        meta_version: None,
        tensor: TensorHeader::contiguous(Dtype::Uint8, MajorOrder::Row, &[len]).expect("a shape"),
    }
    .encode()
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("claim_commit_read");
    for len in [64_u32, 65_536, 1 << 20] {
        let Stream {
            _base,
            mut writer,
            reader,
        } = stream(len);
        let payload = vec![7; usize::try_from(len).expect("small")];
        let mut copy = payload.clone();
        let mut cursor = reader.start(Start::Newest);
        let mut seq = 0;
        group.throughput(Throughput::Bytes(u64::from(len)));
        group.bench_function(BenchmarkId::new("one_copy_each", len), |b| {
            b.iter(|| {
                let mut slot = writer.begin(Seq(seq), 0).expect("a slot");
                slot.payload()
                    .write_at(0, &payload)
                    .expect("a payload that fits");
                slot.commit(&header(seq, len));
                seq += 1;
                let Ok(Look::Frame(snapshot)) = reader.poll(&mut cursor) else {
                    panic!("a frame was committed");
                };
                let slot = reader.parse(&snapshot).expect("a valid slot");
                let view = reader.payload(&slot).expect("a payload");
                view.copy_to(&mut copy).expect("a copy");
            });
        });
        group.bench_function(BenchmarkId::new("in_place", len), |b| {
            b.iter(|| {
                writer
                    .begin(Seq(seq), 0)
                    .expect("a slot")
                    .commit(&header(seq, len));
                seq += 1;
                let Ok(Look::Frame(snapshot)) = reader.poll(&mut cursor) else {
                    panic!("a frame was committed");
                };
                let slot = reader.parse(&snapshot).expect("a valid slot");
                let view = reader.payload(&slot).expect("a payload");
                black_box(view.as_ptr());
                assert!(view.still_valid());
            });
        });
        group.bench_function(BenchmarkId::new("empty_poll", len), |b| {
            b.iter(|| assert_eq!(reader.poll(black_box(&mut cursor)), Ok(Look::Empty)));
        });
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
