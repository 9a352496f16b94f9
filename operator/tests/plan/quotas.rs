//! Quotas: what is admitted, what is passed on, what is counted.

use std::sync::Arc;

use tensorpool_crds::{
    NodeQuota, NodeQuotaHard, Quantity, QuotaHard, ScopeName, ScopeOperator, ScopeRequirement,
    ScopeSelector,
};
use tensorpool_operator::plan;

use crate::build::{
    STREAM_BYTES, at_most, driver_serves, edit, message, planned, policy, priority, quota, reasons,
    settled, stream, world,
};

#[test]
fn the_stream_beyond_the_limit_waits_and_says_limit_used_and_asked() {
    let mut observed = world([stream("a", 1), stream("b", 2), stream("c", 3)]);
    observed.quotas = vec![Arc::new(quota("all", at_most(2)))];
    let (_, plan) = settled(observed);
    assert_eq!(reasons(&plan, "b")[0], "Accepted");
    assert_eq!(
        reasons(&plan, "c"),
        ["QuotaExceeded", "NotAccepted", "NotAccepted"]
    );
    assert_eq!(
        message(&plan, "c", "Accepted"),
        "quota all is used up: streams: limit 2, used 2, asked 1"
    );
    assert_eq!(planned(&plan, "c").stream_id, None);
    assert_eq!(policy(&plan, "n1"), ["a", "b"]);
    let used = plan.quotas[&("vision".to_owned(), "all".to_owned())]
        .used
        .clone();
    assert_eq!(used.expect("it is counted").streams, Quantity::new("2"));
}

#[test]
fn declared_bytes_are_summed_to_the_byte() {
    let limit = |bytes| QuotaHard {
        requests_bytes_per_node: Some(Quantity::from_bytes(bytes)),
        ..QuotaHard::default()
    };
    let mut observed = world([stream("a", 1), stream("b", 2)]);
    observed.quotas = vec![Arc::new(quota("bytes", limit(2 * STREAM_BYTES)))];
    assert_eq!(reasons(&plan(&observed), "b")[0], "Accepted");
    observed.quotas = vec![Arc::new(quota("bytes", limit(2 * STREAM_BYTES - 1)))];
    let plan = plan(&observed);
    assert_eq!(
        message(&plan, "b", "Accepted"),
        "quota bytes is used up: requests.bytesPerNode: limit 81919, used 40Ki, asked 40Ki"
    );
}

#[test]
fn of_new_streams_the_higher_priority_is_admitted_first() {
    let mut observed = world([stream("old", 1), stream("urgent", 9)]);
    observed.quotas = vec![Arc::new(quota("all", at_most(1)))];
    observed.priorities = vec![Arc::new(priority("high", 100, false))];
    edit(&mut observed, "urgent", |it| {
        it.spec.priority_class_name = Some("high".to_owned())
    });
    let (mut observed, first) = settled(observed);
    assert_eq!(reasons(&first, "urgent")[0], "Accepted");
    assert_eq!(reasons(&first, "old")[0], "QuotaExceeded");
    // What was admitted is not thrown out by a still higher one.
    let mut higher = stream("higher", 10);
    higher.spec.priority_class_name = Some("highest".to_owned());
    observed
        .priorities
        .push(Arc::new(priority("highest", 1_000, false)));
    observed.streams.push(Arc::new(higher));
    let (_, plan) = settled(observed);
    assert_eq!(reasons(&plan, "urgent")[0], "Accepted");
    assert_eq!(reasons(&plan, "higher")[0], "QuotaExceeded");
}

