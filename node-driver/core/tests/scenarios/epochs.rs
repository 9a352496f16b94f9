//! When epochs are raised, and in which order the world hears of it.

use tensorpool_driver_core::config::Profile;
use tensorpool_driver_core::{Action, Damage, Event, RegionsError, StreamPhase};
use tensorpool_wire::{Epoch, Message, StreamId};

use crate::assert_transcript;
use crate::rig::*;

#[test]
// spec: D-6-1, W-15.14-1, D-8-1, D-8-2, D-3-1
fn a_producer_attach_raises_the_epoch_and_is_answered_after_journal_and_files() {
    let mut rig = Rig::new();
    let begun = rig.send_raw(aeron(1), produce(7));
    assert_transcript!(rig, begun.clone(), ["persist 10000/e1", "create 10000/e1"]);
    // Neither of the two suffices, in either order.
    assert_eq!(
        rig.raw(Event::RegionsReady {
            op: create_op(&begun)
        }),
        []
    );
    let done = rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    assert_transcript!(
        rig,
        done,
        [
            "aeron:1 <- AttachResponse #70 Ok l1 on 10000/e1",
            "refresh 10000/e1",
            "aeron <- Announce 10000/e1 producer 7",
        ]
    );
}

#[test]
// spec: D-6-1
fn the_first_consumer_of_a_stream_brings_its_first_epoch_into_being() {
    let mut rig = Rig::new();
    let actions = rig.send(aeron(1), consume(7));
    assert_transcript!(
        rig,
        actions,
        [
            "persist 10000/e1",
            "create 10000/e1",
            "aeron:1 <- AttachResponse #70 Ok l1 on 10000/e1",
            "refresh 10000/e1",
            "aeron <- Announce 10000/e1 producer 0",
        ]
    );
    let second = rig.send(aeron(1), consume(8));
    assert_transcript!(
        rig,
        second,
        [
            "aeron:1 <- AttachResponse #80 Ok l2 on 10000/e1",
            "aeron <- Announce 10000/e1 producer 0",
        ]
    );
}

#[test]
// spec: D-6-1
fn a_producer_that_joins_waiting_consumers_raises_the_epoch_and_consumers_keep_their_leases() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), consume(8));
    let actions = rig.send(aeron(1), produce(7));
    assert_transcript!(
        rig,
        actions,
        [
            "persist 10000/e1",
            "create 10000/e1",
            "aeron:1 <- AttachResponse #70 Ok l2 on 10000/e1",
            "refresh 10000/e1",
            "aeron <- Announce 10000/e1 producer 7",
        ]
    );
    assert_eq!(rig.status().leases, 2);
}

#[test]
// spec: D-6-1, D-4.9-13, D-8-2
fn a_producers_detach_raises_the_epoch_after_its_revoke_and_its_answer() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    let actions = rig.detach(&held);
    assert_transcript!(
        rig,
        actions,
        [
            "aeron <- Revoked l1 Producer of client 7 on 10000 Detached ``",
            "aeron:1 <- DetachResponse #77 Ok ``",
            "persist 10000/e2",
            "create 10000/e2",
            "refresh 10000/e2",
            "aeron <- Announce 10000/e2 producer 0",
        ]
    );
}

#[test]
// spec: D-6-1, D-4.7a-2, D-7-1, D-4.9-13
fn an_expired_producer_lease_raises_the_epoch_before_another_producer_gets_in() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    rig.pass(3);
    rig.now += 1;
    let actions = rig.tick();
    assert_transcript!(
        rig,
        actions,
        [
            "aeron <- Revoked l1 Producer of client 7 on 10000 Expired `no keepalive within the grace`",
            "persist 10000/e2",
            "create 10000/e2",
            "refresh 10000/e2",
            "aeron <- Announce 10000/e2 producer 0",
        ]
    );
    let next = rig.lease(aeron(1), produce(8));
    assert!(next.epoch > held.epoch);
    assert_eq!(
        rig.epoch_name(next.epoch),
        "e3",
        "its attach is a cause of its own"
    );
}

#[test]
// spec: D-6-1
fn an_epoch_that_nobody_has_heard_of_serves_the_next_producer_as_well() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), produce(7));
    let begun = rig.send_raw(aeron(1), held.detach());
    assert_eq!(
        rig.send_raw(aeron(1), produce(8)),
        [],
        "it waits for the epoch being made"
    );
    rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    let done = rig.raw(Event::RegionsReady {
        op: create_op(&begun),
    });
    let (_, answer) = &answers(&done)[0];
    assert!(answer.epoch.unwrap() > held.epoch);
    assert!(rig.show(&done).ends_with("producer 8"));
}

