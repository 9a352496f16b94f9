//! A stream mapped from both ends: what arrives, and what is refused before anything is mapped.

mod harness;

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use harness::{CREATOR, EPOCH, STREAM, begin, layout, publish, ring_path, sources, stream};
use tensorpool_shm::{
    Access, BeginError, CopyError, DropCounter, Look, MapError, MapOptions, Miss, Nap, PayloadView,
    ReadMapping, RegionSource, Snapshot, Start, StreamLayout, SuperblockChange, WriteMapping,
};
use tensorpool_wire::{
    Epoch, MonoNanos, PoolId, PoolStride, Seq, StreamId, Superblock, SuperblockReject,
};

fn base() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn next_frame(reader: &ReadMapping, cursor: &mut tensorpool_shm::Cursor) -> Snapshot {
    match reader.poll(cursor).expect("a living ring") {
        Look::Frame(snapshot) => snapshot,
        other => panic!("{other:?} instead of a frame"),
    }
}

fn view<'a>(reader: &'a ReadMapping, snapshot: &Snapshot) -> PayloadView<'a> {
    let slot = reader.parse(snapshot).expect("a valid slot");
    reader.payload(&slot).expect("a slot of this mapping")
}

fn bytes(reader: &ReadMapping, snapshot: &Snapshot) -> Vec<u8> {
    let view = view(reader, snapshot);
    let mut bytes = vec![0; view.len()];
    view.copy_to(&mut bytes).expect("a payload");
    bytes
}

// spec: W-15.18-2 W-9-1 W-8.3-4
#[test]
fn what_the_producer_publishes_the_consumer_reads() {
    let base = base();
    let mut s = stream(base.path(), 8, &[128, 4096]);
    let mut cursor = s.reader.start(Start::Newest);
    assert_eq!(s.reader.poll(&mut cursor), Ok(Look::Empty));
    for seq in 0..20 {
        let payload = [u8::try_from(seq).expect("small"); 100];
        publish(&mut s.writer, seq, &payload);
        let snapshot = next_frame(&s.reader, &mut cursor);
        assert_eq!(snapshot.seq, Seq(seq));
        let slot = s.reader.parse(&snapshot).expect("a valid slot");
        assert_eq!((slot.pool_id, slot.values_len_bytes), (PoolId(1), 100));
        assert_eq!(bytes(&s.reader, &snapshot), payload);
        assert_eq!(s.reader.poll(&mut cursor), Ok(Look::Empty));
    }
}

// spec: W-10.2.1-3 W-10.2.1-4
#[test]
fn a_frame_named_by_a_descriptor_is_read_by_its_number() {
    let base = base();
    let mut s = stream(base.path(), 4, &[64]);
    (0..6).for_each(|seq| publish(&mut s.writer, seq, &[1]));
    assert_eq!(
        s.reader.read(Seq(5)).map(|snapshot| snapshot.seq),
        Ok(Seq(5))
    );
    assert_eq!(s.reader.read(Seq(1)), Err(Miss::Overwritten));
    assert_eq!(s.reader.read(Seq(6)), Err(Miss::NotCommitted));
    assert_eq!(s.reader.read(Seq(u64::MAX)), Err(Miss::SeqOutOfRange));
    assert_eq!(s.reader.newest(), Seq(5));
}

// spec: W-8.3-2 W-8.3-7
#[test]
fn a_view_turns_invalid_when_its_slot_is_begun_again() {
    let base = base();
    let mut s = stream(base.path(), 4, &[64]);
    publish(&mut s.writer, 0, b"first");
    let snapshot = s.reader.read(Seq(0)).expect("frame 0");
    let payload = view(&s.reader, &snapshot);
    assert!(payload.still_valid());
    assert_eq!(s.reader.frames_until_overwrite(Seq(0)), 3);
    for seq in 1..4 {
        publish(&mut s.writer, seq, b"later");
        assert_eq!(s.reader.frames_until_overwrite(Seq(0)), 3 - seq);
    }
    assert!(payload.still_valid());
    begin(&mut s.writer, 4, b"over ").abandon();
    assert!(!payload.still_valid());
    assert_eq!(payload.copy_to(&mut [0; 5]), Err(CopyError::Overwritten));
    assert_eq!(s.reader.frames_until_overwrite(Seq(0)), 0);
}

