//! A cursor and a ring in one thread: each rule by itself, then all of them in any order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tensorpool_wire::Seq;

use super::{Cursor, DropCounter, HOLE_POLLS, Look, Skip, Start};
use crate::seqlock::ring::{Ring, frame};
use crate::seqlock::{MAX_SEQ, Slots, begin, committed};
use crate::sync::Ordering;

type TestRing = Ring<2>;

fn ring_with(nslots: usize, frames: std::ops::Range<u64>) -> TestRing {
    let ring = TestRing::new(nslots);
    frames.for_each(|seq| ring.publish(seq));
    ring
}

fn poll(cursor: &mut Cursor, ring: &TestRing) -> Look<[u64; 2]> {
    cursor.poll_slots(ring, |seq| ring.read(seq))
}

fn starts_at(nslots: usize, frames: std::ops::Range<u64>, start: Start) -> u64 {
    Cursor::start(&ring_with(nslots, frames), start)
        .next()
        .get()
}

#[test]
fn every_start_on_a_new_ring_is_frame_zero() {
    for start in [Start::Newest, Start::Next, Start::First] {
        assert_eq!(starts_at(8, 0..0, start), 0);
    }
}

#[test]
fn newest_includes_the_last_committed_frame_and_next_does_not() {
    for frames in [1, 2, 5, 8, 9, 15, 16, 17, 1000] {
        assert_eq!(starts_at(8, 0..frames, Start::Newest), frames - 1);
        assert_eq!(starts_at(8, 0..frames, Start::Next), frames);
    }
}

#[test]
fn a_frame_in_progress_is_not_the_newest_committed_one() {
    let ring = ring_with(8, 0..20);
    ring.abandon(20);
    assert_eq!(Cursor::start(&ring, Start::Newest).next(), Seq(19));
    assert_eq!(Cursor::start(&ring, Start::Next).next(), Seq(20));
}

#[test]
fn first_is_frame_zero_while_its_slot_holds_it() {
    assert_eq!(starts_at(8, 0..8, Start::First), 0);
    assert_eq!(starts_at(8, 0..9, Start::First), 8);
}

#[test]
fn frames_come_in_order_one_per_look_and_then_nothing() {
    let ring = ring_with(8, 0..3);
    let mut cursor = Cursor::start(&ring, Start::First);
    for seq in 0..3 {
        assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(seq)));
    }
    assert_eq!(poll(&mut cursor, &ring), Look::Empty);
    ring.publish(3);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(3)));
}

// spec: W-8.3-5
#[test]
fn a_frame_in_progress_is_not_there_yet() {
    let ring = ring_with(8, 0..1);
    ring.abandon(1);
    let mut cursor = Cursor::start(&ring, Start::Next);
    assert_eq!(poll(&mut cursor, &ring), Look::Empty);
    ring.publish(1);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(1)));
}

#[test]
fn a_lapped_cursor_goes_to_the_newest_frame() {
    let ring = ring_with(8, 0..1);
    let mut cursor = Cursor::start(&ring, Start::First);
    (1..30).for_each(|seq| ring.publish(seq));
    assert_eq!(
        poll(&mut cursor, &ring),
        Look::Skipped(Skip::Lapped { lost: 29 })
    );
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(29)));
    assert_eq!(poll(&mut cursor, &ring), Look::Empty);
}

// spec: W-15.4-3
#[test]
fn a_lagging_cursor_goes_to_the_newest_frame_before_it_is_lapped() {
    let ring = ring_with(8, 0..5);
    let mut cursor = Cursor::start(&ring, Start::First);
    assert_eq!(
        poll(&mut cursor, &ring),
        Look::Skipped(Skip::Lagged { lost: 4, gap: 4 })
    );
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(4)));
}

// spec: W-15.4-3
#[test]
fn a_cursor_just_within_the_gap_loses_nothing() {
    let ring = ring_with(8, 0..4);
    let mut cursor = Cursor::start(&ring, Start::First);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(0)));

    let ring = ring_with(1024, 0..256);
    let mut cursor = Cursor::start(&ring, Start::First);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(0)));
    ring.publish(256);
    ring.publish(257);
    assert_eq!(
        poll(&mut cursor, &ring),
        Look::Skipped(Skip::Lagged {
            lost: 256,
            gap: 256
        })
    );
}

