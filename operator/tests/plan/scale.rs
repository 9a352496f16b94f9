//! Many nodes and streams. The large ones are for optimised builds:
//! `cargo test --release -p tensorpool-operator --test plan -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::time::Instant;

use tensorpool_crds::MAX_NODE_STREAMS;
use tensorpool_operator::{Observed, plan};

use crate::build::{STREAM_BYTES, class, message, node, reasons, stream, world};

fn streams(number: usize) -> Observed {
    let streams = (0..number).map(|at| {
        let second = i64::try_from(at).expect("it is a small number");
        stream(&format!("s{at:05}"), second)
    });
    world(streams)
}

#[test]
fn streams_of_many_racks_are_each_on_the_nodes_of_their_rack() {
    in_racks(100, 2_000);
}

#[test]
#[ignore = "ten seconds and more without optimisation"]
fn ten_thousand_streams_are_each_on_the_nodes_of_their_rack() {
    in_racks(1_000, 10_000);
}

#[test]
fn streams_that_all_want_all_nodes_fill_them_in_order_and_the_others_are_told() {
    everywhere(100, 2_000);
}

#[test]
#[ignore = "ten seconds and more without optimisation"]
fn ten_thousand_streams_that_all_want_a_thousand_nodes_fill_them_in_order() {
    everywhere(1_000, 10_000);
}

fn in_racks(nodes: usize, number: usize) {
    const RACKS: usize = 50;
    let mut observed = streams(number);
    let rack = |at: usize| ("rack".to_owned(), format!("r{:02}", at % RACKS));
    for (at, it) in observed.streams.iter_mut().enumerate() {
        let placement = &mut std::sync::Arc::make_mut(it).spec.placement;
        placement.node_selector = BTreeMap::from([rack(at)]);
    }
    observed.nodes = (0..nodes)
        .map(|at| {
            let mut node = node(&format!("n{at:04}"));
            node.labels.extend([rack(at)]);
            node
        })
        .collect();
    let begun = Instant::now();
    let planned = plan(&observed);
    println!("planned in {:?}", begun.elapsed());
    assert_eq!(planned.nodes.len(), nodes);
    for (name, node) in &planned.nodes {
        assert_eq!(node.spec.streams.len(), number / RACKS, "{name}");
    }
    let counted: u32 = planned.streams.values().map(|it| it.nodes.eligible).sum();
    assert_eq!(usize::try_from(counted), Ok(number * (nodes / RACKS)));
}

fn everywhere(nodes: usize, number: usize) {
    let mut observed = streams(number);
    // Memory enough; the number of streams is what they run against.
    let mut large = class("default");
    large.spec.size_per_node = tensorpool_crds::Quantity::from_bytes(STREAM_BYTES << 20);
    observed.classes = vec![large.into()];
    observed.nodes = (0..nodes).map(|at| node(&format!("n{at:04}"))).collect();
    let begun = Instant::now();
    let planned = plan(&observed);
    println!("planned in {:?}", begun.elapsed());
    for (name, node) in &planned.nodes {
        let names: Vec<_> = node.spec.streams.iter().map(|it| &it.name).collect();
        assert_eq!(names.len(), MAX_NODE_STREAMS, "{name}");
        assert_eq!(names[0], "s00000");
        assert_eq!(names[MAX_NODE_STREAMS - 1], "s00255");
    }
    assert_eq!(reasons(&planned, "s00256")[1], "NodeStreamLimit");
    assert_eq!(
        message(&planned, &format!("s{:05}", number - 1), "Programmed"),
        format!(
            "n0000, n0001, n0002 and {} more already carry 256 streams, the most that a node can",
            nodes - 3
        )
    );
}