// spec: W-8.3-5
#[test]
fn an_abandoned_claim_is_never_seen_and_its_number_is_taken_again() {
    let base = base();
    let mut s = stream(base.path(), 4, &[64]);
    let mut cursor = s.reader.start(Start::Newest);
    begin(&mut s.writer, 0, b"abandoned").abandon();
    assert_eq!(s.reader.poll(&mut cursor), Ok(Look::Empty));
    publish(&mut s.writer, 0, b"published");
    let snapshot = next_frame(&s.reader, &mut cursor);
    assert_eq!(bytes(&s.reader, &snapshot), b"published");
}

// spec: W-8.2-12
#[test]
fn an_empty_payload_is_a_frame() {
    let base = base();
    let mut s = stream(base.path(), 4, &[64]);
    publish(&mut s.writer, 0, b"");
    let snapshot = s.reader.read(Seq(0)).expect("frame 0");
    let payload = view(&s.reader, &snapshot);
    assert!(payload.is_empty());
    assert_eq!(payload.copy_to(&mut []), Ok(()));
}

#[test]
fn copies_that_do_not_fit_are_refused_and_write_nothing() {
    let base = base();
    let mut s = stream(base.path(), 4, &[64]);
    let mut slot = s.writer.begin(Seq(0), 0).expect("a slot");
    assert_eq!(slot.payload().len(), 64);
    for (offset, len) in [(0, 65), (64, 1), (usize::MAX, 2)] {
        let error = slot
            .payload()
            .write_at(offset, &[0; 65][..len])
            .expect_err("too long");
        assert_eq!(
            error,
            CopyError::OutOfBounds {
                offset,
                len,
                payload_len: 64
            }
        );
    }
    publish(&mut s.writer, 0, b"0123456789");
    let snapshot = s.reader.read(Seq(0)).expect("frame 0");
    let payload = view(&s.reader, &snapshot);
    assert_eq!(
        payload
            .copy_to(&mut [0; 9])
            .expect_err("too short")
            .reason(),
        "out_of_bounds"
    );
    let mut part = [0; 4];
    payload.copy_range_to(3, &mut part).expect("inside");
    assert_eq!(&part, b"3456");
    assert_eq!(
        payload
            .copy_range_to(7, &mut part)
            .expect_err("over")
            .reason(),
        "out_of_bounds"
    );
}

// spec: W-8.3-1
#[test]
fn slots_that_cannot_be_are_not_begun() {
    let base = base();
    let mut s = stream(base.path(), 4, &[64]);
    let begun = |writer: &mut WriteMapping, seq, pool| writer.begin(seq, pool).map(drop);
    assert_eq!(
        begun(&mut s.writer, Seq(1 << 63), 0),
        Err(BeginError::SeqOutOfRange)
    );
    assert_eq!(
        begun(&mut s.writer, Seq((1 << 63) - 1), 0),
        Err(BeginError::SeqOutOfRange)
    );
    let error = begun(&mut s.writer, Seq(0), 1);
    assert_eq!(error, Err(BeginError::NoSuchPool { index: 1 }));
    assert_eq!(s.reader.newest(), Seq(0));
}

