//! Class, layout and priority.

use std::sync::Arc;

use tensorpool_crds::{PageSize, Quantity, StreamPageSize};
use tensorpool_operator::plan;

use crate::build::{
    STREAM_BYTES, applied, class, driver_serves, edit, message, planned, policy, priority, reasons,
    settled, stream, world,
};

#[test]
fn a_plain_stream_is_accepted_with_a_number_and_a_size() {
    let plan = plan(&world([stream("a", 1)]));
    let it = planned(&plan, "a");
    assert_eq!(it.stream_id, Some(20_000));
    assert_eq!(it.bytes_per_node, Some(Quantity::from_bytes(STREAM_BYTES)));
    assert_eq!(
        message(&plan, "a", "Accepted"),
        "stream id 20000, 40Ki per node"
    );
    assert_eq!(it.observed_generation, Some(1));
    let entry = &plan.nodes["n1"].spec.streams[0];
    assert_eq!(
        (entry.stream_id, entry.bytes, entry.priority),
        (20_000, STREAM_BYTES, 0)
    );
}

#[test]
fn a_stream_without_its_class_waits_and_says_which() {
    let mut observed = world([stream("a", 1)]);
    observed.classes.clear();
    let without = plan(&observed);
    assert_eq!(
        reasons(&without, "a"),
        ["NoSuchClass", "NotAccepted", "NotAccepted"]
    );
    assert_eq!(
        message(&without, "a", "Accepted"),
        "there is no TensorPoolClass `default`; create it, or name another one"
    );
    let mut after = applied(&observed, &without);
    after.classes.push(Arc::new(class("default")));
    assert_eq!(reasons(&plan(&after), "a")[0], "Accepted");
}

#[test]
fn a_stream_larger_than_its_class_is_refused_with_both_sizes() {
    let mut observed = world([stream("a", 1)]);
    edit(&mut observed, "a", |it| {
        it.spec.layout.header_slots = 65_536;
        it.spec.layout.pools[0].stride_bytes = 65_536;
    });
    let plan = plan(&observed);
    assert_eq!(reasons(&plan, "a")[0], "LayoutInvalid");
    let words = message(&plan, "a", "Accepted");
    assert!(
        words.contains("needs 4210696Ki per node") && words.contains("has 1Gi"),
        "{words}"
    );
}

#[test]
fn a_layout_that_an_older_schema_let_through_is_refused_here() {
    let mut observed = world([stream("a", 1)]);
    edit(&mut observed, "a", |it| {
        it.spec.layout.pools[0].stride_bytes = 192
    });
    let plan = plan(&observed);
    assert_eq!(reasons(&plan, "a")[0], "LayoutInvalid");
    assert!(message(&plan, "a", "Accepted").contains("strideBytes of pool 1 is 192"));
}

#[test]
fn a_stream_that_insists_on_other_pages_is_refused() {
    let mut observed = world([stream("a", 1), stream("b", 2)]);
    edit(&mut observed, "a", |it| {
        it.spec.page_size = StreamPageSize::Huge2Mi
    });
    edit(&mut observed, "b", |it| {
        it.spec.page_size = StreamPageSize::Base
    });
    let plan = plan(&observed);
    assert_eq!(reasons(&plan, "a")[0], "PageSizeMismatch");
    assert_eq!(reasons(&plan, "b")[0], "Accepted");
}

#[test]
fn a_class_smaller_than_its_page_accepts_nobody_and_says_so() {
    let mut observed = world([stream("a", 1)]);
    let mut huge = class("default");
    huge.spec.page_size = PageSize::Huge1Gi;
    huge.spec.size_per_node = Quantity::new("512Mi");
    observed.classes = vec![Arc::new(huge)];
    let plan = plan(&observed);
    assert_eq!(reasons(&plan, "a")[0], "ClassInvalid");
    let said = &plan.classes["default"].conditions[0];
    assert_eq!(
        (said.reason, said.message.as_str()),
        (
            "SizeInvalid",
            "sizePerNode 512Mi is less than one page of 1Gi"
        )
    );
    assert_eq!(plan.nodes["n1"].spec.pools, []);
}

#[test]
fn of_several_global_defaults_the_smallest_value_counts() {
    let mut observed = world([stream("a", 1)]);
    observed.priorities = [("high", 10, true), ("low", -5, true), ("lower", -9, false)]
        .map(|(name, value, default)| Arc::new(priority(name, value, default)))
        .to_vec();
    let plan = plan(&observed);
    let resolved = planned(&plan, "a")
        .priority
        .clone()
        .expect("it is accepted");
    assert_eq!(
        (
            resolved.value,
            resolved.class_name.as_deref(),
            resolved.named
        ),
        (-5, Some("low"), false)
    );
}

#[test]
fn a_named_priority_class_that_is_missing_is_waited_for() {
    let mut observed = world([stream("a", 1)]);
    edit(&mut observed, "a", |it| {
        it.spec.priority_class_name = Some("realtime".to_owned())
    });
    assert_eq!(reasons(&plan(&observed), "a")[0], "NoSuchPriorityClass");
    observed
        .priorities
        .push(Arc::new(priority("realtime", 7, false)));
    assert_eq!(
        planned(&plan(&observed), "a")
            .priority
            .as_ref()
            .map(|it| it.value),
        Some(7)
    );
}

#[test]
fn a_priority_stays_what_it_was_when_its_class_changes_or_goes() {
    let mut observed = world([stream("a", 1), stream("b", 2)]);
    edit(&mut observed, "a", |it| {
        it.spec.priority_class_name = Some("realtime".to_owned())
    });
    observed.priorities = vec![Arc::new(priority("realtime", 7, true))];
    let (mut after, _) = settled(observed);
    after.priorities = vec![Arc::new(priority("other", 99, true))];
    let plan = plan(&after);
    assert_eq!(
        planned(&plan, "a").priority.as_ref().map(|it| it.value),
        Some(7)
    );
    assert_eq!(
        planned(&plan, "b").priority.as_ref().map(|it| it.value),
        Some(7)
    );
    // Another name is another question.
    edit(&mut after, "a", |it| {
        it.spec.priority_class_name = Some("other".to_owned())
    });
    let plan = tensorpool_operator::plan(&after);
    assert_eq!(
        planned(&plan, "a").priority.as_ref().map(|it| it.value),
        Some(99)
    );
}

#[test]
fn what_lives_outlives_its_class_and_gets_no_new_node() {
    let (mut observed, _) = settled(world([stream("a", 1), stream("b", 2)]));
    driver_serves(&mut observed, "n1", &["a"]);
    observed.classes.clear();
    let (after, plan) = settled(observed);
    assert_eq!(policy(&plan, "n1"), ["a"]);
    assert_eq!(plan.nodes["n1"].spec.pools[0].class_name, "default");
    assert_eq!(policy(&plan, "n2"), Vec::<&str>::new());
    assert_eq!(planned(&plan, "a").stream_id, Some(20_000));
    assert_eq!(
        message(&plan, "a", "Programmed"),
        "the stream is not accepted; it goes on where it lives: n1"
    );
    // The class comes back: all is as it was.
    let mut back = after;
    back.classes.push(Arc::new(class("default")));
    let (_, plan) = settled(back);
    assert_eq!(policy(&plan, "n2"), ["a", "b"]);
    assert_eq!(
        (planned(&plan, "a").stream_id, planned(&plan, "b").stream_id),
        (Some(20_000), Some(20_001))
    );
}
