//! Stream ids.

use std::sync::Arc;

use tensorpool_crds::StreamIdRange;
use tensorpool_operator::{DriverLife, plan};

use crate::build::{
    class, delete, driver, driver_serves, edit, message, planned, reasons, report, set_driver,
    settled, stream, world,
};

#[test]
fn numbers_follow_age_and_stay() {
    let (mut observed, plan) = settled(world([stream("young", 9), stream("old", 1)]));
    assert_eq!(planned(&plan, "old").stream_id, Some(20_000));
    assert_eq!(planned(&plan, "young").stream_id, Some(20_001));
    observed.streams.push(Arc::new(stream("oldest", 0)));
    let (_, plan) = settled(observed);
    assert_eq!(planned(&plan, "oldest").stream_id, Some(20_002));
    assert_eq!(planned(&plan, "old").stream_id, Some(20_000));
}

#[test]
fn a_number_that_was_asked_for_belongs_to_the_older_stream() {
    let mut observed = world([stream("young", 9), stream("old", 1)]);
    for name in ["young", "old"] {
        edit(&mut observed, name, |it| it.spec.stream_id = Some(10_001));
    }
    let plan = plan(&observed);
    assert_eq!(planned(&plan, "old").stream_id, Some(10_001));
    assert_eq!(reasons(&plan, "young")[0], "StreamIdInUse");
    assert_eq!(
        message(&plan, "young", "Accepted"),
        "stream id 10001 belongs to TensorStream vision/old; ask for another one, or leave streamId out"
    );
    assert_eq!(planned(&plan, "young").stream_id, None);
}

#[test]
fn who_has_a_number_keeps_it_though_an_older_one_asks() {
    let (mut observed, _) = settled(world([stream("holder", 5)]));
    let mut older = stream("older", 1);
    older.spec.stream_id = Some(20_000);
    observed.streams.push(Arc::new(older));
    let plan = plan(&observed);
    assert_eq!(planned(&plan, "holder").stream_id, Some(20_000));
    assert_eq!(reasons(&plan, "older")[0], "StreamIdInUse");
}

#[test]
fn a_number_in_the_range_that_somebody_asks_for_is_not_given_away() {
    let mut asks = stream("asks", 9);
    asks.spec.stream_id = Some(20_000);
    let plan = plan(&world([asks, stream("old", 1)]));
    assert_eq!(planned(&plan, "asks").stream_id, Some(20_000));
    assert_eq!(planned(&plan, "old").stream_id, Some(20_001));
}

#[test]
fn a_number_is_not_given_again_while_a_node_reports_it() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    driver_serves(&mut observed, "n1", &["a"]);
    // The object is gone, finalizer and all; its node has not noticed and never will.
    observed.streams = vec![Arc::new(stream("b", 2))];
    set_driver(&mut observed, "n1", DriverLife::Dead);
    let (mut observed, plan) = settled(observed);
    assert_eq!(planned(&plan, "b").stream_id, Some(20_001));
    let mut asks = stream("c", 3);
    asks.spec.stream_id = Some(20_000);
    observed.streams.push(Arc::new(asks.clone()));
    let refused = tensorpool_operator::plan(&observed);
    assert_eq!(reasons(&refused, "c")[0], "StreamIdInUse");
    let words = message(&refused, "c", "Accepted");
    assert!(
        words.contains("still in use on node n1 by vision/a (uid uid-a-1)"),
        "{words}"
    );
    // The node lets go: the number is free.
    driver(&mut observed, "n1", |_, status| status.streams.clear());
    assert_eq!(
        planned(&tensorpool_operator::plan(&observed), "c").stream_id,
        Some(20_000)
    );
}

#[test]
fn a_stream_of_the_same_name_is_another_stream() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    driver_serves(&mut observed, "n1", &["a"]);
    observed.streams = vec![Arc::new(stream("a", 2))];
    let (_, plan) = settled(observed);
    assert_eq!(planned(&plan, "a").stream_id, Some(20_001));
    assert_eq!(planned(&plan, "a").nodes.ready, 0);
}

#[test]
fn the_last_number_is_given_and_then_there_is_none() {
    let mut small = class("default");
    small.spec.stream_id_range = StreamIdRange { from: 7, to: 8 };
    let mut observed = world([stream("a", 1), stream("b", 2), stream("c", 3)]);
    observed.classes = vec![Arc::new(small)];
    let (mut observed, plan) = settled(observed);
    assert_eq!(planned(&plan, "b").stream_id, Some(8));
    assert_eq!(reasons(&plan, "c")[0], "StreamIdsExhausted");
    let words = message(&plan, "c", "Accepted");
    assert!(
        words.contains("from 7 to 8 is taken; widen streamIdRange"),
        "{words}"
    );
    delete(&mut observed, "a");
    let (_, plan) = settled(observed);
    assert_eq!(planned(&plan, "c").stream_id, Some(7));
}

#[test]
fn a_status_that_was_wiped_is_restored_from_the_nodes() {
    let (mut observed, _) = settled(world([stream("a", 1), stream("b", 2)]));
    driver_serves(&mut observed, "n2", &["b"]);
    for name in ["a", "b"] {
        edit(&mut observed, name, |it| it.status = None);
    }
    let plan = plan(&observed);
    assert_eq!(planned(&plan, "a").stream_id, Some(20_000));
    assert_eq!(planned(&plan, "b").stream_id, Some(20_001));
}

#[test]
fn two_streams_that_were_forged_to_one_number_are_told_apart_by_who_runs() {
    let (mut observed, _) = settled(world([stream("a", 1), stream("b", 2)]));
    driver(&mut observed, "n1", |spec, status| {
        let b = spec.iter().find(|it| it.name == "b").expect("it was told");
        status.streams = vec![report(b, tensorpool_crds::StreamPhase::Ready)];
    });
    edit(&mut observed, "a", |it| {
        it.status.get_or_insert_default().stream_id = Some(20_001);
    });
    let (_, plan) = settled(observed);
    assert_eq!(planned(&plan, "b").stream_id, Some(20_001));
    let other = planned(&plan, "a").stream_id.expect("it gets another one");
    assert_ne!(other, 20_001);
}
