//! Which NUMA node a stream's memory comes from.

use tensorpool_driver_core::config::PolicySpec;
use tensorpool_driver_core::{Action, Event, Numa, RegionsError};

use super::*;

fn asked(actions: &[Action]) -> Vec<Option<Numa>> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::CreateRegions { regions, .. } => Some(regions.numa),
        _ => None,
    });
    asked.collect()
}

fn lidar_on(numa: Numa) -> PolicySpec {
    let mut policy = policy();
    policy.streams[1].numa = Some(numa);
    policy
}

#[test]
fn each_epoch_is_asked_for_on_the_node_that_its_stream_names_at_that_time() {
    let mut rig = rig(|policy| policy.streams[1].numa = Some(Numa::Bind(1)));
    let begun = rig.send(aeron(1), consume(7));
    assert_eq!(asked(&begun), [None], "another stream");
    let begun = rig.send(aeron(1), on(LIDAR, consume(8)));
    assert_eq!(asked(&begun), [Some(Numa::Bind(1))]);
    let held = rig.lease(aeron(1), on(LIDAR, produce(9)));
    // Memory that is there stays where it is.
    let changed = follow(&mut rig, lidar_on(Numa::Preferred(0)));
    assert_eq!(asked(&changed), []);
    assert_eq!(status(&rig, LIDAR).epoch, Some(held.epoch));
    let begun = rig.send_raw(aeron(1), held.detach());
    assert_eq!(asked(&begun), [Some(Numa::Preferred(0))]);
}

#[test]
// spec: GC-2
fn a_node_without_enough_pages_is_named_after_old_epochs_have_gone() {
    let mut rig = rig(|policy| policy.streams[1].numa = Some(Numa::Bind(1)));
    let full = || RegionsError::NoSpace {
        needed_bytes: 49_152,
        free_bytes: 100,
        node: Some(1),
    };
    let begun = rig.send_raw(aeron(1), on(LIDAR, consume(7)));
    let refused = rig.event(Event::RegionsFailed {
        op: create_op(&begun),
        error: full(),
    });
    assert_eq!(
        answers(&refused)[0].1.error_message,
        "shm creation failed: pages of 4Ki for class `plain` are used up: 49152 bytes needed, 100 bytes free on NUMA node 1, 0 bytes held by old epochs"
    );
    assert!(status(&rig, LIDAR).waits_for_memory);
    // Pages came free: nothing else is needed.
    rig.lease(aeron(1), on(LIDAR, consume(7)));
}
