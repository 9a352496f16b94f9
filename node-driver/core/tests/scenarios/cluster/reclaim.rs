//! Memory that somebody still has when it is to go.

use tensorpool_driver_core::{BaseId, ExistingEpoch, Note, OpId, Owner, Reclaim};
use tensorpool_wire::{Epoch, MonoNanos};

use super::*;
use crate::assert_transcript;

/// The camera wants its memory back two seconds after its grace of one.
fn forceful(policy: &mut PolicySpec) {
    policy.streams[0].grace_ns = SECOND;
    policy.streams[0].force_after_ns = Some(2 * SECOND);
}

fn without_camera() -> PolicySpec {
    let mut policy = policy();
    policy.streams.remove(0);
    policy
}

fn removal(actions: &[Action]) -> OpId {
    let mut ops = actions.iter().rev().filter_map(|action| match action {
        Action::RemoveEpoch { op, .. } => Some(*op),
        _ => None,
    });
    ops.next().expect("an epoch is removed")
}

/// Time passes tick by tick, and whoever has the memory keeps it. All actions but what the disk answers.
fn pass_in_use(rig: &mut Rig, tenths: u64) -> Vec<Action> {
    let mut all = Vec::new();
    for _ in 0..tenths {
        rig.now += SECOND / 10;
        let mut done = rig.raw(Event::Tick);
        let mut at = 0;
        while let Some(action) = done.get(at) {
            at += 1;
            if let Action::RemoveEpoch {
                op,
                reclaim: Reclaim::IfUnused,
                ..
            } = action
            {
                let more = rig.raw(Event::EpochInUse { op: *op });
                done.extend(more);
            }
        }
        all.append(&mut done);
    }
    all
}

fn notes(actions: &[Action]) -> Vec<Note> {
    let notes = actions.iter().filter_map(|action| match action {
        Action::Note(note @ (Note::MemoryInUse { .. } | Note::MemoryForced { .. })) => {
            Some(note.clone())
        }
        _ => None,
    });
    notes.collect()
}

#[test]
fn memory_that_nobody_has_goes_with_the_grace_also_where_it_would_be_taken() {
    let mut rig = rig(forceful);
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    let told = follow(&mut rig, without_camera());
    assert_transcript!(
        rig,
        told,
        [
            "aeron <- Revoked l1 Producer of client 7 on 10000 Revoked `stream was removed`",
            "mark 10000/e1 free at 3 s",
        ]
    );
    let actions = rig.pass(2);
    assert_transcript!(
        rig,
        actions.clone(),
        ["remove 10000/e1 if unused (collected)"]
    );
    assert_eq!(notes(&actions), []);
    assert_eq!(rig.status().departed, []);
}

#[test]
fn memory_that_somebody_keeps_is_taken_when_its_time_is_over_and_both_are_said_once() {
    let mut rig = rig(forceful);
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    follow(&mut rig, without_camera());
    let actions = pass_in_use(&mut rig, 29);
    assert_transcript!(
        rig,
        actions.clone(),
        [
            "remove 10000/e1 if unused (collected)",
            "mark 10000/e1 free at 3 s",
            "remove 10000/e1 if unused (collected)",
        ]
    );
    let key = tensorpool_driver_core::EpochKey {
        stream: CAMERA,
        epoch: held.epoch,
    };
    let name = "vision/camera".to_owned();
    let in_use = Note::MemoryInUse {
        key,
        name: name.clone(),
        bytes: EPOCH,
        left_ns: 2 * SECOND,
    };
    assert_eq!(notes(&actions), [in_use]);
    let departed = rig.status().departed;
    assert_eq!(
        (departed[0].bytes, departed[0].in_use_bytes),
        (EPOCH, EPOCH),
        "the stream is not gone yet"
    );
    let used: u64 = rig.status().bases.iter().map(|base| base.used_bytes).sum();
    assert_eq!(used, 0, "what is in use is pinned");

    let actions = rig.pass(1);
    assert_transcript!(rig, actions.clone(), ["remove 10000/e1 emptied (forced)"]);
    let bytes = EPOCH;
    assert_eq!(notes(&actions), [Note::MemoryForced { key, name, bytes }]);
    let status = rig.status();
    assert_eq!((status.departed, status.memory_bytes), (vec![], 0));
    assert_eq!(status.counters.forced_bytes, EPOCH);
    assert_eq!(status.counters.epochs_removed["collected"], 1);
    assert_eq!(status.counters.epochs_removed["forced"], 1);
}

