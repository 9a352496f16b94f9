//! Memory that is not what it should be: slots that lie, files that shrink, paths that lead elsewhere.

use tensorpool_client::{BuildError, Consumer, DropReason, Dtype, MajorOrder};
use tensorpool_shm::{Access, MapOptions, RegionSource, WriteMapping};
use tensorpool_wire::{PoolId, ProgressUnit, Seq, SlotHeader, TensorHeader};

use crate::peer::{NAME, Peer, State, eventually};
use crate::stream::{consumer, producer, seqs};

/// A writer that keeps to no rule, on the current epoch's files.
fn writer(peer: &Peer) -> WriteMapping {
    peer.with(|state| {
        if state.current.is_none() {
            state.bump();
        }
        let current = state.current.as_ref().unwrap();
        let files = current.open(Access::ReadWrite).unwrap().into_iter();
        let sources = files.map(|file| RegionSource::File {
            file,
            require_hugepages: false,
        });
        let layout = current.layout().clone();
        WriteMapping::map(layout, sources.collect(), MapOptions::default()).unwrap()
    })
}

fn header(seq: u64) -> SlotHeader {
    SlotHeader {
        seq: Seq(seq),
        values_len_bytes: 8,
        payload_slot: u32::try_from(seq).unwrap(),
        pool_id: PoolId(1),
        payload_offset: 0,
        timestamp_ns: None,
        meta_version: None,
        tensor: TensorHeader::contiguous(Dtype::Uint8, MajorOrder::Row, &[8]).unwrap(),
    }
}

// spec: W-8.2-2 W-8.2-6 W-8.2-7 W-8.2-8 W-8.2-10 W-8.2-11 W-8.3-6 W-10.2.1-5 W-10.2.1-6 W-15.5-1 W-15.8-2
#[test]
fn a_slot_that_breaks_a_rule_is_dropped_with_its_reason_and_the_next_frame_comes() {
    type Spoil = fn(&mut SlotHeader);
    let cases: [(DropReason, Spoil); 13] = [
        (DropReason::PayloadSlotOutOfRange, |h| {
            h.payload_slot = 1_000
        }),
        (DropReason::PayloadSlot, |h| h.payload_slot ^= 1),
        (DropReason::PayloadOffset, |h| h.payload_offset = 64),
        (DropReason::Pool, |h| h.pool_id = PoolId(99)),
        (DropReason::ValuesTooLong, |h| h.values_len_bytes = 257),
        (DropReason::Dtype, |h| h.tensor.dtype = Dtype::Unknown(12)),
        (DropReason::MajorOrder, |h| {
            h.tensor.major_order = MajorOrder::Unknown(9)
        }),
        (DropReason::Ndims, |h| h.tensor.ndims = 0),
        (DropReason::Dim, |h| h.tensor.dims[0] = -1),
        (DropReason::Stride, |h| h.tensor.strides[0] = -1),
        (DropReason::Extent, |h| h.values_len_bytes = 7),
        (DropReason::Progress, |h| {
            h.tensor.progress_unit = ProgressUnit::Rows
        }),
        (DropReason::Progress, |h| {
            h.tensor.progress_unit = ProgressUnit::Unknown(9)
        }),
    ];
    let peer = Peer::start();
    let mut writer = writer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    for (seq, (reason, spoil)) in (0..).zip(cases) {
        let mut header = header(seq);
        spoil(&mut header);
        let before = consumer.stats().dropped(reason);
        writer.begin(Seq(seq), 0).unwrap().commit(&header.encode());
        assert_eq!(seqs(&mut consumer), [], "{reason:?}");
        assert_eq!(consumer.stats().dropped(reason), before + 1, "{reason:?}");
    }
    let bytes_of = |at: usize, value: u8| {
        let mut bytes = header(13).encode();
        bytes[at] = value;
        bytes
    };
    writer.begin(Seq(13), 0).unwrap().commit(&bytes_of(60, 191));
    writer.begin(Seq(14), 0).unwrap().commit(&bytes_of(66, 53));
    writer
        .begin(Seq(15), 0)
        .unwrap()
        .commit(&header(15).encode());
    assert_eq!(seqs(&mut consumer), [15]);
    assert_eq!(consumer.stats().dropped(DropReason::HeaderLength), 1);
    assert_eq!(consumer.stats().dropped(DropReason::EmbeddedHeader), 1);
}

// spec: X-1-16 X-1-17 X-1-21
#[test]
fn a_hole_is_passed_over_and_counted_once() {
    let peer = Peer::start();
    let mut writer = writer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    writer.begin(Seq(0), 0).unwrap().commit(&header(0).encode());
    drop(writer.begin(Seq(1), 0).unwrap());
    writer.begin(Seq(2), 0).unwrap().commit(&header(2).encode());
    let second = eventually("the frame behind the hole", || {
        consumer
            .next()
            .unwrap()
            .map(|frame| frame.seq())
            .filter(|seq| seq.get() > 0)
    });
    assert_eq!(second, Seq(2));
    assert_eq!(consumer.stats().dropped(DropReason::Hole), 1);
}

