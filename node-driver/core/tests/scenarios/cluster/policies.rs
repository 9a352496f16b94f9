//! One policy after the other.

use tensorpool_driver_core::StreamPhase;
use tensorpool_driver_core::config::PolicySpec;

use super::*;
use crate::assert_transcript;

#[test]
// spec: D-4.9-12
fn another_stream_under_the_same_id_revokes_and_unaffected_leases_live_on() {
    let mut rig = rig(|_| {});
    let old = rig.lease(aeron(1), produce(7));
    let kept = rig.lease(aeron(1), on(LIDAR, produce(8)));
    let mut other = policy();
    other.streams[0].uid = "another".to_owned();
    other.streams[1].priority = 7;
    other.streams[1].limits.consumers = Some(3);
    other.streams.retain(|stream| stream.stream_id != HUGE);
    let actions = follow(&mut rig, other);
    rig.epoch_name(old.epoch);
    assert_transcript!(
        rig,
        actions,
        ["aeron <- Revoked l1 Producer of client 7 on 10000 Revoked `stream was removed`"]
    );
    assert_eq!(status(&rig, LIDAR).epoch, Some(kept.epoch));
    let again = rig.lease(aeron(1), produce(7));
    assert!(again.epoch > old.epoch);
}

#[test]
fn an_empty_policy_serves_nothing_and_the_first_one_everything() {
    let mut rig = rig(|policy| *policy = PolicySpec::default());
    assert_eq!(
        rig.refused(aeron(1), consume(7)).1,
        "stream not provisioned"
    );
    follow(&mut rig, policy());
    rig.lease(aeron(1), consume(7));
}

#[test]
fn a_policy_that_names_a_class_or_quota_that_is_not_there_is_not_followed() {
    let error = |change: fn(&mut PolicySpec)| {
        let mut policy = policy();
        change(&mut policy);
        policy.validate(&[]).unwrap_err().to_string()
    };
    assert_eq!(
        error(|policy| drop(policy.classes.remove("huge"))),
        "stream `vision/model` names the class `huge`, which is not defined"
    );
    assert_eq!(
        error(|policy| policy.streams[0].quotas = vec!["vision/none".to_owned()]),
        "stream `vision/camera` names the quota `vision/none`, which is not defined"
    );
    assert_eq!(
        error(|policy| policy.streams[1].name = "camera".to_owned()),
        "stream name `vision/camera` is configured twice"
    );
}

#[test]
fn an_eager_stream_has_memory_before_anybody_asks_and_the_higher_priority_gets_it_first() {
    let mut rig = rig(|policy| *policy = PolicySpec::default());
    let mut eager = policy();
    small_class(&mut eager, 1);
    for stream in &mut eager.streams {
        stream.eager = true;
    }
    eager.streams[1].priority = 1;
    follow(&mut rig, eager.clone());
    let phase = |rig: &Rig, id| status(rig, id).phase;
    assert_eq!(phase(&rig, LIDAR), StreamPhase::Ready);
    assert_eq!(phase(&rig, HUGE), StreamPhase::Ready);
    assert_eq!(phase(&rig, CAMERA), StreamPhase::Failed, "it waits");
    assert_eq!(rig.status().counters.epochs["eager"], 2);
    // As soon as there is memory it is made, without anybody asking.
    small_class(&mut eager, 2);
    follow(&mut rig, eager);
    rig.pass(2);
    assert_eq!(phase(&rig, CAMERA), StreamPhase::Ready);
}

#[test]
fn a_stream_that_left_the_policy_is_named_until_its_memory_is_free() {
    let mut rig = rig(|_| {});
    rig.lease(aeron(1), produce(7));
    let mut without = policy();
    without.streams.remove(0);
    follow(&mut rig, without);
    let departed = rig.status().departed;
    assert_eq!(departed.len(), 1);
    assert_eq!(departed[0].uid, "uid of camera");
    assert_eq!((departed[0].stream_id, departed[0].bytes), (CAMERA, EPOCH));
    rig.pass(5);
    assert_eq!(rig.status().departed, []);
}

#[test]
fn a_stream_without_grace_gives_its_memory_back_at_once_however_young_it_is() {
    let mut rig = rig(|policy| policy.streams[0].grace_ns = 0);
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    let mut without = policy();
    without.streams.remove(0);
    let actions = follow(&mut rig, without);
    assert_transcript!(
        rig,
        actions,
        [
            "aeron <- Revoked l1 Producer of client 7 on 10000 Revoked `stream was removed`",
            "remove 10000/e1 (collected)",
        ]
    );
    assert_eq!(rig.status().memory_bytes, 0);
}

#[test]
fn the_memory_of_a_removed_stream_goes_where_nothing_is_collected_too() {
    let mut rig = Rig::with(|spec| {
        spec.gc.enabled = false;
        spec.policy.streams[0].grace_ns = SECOND;
    });
    rig.lease(aeron(1), produce(7));
    let mut without = spec().policy;
    without.streams.remove(0);
    follow(&mut rig, without);
    assert_eq!(rig.status().memory_bytes, EPOCH, "until its grace is over");
    rig.pass(2);
    assert_eq!(rig.status().memory_bytes, 0);
}
