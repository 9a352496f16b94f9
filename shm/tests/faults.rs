//! Files that lose pages while they are mapped: the process lives, and knows.

mod harness;

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::{begin, pool_path, publish, ring_path, stream};
use rustix::fs::{FallocateFlags, fallocate};
use tensorpool_shm::{
    BeginError, CopyError, Look, MapError, MapOptions, Poisoned, ReadMapping, Start,
    install_fault_handler,
};
use tensorpool_wire::{MonoNanos, Seq};

fn base() -> tempfile::TempDir {
    install_fault_handler().expect("the handler");
    tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs")
}

fn truncate(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("a region");
    file.set_len(0).expect("truncated");
}

#[test]
fn a_reader_outlives_a_truncated_ring() {
    let base = base();
    let mut s = stream(base.path(), 64, &[4096]);
    publish(&mut s.writer, 0, b"before");
    let mut cursor = s.reader.start(Start::Newest);
    truncate(&ring_path(&s.epoch));
    assert_eq!(s.reader.poll(&mut cursor), Err(Poisoned));
    assert_eq!(s.reader.poll_before_sleep(&mut cursor), Err(Poisoned));
    assert!(s.reader.is_poisoned());
    assert!(s.reader.read(Seq(0)).is_err());
    assert!(!s.reader.is_still(Seq(0)));
    assert!(s.reader.recheck().is_err());
}

/// The ring is whole, so the sequence lock alone would accept the zeros.
// spec: W-8.3-7
#[test]
fn a_truncated_pool_is_never_taken_for_a_payload() {
    let base = base();
    let mut s = stream(base.path(), 64, &[65_536]);
    publish(&mut s.writer, 0, &[0xAB; 65_536]);
    let snapshot = s.reader.read(Seq(0)).expect("frame 0");
    let slot = s.reader.parse(&snapshot).expect("a valid slot");
    let payload = s.reader.payload(&slot).expect("a payload");
    truncate(&pool_path(&s.epoch, 1));
    let mut bytes = vec![1; 65_536];
    assert_eq!(
        payload.copy_to(&mut bytes),
        Err(CopyError::Poisoned(Poisoned))
    );
    assert!(!payload.still_valid());
    assert!(s.reader.is_poisoned());
}

#[test]
fn a_producer_outlives_a_truncated_pool_and_is_told() {
    let base = base();
    let mut s = stream(base.path(), 64, &[65_536]);
    publish(&mut s.writer, 0, b"before");
    truncate(&pool_path(&s.epoch, 1));
    let header = harness::header(s.writer.layout(), 1, 0, 5);
    begin(&mut s.writer, 1, b"after").commit(&header);
    let refused = s.writer.begin(Seq(2), 0).map(drop);
    assert_eq!(refused, Err(BeginError::Poisoned(Poisoned)));
    assert!(s.writer.is_poisoned());
}

#[test]
fn a_driver_outlives_truncated_files_and_is_told() {
    let base = base();
    let s = stream(base.path(), 64, &[64]);
    assert!(!s.epoch.is_poisoned());
    truncate(&ring_path(&s.epoch));
    truncate(&pool_path(&s.epoch, 1));
    s.epoch.refresh_activity(MonoNanos(1));
    assert!(s.epoch.is_poisoned());
    s.store
        .remove(harness::STREAM, harness::EPOCH)
        .expect("removed");
}

#[test]
fn only_the_damaged_region_is_poisoned() {
    let base = base();
    let other_base = self::base();
    let mut other = stream(other_base.path(), 64, &[64]);
    let s = stream(base.path(), 64, &[64]);
    truncate(&ring_path(&s.epoch));
    assert!(s.reader.recheck().is_err());
    assert!(s.reader.is_poisoned());
    assert!(!other.reader.is_poisoned() && !other.writer.is_poisoned());
    publish(&mut other.writer, 0, b"alive");
    assert!(other.reader.read(Seq(0)).is_ok());
}

/// A new mapping in the place of a poisoned one starts clean.
#[test]
fn poison_goes_with_its_region() {
    let base = base();
    for epoch in 1..20 {
        let store = harness::store(base.path());
        let layout = harness::layout(tensorpool_wire::Epoch(epoch), 64, &[64]);
        let epoch = store.create(layout, harness::CREATOR).expect("an epoch");
        let reader = harness::map_reader(base.path(), &epoch);
        assert!(!reader.is_poisoned() && !epoch.is_poisoned());
        truncate(&ring_path(&epoch));
        reader.recheck().expect_err("zeros");
        assert!(reader.is_poisoned());
    }
}