#[test]
// spec: D-6-1, W-15.2-2
fn another_layout_revokes_the_producer_and_raises_the_epoch() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), produce(7));
    rig.lease(aeron(2), consume(8));
    rig.epoch_name(held.epoch);
    let mut other = spec();
    let profile = Profile {
        header_nslots: 16,
        ..other.policy.profiles["small"].clone()
    };
    other.policy.profiles.insert("small".to_owned(), profile);
    let policy = other.policy.validate(&[]).unwrap();
    let actions = rig.event(Event::PolicyChanged(Box::new(policy)));
    assert_transcript!(
        rig,
        actions.clone(),
        [
            "aeron <- Revoked l1 Producer of client 7 on 10000 Revoked `layout changed`",
            "persist 10000/e2",
            "create 10000/e2",
            "refresh 10000/e2",
            "aeron <- Announce 10000/e2 producer 0",
        ]
    );
    let slots: Vec<u32> = sent(&actions)
        .iter()
        .filter_map(|(_, message)| match message {
            Message::ShmPoolAnnounce(announce) => Some(announce.header_nslots),
            _ => None,
        })
        .collect();
    assert_eq!(slots, [16]);
    assert_eq!(rig.status().leases, 1, "the consumer follows the announce");
}

#[test]
// spec: D-6-1
fn another_layout_without_a_producer_announces_the_old_one_until_the_new_one_is_there() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(2), consume(8));
    rig.epoch_name(held.epoch);
    let mut other = spec();
    let profile = Profile {
        header_nslots: 16,
        ..other.policy.profiles["small"].clone()
    };
    other.policy.profiles.insert("small".to_owned(), profile);
    let policy = other.policy.validate(&[]).unwrap();
    let begun = rig.raw(Event::PolicyChanged(Box::new(policy)));
    assert_transcript!(rig, begun.clone(), ["persist 10000/e2", "create 10000/e2"]);
    rig.now += SECOND;
    rig.keepalive(&held);
    let periodic = rig.raw(Event::Tick);
    assert!(
        matches!(&sent(&periodic)[0].1, Message::ShmPoolAnnounce(old)
            if old.header_nslots == 8 && old.epoch == held.epoch),
        "epoch and layout belong together"
    );
}

#[test]
// spec: X-1-30, D-6-1
fn a_poisoned_region_revokes_the_producer_and_raises_the_epoch() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    let poisoned = Event::RegionPoisoned {
        stream: CAMERA,
        epoch: held.epoch,
        damage: Damage::LostPages,
    };
    let actions = rig.event(poisoned.clone());
    assert_transcript!(
        rig,
        actions,
        [
            "aeron <- Revoked l1 Producer of client 7 on 10000 Revoked `region lost its pages`",
            "persist 10000/e2",
            "create 10000/e2",
            "refresh 10000/e2",
            "aeron <- Announce 10000/e2 producer 0",
        ]
    );
    assert_eq!(
        rig.event(poisoned),
        [],
        "an old epoch's region is nobody's any more"
    );
    let now = rig.status().streams[0].epoch.unwrap();
    let actions = rig.event(Event::RegionPoisoned {
        stream: CAMERA,
        epoch: now,
        damage: Damage::LostPages,
    });
    assert_transcript!(
        rig,
        actions,
        [
            "persist 10000/e3",
            "create 10000/e3",
            "refresh 10000/e3",
            "aeron <- Announce 10000/e3 producer 0",
        ]
    );
}

#[test]
// spec: D-8-1, W-7.1-4, D-3-2, W-10.1.1-6
fn every_announced_epoch_is_refreshed_and_announced_once_per_period() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), produce(7));
    let mut counts = Vec::new();
    for _ in 0..3 {
        rig.keepalive(&held);
        let actions = rig.pass(1);
        let refreshes = actions.iter().filter(
            |action| matches!(action, Action::RefreshActivity { key } if key.epoch == held.epoch),
        );
        counts.push((refreshes.count(), sent(&actions).len()));
    }
    // The first interval is shorter, so that streams which began together spread.
    assert_eq!(counts, [(1, 1), (1, 1), (1, 1)]);
}

#[test]
fn streams_that_began_together_are_not_announced_in_one_cycle() {
    let mut rig = Rig::with(|spec| {
        let template = spec.policy.streams[0].clone();
        for id in 0..64 {
            let mut stream = template.clone();
            stream.stream_id = StreamId(11_000 + id);
            stream.name = format!("s{id}");
            spec.policy.streams.push(stream);
        }
    });
    for id in 0..64 {
        let request = tensorpool_wire::ShmAttachRequest {
            stream_id: StreamId(11_000 + id),
            ..consume(100 + id)
        };
        rig.lease(aeron(1), request);
    }
    let mut most = 0;
    let mut total = 0;
    for _ in 0..100 {
        rig.now += SECOND / 100;
        let announces = sent(&rig.tick()).len();
        most = most.max(announces);
        total += announces;
    }
    assert_eq!(total, 64);
    assert!(most <= 8, "{most} announces in one cycle");
}