#[test]
fn a_ring_of_one_slot_delivers() {
    let ring = ring_with(1, 0..3);
    let mut cursor = Cursor::start(&ring, Start::Newest);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(2)));
    assert_eq!(poll(&mut cursor, &ring), Look::Empty);
    ring.publish(3);
    ring.publish(4);
    assert_eq!(
        poll(&mut cursor, &ring),
        Look::Skipped(Skip::Lapped { lost: 1 })
    );
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(4)));
}

/// Frames 1 and 2 are abandoned; 3 is there.
fn ring_with_hole() -> TestRing {
    let ring = ring_with(8, 0..1);
    ring.abandon(1);
    ring.abandon(2);
    ring.publish(3);
    ring
}

#[test]
fn a_hole_is_passed_before_a_sleep() {
    let ring = ring_with_hole();
    let mut cursor = Cursor::start(&ring, Start::First);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(0)));
    assert_eq!(poll(&mut cursor, &ring), Look::Empty);
    let skipped = cursor.poll_slots_before_sleep(&ring, |seq| ring.read(seq));
    assert_eq!(skipped, Look::Skipped(Skip::Hole { lost: 2 }));
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(3)));
}

#[test]
fn a_hole_is_passed_while_spinning() {
    let ring = ring_with_hole();
    let mut cursor = Cursor::start(&ring, Start::First);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(0)));
    let empty = (0..)
        .take_while(|_| poll(&mut cursor, &ring) == Look::Empty)
        .count();
    // The third look ahead reaches frame 3; two before it find frames in progress.
    assert!(
        empty < usize::try_from(2 * HOLE_POLLS).expect("small"),
        "{empty} empty polls"
    );
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(3)));
}

#[test]
fn a_frame_between_two_holes_is_delivered() {
    let ring = TestRing::new(8);
    ring.abandon(0);
    ring.publish(1);
    ring.abandon(2);
    ring.publish(3);
    let mut cursor = Cursor::start(&ring, Start::First);
    let mut looks = Vec::new();
    while looks.len() < 4 {
        looks.push(cursor.poll_slots_before_sleep(&ring, |seq| ring.read(seq)));
    }
    let hole = Look::Skipped(Skip::Hole { lost: 1 });
    assert_eq!(
        looks,
        [hole, Look::Frame(frame(1)), hole, Look::Frame(frame(3))]
    );
}

#[test]
fn frames_in_progress_alone_prove_no_hole() {
    let ring = TestRing::new(8);
    (0..4).for_each(|seq| ring.abandon(seq));
    let mut cursor = Cursor::start(&ring, Start::First);
    for _ in 0..1000 {
        assert_eq!(poll(&mut cursor, &ring), Look::Empty);
    }
    assert_eq!(
        cursor.poll_slots_before_sleep(&ring, |seq| ring.read(seq)),
        Look::Empty
    );
    assert_eq!(cursor.next(), Seq(0));
}

/// Another implementation marks an old slot with a new number when it queues claims (K-7).
#[test]
fn a_slot_marked_with_a_foreign_number_costs_one_frame() {
    let ring = ring_with(8, 0..2);
    let mut cursor = Cursor::start(&ring, Start::Next);
    begin(ring.slot(2), 3 + 8);
    let remarked = Look::Skipped(Skip::Remarked { seq: Seq(2) });
    assert_eq!(poll(&mut cursor, &ring), remarked);
    ring.publish(3);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(3)));
}

// spec: W-8.3-1
#[test]
fn impossible_numbers_are_counted_and_end_nowhere() {
    let ring = TestRing::new(4);
    (0..4).for_each(|slot| ring.slot(slot)[0].store(u64::MAX, Ordering::Relaxed));
    let mut cursor = Cursor::start(&ring, Start::First);
    for seq in 0..100 {
        let before = cursor.next();
        let look = cursor.poll_slots_before_sleep(&ring, |seq| ring.read(seq));
        assert!(matches!(look, Look::Skipped(_)), "{look:?} at {seq}");
        assert!(cursor.next() > before && cursor.next().get() <= MAX_SEQ + 1);
    }
}

