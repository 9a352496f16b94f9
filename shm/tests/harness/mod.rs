//! What the tests of mapped memory share: a store in a directory, a stream in it, its two ends.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod hammer;

use std::path::{Path, PathBuf};

use tensorpool_shm::{
    AllowedBases, CreatedEpoch, Creator, EpochStore, MapOptions, Permissions, ReadMapping,
    RegionSource, SlotWrite, StoreOptions, StreamLayout, ValidatedUri, WriteMapping,
};
use tensorpool_wire::{
    Dtype, Epoch, MajorOrder, MonoNanos, PoolId, PoolStride, Seq, SlotHeader, StreamId,
    TensorHeader,
};

pub(crate) const STREAM: StreamId = StreamId(10_000);
pub(crate) const EPOCH: Epoch = Epoch(77);
pub(crate) const CREATOR: Creator = Creator {
    pid: 4242,
    start: MonoNanos(1_000),
};

/// How every test opens its store, unless it is about one of these.
pub(crate) fn options(base_dir: &Path) -> StoreOptions {
    StoreOptions {
        base_dir: base_dir.to_path_buf(),
        user: Some("tester".to_owned()),
        namespace: "default".to_owned(),
        permissions: Permissions::GROUP,
        require_hugepages: false,
        expected_page_bytes: None,
        prefault: true,
        lock: false,
    }
}

pub(crate) fn store(base_dir: &Path) -> EpochStore {
    EpochStore::open(options(base_dir)).expect("a store")
}

/// Pools are numbered from 1 in the order of their strides.
pub(crate) fn layout(epoch: Epoch, nslots: u32, strides: &[u32]) -> StreamLayout {
    let pools = (1..).zip(strides).map(|(id, &stride_bytes)| PoolStride {
        pool_id: PoolId(id),
        stride_bytes,
    });
    StreamLayout::new(STREAM, epoch, nslots, pools.collect()).expect("a possible layout")
}

/// A stream on disk, with both of its ends mapped by path.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) store: EpochStore,
    pub(crate) epoch: CreatedEpoch,
    pub(crate) writer: WriteMapping,
    pub(crate) reader: ReadMapping,
}

pub(crate) fn stream(base_dir: &Path, nslots: u32, strides: &[u32]) -> Stream {
    let store = store(base_dir);
    let epoch = store
        .create(layout(EPOCH, nslots, strides), CREATOR)
        .expect("an epoch");
    let writer = map_writer(base_dir, &epoch);
    let reader = map_reader(base_dir, &epoch);
    Stream {
        store,
        epoch,
        writer,
        reader,
    }
}

pub(crate) fn map_reader(base_dir: &Path, epoch: &CreatedEpoch) -> ReadMapping {
    ReadMapping::map(
        epoch.layout().clone(),
        sources(base_dir, epoch),
        MapOptions::default(),
    )
    .expect("a reader")
}

pub(crate) fn map_writer(base_dir: &Path, epoch: &CreatedEpoch) -> WriteMapping {
    WriteMapping::map(
        epoch.layout().clone(),
        sources(base_dir, epoch),
        MapOptions::default(),
    )
    .expect("a writer")
}

/// The regions as a client finds them: by the announced URIs.
pub(crate) fn sources(base_dir: &Path, epoch: &CreatedEpoch) -> Vec<RegionSource> {
    validated(base_dir, epoch)
        .into_iter()
        .map(RegionSource::Path)
        .collect()
}

pub(crate) fn validated(base_dir: &Path, epoch: &CreatedEpoch) -> Vec<ValidatedUri> {
    let bases = AllowedBases::new([base_dir]).expect("an allowed base");
    let uris = epoch.uris().expect("paths that a URI can hold");
    uris.iter()
        .map(|uri| bases.validate(uri).expect("a contained path"))
        .collect()
}

pub(crate) fn ring_path(epoch: &CreatedEpoch) -> PathBuf {
    epoch.directory().join("header.ring")
}

pub(crate) fn pool_path(epoch: &CreatedEpoch, pool_id: u16) -> PathBuf {
    epoch.directory().join(format!("{pool_id}.pool"))
}

/// The slot header of a frame of `len` bytes.
pub(crate) fn header(layout: &StreamLayout, seq: u64, pool_index: usize, len: u32) -> [u8; 256] {
    let slot = u32::try_from(seq & u64::from(layout.nslots() - 1)).expect("an index");
    SlotHeader {
        seq: Seq(seq),
        values_len_bytes: len,
        payload_slot: slot,
        pool_id: layout.pools()[pool_index].pool_id,
        payload_offset: 0,
        timestamp_ns: Some(MonoNanos(seq + 1)),
        meta_version: Some(1),
        tensor: TensorHeader::contiguous(Dtype::Uint8, MajorOrder::Row, &[len]).expect("a shape"),
    }
    .encode()
}

/// Begins a frame and writes its payload into pool 0.
pub(crate) fn begin<'a>(writer: &'a mut WriteMapping, seq: u64, payload: &[u8]) -> SlotWrite<'a> {
    let mut slot = writer.begin(Seq(seq), 0).expect("a slot");
    slot.payload()
        .write_at(0, payload)
        .expect("a payload that fits");
    slot
}

/// Publishes one frame in pool 0.
pub(crate) fn publish(writer: &mut WriteMapping, seq: u64, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("a small payload");
    let header = header(writer.layout(), seq, 0, len);
    begin(writer, seq, payload).commit(&header);
}

/// Says that a test cannot run here, and why; where everything must run, fails instead.
pub(crate) fn not_run(why: &str) {
    let must_run = std::env::var_os("TENSORPOOL_CI").is_some_and(|value| value == "1");
    assert!(!must_run, "not run, although TENSORPOOL_CI=1: {why}");
    println!("not run: {why}");
}

/// Everything below `root`, in order.
pub(crate) fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path.clone());
            }
            found.push(path.strip_prefix(root).expect("below").to_path_buf());
        }
    }
    found.sort();
    found
}