#[test]
// spec: D-4.7a-2
fn a_stream_whose_next_epoch_failed_is_tried_again_each_announce_period() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), produce(7));
    let begun = rig.send_raw(aeron(1), held.detach());
    rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    let failed = rig.raw(Event::RegionsFailed {
        op: create_op(&begun),
        error: RegionsError::Other("no such device".to_owned()),
    });
    assert_transcript!(rig, failed, []);
    assert_eq!(rig.status().streams[0].phase, StreamPhase::Failed);
    rig.now += SECOND - 1;
    assert_eq!(rig.raw(Event::Tick), []);
    rig.now += 1;
    let retried = rig.tick();
    assert!(rig.show(&retried).contains("Announce"));
    assert_eq!(rig.status().streams[0].phase, StreamPhase::Ready);
    assert_eq!(rig.status().streams[0].error, None);
}

#[test]
fn an_attach_does_not_wait_for_the_retry() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), produce(7));
    let begun = rig.send_raw(aeron(1), held.detach());
    rig.raw(Event::RegionsFailed {
        op: create_op(&begun),
        error: RegionsError::NoHugepages("not a hugetlbfs".to_owned()),
    });
    rig.lease(aeron(1), produce(8));
}

#[test]
fn a_journal_that_cannot_be_written_keeps_the_epoch_from_being_announced() {
    let mut rig = Rig::new();
    let begun = rig.send_raw(aeron(1), produce(7));
    rig.raw(Event::RegionsReady {
        op: create_op(&begun),
    });
    let failed = rig.raw(Event::EpochPersistFailed {
        op: persist_op(&begun),
        error: "disk full".to_owned(),
    });
    assert_transcript!(
        rig,
        failed,
        [
            "remove 10000/e1 (abandoned)",
            "aeron:1 <- AttachResponse #70 InternalError `shm creation failed: the epoch journal could not be written: disk full`",
        ]
    );
}

#[test]
fn a_late_result_of_an_epoch_that_was_given_up_is_undone() {
    let mut rig = Rig::with(|spec| spec.timing.op_timeout_ns = 2 * SECOND);
    let begun = rig.send_raw(aeron(1), produce(7));
    rig.now += 2 * SECOND;
    let given_up = rig.raw(Event::Tick);
    assert_transcript!(
        rig,
        given_up,
        ["aeron:1 <- AttachResponse #70 InternalError `shm creation failed: no result within 2 s`"]
    );
    let late = rig.raw(Event::RegionsReady {
        op: create_op(&begun),
    });
    assert_transcript!(rig, late.clone(), ["remove 10000/e1 (abandoned)"]);
    for action in &late {
        if let Some(event) = success(action) {
            rig.raw(event);
        }
    }
    assert_eq!(
        rig.raw(Event::EpochPersisted {
            op: persist_op(&begun)
        }),
        []
    );
    assert_eq!(rig.status().memory_bytes, 0);
    // Told twice, or of something never asked: nothing happens.
    assert_eq!(
        rig.raw(Event::RegionsReady {
            op: create_op(&begun)
        }),
        []
    );
}

#[test]
fn a_retry_between_two_epochs_is_answered_when_there_is_something_to_map() {
    let mut rig = Rig::new();
    let producer = rig.lease(aeron(1), produce(7));
    rig.lease(aeron(1), consume(8));
    let begun = rig.send_raw(aeron(1), producer.detach());
    assert_eq!(rig.send_raw(aeron(1), consume(8)), []);
    rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    rig.raw(Event::RegionsReady {
        op: create_op(&begun),
    });
    let again = rig.lease(aeron(1), consume(8));
    assert!(again.epoch > producer.epoch);
}

#[test]
// spec: D-6-1
fn epochs_are_unique_over_all_streams_even_within_one_instant() {
    let mut rig = Rig::new();
    let camera = rig.lease(aeron(1), produce(7));
    let request = tensorpool_wire::ShmAttachRequest {
        stream_id: LIDAR,
        ..produce(8)
    };
    let lidar = rig.lease(aeron(1), request);
    assert_eq!(camera.epoch, Epoch(START));
    assert_eq!(lidar.epoch, Epoch(START + 1));
}