#[test]
fn memory_that_is_let_go_in_time_is_not_taken() {
    let mut rig = rig(forceful);
    rig.lease(aeron(1), produce(7));
    follow(&mut rig, without_camera());
    pass_in_use(&mut rig, 12);
    let actions = rig.pass(1);
    assert_eq!(rig.show(&actions).matches("if unused").count(), 1);
    assert!(rig.pass(3).is_empty(), "there is nothing left to do");
    assert_eq!(rig.status().counters.forced_bytes, 0);
}

#[test]
fn without_force_files_are_unlinked_whoever_has_them() {
    let mut rig = rig(|policy| policy.streams[0].grace_ns = SECOND);
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    follow(&mut rig, without_camera());
    let actions = rig.pass(2);
    assert_transcript!(rig, actions, ["remove 10000/e1 (collected)"]);
}

#[test]
fn an_epoch_that_was_replaced_is_taken_too_and_counts_against_nobody_meanwhile() {
    let mut rig = rig(|policy| {
        forceful(policy);
        small_class(policy, 2);
    });
    let first = rig.lease(aeron(1), produce(7));
    rig.epoch_name(first.epoch);
    rig.detach(&first);
    // The class has room for two: the older one had to go, and a consumer that hangs has it.
    let begun = rig.send_raw(aeron(2), on(LIDAR, consume(9)));
    let shown = rig.show(&begun);
    assert!(
        shown.starts_with("remove 10000/e1 if unused (no_space)"),
        "{shown}"
    );
    let in_use = rig.raw(Event::EpochInUse {
        op: removal(&begun),
    });
    assert_transcript!(rig, in_use, ["mark 10000/e1 free at 2 s"]);
    assert!(rig.show(&begun).contains("create 10001"), "it is tried");
    pass_in_use(&mut rig, 19);
    let actions = rig.pass(1);
    assert!(
        rig.show(&actions)
            .contains("remove 10000/e1 emptied (forced)")
    );
}

#[test]
fn a_removal_by_force_that_fails_is_tried_again() {
    let mut rig = rig(forceful);
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    follow(&mut rig, without_camera());
    pass_in_use(&mut rig, 29);
    rig.now += SECOND / 10;
    let forced = rig.raw(Event::Tick);
    rig.raw(Event::EpochRemoveFailed {
        op: removal(&forced),
        error: "busy".to_owned(),
    });
    assert_eq!(rig.status().departed.len(), 1);
    let actions = rig.pass(2);
    assert_transcript!(rig, actions, ["remove 10000/e1 emptied (forced)"]);
    assert_eq!(rig.status().counters.forced_bytes, EPOCH);
}

#[test]
fn a_driver_that_starts_anew_goes_on_where_its_predecessor_was() {
    let left = ExistingEpoch {
        stream: CAMERA,
        epoch: Epoch(START),
        base: BaseId(1),
        bytes: EPOCH,
        activity: MonoNanos(START - 10 * SECOND),
        owner: Owner::Dead,
        free_at: Some(MonoNanos(START + 5 * SECOND)),
    };
    // Served again or not: what was to go is kept for nobody.
    for serves_camera in [false, true] {
        let mut rig = rig(|policy| {
            if !serves_camera {
                *policy = without_camera();
            }
        });
        rig.epoch_name(Epoch(START));
        let found = rig.raw(Event::EpochsFound(vec![left]));
        assert_transcript!(
            rig,
            found.clone(),
            ["remove 10000/e1 if unused (collected)"]
        );
        rig.raw(Event::EpochInUse {
            op: removal(&found),
        });
        pass_in_use(&mut rig, 49);
        let actions = rig.pass(1);
        assert_transcript!(rig, actions, ["remove 10000/e1 emptied (forced)"]);
    }
}
