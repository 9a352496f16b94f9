//! Every interleaving of one writer and one reader, with the orderings that must hold and with those
//! that must not: a model that cannot see the bug proves nothing.

use ::loom::sync::Arc;
use ::loom::thread;

use super::ring::{Ring, frame};
use super::{Slots, begin, commit, committed, is_still, read, write_words};
use crate::sync::{AtomicU64, Ordering, fence};

/// Runs a model through every interleaving with at most three preemptions, or as many as
/// `LOOM_MAX_PREEMPTIONS` says. The broken orderings below all show with three.
pub(crate) fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(f);
}

type Slot = [AtomicU64; 3];

/// One way to write and read a slot.
struct Protocol {
    begin: fn(&Slot, u64),
    commit: fn(&Slot, u64),
    read: fn(&Slot, u64) -> Option<[u64; 3]>,
}

const OURS: Protocol = Protocol {
    begin,
    commit,
    read: |slot, seq| read(slot, seq).ok(),
};

/// Two frames go through one slot while a reader tries for either. Whatever it accepts is whole.
fn accepted_frames_are_whole(protocol: &'static Protocol) {
    model(move || {
        let ring = Arc::new(Ring::<3>::new(1));
        let writer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                for seq in 0..2 {
                    (protocol.begin)(ring.slot(seq), seq);
                    write_words(ring.slot(seq), &frame::<3>(seq));
                    (protocol.commit)(ring.slot(seq), seq);
                }
            }
        });
        for seq in 0..2 {
            if let Some(words) = (protocol.read)(ring.slot(seq), seq) {
                assert_eq!(words, frame(seq), "torn frame {seq}");
            }
        }
        writer.join().expect("the writer ends");
    });
}

fn words_of(slot: &Slot, mark: u64) -> [u64; 3] {
    [
        mark,
        slot[1].load(Ordering::Relaxed),
        slot[2].load(Ordering::Relaxed),
    ]
}

// spec: W-8.3-2 W-8.3-3 W-8.3-5 W-15.3-3 X-1-26
#[test]
fn a_reader_never_accepts_a_torn_frame() {
    accepted_frames_are_whole(&OURS);
}

#[test]
fn a_committed_frame_can_be_read() {
    model(|| {
        let ring = Ring::<3>::new(1);
        ring.publish(0);
        assert_eq!(read(ring.slot(0), 0), Ok(frame(0)));
    });
}

/// A view read in place, asked about afterwards: the rule of `still_valid`.
#[test]
fn bytes_read_before_a_valid_answer_belong_to_the_frame() {
    model(|| {
        let ring = Arc::new(Ring::<3>::new(1));
        ring.publish(0);
        let writer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || ring.publish(1)
        });
        if read(ring.slot(0), 0).is_ok() {
            let seen = ring.slot(0)[2].load(Ordering::Relaxed);
            if is_still(ring.slot(0), 0) {
                assert_eq!(seen, frame::<3>(0)[2]);
            }
        }
        writer.join().expect("the writer ends");
    });
}

/// The protocol's own words: release and acquire on `seq_commit` alone. The frame's stores may move
/// up before the mark, and the reader's loads down past its second look.
#[test]
#[should_panic(expected = "torn frame")]
fn the_literal_text_of_the_protocol_tears() {
    static LITERAL: Protocol = Protocol {
        begin: |slot, seq| slot[0].store(seq << 1, Ordering::Release),
        commit,
        read: |slot, seq| {
            let mark = slot[0].load(Ordering::Acquire);
            let words = words_of(slot, mark);
            let unchanged = slot[0].load(Ordering::Acquire) == mark;
            (mark == committed(seq) && unchanged).then_some(words)
        },
    };
    accepted_frames_are_whole(&LITERAL);
}

#[test]
#[should_panic(expected = "torn frame")]
fn beginning_without_the_fence_tears() {
    static NO_BEGIN_FENCE: Protocol = Protocol {
        begin: |slot, seq| slot[0].store(seq << 1, Ordering::Release),
        ..OURS
    };
    accepted_frames_are_whole(&NO_BEGIN_FENCE);
}

#[test]
#[should_panic(expected = "torn frame")]
fn reading_without_the_second_fence_tears() {
    static NO_SECOND_FENCE: Protocol = Protocol {
        read: |slot, seq| {
            let mark = slot[0].load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            let words = words_of(slot, mark);
            let unchanged = slot[0].load(Ordering::Relaxed) == mark;
            (mark == committed(seq) && unchanged).then_some(words)
        },
        ..OURS
    };
    accepted_frames_are_whole(&NO_SECOND_FENCE);
}

#[test]
#[should_panic(expected = "torn frame")]
fn reading_without_the_first_fence_tears() {
    static NO_FIRST_FENCE: Protocol = Protocol {
        read: |slot, seq| {
            let mark = slot[0].load(Ordering::Relaxed);
            let words = words_of(slot, mark);
            let unchanged = is_still(slot, seq);
            (mark == committed(seq) && unchanged).then_some(words)
        },
        ..OURS
    };
    accepted_frames_are_whole(&NO_FIRST_FENCE);
}

#[test]
#[should_panic(expected = "torn frame")]
fn committing_without_release_tears() {
    static RELAXED_COMMIT: Protocol = Protocol {
        commit: |slot, seq| slot[0].store(committed(seq), Ordering::Relaxed),
        ..OURS
    };
    accepted_frames_are_whole(&RELAXED_COMMIT);
}