// spec: W-15.4-1 W-15.4-2
#[test]
fn a_slow_consumer_loses_frames_and_counts_them() {
    let base = base();
    let mut s = stream(base.path(), 8, &[64]);
    let mut cursor = s.reader.start(Start::First);
    (0..50).for_each(|seq| publish(&mut s.writer, seq, &[7]));
    let Ok(Look::Skipped(skip)) = s.reader.poll(&mut cursor) else {
        panic!("a lapped cursor");
    };
    assert_eq!((skip.counter(), skip.lost()), (DropCounter::Gap, 49));
    assert_eq!(next_frame(&s.reader, &mut cursor).seq, Seq(49));
    publish(&mut s.writer, 50, &[7]);
    publish(&mut s.writer, 51, &[7]);
    assert_eq!(s.reader.skip_to_newest(&mut cursor), 1);
    assert_eq!(next_frame(&s.reader, &mut cursor).seq, Seq(51));
}

// spec: W-7.1-4 W-15.1-3 W-15.1-2
#[test]
fn activity_is_refreshed_by_driver_and_producer_and_changes_nothing_else() {
    let base = base();
    let s = stream(base.path(), 4, &[64, 128]);
    assert_eq!(s.reader.activity(), CREATOR.start);
    s.epoch.refresh_activity(MonoNanos(5_000));
    assert_eq!(s.reader.activity(), MonoNanos(5_000));
    let activity = s.writer.activity();
    std::thread::spawn(move || activity.refresh(MonoNanos(6_000)))
        .join()
        .expect("a thread");
    assert_eq!(s.reader.activity(), MonoNanos(6_000));
    assert_eq!(s.reader.recheck(), Ok(()));
    let mut pool = [0; 64];
    let file = File::open(harness::pool_path(&s.epoch, 2)).expect("a pool");
    file.read_exact_at(&mut pool, 0).expect("a superblock");
    let pool = Superblock::decode(&pool).expect("a superblock");
    assert_eq!(pool.activity_timestamp_ns, MonoNanos(6_000));
    assert_eq!(s.reader.creator(), CREATOR);
}

// spec: W-15.1-2 W-15.14-3 W-15.14-4 W-7.1-6 W-8.2-5 W-15.20-1
#[test]
fn a_superblock_that_changes_under_a_reader_is_noticed() {
    let base = base();
    let s = stream(base.path(), 4, &[64]);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(ring_path(&s.epoch))
        .expect("a ring");
    let mut original = [0; 64];
    file.read_exact_at(&mut original, 0).expect("a superblock");
    let changed = |edit: &dyn Fn(&mut Superblock)| {
        let mut superblock = Superblock::decode(&original).expect("a superblock");
        edit(&mut superblock);
        file.write_all_at(&superblock.encode(), 0).expect("written");
        s.reader.recheck()
    };
    assert_eq!(changed(&|s| s.activity_timestamp_ns = MonoNanos(9)), Ok(()));
    let initialised = Err(SuperblockChange::Initialised { pid: 1 });
    assert_eq!(changed(&|s| s.pid = 1), initialised);
    let (expected, found) = (EPOCH, Epoch(0));
    let epoch = Err(SuperblockReject::Epoch { expected, found }.into());
    assert_eq!(changed(&|s| s.epoch = Epoch(0)), epoch);
    let layout = Err(SuperblockReject::LayoutVersion {
        expected: 1,
        found: 2,
    }
    .into());
    assert_eq!(changed(&|s| s.layout_version = 2), layout);
    file.write_all_at(&[0; 8], 0).expect("written");
    assert_eq!(
        s.reader.recheck(),
        Err(SuperblockReject::Magic { found: 0 }.into())
    );
}

/// The reason for which a reader refuses what `edit` did to the files, or to the announced layout.
fn refused(edit: impl FnOnce(&harness::Stream) -> StreamLayout) -> MapError {
    let base = base();
    let s = stream(base.path(), 4, &[64, 128]);
    let layout = edit(&s);
    let from = sources(base.path(), &s.epoch);
    ReadMapping::map(layout, from, MapOptions::default()).expect_err("a refusal")
}