#[test]
fn a_lower_limit_ends_nothing_that_runs_and_admits_nothing_new() {
    let (mut observed, _) = settled(world([stream("a", 1), stream("b", 2)]));
    observed.quotas = vec![Arc::new(quota("all", at_most(1)))];
    observed.streams.push(Arc::new(stream("c", 3)));
    let (mut observed, plan) = settled(observed);
    assert_eq!(policy(&plan, "n1"), ["a", "b"]);
    assert_eq!(
        message(&plan, "c", "Accepted"),
        "quota all is used up: streams: limit 1, used 2, asked 1"
    );
    // Usage falls below the limit: the waiting one gets in.
    observed
        .streams
        .retain(|it| crate::build::name_of(it) == "c");
    assert_eq!(reasons(&settled(observed).1, "c")[0], "Accepted");
}

#[test]
fn a_scope_counts_only_the_streams_that_it_selects() {
    let mut scoped = quota("realtime", at_most(1));
    scoped.spec.scope_selector = Some(ScopeSelector {
        match_expressions: vec![ScopeRequirement {
            scope_name: ScopeName::PriorityClass,
            operator: ScopeOperator::In,
            values: vec!["high".to_owned()],
        }],
    });
    let mut observed = world([stream("a", 1), stream("b", 2), stream("free", 3)]);
    observed.quotas = vec![Arc::new(scoped)];
    observed.priorities = vec![Arc::new(priority("high", 100, false))];
    for name in ["a", "b"] {
        edit(&mut observed, name, |it| {
            it.spec.priority_class_name = Some("high".to_owned())
        });
    }
    let (_, plan) = settled(observed);
    assert_eq!(reasons(&plan, "a")[0], "Accepted");
    assert_eq!(reasons(&plan, "b")[0], "QuotaExceeded");
    assert_eq!(reasons(&plan, "free")[0], "Accepted");
    let streams = &plan.nodes["n1"].spec.streams;
    let quotas: Vec<_> = streams
        .iter()
        .map(|it| (it.name.as_str(), it.quotas.len()))
        .collect();
    assert_eq!(quotas, [("a", 1), ("free", 0)]);
}

#[test]
fn quotas_of_another_namespace_do_not_count() {
    let mut elsewhere = quota("all", at_most(0));
    elsewhere.metadata.namespace = Some("visionary".to_owned());
    let mut observed = world([stream("a", 1)]);
    observed.quotas = vec![Arc::new(elsewhere)];
    assert_eq!(reasons(&plan(&observed), "a")[0], "Accepted");
}

#[test]
fn nodes_get_the_live_limits_of_the_namespaces_that_they_carry() {
    let hard = QuotaHard {
        streams: Some(Quantity::new("5")),
        requests_bytes_per_node: Some(Quantity::new("1Mi")),
        producers_per_node: Some(Quantity::new("4")),
        consumers_per_node: None,
        leases_per_node: Some(Quantity::new("128")),
    };
    let mut observed = world([stream("a", 1)]);
    observed.quotas = vec![Arc::new(quota("all", hard))];
    let plan = plan(&observed);
    let expected = NodeQuota {
        namespace: "vision".to_owned(),
        name: "all".to_owned(),
        hard: NodeQuotaHard {
            bytes: Some(1 << 20),
            producers: Some(4),
            consumers: None,
            leases: Some(128),
        },
    };
    assert_eq!(plan.nodes["n1"].spec.quotas, [expected]);
}

#[test]
fn live_usage_is_that_of_the_node_with_most() {
    let mut observed = world([stream("a", 1), stream("b", 2)]);
    observed.quotas = vec![Arc::new(quota("all", at_most(9)))];
    let (mut observed, _) = settled(observed);
    driver_serves(&mut observed, "n1", &["a"]);
    driver_serves(&mut observed, "n2", &["a", "b"]);
    let plan = plan(&observed);
    let status = &plan.quotas[&("vision".to_owned(), "all".to_owned())];
    let used = status.used.clone().expect("it is counted");
    let numbers = [
        used.producers_per_node,
        used.consumers_per_node,
        used.leases_per_node,
    ];
    assert_eq!(numbers.map(|it| it.to_string()), ["2", "4", "6"]);
    assert_eq!(
        used.requests_bytes_per_node,
        Quantity::from_bytes(2 * STREAM_BYTES)
    );
}
