//! A policy that changes while the driver runs.

use tensorpool_driver_core::config::PolicySpec;
use tensorpool_driver_core::{Action, Event, Note};
use tensorpool_wire::ResponseCode;

use crate::assert_transcript;
use crate::rig::*;

fn change(rig: &mut Rig, policy: PolicySpec) -> Vec<Action> {
    let policy = policy.validate(&[]).expect("the policy is valid");
    rig.event(Event::PolicyChanged(Box::new(policy)))
}

#[test]
fn the_same_policy_again_changes_nothing() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), produce(7));
    assert_eq!(change(&mut rig, spec().policy), []);
}

#[test]
fn a_new_stream_can_be_attached_to() {
    let mut rig = Rig::with(|spec| {
        spec.policy.streams.pop();
    });
    let lidar = || tensorpool_wire::ShmAttachRequest {
        stream_id: LIDAR,
        ..consume(7)
    };
    assert_eq!(rig.refused(aeron(1), lidar()).1, "stream not provisioned");
    let actions = change(&mut rig, spec().policy);
    assert_eq!(
        actions,
        [Action::Note(Note::PolicyApplied {
            added: 1,
            removed: 0,
            changed: 0
        })]
    );
    rig.lease(aeron(1), lidar());
}

#[test]
// spec: D-4.9-12
fn a_removed_stream_revokes_its_leases_and_its_files_go_when_nobody_opens_them_any_more() {
    let mut rig = Rig::new();
    rig.open(1);
    let held = rig.lease(socket(1), produce(7));
    rig.lease(aeron(1), consume(8));
    rig.epoch_name(held.epoch);
    let mut without = spec().policy;
    without.streams.remove(0);
    let actions = change(&mut rig, without);
    assert_transcript!(
        rig,
        actions,
        [
            "stop relay 10000",
            "aeron+c1 <- Revoked l1 Producer of client 7 on 10000 Revoked `stream was removed`",
            "aeron <- Revoked l2 Consumer of client 8 on 10000 Revoked `stream was removed`",
        ]
    );
    assert_eq!(rig.status().memory_bytes, 40_960);
    let actions = rig.pass(4);
    assert_transcript!(rig, actions, ["remove 10000/e1 (collected)"]);
    assert_eq!(
        rig.refused(aeron(1), consume(8)).1,
        "stream not provisioned"
    );
}

#[test]
fn the_files_of_a_removed_stream_stay_for_its_grace_whoever_lacks_memory() {
    let mut rig = Rig::with(|spec| spec.policy.streams[0].grace_ns = 10 * SECOND);
    let held = rig.lease(aeron(1), produce(7));
    rig.epoch_name(held.epoch);
    let mut without = spec().policy;
    without.streams.remove(0);
    change(&mut rig, without);
    assert_transcript!(rig, rig.pass(9), []);
    // Another stream needs the room: it is refused, and nothing is taken from under those who read.
    let lidar = tensorpool_wire::ShmAttachRequest {
        stream_id: LIDAR,
        ..produce(8)
    };
    let begun = rig.send_raw(aeron(2), lidar);
    let failed = rig.raw(Event::RegionsFailed {
        op: create_op(&begun),
        error: no_space(),
    });
    assert_eq!(answers(&failed).len(), 1);
    assert!(!rig.show(&failed).contains("remove 10000"));
    let actions = rig.pass(2);
    assert!(rig.show(&actions).contains("remove 10000/e1 (collected)"));
}

#[test]
fn whoever_waits_for_a_stream_that_is_removed_is_told_and_its_files_are_undone() {
    let mut rig = Rig::new();
    let begun = rig.send_raw(aeron(1), produce(7));
    let mut without = spec().policy;
    without.streams.remove(0);
    let actions = change(&mut rig, without);
    let (_, answer) = &answers(&actions)[0];
    assert_eq!(answer.code, ResponseCode::Rejected);
    assert_eq!(answer.error_message, "stream was removed");
    let late = rig.event(Event::RegionsReady {
        op: create_op(&begun),
    });
    assert_transcript!(rig, late, ["remove 10000/e1 (abandoned)"]);
    assert_eq!(rig.status().memory_bytes, 0);
}

#[test]
fn a_layout_that_changes_while_files_are_made_starts_over_for_whoever_waits() {
    let mut rig = Rig::new();
    let begun = rig.send_raw(aeron(1), produce(7));
    let mut other = spec().policy;
    other.profiles.get_mut("small").unwrap().header_nslots = 32;
    let actions = change(&mut rig, other);
    let (_, answer) = &answers(&actions)[0];
    assert_eq!(
        (answer.code, answer.header_nslots),
        (ResponseCode::Ok, Some(32))
    );
    let late = rig.event(Event::RegionsReady {
        op: create_op(&begun),
    });
    assert_eq!(rig.show(&late).matches("(abandoned)").count(), 1);
}

#[test]
fn names_and_tags_change_without_touching_leases() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), produce(7));
    let mut other = spec().policy;
    other.streams[0].name = "kamera".to_owned();
    assert_eq!(change(&mut rig, other), []);
    assert_eq!(rig.status().streams[0].name, "kamera");
    assert_eq!(rig.status().leases, 1);
}
