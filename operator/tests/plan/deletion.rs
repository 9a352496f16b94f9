//! Deletion: the finalizer, and nodes that are dead.

use tensorpool_operator::{DriverLife, Finalizer, plan};

use crate::build::{
    delete, driver_serves, edit, message, planned, policy, reasons, set_driver, settled, stream,
    world,
};

#[test]
fn the_finalizer_is_put_on_with_the_first_plan() {
    let observed = world([stream("a", 1)]);
    assert_eq!(planned(&plan(&observed), "a").finalizer, Finalizer::Add);
    assert_eq!(
        planned(&settled(observed).1, "a").finalizer,
        Finalizer::Keep
    );
}

#[test]
fn a_deleted_stream_waits_for_every_node_that_may_hold_it() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    for name in ["n1", "n2", "n3"] {
        driver_serves(&mut observed, name, &[]);
    }
    driver_serves(&mut observed, "n2", &["a"]);
    delete(&mut observed, "a");
    let first = plan(&observed);
    assert_eq!(policy(&first, "n2"), Vec::<&str>::new());
    assert_eq!(planned(&first, "a").finalizer, Finalizer::Keep);
    assert_eq!(reasons(&first, "a"), ["Deleting", "Deleting", "Deleting"]);
    assert_eq!(
        message(&first, "a", "Ready"),
        "waits until the stream is gone from n1, n2, n3"
    );
    // Told, but they do not follow yet: a pod could still make it live there.
    let mut told = crate::build::applied(&observed, &first);
    assert_eq!(planned(&plan(&told), "a").finalizer, Finalizer::Keep);
    for name in ["n1", "n3"] {
        driver_serves(&mut told, name, &[]);
    }
    assert_eq!(
        message(&plan(&told), "a", "Ready"),
        "waits until the stream is gone from n2"
    );
    driver_serves(&mut told, "n2", &[]);
    let last = plan(&told);
    assert_eq!(planned(&last, "a").finalizer, Finalizer::Remove);
    assert_eq!(
        message(&last, "a", "Ready"),
        "the stream is gone from every node"
    );
}

#[test]
fn a_node_that_is_dead_or_gone_holds_nobody_up() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    for name in ["n1", "n2", "n3"] {
        driver_serves(&mut observed, name, &["a"]);
    }
    delete(&mut observed, "a");
    set_driver(&mut observed, "n1", DriverLife::Dead);
    set_driver(&mut observed, "n2", DriverLife::Silent);
    observed.nodes.retain(|it| it.name != "n3");
    assert_eq!(
        message(&plan(&observed), "a", "Ready"),
        "waits until the stream is gone from n2"
    );
    set_driver(&mut observed, "n2", DriverLife::Dead);
    assert_eq!(planned(&plan(&observed), "a").finalizer, Finalizer::Remove);
}

#[test]
fn a_stream_that_was_never_told_to_anybody_goes_at_once() {
    let mut observed = world([stream("a", 1)]);
    observed.classes.clear();
    let (mut observed, _) = settled(observed);
    delete(&mut observed, "a");
    assert_eq!(planned(&plan(&observed), "a").finalizer, Finalizer::Remove);
}

#[test]
fn somebody_else_s_finalizer_is_left_alone() {
    let mut observed = world([stream("a", 1)]);
    edit(&mut observed, "a", |it| {
        it.metadata.finalizers = Some(vec!["example.com/backup".to_owned()]);
    });
    delete(&mut observed, "a");
    assert_eq!(planned(&plan(&observed), "a").finalizer, Finalizer::Keep);
}