/// On tmpfs a punched page comes back as zeros without a fault: no frame has them.
#[test]
fn a_ring_with_punched_holes_yields_no_frame() {
    let base = base();
    let mut s = stream(base.path(), 64, &[64]);
    (0..64).for_each(|seq| publish(&mut s.writer, seq, b"x"));
    let file = OpenOptions::new()
        .write(true)
        .open(ring_path(&s.epoch))
        .expect("a ring");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 0, 1 << 20).expect("punched");
    assert!((0..64).all(|seq| s.reader.read(Seq(seq)).is_err()));
    assert!(s.reader.recheck().is_err());
}

/// The file shrinks between the look at its length and the first load.
#[test]
fn mapping_survives_a_file_that_is_truncated_meanwhile() {
    let base = base();
    let s = stream(base.path(), 64, &[64]);
    let done = Arc::new(AtomicBool::new(false));
    let path = ring_path(&s.epoch);
    truncate(&path);
    let shrinking = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let file = OpenOptions::new().write(true).open(path).expect("a ring");
            while !done.load(Ordering::Relaxed) {
                file.set_len(0).expect("truncated");
                file.set_len(64 + 64 * 256).expect("extended");
            }
        }
    });
    for _ in 0..500 {
        let from = harness::sources(base.path(), &s.epoch);
        let options = MapOptions {
            prefault: false,
            ..MapOptions::default()
        };
        // The contents are gone for good, so it can never succeed, whatever the moment.
        let error = ReadMapping::map(s.epoch.layout().clone(), from, options).expect_err("zeros");
        let allowed = ["too_short", "superblock", "poisoned"];
        assert!(allowed.contains(&error.reason()), "{error}");
        if let MapError::TooShort { found, .. } = error {
            assert_eq!(found, 0);
        }
    }
    done.store(true, Ordering::Relaxed);
    shrinking.join().expect("the shrinking thread");
}

/// Readers and writer at full rate, several threads in the same region, when the files go.
#[test]
fn truncation_at_full_rate_kills_nobody() {
    let base = base();
    for _ in 0..20 {
        let s = stream(base.path(), 64, &[4096]);
        let (store, epoch, reader) = (s.store, s.epoch, Arc::new(s.reader));
        let mut writer = s.writer;
        let started = Arc::new(AtomicBool::new(false));
        let producer = thread::spawn(move || {
            let header = |seq| harness::header(writer.layout(), seq, 0, 4096);
            let headers: Vec<_> = (0..64).map(header).collect();
            for seq in 0_u64.. {
                let Ok(mut slot) = writer.begin(Seq(seq), 0) else {
                    return seq;
                };
                slot.payload()
                    .write_at(0, &[7; 4096])
                    .expect("a payload that fits");
                slot.commit(&headers[usize::try_from(seq % 64).expect("small")]);
            }
            unreachable!("the files are truncated first")
        });
        let consumers: Vec<_> = (0..2)
            .map(|_| {
                let (reader, started) = (Arc::clone(&reader), Arc::clone(&started));
                thread::spawn(move || consume(&reader, &started))
            })
            .collect();
        while !started.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        truncate(&pool_path(&epoch, 1));
        truncate(&ring_path(&epoch));
        assert!(producer.join().expect("the producer lives") > 0);
        for consumer in consumers {
            consumer.join().expect("the consumer lives");
        }
        store
            .remove(harness::STREAM, harness::EPOCH)
            .expect("removed");
    }
}

/// Reads until the mapping is poisoned; every payload that was believed is the producer's.
fn consume(reader: &ReadMapping, started: &AtomicBool) {
    let mut cursor = reader.start(Start::Newest);
    let mut bytes = [0; 4096];
    loop {
        match reader.poll(&mut cursor) {
            Err(Poisoned) => return,
            Ok(Look::Empty | Look::Skipped(_)) => {
                if reader.is_poisoned() {
                    return;
                }
            }
            Ok(Look::Frame(snapshot)) => {
                let Ok(slot) = reader.parse(&snapshot) else {
                    continue;
                };
                let payload = reader.payload(&slot).expect("a slot of this mapping");
                if payload.copy_to(&mut bytes).is_ok() {
                    assert_eq!(bytes, [7; 4096], "zeros were believed");
                    started.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}