#[test]
fn numbers_that_are_used_up_yield_nothing_more() {
    let ring = TestRing::new(4);
    (0..4).for_each(|back| ring.publish(MAX_SEQ - 3 + back));
    let mut cursor = Cursor::start(&ring, Start::Newest);
    assert_eq!(cursor.next(), Seq(MAX_SEQ));
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(MAX_SEQ)));
    for _ in 0..200 {
        assert_eq!(poll(&mut cursor, &ring), Look::Empty);
    }
}

#[test]
fn skipping_to_the_newest_never_goes_back() {
    let ring = ring_with(8, 0..6);
    let mut cursor = Cursor::start(&ring, Start::First);
    assert_eq!(cursor.skip_slots_to_newest(&ring), 5);
    assert_eq!(poll(&mut cursor, &ring), Look::Frame(frame(5)));
    assert_eq!(cursor.skip_slots_to_newest(&ring), 0);
    assert_eq!(cursor.next(), Seq(6));
}

// spec: W-15.4-2 W-15.3-2
#[test]
fn each_loss_has_one_counter_and_one_label() {
    let seq = Seq(1);
    let all = [
        (Skip::Lagged { lost: 3, gap: 2 }, DropCounter::Gap, 3),
        (Skip::Lapped { lost: 4 }, DropCounter::Gap, 4),
        (Skip::Hole { lost: 5 }, DropCounter::Gap, 5),
        (Skip::Remarked { seq }, DropCounter::Late, 1),
        (Skip::Overwritten { seq }, DropCounter::Late, 1),
        (Skip::OutOfRange { seq }, DropCounter::Late, 1),
    ];
    for (skip, counter, lost) in all {
        assert_eq!((skip.counter(), skip.lost()), (counter, lost));
    }
    let labels: BTreeSet<_> = all.iter().map(|(skip, _, _)| skip.reason()).collect();
    assert_eq!(labels.len(), all.len());
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    Abandon,
    Poll,
    PollBeforeSleep,
    SkipToNewest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..40_u8).prop_map(Step::Publish),
        Just(Step::Abandon),
        Just(Step::Poll),
        Just(Step::Poll),
        Just(Step::PollBeforeSleep),
        Just(Step::SkipToNewest),
    ];
    // Miri takes a thousand times as long for each.
    let most = if cfg!(miri) { 40 } else { 200 };
    prop::collection::vec(step, 0..most)
}

proptest! {
    /// Whatever the producer does: frames come whole and rise, every number is delivered or counted
    /// once, a hole never hides a frame that is still in its slot, and the newest frame is reached.
    // spec: W-15.4-1
    #[test]
    fn every_frame_is_delivered_or_counted(steps in steps(), log2 in 0..6_u32) {
        let ring = TestRing::new(1 << log2);
        let mut cursor = Cursor::start(&ring, Start::First);
        let (mut seq, mut accounted, mut passed) = (0, 0, 0);
        let mut look_once = |cursor: &mut Cursor, is_sleepy: bool| {
            let wanted = cursor.next().get();
            let look = if is_sleepy {
                cursor.poll_slots_before_sleep(&ring, |seq| ring.read(seq))
            } else {
                cursor.poll_slots(&ring, |seq| ring.read(seq))
            };
            match look {
                Look::Empty => assert_eq!(cursor.next().get(), wanted),
                Look::Frame(words) => {
                    assert_eq!(words, frame(wanted));
                    accounted += 1;
                }
                Look::Skipped(skip) => {
                    if let Skip::Hole { lost } = skip {
                        let hidden = (wanted..wanted + lost)
                            .find(|&seq| ring.mark(seq) == committed(seq));
                        assert_eq!(hidden, None, "a committed frame counted as hole");
                    }
                    accounted += skip.lost();
                }
            }
            look
        };
        for step in steps {
            match step {
                Step::Publish(count) => for _ in 0..count {
                    ring.publish(seq);
                    seq += 1;
                },
                Step::Abandon => {
                    ring.abandon(seq);
                    seq += 1;
                }
                Step::Poll => { look_once(&mut cursor, false); }
                Step::PollBeforeSleep => { look_once(&mut cursor, true); }
                Step::SkipToNewest => passed += cursor.skip_slots_to_newest(&ring),
            }
        }
        ring.publish(seq);
        let mut looks = 0;
        while cursor.next().get() <= seq {
            look_once(&mut cursor, true);
            looks += 1;
            prop_assert!(looks < 1000, "the newest frame is never reached");
        }
        prop_assert_eq!(accounted + passed, seq + 1);
    }
}
