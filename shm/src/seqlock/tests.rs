//! One thread, and two threads on the heap for Miri: `cargo miri test -p tensorpool-shm --lib miri`.

use std::sync::Arc;
use std::thread;

use super::ring::{Ring, frame};
use super::{MAX_SEQ, Miss, Slots, begin, commit, is_still, read, write_words};
use crate::region::Region;
use crate::sync::Ordering;
use crate::words;

// spec: W-8.3-1
#[test]
fn a_committed_slot_yields_its_frame_and_no_other() {
    let ring = Ring::<32>::new(4);
    ring.publish(5);
    assert_eq!(read(ring.slot(5), 5), Ok(frame(5)));
    assert_eq!(read(ring.slot(5), 1), Err(Miss::Overwritten));
    assert_eq!(read(ring.slot(5), 9), Err(Miss::NotCommitted));
    assert!(is_still(ring.slot(5), 5));
    assert!(!is_still(ring.slot(5), 1));
}

// spec: W-8.3-5 W-15.21-1
#[test]
fn a_slot_in_progress_is_dropped_at_once() {
    let ring = Ring::<32>::new(4);
    ring.publish(1);
    ring.abandon(5);
    assert_eq!(read(ring.slot(5), 5), Err(Miss::NotCommitted));
    assert_eq!(read(ring.slot(1), 1), Err(Miss::Overwritten));
}

// spec: W-15.3-1
#[test]
fn a_mark_that_went_down_is_stale() {
    let ring = Ring::<32>::new(4);
    ring.publish(9);
    ring.publish(5);
    assert_eq!(read(ring.slot(9), 9), Err(Miss::NotCommitted));
    assert!(!is_still(ring.slot(9), 9));
}

#[test]
fn an_unwritten_slot_holds_no_frame() {
    let ring = Ring::<32>::new(4);
    assert_eq!(read(ring.slot(0), 0), Err(Miss::NotCommitted));
}

// spec: W-8.3-1
#[test]
fn sequence_numbers_end_below_the_largest_word() {
    let ring = Ring::<32>::new(4);
    begin(ring.slot(MAX_SEQ), MAX_SEQ);
    commit(ring.slot(MAX_SEQ), MAX_SEQ);
    assert!(read(ring.slot(MAX_SEQ), MAX_SEQ).is_ok());
    assert_eq!(
        read(ring.slot(MAX_SEQ + 1), MAX_SEQ + 1),
        Err(Miss::SeqOutOfRange)
    );
    // Shifted left, 2^63 would look like frame 0.
    assert_eq!(read(ring.slot(0), 1 << 63), Err(Miss::SeqOutOfRange));
}

/// Two shapes take turns over a ring whose slots are visited by both, after garbage: each slot's own
/// memory decides what is stored, so every slot ends up with every word of its frame.
// spec: W-8.3-3
#[test]
fn skipping_equal_words_is_the_same_as_storing_all() {
    const SLOTS: u64 = 3 + 1;
    let ring = Ring::<32>::new(4);
    for seq in 0..SLOTS {
        for (i, word) in ring.slot(seq).iter().enumerate() {
            let i = u64::try_from(i).expect("small");
            word.store(
                seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ i,
                Ordering::Relaxed,
            );
        }
    }
    let shape = |seq: u64| -> [u64; 32] {
        // Period 3 against 4 slots: every slot sees every change of shape.
        std::array::from_fn(|i| if i < 10 { seq % 3 } else { 7 })
    };
    for seq in 4..64 {
        begin(ring.slot(seq), seq);
        write_words(ring.slot(seq), &shape(seq));
        commit(ring.slot(seq), seq);
        let words = read(ring.slot(seq), seq).expect("just committed");
        assert_eq!(words[1..], shape(seq)[1..]);
    }
}

/// A producer and a consumer thread on one heap-backed ring and pool, through the same casts and
/// copies as in production.
// spec: W-8.3-5 W-8.3-7 W-15.3-3
#[test]
fn miri_a_consumer_accepts_only_whole_frames() {
    const NSLOTS: usize = 2;
    const STRIDE: usize = 64;
    let frames: u64 = if cfg!(miri) { 12 } else { 200_000 };
    let ring = Arc::new(Region::on_heap(64 + NSLOTS * 256));
    let pool = Arc::new(Region::on_heap(64 + NSLOTS * STRIDE));
    let index = |seq: u64| usize::try_from(seq).expect("small") & (NSLOTS - 1);
    let payload = |seq: u64| [u8::try_from(seq % 251).expect("small"); STRIDE];
    let producer = thread::spawn({
        let (ring, pool) = (Arc::clone(&ring), Arc::clone(&pool));
        move || {
            for seq in 0..frames {
                let slot = words::slot(&ring, index(seq));
                begin(slot, seq);
                words::copy_in(&pool, 64 + index(seq) * STRIDE, &payload(seq));
                write_words(slot, &frame::<32>(seq));
                commit(slot, seq);
            }
        }
    });
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    let mut next = 0;
    while next < frames {
        let slot = words::slot(&ring, index(next));
        match read(slot, next) {
            Ok(words) => {
                assert_eq!(words, frame(next));
                let mut bytes = [0; STRIDE];
                words::copy_out(&pool, 64 + index(next) * STRIDE, &mut bytes);
                if is_still(slot, next) {
                    assert_eq!(bytes, payload(next), "torn payload of frame {next}");
                    accepted += 1;
                } else {
                    refused += 1;
                }
                next += 1;
            }
            Err(Miss::Overwritten) => {
                refused += 1;
                next += 1;
            }
            Err(Miss::NotCommitted) => thread::yield_now(),
            Err(Miss::SeqOutOfRange) => unreachable!("small numbers"),
        }
    }
    producer.join().expect("the producer ends");
    assert_eq!(accepted + refused, frames);
    assert!(accepted > 0, "nothing was accepted, so nothing was tested");
}