fn announced(stream_id: u32, epoch: u64, nslots: u32, pools: [(u16, u32); 2]) -> StreamLayout {
    let pools = pools.map(|(id, stride_bytes)| PoolStride {
        pool_id: PoolId(id),
        stride_bytes,
    });
    StreamLayout::new(StreamId(stream_id), Epoch(epoch), nslots, pools.to_vec()).expect("a layout")
}

// spec: W-15.1-1 W-7.1-3 W-9-2 W-15.13-1 W-15.22-6 W-10.2.1-2
#[test]
fn a_superblock_that_differs_from_the_announce_is_refused() {
    let pools = [(1, 64), (2, 128)];
    let cases = [
        ("stream_id", announced(1, EPOCH.get(), 4, pools)),
        ("epoch", announced(STREAM.get(), 78, 4, pools)),
        ("nslots", announced(STREAM.get(), EPOCH.get(), 2, pools)),
        (
            "pool_id",
            announced(STREAM.get(), EPOCH.get(), 4, [(1, 64), (3, 128)]),
        ),
        (
            "stride_bytes",
            announced(STREAM.get(), EPOCH.get(), 4, [(1, 64), (2, 64)]),
        ),
    ];
    for (reason, layout) in cases {
        let MapError::Superblock { source, .. } = refused(|_| layout) else {
            panic!("another refusal than of the superblock's {reason}");
        };
        assert_eq!(source.reason(), reason);
    }
}

// spec: W-7.1-1
#[test]
fn a_region_without_its_magic_is_refused() {
    let error = refused(|s| {
        let file = OpenOptions::new()
            .write(true)
            .open(ring_path(&s.epoch))
            .expect("a ring");
        file.write_all_at(b"TPOLSHM1", 0).expect("written");
        s.epoch.layout().clone()
    });
    let MapError::Superblock {
        source: SuperblockReject::Magic { .. },
        ..
    } = error
    else {
        panic!("{error}");
    };
}

#[test]
fn pools_of_another_creator_are_refused() {
    let error = refused(|s| {
        let file = OpenOptions::new()
            .write(true)
            .open(harness::pool_path(&s.epoch, 2));
        file.expect("a pool")
            .write_all_at(&1_u64.to_le_bytes(), 40)
            .expect("written");
        s.epoch.layout().clone()
    });
    assert_eq!(error.reason(), "creator");
}

