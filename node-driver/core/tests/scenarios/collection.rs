//! Which epochs go, when, and what happens where memory is short.

use tensorpool_driver_core::config::Gc;
use tensorpool_driver_core::{Action, BaseId, Event, ExistingEpoch, Owner, Restored, StreamPhase};
use tensorpool_wire::{Epoch, MonoNanos, StreamId};

use crate::assert_transcript;
use crate::rig::*;

#[test]
// spec: D-10-2, D-14-1, X-2-27
fn a_restarted_driver_makes_higher_epochs_and_collects_its_predecessors_directories() {
    let old = ExistingEpoch {
        base: BaseId::default(),
        stream: CAMERA,
        epoch: Epoch(START * 7),
        bytes: 4_096,
        activity: MonoNanos(START - 10 * SECOND),
        owner: Owner::Dead,
        free_at: None,
    };
    let restored = Restored {
        last_epoch: Some(Epoch(START * 9)),
        existing: vec![
            old,
            ExistingEpoch {
                epoch: Epoch(START * 6),
                ..old
            },
        ],
    };
    let mut rig = Rig::restored(|_| {}, &restored);
    let held = rig.lease(aeron(1), produce(7));
    assert_eq!(held.epoch, Epoch(START * 9 + 1));
    let left: Vec<Epoch> = rig.status().streams[0]
        .memory
        .iter()
        .map(|m| m.epoch)
        .collect();
    assert_eq!(
        left,
        [Epoch(START * 7), held.epoch],
        "the current one and one before it"
    );
}

#[test]
// spec: D-17-1
fn collection_at_startup_is_an_option_and_clears_streams_that_are_served_no_more() {
    let gone = ExistingEpoch {
        base: BaseId::default(),
        stream: StreamId(1),
        epoch: Epoch(3),
        bytes: 4_096,
        activity: MonoNanos(0),
        owner: Owner::Dead,
        free_at: None,
    };
    let restored = Restored {
        last_epoch: None,
        existing: vec![
            gone,
            ExistingEpoch {
                epoch: Epoch(4),
                owner: Owner::Alive,
                ..gone
            },
        ],
    };
    let rig = Rig::restored(|_| {}, &restored);
    assert_eq!(rig.status().memory_bytes, 8_192);
    let rig = Rig::restored(|spec| spec.gc.on_startup = true, &restored);
    assert_eq!(
        rig.status().memory_bytes,
        4_096,
        "that of a living process stays"
    );
}

#[test]
// spec: GC-1, D-17-1
fn old_epochs_go_when_they_are_old_enough_and_not_before() {
    let mut rig = Rig::new();
    for client in 1..=4 {
        let held = rig.lease(aeron(1), produce(client));
        rig.detach(&held);
    }
    assert_eq!(
        rig.status().streams[0].memory.len(),
        8,
        "all are younger than 3 s"
    );
    let actions = rig.pass(4);
    let removed = rig.show(&actions);
    assert_eq!(removed.matches("(collected)").count(), 6, "{removed}");
    let memory = rig.status().streams[0].memory.clone();
    assert_eq!(memory.len(), 2);
    assert!(memory[1].current);
}

#[test]
// spec: D-17-1
fn collection_can_be_turned_off() {
    let mut rig = Rig::with(|spec| {
        spec.gc = Gc {
            enabled: false,
            ..Gc::default()
        };
    });
    for client in 1..=4 {
        let held = rig.lease(aeron(1), produce(client));
        rig.detach(&held);
    }
    rig.pass(10);
    assert_eq!(rig.status().streams[0].memory.len(), 8);
}

#[test]
// spec: GC-1
fn a_directory_that_cannot_be_removed_is_tried_again() {
    let mut rig = Rig::with(|spec| spec.gc.keep = 1);
    let held = rig.lease(aeron(1), produce(7));
    rig.detach(&held);
    rig.now += 4 * SECOND;
    let actions = rig.raw(Event::Tick);
    let op = actions
        .iter()
        .find_map(|action| match action {
            Action::RemoveEpoch { op, .. } => Some(*op),
            _ => None,
        })
        .expect("the old epoch is removed");
    rig.raw(Event::EpochRemoveFailed {
        op,
        error: "busy".to_owned(),
    });
    assert_eq!(rig.status().streams[0].memory.len(), 2);
    rig.pass(2);
    assert_eq!(rig.status().streams[0].memory.len(), 1);
}

#[test]
// spec: GC-2
fn lack_of_space_removes_all_but_the_announced_epoch_and_tries_once_more() {
    let mut rig = Rig::new();
    let first = rig.lease(aeron(1), produce(7));
    rig.epoch_name(first.epoch);
    rig.detach(&first);
    rig.status().streams[0]
        .epoch
        .map(|epoch| rig.epoch_name(epoch));
    // e1 is too young and would be kept, e2 is announced, e3 does not fit.
    let begun = rig.send_raw(aeron(1), produce(8));
    let retried = rig.raw(Event::RegionsFailed {
        op: create_op(&begun),
        error: no_space(),
    });
    assert_transcript!(
        rig,
        retried.clone(),
        ["remove 10000/e1 (no_space)", "create 10000/e3"]
    );
    rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    let done = rig.raw(Event::RegionsReady {
        op: create_op(&retried),
    });
    assert_eq!(answers(&done).len(), 1);
    assert_eq!(rig.status().counters.space_reclaims, 1);
}

#[test]
// spec: GC-2, D-4.6-1
fn lack_of_space_after_that_is_an_internal_error_with_the_numbers_and_the_old_epoch_holds() {
    let mut rig = Rig::new();
    let consumer = rig.lease(aeron(1), consume(6));
    let first = rig.lease(aeron(1), produce(7));
    rig.detach(&first);
    let announced = rig.status().streams[0].epoch;
    let begun = rig.send_raw(aeron(1), produce(8));
    let retried = rig.raw(Event::RegionsFailed {
        op: create_op(&begun),
        error: no_space(),
    });
    let failed = rig.raw(Event::RegionsFailed {
        op: create_op(&retried),
        error: no_space(),
    });
    let shown = rig.show(&failed);
    // The two removals of 40 KiB directories have not been reported yet: their space is still held.
    assert_eq!(
        shown,
        "aeron:1 <- AttachResponse #80 InternalError `shm creation failed: 49152 bytes needed, 100 bytes free, 81920 bytes held by old epochs`"
    );
    let status = rig.status();
    assert_eq!(status.streams[0].epoch, announced);
    assert_eq!(status.streams[0].phase, StreamPhase::Ready);
    assert!(status.streams[0].error.is_some());
    rig.keepalive(&consumer);
    assert_eq!(rig.status().leases, 1);
}

#[test]
// spec: W-15.21a-15
fn directories_found_later_are_collected_like_those_found_at_start() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), produce(7));
    let orphan = ExistingEpoch {
        base: BaseId::default(),
        stream: StreamId(3),
        epoch: Epoch(5),
        bytes: 1,
        activity: MonoNanos(0),
        owner: Owner::Alive,
        free_at: None,
    };
    assert_eq!(rig.raw(Event::EpochsFound(vec![orphan])), []);
    let dead = ExistingEpoch {
        owner: Owner::Dead,
        ..orphan
    };
    let actions = rig.event(Event::EpochsFound(vec![dead]));
    assert_eq!(rig.show(&actions).matches("remove 3/").count(), 1);
}
