//! From a plan to the writes that are missing.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use tensorpool_crds::{FINALIZER, Time};
use tensorpool_operator::{Change, Labels, Observed, Part, changes, plan};

use crate::build::{NOW, delete, driver_serves, edit, settled, stream, world};

fn missing(observed: &Observed, labels: &Labels, now: &Time) -> Vec<Change> {
    changes(observed, &plan(observed), labels, now)
}

fn parts(changes: &[Change]) -> Vec<(Part, &str)> {
    changes
        .iter()
        .map(|it| (it.target.part, it.target.name.as_str()))
        .collect()
}

#[test]
fn a_new_stream_is_marked_before_its_nodes_hear_of_it() {
    let observed = world([stream("a", 1)]);
    let changes = missing(&observed, &Labels::new(), &NOW);
    assert_eq!(
        parts(&changes),
        [
            (Part::Mark, "a"),
            (Part::Policy, "n1"),
            (Part::Policy, "n2"),
            (Part::Policy, "n3"),
            (Part::ClassStatus, "default"),
        ]
    );
    assert_eq!(
        changes[0].body["metadata"]["finalizers"],
        serde_json::json!([FINALIZER])
    );
    assert_eq!(changes[0].body["metadata"]["uid"], "uid-a-1");
    // Whoever writes can tell that these policies have to wait for it.
    for policy in &changes[1..4] {
        assert!(policy.introduces.contains("uid-a-1"));
    }
    assert_eq!(changes[0].stream.as_deref(), Some("uid-a-1"));
}

#[test]
fn nothing_is_written_where_only_times_differ() {
    let (observed, _) = settled(world([stream("a", 1), stream("b", 2)]));
    let later = Time(Timestamp::from_second(3_600).expect("it is a time"));
    let left = missing(&observed, &Labels::new(), &later);
    // The builder writes no status of classes.
    assert_eq!(parts(&left), [(Part::ClassStatus, "default")]);
}

#[test]
fn a_change_of_one_stream_is_one_status_and_the_policies_that_it_is_in() {
    let (mut observed, _) = settled(world([stream("a", 1), stream("b", 2)]));
    edit(&mut observed, "b", |it| it.spec.consumers.max_per_node = 1);
    let changes = missing(&observed, &Labels::new(), &NOW);
    let policies = changes.iter().filter(|it| it.target.part == Part::Policy);
    assert!(
        policies.clone().all(|it| it.introduces.is_empty()),
        "nobody is new to a node"
    );
    assert_eq!(policies.count(), 3);
    assert!(
        changes
            .iter()
            .all(|it| it.target.part != Part::StreamStatus || it.target.name == "b")
    );
}

#[test]
fn a_status_keeps_the_time_of_what_did_not_change_and_tells_people_what_did() {
    let (mut observed, _) = settled(world([stream("a", 1)]));
    for node in ["n1", "n2", "n3"] {
        driver_serves(&mut observed, node, &[]);
    }
    let later = Time(Timestamp::from_second(3_600).expect("it is a time"));
    let changes = missing(&observed, &Labels::new(), &later);
    let status = changes
        .iter()
        .find(|it| it.target.part == Part::StreamStatus);
    let status = status.expect("the nodes follow now");
    let conditions = status.body["status"]["conditions"]
        .as_array()
        .expect("it has them");
    let times: BTreeMap<&str, &str> = conditions
        .iter()
        .filter_map(|it| Some((it["type"].as_str()?, it["lastTransitionTime"].as_str()?)))
        .collect();
    assert_eq!(times["Accepted"], "1970-01-01T00:00:00Z");
    assert_eq!(times["Programmed"], "1970-01-01T01:00:00Z");
    assert_eq!(status.news, [], "being told is no news for people");
    driver_serves(&mut observed, "n1", &["a"]);
    let changes = missing(&observed, &Labels::new(), &later);
    let status = changes
        .iter()
        .find(|it| it.target.part == Part::StreamStatus);
    let news = &status.expect("it is ready").news;
    assert_eq!(
        news.iter()
            .map(|it| (it.is_good, it.reason))
            .collect::<Vec<_>>(),
        [(true, "Ready")]
    );
}

#[test]
fn labels_are_put_on_and_taken_off_by_writes_of_their_own() {
    let (mut observed, _) = settled(world([]));
    driver_serves(&mut observed, "n1", &[]);
    let yes = |name: &str| (name.to_owned(), "true".to_owned());
    let there = BTreeMap::from([yes("tensorpool.io/ready"), yes("tensorpool.io/pool.gone")]);
    let labels = Labels::from([("n1".to_owned(), there.clone()), ("n2".to_owned(), there)]);
    let changes = missing(&observed, &labels, &NOW);
    let of_labels: Vec<_> = changes
        .iter()
        .filter(|it| matches!(it.target.part, Part::Label | Part::Unlabel))
        .map(|it| {
            (
                it.target.part,
                it.target.name.as_str(),
                it.body["metadata"]["labels"].clone(),
            )
        })
        .collect();
    assert_eq!(
        of_labels,
        [
            (
                Part::Label,
                "n1",
                serde_json::json!({"tensorpool.io/ready": "true", "tensorpool.io/pool.default": "true"})
            ),
            (
                Part::Unlabel,
                "n1",
                serde_json::json!({"tensorpool.io/pool.gone": null})
            ),
            (
                Part::Unlabel,
                "n2",
                serde_json::json!({"tensorpool.io/pool.gone": null, "tensorpool.io/ready": null})
            ),
        ]
    );
}

#[test]
fn a_stream_is_let_go_last() {
    let (mut observed, _) = settled(world([stream("a", 1), stream("b", 2)]));
    observed.pool_nodes.clear();
    delete(&mut observed, "a");
    let changes = missing(&observed, &Labels::new(), &NOW);
    let last = changes.last().expect("there is something to do");
    assert_eq!(
        (last.target.part, last.target.name.as_str()),
        (Part::Release, "a")
    );
    assert_eq!(last.body["metadata"]["finalizers"], serde_json::json!([]));
}
