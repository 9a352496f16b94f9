//! Policies of nodes, labels, and what does not fit.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_crds::{MAX_NODE_STREAMS, PlacementMode, StreamPhase};
use tensorpool_operator::{DriverLife, plan};

use crate::build::{
    class, driver, driver_serves, edit, message, node, planned, policy, priority, reasons, report,
    set_driver, settled, stream, world,
};

#[test]
fn classes_and_placement_choose_nodes_by_their_labels() {
    let mut observed = world([stream("all", 1), stream("gpu", 2)]);
    let mut gpu = node("gpu-1");
    gpu.labels.insert("gpu".to_owned(), "a100".to_owned());
    let mut windows = node("win");
    windows
        .labels
        .insert("kubernetes.io/os".to_owned(), "windows".to_owned());
    observed.nodes.extend([gpu, windows]);
    edit(&mut observed, "gpu", |it| {
        it.spec.placement.node_selector = BTreeMap::from([("gpu".to_owned(), "a100".to_owned())]);
    });
    let plan = plan(&observed);
    assert_eq!(policy(&plan, "gpu-1"), ["all", "gpu"]);
    assert_eq!(policy(&plan, "n1"), ["all"]);
    assert!(!plan.nodes.contains_key("win"));
    assert_eq!(planned(&plan, "gpu").nodes.eligible, 1);
    assert_eq!(plan.nodes["n1"].node_uid, "uid-n1");
}

#[test]
fn a_stream_without_a_matching_node_says_so() {
    let mut observed = world([stream("a", 1)]);
    let mut picky = class("default");
    picky.spec.node_selector = BTreeMap::from([("gpu".to_owned(), "a100".to_owned())]);
    observed.classes = vec![Arc::new(picky)];
    let plan = plan(&observed);
    assert_eq!(
        reasons(&plan, "a"),
        ["Accepted", "NoMatchingNode", "NotProgrammed"]
    );
    assert!(plan.nodes.is_empty());
    assert_eq!(
        plan.classes["default"].conditions[0].reason,
        "NoMatchingNode"
    );
}

#[test]
fn a_policy_lists_the_highest_priority_first_then_the_oldest() {
    let mut observed = world([stream("young", 9), stream("old", 1), stream("urgent", 10)]);
    observed.priorities = vec![Arc::new(priority("high", 100, false))];
    edit(&mut observed, "urgent", |it| {
        it.spec.priority_class_name = Some("high".to_owned())
    });
    assert_eq!(policy(&plan(&observed), "n1"), ["urgent", "old", "young"]);
}

#[test]
fn the_256th_stream_fits_and_the_257th_waits_with_the_name_of_the_node() {
    let streams = |count: i64| (0..count).map(|second| stream(&format!("s{second:03}"), second));
    let (observed, full) = settled(world(streams(256)));
    assert_eq!(reasons(&full, "s255")[1], "NodesPending");
    assert_eq!(
        plan(&observed).nodes["n1"].spec.streams.len(),
        MAX_NODE_STREAMS
    );
    let mut observed = observed;
    let mut urgent = stream("urgent", 999);
    urgent.spec.priority_class_name = Some("high".to_owned());
    observed.priorities = vec![Arc::new(priority("high", 100, false))];
    observed.streams.push(Arc::new(urgent));
    let (_, plan) = settled(observed);
    // Nothing that was told is taken away for it, whatever its priority.
    assert_eq!(plan.nodes["n1"].spec.streams.len(), MAX_NODE_STREAMS);
    assert_eq!(
        reasons(&plan, "urgent"),
        ["Accepted", "NodeStreamLimit", "NotProgrammed"]
    );
    assert_eq!(
        message(&plan, "urgent", "Programmed"),
        "n1, n2, n3 already carry 256 streams, the most that a node can"
    );
}

#[test]
fn what_lives_on_a_node_keeps_its_place_before_what_was_only_told() {
    let streams = (0..256).map(|second| stream(&format!("s{second:03}"), second));
    let (mut observed, _) = settled(world(streams));
    driver_serves(&mut observed, "n1", &["s255"]);
    // The operator loses its memory of the policy, and there is one stream more.
    let object = observed
        .pool_nodes
        .iter_mut()
        .find(|it| crate::build::name_of(it) == "n1");
    Arc::make_mut(object.expect("it is there"))
        .spec
        .streams
        .clear();
    observed.streams.push(Arc::new(stream("s000-a", 0)));
    let plan = plan(&observed);
    assert!(policy(&plan, "n1").contains(&"s255"));
    assert!(policy(&plan, "n1").contains(&"s000-a"));
    assert!(!policy(&plan, "n1").contains(&"s254"));
}

#[test]
fn programmed_is_true_when_every_living_node_follows() {
    let (mut observed, before) = settled(world([stream("a", 1)]));
    assert_eq!(reasons(&before, "a")[1], "NodesPending");
    assert_eq!(
        message(&before, "a", "Programmed"),
        "n1, n2, n3 have been told and do not follow yet"
    );
    for name in ["n1", "n2"] {
        driver_serves(&mut observed, name, &[]);
    }
    set_driver(&mut observed, "n3", DriverLife::Never);
    let plan = plan(&observed);
    assert_eq!(reasons(&plan, "a"), ["Accepted", "Programmed", "OnDemand"]);
    assert_eq!(message(&plan, "a", "Programmed"), "3 nodes have been told");
}