// spec: X-1-11 X-1-12
#[test]
fn a_slot_that_is_marked_with_a_foreign_or_impossible_number_costs_one_frame() {
    use std::os::unix::fs::FileExt;
    let peer = Peer::start();
    let mut writer = writer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    let ring = peer.with(|state| {
        let path = state.directory().join("header.ring");
        std::fs::OpenOptions::new().write(true).open(path).unwrap()
    });
    let mark = |index: u64, word: u64| {
        ring.write_all_at(&word.to_le_bytes(), 64 + index * 256)
            .unwrap()
    };
    // Slot 0 says frame 5, whose place is slot 5; slot 1 a number that no frame has.
    mark(0, 5 << 1 | 1);
    assert_eq!(seqs(&mut consumer), []);
    assert_eq!(consumer.stats().dropped(DropReason::Remarked), 1);
    mark(1, u64::MAX);
    assert_eq!(seqs(&mut consumer), []);
    assert_eq!(consumer.stats().dropped(DropReason::SeqOutOfRange), 1);
    writer.begin(Seq(2), 0).unwrap().commit(&header(2).encode());
    assert_eq!(seqs(&mut consumer), [2]);
}

// spec: X-1-29 X-1-30
#[test]
fn a_truncated_region_ends_neither_process_nor_consumer() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    producer.publish(b"whole").unwrap();
    let held = consumer.next().unwrap().expect("a frame").hold();
    peer.with(|state| {
        for name in ["header.ring", "1.pool", "2.pool"] {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(state.directory().join(name));
            file.unwrap().set_len(0).unwrap();
        }
    });
    assert!(!held.frame().still_valid());
    assert!(held.frame().to_vec().is_err());
    eventually("the consumer lets go", || {
        assert!(consumer.next().unwrap().is_none());
        (!consumer.status().is_mapped).then_some(())
    });
    // The producer finds out, gives its lease back, and the driver makes new memory.
    eventually("frames again", || {
        let _ = producer.publish(b"healed");
        consumer
            .next()
            .unwrap()
            .filter(|frame| frame.to_vec() == Ok(b"healed".to_vec()))
            .map(drop)
    });
}

// spec: W-15.21a-10 W-15.21a-11 W-15.21a-13 D-4.2-18 W-15.22-1 W-15.22-2 W-15.22-6 W-15.13-1
#[test]
fn regions_that_may_not_be_mapped_are_refused_by_name_and_nothing_is_mapped() {
    type Spoil = fn(&mut tensorpool_wire::ShmAttachResponse);
    let cases: [(&str, Spoil); 6] = [
        ("outside", |r| {
            r.header_region_uri = "shm:file?path=/etc/hostname".into()
        }),
        ("not_regular", |r| {
            r.header_region_uri = "shm:file?path=/dev/shm".into()
        }),
        ("scheme", |r| {
            r.header_region_uri = "file:///dev/shm/x".into()
        }),
        ("unknown_parameter", |r| {
            r.header_region_uri.push_str("|mode=rw")
        }),
        ("resolve", |r| {
            r.payload_pools[1].region_uri.push_str(".gone")
        }),
        ("superblock", |r| r.epoch = Some(tensorpool_wire::Epoch(1))),
    ];
    let peer = Peer::start();
    for (reason, spoil) in cases {
        peer.with(move |state| state.spoil = Some(spoil));
        match Consumer::builder(NAME)
            .client_options(peer.options())
            .build()
        {
            Err(BuildError::Attach(error)) => assert_eq!(error.reason(), reason, "{error:?}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

// spec: W-15.21a-10 W-15.21a-11 W-15.21a-13
#[test]
fn a_link_and_a_pipe_in_place_of_a_region_are_refused() {
    type Replace = fn(&std::path::Path);
    let cases: [(&str, Replace); 3] = [
        ("outside", |path| {
            std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
        }),
        ("resolve", |path| {
            std::os::unix::fs::symlink("/nowhere", path).unwrap();
        }),
        ("not_regular", |path| {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        }),
    ];
    for (reason, replace) in cases {
        let peer = Peer::start();
        peer.with(move |state| {
            state.bump();
            let path = state.directory().join("1.pool");
            std::fs::remove_file(&path).unwrap();
            replace(&path);
        });
        match consumer(&peer).build() {
            Err(BuildError::Attach(error)) => assert_eq!(error.reason(), reason, "{error:?}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

// spec: W-15.1-2 W-15.14-4
#[test]
fn a_superblock_that_changes_under_a_consumer_unmaps_it_at_the_next_announce() {
    use std::os::unix::fs::FileExt;
    let peer = Peer::start();
    peer.with(State::bump);
    let consumer = consumer(&peer).build().expect("attached");
    assert!(consumer.status().is_mapped);
    peer.with(|state| {
        let path = state.directory().join("header.ring");
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0xFF], 12).unwrap();
    });
    eventually("unmapped", || (!consumer.status().is_mapped).then_some(()));
}

// spec: X-2-67
#[test]
fn memory_in_hand_stays_mapped_beyond_its_epoch_and_says_that_it_is_over() {
    let peer = Peer::start();
    let first = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    let memory = consumer.memory().unwrap().expect("mapped");
    assert_eq!(memory.regions().count(), 3);
    assert!(
        memory
            .regions()
            .all(|region| region.as_ptr().addr() % 4_096 == 0)
    );
    assert!(memory.is_current());
    drop(first);
    let _second = producer(&peer);
    eventually("over", || (!memory.is_current()).then_some(()));
    assert!(memory.regions().all(|region| region.len() > 64));
}
