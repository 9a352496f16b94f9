//! Objects that are there and cannot be read: nothing that runs ends, and nobody gets their place.

use tensorpool_crds::Quantity;
use tensorpool_operator::{Finalizer, Observed, plan};

use crate::build::{
    applied, at_most, class, delete, driver_serves, message, name_of, planned, policy, quota,
    reasons, settled, stream, world,
};

/// The stream leaves the cache, as one that another version has written.
fn breaks(observed: &mut Observed, name: &str) {
    let at = observed.streams.iter().position(|it| name_of(it) == name);
    let broken = observed.streams.remove(at.expect("the stream is there"));
    let uid = broken.metadata.uid.clone().expect("it has one");
    observed.unreadable.streams.insert(uid);
}

#[test]
fn a_stream_that_cannot_be_read_stays_where_it_is_though_nobody_uses_it() {
    let (mut observed, before) = settled(world([stream("a", 1), stream("b", 2)]));
    driver_serves(&mut observed, "n1", &["a"]);
    breaks(&mut observed, "a");
    let after = plan(&observed);
    for name in ["n1", "n2", "n3"] {
        // Nobody knows its age any more, so it comes last.
        let mut told = before.nodes[name].spec.streams.clone();
        told.reverse();
        assert_eq!(after.nodes[name].spec.streams, told, "{name}");
        assert_eq!(after.nodes[name].spec.pools, before.nodes[name].spec.pools);
    }
    // Really deleted, it goes.
    observed.unreadable.streams.clear();
    assert_eq!(policy(&plan(&observed), "n1"), ["b"]);
}

#[test]
fn its_number_is_not_given_to_another_stream() {
    let (mut observed, before) = settled(world([stream("a", 1)]));
    breaks(&mut observed, "a");
    observed.streams.push(stream("b", 2).into());
    let (_, after) = settled(observed);
    let taken = planned(&before, "a").stream_id;
    assert!(planned(&after, "b").stream_id.is_some());
    assert_ne!(planned(&after, "b").stream_id, taken);
}

#[test]
fn it_counts_against_its_quotas_all_the_same() {
    let mut observed = world([stream("a", 1)]);
    observed.quotas = vec![quota("all", at_most(1)).into()];
    let (mut observed, _) = settled(observed);
    breaks(&mut observed, "a");
    observed.streams.push(stream("b", 2).into());
    let (_, after) = settled(observed);
    assert_eq!(reasons(&after, "b")[0], "QuotaExceeded");
    let key = ("vision".to_owned(), "all".to_owned());
    let used = after.quotas[&key].used.clone().expect("it is known");
    assert_eq!(used.streams, Quantity::from_count(1));
}

#[test]
fn a_quota_that_cannot_be_read_admits_nobody_new_and_keeps_its_limits_on_the_nodes() {
    let mut observed = world([stream("a", 1)]);
    observed.quotas = vec![quota("all", at_most(5)).into()];
    let (mut observed, before) = settled(observed);
    observed.quotas.clear();
    let broken = ("vision".to_owned(), "all".to_owned());
    observed.unreadable.quotas.insert(broken);
    observed.streams.push(stream("b", 2).into());
    let (_, after) = settled(observed);
    assert_eq!(reasons(&after, "b")[0], "QuotaExceeded");
    assert_eq!(
        message(&after, "b", "Accepted"),
        "quota all cannot be read by this version of the operator; correct it, or delete it"
    );
    assert_eq!(reasons(&after, "a")[0], "Accepted");
    assert_eq!(after.nodes["n1"].spec, before.nodes["n1"].spec);
    assert_eq!(after.nodes["n1"].spec.quotas.len(), 1);
}

#[test]
fn a_node_whose_object_cannot_be_read_goes_on_with_what_it_has_and_holds_deleted_streams() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    for name in ["n1", "n2", "n3"] {
        driver_serves(&mut observed, name, &[]);
    }
    observed.pool_nodes.retain(|it| name_of(it) != "n2");
    observed.unreadable.pool_nodes.insert("n2".to_owned());
    delete(&mut observed, "a");
    let first = plan(&observed);
    assert!(!first.nodes.contains_key("n2"));
    let mut told = applied(&observed, &first);
    for name in ["n1", "n3"] {
        driver_serves(&mut told, name, &[]);
    }
    let waiting = plan(&told);
    assert_eq!(planned(&waiting, "a").finalizer, Finalizer::Keep);
    assert_eq!(
        message(&waiting, "a", "Ready"),
        "waits until the stream is gone from n2"
    );
}

#[test]
fn a_class_that_cannot_be_read_is_as_one_that_is_gone() {
    let (mut observed, before) = settled(world([stream("a", 1)]));
    driver_serves(&mut observed, "n1", &["a"]);
    observed.classes.clear();
    let without = plan(&observed);
    assert_eq!(without.nodes["n1"].spec, before.nodes["n1"].spec);
    observed.classes = vec![class("default").into()];
    assert_eq!(reasons(&plan(&observed), "a")[0], "Accepted");
}