#[test]
fn a_truncated_file_is_refused_before_it_is_mapped() {
    for (name, len) in [
        ("header.ring", 64 + 4 * 256 - 1),
        ("2.pool", 0),
        ("1.pool", 64),
    ] {
        let error = refused(|s| {
            let file = OpenOptions::new()
                .write(true)
                .open(s.epoch.directory().join(name));
            file.expect("a region").set_len(len).expect("truncated");
            s.epoch.layout().clone()
        });
        let MapError::TooShort { found, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(found, len);
    }
}

#[test]
fn the_number_of_files_must_be_the_number_of_regions() {
    let error = refused(|s| layout(s.epoch.layout().epoch(), 4, &[64]));
    assert_eq!(error.reason(), "region_count");
}

// spec: W-15.22-4
#[test]
fn hugepages_are_never_assumed() {
    let base = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
    let s = stream(base.path(), 4, &[64]);
    let files = s.epoch.open(Access::ReadOnly).expect("open files");
    let required = |file| RegionSource::File {
        file,
        require_hugepages: true,
    };
    let from = files.into_iter().map(required).collect();
    let error = ReadMapping::map(s.epoch.layout().clone(), from, MapOptions::default());
    let error = error.expect_err("no hugepages");
    assert_eq!(
        error.to_string(),
        "the header ring must be on hugepages, but lies on tmpfs"
    );
}

#[test]
fn received_files_are_mapped_and_checked_like_paths() {
    let base = base();
    let s = stream(base.path(), 4, &[64]);
    let plain = |file| RegionSource::File {
        file,
        require_hugepages: false,
    };
    let from = |access| {
        let files = s.epoch.open(access).expect("open files");
        files.into_iter().map(plain).collect::<Vec<_>>()
    };
    let map = |from| WriteMapping::map(s.epoch.layout().clone(), from, MapOptions::default());
    let mut writer = map(from(Access::ReadWrite)).expect("a writer");
    publish(&mut writer, 0, b"by file");
    assert!(s.reader.read(Seq(0)).is_ok());
    assert_eq!(
        map(from(Access::ReadOnly))
            .expect_err("read-only files")
            .reason(),
        "map"
    );
    let not_a_file = |_| plain(OwnedFd::from(File::open("/dev/null").expect("a device")));
    assert_eq!(
        map((0..2).map(not_a_file).collect())
            .expect_err("a device")
            .reason(),
        "not_regular"
    );
}

/// Above 4 GiB every offset needs more than 32 bits. The file is sparse, so this costs nothing.
#[test]
fn pools_above_four_gibibytes_are_addressed_in_full() {
    let base = base();
    let s = stream(base.path(), 4, &[64]);
    let stride = 1 << 31;
    let big = layout(EPOCH, 4, &[stride]);
    let path = harness::pool_path(&s.epoch, 1);
    let mut superblock = [0; 64];
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("a pool");
    file.read_exact_at(&mut superblock, 0)
        .expect("a superblock");
    let mut superblock = Superblock::decode(&superblock).expect("a superblock");
    superblock.stride_bytes = stride;
    file.write_all_at(&superblock.encode(), 0).expect("written");
    file.set_len(64 + 4 * u64::from(stride))
        .expect("a sparse file");
    let options = MapOptions {
        prefault: false,
        ..MapOptions::default()
    };
    let mut writer = WriteMapping::map(big.clone(), sources(base.path(), &s.epoch), options)
        .expect("a writer of a large pool");
    publish(&mut writer, 3, b"far away");
    let reader = ReadMapping::map(big, sources(base.path(), &s.epoch), options).expect("a reader");
    let snapshot = reader.read(Seq(3)).expect("frame 3");
    assert_eq!(bytes(&reader, &snapshot), b"far away");
    let mut raw = [0; 8];
    file.read_exact_at(&mut raw, 64 + 3 * u64::from(stride))
        .expect("read");
    assert_eq!(&raw, b"far away");
}

#[test]
fn a_nap_ends_at_once_where_the_frame_is_there() {
    let base = base();
    let mut s = stream(base.path(), 4, &[64]);
    assert_eq!(
        s.reader.nap(Seq(0), Duration::from_micros(1)),
        Nap::TimedOut
    );
    publish(&mut s.writer, 0, &[1]);
    assert_eq!(s.reader.nap(Seq(0), Duration::from_secs(1)), Nap::Ready);
    (1..5).for_each(|seq| publish(&mut s.writer, seq, &[1]));
    assert_eq!(s.reader.nap(Seq(0), Duration::from_secs(1)), Nap::Ready);
}

#[test]
fn a_commit_wakes_who_naps_on_its_slot() {
    let base = base();
    let mut s = stream(base.path(), 4, &[64]);
    let reader = &s.reader;
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let naps = std::iter::repeat_with(|| reader.nap(Seq(0), Duration::from_millis(1)));
            // A nap that runs out is begun again: the producer waits for a sleeper.
            naps.take_while(|nap| *nap == Nap::TimedOut).count();
        });
        while s.writer.wake(Seq(0)).expect("a wake") == 0 {
            std::thread::yield_now();
        }
        sleeper.join().expect("the sleeper was woken");
    });
    let header = harness::header(s.writer.layout(), 0, 0, 1);
    let woken = begin(&mut s.writer, 0, &[1]).commit(&header).wake();
    assert_eq!(woken.expect("a commit"), 0);
    assert!(s.reader.read(Seq(0)).is_ok());
}
