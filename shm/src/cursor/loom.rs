//! A cursor against a writer, in every interleaving, and the two short cuts that lose frames.

use ::loom::sync::Arc;
use ::loom::thread;

use super::{Cursor, Look, Skip, Start, Step, newest_begun, taken};
use crate::seqlock::loom::model;
use crate::seqlock::ring::{Ring, frame};
use crate::seqlock::{Slots, committed};
use crate::sync::{AtomicU64, Ordering, fence};

type LookAt = fn(&mut Cursor, &Ring<2>) -> Look<[u64; 2]>;

/// A writer commits two frames in order into a ring that holds both. A cursor that wants the first
/// one may find nothing, but must never believe that it does not exist.
fn committed_frames_are_never_holes(look: LookAt) {
    model(move || {
        let ring = Arc::new(Ring::<2>::new(4));
        let mut cursor = Cursor::start(&*ring, Start::First);
        let writer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                ring.publish(0);
                ring.publish(1);
            }
        });
        let mut wanted = 0;
        for _ in 0..3 {
            match look(&mut cursor, &ring) {
                Look::Empty => {}
                Look::Frame(words) => {
                    assert_eq!(words, frame(wanted));
                    wanted += 1;
                }
                Look::Skipped(skip) => panic!("lost a committed frame: {skip:?}"),
            }
        }
        writer.join().expect("the writer ends");
    });
}

#[test]
fn looking_past_holes_loses_no_committed_frame() {
    committed_frames_are_never_holes(|cursor, ring| {
        cursor.poll_slots_before_sleep(ring, |seq| ring.read(seq))
    });
}

#[test]
#[should_panic(expected = "lost a committed frame")]
fn looking_ahead_without_reading_again_loses_frames() {
    committed_frames_are_never_holes(|cursor, ring| match cursor.step(ring) {
        Step::Empty if ring.mark(1) == committed(1) && cursor.next == 0 => {
            fence(Ordering::Acquire);
            cursor.settled = 1;
            Look::Skipped(cursor.pass_hole(ring))
        }
        step => taken(step, |seq| ring.read(seq)),
    });
}

#[test]
#[should_panic(expected = "lost a committed frame")]
fn reading_again_without_the_fence_loses_frames() {
    committed_frames_are_never_holes(|cursor, ring| match cursor.step(ring) {
        Step::Empty if ring.mark(1) == committed(1) && cursor.next == 0 => {
            cursor.settled = 1;
            taken(cursor.step(ring), |seq| ring.read(seq))
        }
        step => taken(step, |seq| ring.read(seq)),
    });
}

/// A hole is found while the writer goes on, and nothing but the hole is lost.
#[test]
fn only_the_hole_is_lost() {
    model(|| {
        let ring = Arc::new(Ring::<2>::new(4));
        let mut cursor = Cursor::start(&*ring, Start::First);
        let writer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                ring.abandon(0);
                ring.publish(1);
            }
        });
        for _ in 0..3 {
            match cursor.poll_slots_before_sleep(&*ring, |seq| ring.read(seq)) {
                Look::Empty => assert!(cursor.next == 0 || cursor.next == 2),
                Look::Frame(words) => assert_eq!(words, frame(1)),
                Look::Skipped(skip) => assert_eq!(skip, Skip::Hole { lost: 1 }),
            }
        }
        writer.join().expect("the writer ends");
    });
}

/// The writer laps the cursor. Frames come whole and in order, and every number up to the cursor was
/// either delivered or counted.
#[test]
fn a_lapped_cursor_accounts_for_every_frame() {
    model(|| {
        let ring = Arc::new(Ring::<2>::new(2));
        let mut cursor = Cursor::start(&*ring, Start::First);
        let writer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || (0..3).for_each(|seq| ring.publish(seq))
        });
        let (mut delivered, mut lost) = (0, 0);
        for _ in 0..2 {
            let wanted = cursor.next;
            match cursor.poll_slots(&*ring, |seq| ring.read(seq)) {
                Look::Empty => {}
                Look::Frame(words) => {
                    assert_eq!(words, frame(wanted), "frames come in order and whole");
                    delivered += 1;
                }
                Look::Skipped(skip) => lost += skip.lost(),
            }
            assert_eq!(delivered + lost, cursor.next);
        }
        writer.join().expect("the writer ends");
    });
}

/// Newest by binary search, while the ring turns over: the answer was true at some instant between
/// the call and the return.
#[test]
fn newest_was_right_at_some_instant() {
    model(|| {
        let ring = Arc::new(Ring::<1>::new(4));
        let begun = Arc::new(AtomicU64::new(0));
        let writer = thread::spawn({
            let (ring, begun) = (Arc::clone(&ring), Arc::clone(&begun));
            move || {
                for seq in 0..5 {
                    ring.abandon(seq);
                    begun.store(seq, Ordering::Release);
                }
            }
        });
        let before = begun.load(Ordering::Acquire);
        let newest = newest_begun(&*ring);
        fence(Ordering::Acquire);
        let after = begun.load(Ordering::Relaxed);
        assert!(
            newest >= before,
            "{newest} was no longer the newest at {before}"
        );
        assert!(newest <= after + 1, "{newest} was not begun yet at {after}");
        writer.join().expect("the writer ends");
    });
}
