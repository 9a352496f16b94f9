//! Everything that is said is said in words that exist, and no message grows with the cluster.

use tensorpool_crds::{
    AcceptedReason, ClassReason, ProgrammedReason, ReadyReason, StreamCondition,
};
use tensorpool_operator::plan;

use crate::build::{driver, message, node, planned, report, settled, stream, world};

#[test]
fn a_message_names_three_nodes_and_counts_the_others() {
    let mut observed = world([stream("a", 1)]);
    observed.nodes = (0..40).map(|index| node(&format!("n{index:02}"))).collect();
    let (mut observed, before) = settled(observed);
    assert_eq!(
        message(&before, "a", "Programmed"),
        "n00, n01, n02 and 37 more have been told and do not follow yet"
    );
    for index in 0..40 {
        driver(&mut observed, &format!("n{index:02}"), |spec, status| {
            status.streams = vec![report(&spec[0], tensorpool_crds::StreamPhase::Ready)];
        });
    }
    let plan = plan(&observed);
    assert_eq!(planned(&plan, "a").endpoints.len(), 16);
    assert_eq!(planned(&plan, "a").nodes.ready, 40);
}

#[test]
fn conditions_come_in_one_order_with_reasons_of_their_own_sets() {
    let plan = plan(&world([stream("a", 1)]));
    let conditions = &planned(&plan, "a").conditions;
    let kinds: Vec<_> = conditions.iter().map(|it| it.kind).collect();
    assert_eq!(
        kinds,
        StreamCondition::ALL
            .iter()
            .map(|it| it.as_str())
            .collect::<Vec<_>>()
    );
    let known = |reasons: Vec<&str>, reason: &str| assert!(reasons.contains(&reason), "{reason}");
    known(
        AcceptedReason::ALL.iter().map(|it| it.as_str()).collect(),
        conditions[0].reason,
    );
    known(
        ProgrammedReason::ALL.iter().map(|it| it.as_str()).collect(),
        conditions[1].reason,
    );
    known(
        ReadyReason::ALL.iter().map(|it| it.as_str()).collect(),
        conditions[2].reason,
    );
    let class = &plan.classes["default"].conditions[0];
    known(
        ClassReason::ALL.iter().map(|it| it.as_str()).collect(),
        class.reason,
    );
}