#[test]
fn an_eager_stream_is_ready_when_every_node_has_it() {
    let mut observed = world([stream("a", 1)]);
    edit(&mut observed, "a", |it| {
        it.spec.placement.mode = PlacementMode::Eager
    });
    let (mut observed, _) = settled(observed);
    for name in ["n1", "n2", "n3"] {
        driver_serves(&mut observed, name, &[]);
    }
    driver_serves(&mut observed, "n1", &["a"]);
    let some = plan(&observed);
    assert_eq!(message(&some, "a", "Ready"), "ready on 1 of 3 nodes");
    for name in ["n2", "n3"] {
        driver_serves(&mut observed, name, &["a"]);
    }
    let all = plan(&observed);
    assert_eq!(reasons(&all, "a"), ["Accepted", "Programmed", "Ready"]);
    let it = planned(&all, "a");
    assert_eq!((it.attachments.producers, it.attachments.consumers), (3, 6));
    assert_eq!(
        it.endpoints
            .iter()
            .map(|it| it.node.as_str())
            .collect::<Vec<_>>(),
        ["n1", "n2", "n3"]
    );
}

#[test]
fn a_node_that_failed_is_named_with_what_its_driver_said() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    driver_serves(&mut observed, "n1", &["a"]);
    driver(&mut observed, "n2", |spec, status| {
        let mut failed = report(&spec[0], StreamPhase::Failed);
        failed.message = Some("needs 10 pages, 3 are free".to_owned());
        status.streams = vec![failed];
    });
    let plan = plan(&observed);
    assert_eq!(reasons(&plan, "a")[2], "NodesDegraded");
    assert_eq!(
        message(&plan, "a", "Ready"),
        "n2: needs 10 pages, 3 are free"
    );
    let nodes = planned(&plan, "a").nodes;
    assert_eq!((nodes.desired, nodes.ready, nodes.degraded), (2, 1, 1));
}

#[test]
fn a_node_that_waits_for_memory_is_named_with_what_it_waits_for() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    driver_serves(&mut observed, "n1", &["a"]);
    driver(&mut observed, "n2", |spec, status| {
        let mut waiting = report(&spec[0], StreamPhase::Pending);
        waiting.message = Some("4096 bytes needed, 0 bytes free; held by b".to_owned());
        status.streams = vec![waiting];
    });
    driver(&mut observed, "n3", |spec, status| {
        status.streams = vec![report(&spec[0], StreamPhase::Pending)];
    });
    let plan = plan(&observed);
    assert_eq!(reasons(&plan, "a")[2], "NodesPending");
    assert_eq!(
        message(&plan, "a", "Ready"),
        "ready on 1 of 3 nodes; n2: 4096 bytes needed, 0 bytes free; held by b"
    );
}

#[test]
fn a_dead_node_does_not_count_as_ready_whatever_it_once_reported() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    driver_serves(&mut observed, "n1", &["a"]);
    set_driver(&mut observed, "n1", DriverLife::Dead);
    let plan = plan(&observed);
    assert_eq!(
        message(&plan, "a", "Ready"),
        "n1: the driver does not answer"
    );
    assert_eq!(planned(&plan, "a").endpoints, []);
}

#[test]
fn nodes_are_labelled_while_they_work_and_only_then() {
    let (mut observed, before) = settled(world([]));
    assert_eq!(before.nodes["n1"].labels, BTreeMap::new());
    driver_serves(&mut observed, "n1", &[]);
    let labels: Vec<_> = plan(&observed).nodes["n1"]
        .labels
        .clone()
        .into_iter()
        .collect();
    let yes = "true".to_owned();
    assert_eq!(
        labels,
        [
            ("tensorpool.io/pool.default".to_owned(), yes.clone()),
            ("tensorpool.io/ready".to_owned(), yes),
        ]
    );
    set_driver(&mut observed, "n1", DriverLife::Silent);
    assert_eq!(plan(&observed).nodes["n1"].labels, BTreeMap::new());
}

#[test]
fn a_node_that_left_its_class_is_told_to_carry_nothing() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    driver_serves(&mut observed, "n1", &["a"]);
    let mut picky = class("default");
    picky.spec.node_selector = BTreeMap::from([("gpu".to_owned(), "a100".to_owned())]);
    observed.classes = vec![Arc::new(picky)];
    let plan = plan(&observed);
    assert_eq!(policy(&plan, "n1"), Vec::<&str>::new());
    assert_eq!(planned(&plan, "a").nodes.desired, 0);
}

#[test]
fn the_revision_changes_with_the_policy_and_with_nothing_else() {
    let (mut observed, first) = settled(world([stream("a", 1)]));
    let revision = |plan: &tensorpool_operator::Plan| plan.nodes["n1"].spec.policy_revision.clone();
    driver_serves(&mut observed, "n1", &["a"]);
    let object = observed
        .pool_nodes
        .iter_mut()
        .find(|it| crate::build::name_of(it) == "n1");
    Arc::make_mut(object.expect("it is there")).spec.cordoned = Some(true);
    let cordoned = plan(&observed);
    assert_eq!(revision(&first), revision(&cordoned));
    assert_eq!(cordoned.nodes["n1"].spec.cordoned, None);
    edit(&mut observed, "a", |it| it.spec.consumers.max_per_node = 3);
    assert_ne!(revision(&first), revision(&plan(&observed)));
}
