//! Who gets memory where it is short, and on a node that takes no more.

use tensorpool_driver_core::config::StreamSpec;
use tensorpool_driver_core::{Event, RegionsError};
use tensorpool_wire::{ResponseCode, StreamId};

use super::*;
use crate::assert_transcript;

#[test]
fn a_full_class_refuses_with_what_is_needed_what_is_free_and_who_holds_it() {
    let mut rig = rig(|policy| small_class(policy, 1));
    rig.lease(aeron(1), consume(7));
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, consume(8))),
        (
            ResponseCode::Rejected,
            "class `plain` has too little memory on this node: 40960 bytes (10 pages of 4096) needed, 0 of 40960 bytes free; held by vision/camera (40960)".to_owned()
        )
    );
    let lidar = status(&rig, LIDAR);
    assert!(lidar.waits_for_memory);
    assert_eq!(lidar.error_reason, Some("class_full"));
    // Another class has memory of its own.
    rig.lease(aeron(1), on(HUGE, consume(9)));
}

#[test]
// spec: GC-2
fn a_class_is_never_exceeded_and_its_old_epochs_go_first() {
    let mut rig = rig(|policy| small_class(policy, 2));
    for client in 7..12 {
        let held = rig.lease(aeron(1), produce(client));
        let class = rig.status().classes[1].clone();
        assert_eq!(class.name, "plain");
        assert!(
            class.current_bytes + class.old_bytes <= 2 * EPOCH,
            "{class:?}"
        );
        rig.detach(&held);
    }
}

#[test]
// spec: X-2-72
fn a_stream_that_fills_its_class_can_be_produced_again_and_again_with_consumers_or_without() {
    let mut rig = rig(|policy| small_class(policy, 1));
    let mut last = None;
    for client in 7..10 {
        let held = rig.lease(aeron(1), produce(client));
        assert!(Some(held.epoch) > last, "no two producers share an epoch");
        last = Some(held.epoch);
        rig.detach(&held);
    }
    let reader = rig.lease(aeron(2), consume(20));
    let actions = rig.send(aeron(1), produce(10));
    let (_, answer) = &answers(&actions)[0];
    assert_eq!(answer.code, ResponseCode::Ok, "{}", answer.error_message);
    assert_eq!(
        answer.epoch,
        Some(reader.epoch),
        "what the consumer mapped is what it gets"
    );
    let shown = rig.show(&actions);
    assert!(shown.ends_with("producer 10"), "{shown}");
    let camera = status(&rig, CAMERA);
    assert_eq!((camera.error, camera.waits_for_memory), (None, false));
}

#[test]
fn a_stream_that_waits_for_memory_keeps_lower_ones_from_what_becomes_free() {
    let mut rig = rig(|policy| {
        small_class(policy, 1);
        policy.streams[0].grace_ns = 0;
        policy.streams[1].priority = 100;
        policy.streams.push(StreamSpec {
            priority: 50,
            ..stream("sonar", StreamId(10_003), "plain")
        });
    });
    let low = rig.lease(aeron(1), consume(7));
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, consume(8))).0,
        ResponseCode::Rejected
    );
    // The camera goes, and with it its memory.
    rig.detach(&low);
    let mut without = policy();
    small_class(&mut without, 1);
    without.streams.remove(0);
    without.streams[0].priority = 100;
    without.streams.push(StreamSpec {
        priority: 50,
        ..stream("sonar", StreamId(10_003), "plain")
    });
    follow(&mut rig, without);
    let text = "memory is short on this node: `vision/lidar` with priority 100 waits for 40960 bytes and comes before priority 50; 40960 bytes needed";
    assert_eq!(
        rig.refused(aeron(1), on(StreamId(10_003), consume(9))),
        (ResponseCode::Rejected, text.to_owned())
    );
    rig.lease(aeron(1), on(LIDAR, consume(8)));
}

#[test]
fn a_claim_that_nobody_renews_ends() {
    let mut rig = rig(|policy| {
        small_class(policy, 1);
        policy.streams[1].priority = 100;
    });
    rig.lease(aeron(1), consume(7));
    rig.refused(aeron(1), on(LIDAR, consume(8)));
    assert!(status(&rig, LIDAR).waits_for_memory);
    rig.pass(11);
    assert!(!status(&rig, LIDAR).waits_for_memory);
}

#[test]
fn where_pages_run_out_the_higher_priority_comes_first_on_that_base_only() {
    let mut rig = rig(|policy| policy.streams[1].priority = 1);
    let begun = rig.send_raw(aeron(1), on(LIDAR, consume(7)));
    let refused = rig.event(Event::RegionsFailed {
        op: create_op(&begun),
        error: no_space(),
    });
    assert_eq!(
        answers(&refused)[0].1.error_message,
        "shm creation failed: pages of 4Ki for class `plain` are used up: 49152 bytes needed, 100 bytes free, 0 bytes held by old epochs"
    );
    assert!(
        rig.refused(aeron(1), consume(8))
            .1
            .starts_with("memory is short on this node: `vision/lidar`")
    );
    rig.lease(aeron(1), on(HUGE, consume(9)));
    rig.lease(aeron(1), on(LIDAR, consume(7)));
    rig.lease(aeron(1), consume(8));
}

#[test]
fn pages_that_are_free_and_not_given_are_said_to_be_a_limit_of_the_control_group() {
    let mut rig = rig(|_| {});
    let begun = rig.send_raw(aeron(1), consume(7));
    let refused = rig.event(Event::RegionsFailed {
        op: create_op(&begun),
        error: RegionsError::NoSpace {
            needed_bytes: 49_152,
            free_bytes: 90_000,
            node: None,
        },
    });
    assert_eq!(
        answers(&refused)[0].1.error_message,
        "shm creation failed: pages of 4Ki for class `plain` are used up: 49152 bytes needed, 90000 bytes free (and not given: the control group of the driver may have no more), 0 bytes held by old epochs"
    );
}

#[test]
fn a_cordoned_node_takes_no_memory_for_streams_that_have_none() {
    let mut rig = rig(|_| {});
    let held = rig.lease(aeron(1), produce(7));
    let mut cordoned = policy();
    cordoned.cordoned = true;
    assert_transcript!(rig, follow(&mut rig, cordoned), []);
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, consume(8))).1,
        "node is cordoned: no memory is taken for streams that have none here"
    );
    rig.lease(aeron(1), consume(9));
    rig.detach(&held);
    rig.lease(aeron(1), produce(10));
}
