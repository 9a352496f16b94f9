//! Where streams lie, and regions that are no longer what was made.

use tensorpool_driver_core::{Action, BaseId, Damage, Event, StreamPhase};
use tensorpool_wire::ResponseCode;

use super::*;

#[test]
// spec: W-15.21a-1, A-12
fn each_stream_lies_on_the_base_of_its_class() {
    let mut rig = rig(|_| {});
    let camera = rig.lease(aeron(1), produce(7));
    let model = rig.lease(aeron(1), on(HUGE, produce(8)));
    let (plain, huge) = (status(&rig, CAMERA), status(&rig, HUGE));
    assert_eq!(
        plain.directory,
        format!(
            "/run/tensorpool/shm/4Ki/tensorpool-ada/default/10000/{}",
            camera.epoch
        )
    );
    assert_eq!((plain.epoch_bytes, huge.epoch_bytes), (EPOCH, HUGE_EPOCH));
    assert_eq!(
        huge.uris.header,
        format!(
            "shm:file?path=/run/tensorpool/shm/2Mi/tensorpool-ada/default/10002/{}/header.ring|require_hugepages=true",
            model.epoch
        )
    );
    let used: Vec<(String, u64)> = rig
        .status()
        .bases
        .into_iter()
        .map(|base| (base.name, base.used_bytes))
        .collect();
    assert_eq!(
        used,
        [("2Mi".to_owned(), HUGE_EPOCH), ("4Ki".to_owned(), EPOCH)]
    );
}

#[test]
fn a_class_whose_pages_are_not_mounted_refuses_in_words_and_others_go_on() {
    let mut rig = rig(|policy| {
        policy
            .classes
            .insert("huge".to_owned(), class("1Gi", 8 << 30));
    });
    rig.lease(aeron(1), produce(7));
    assert_eq!(
        rig.refused(aeron(1), on(HUGE, produce(8))),
        (
            ResponseCode::Rejected,
            "this node has no memory with pages of 1Gi for the driver".to_owned()
        )
    );
    let model = status(&rig, HUGE);
    assert_eq!(
        (model.phase, model.error_reason),
        (StreamPhase::Absent, Some("no_base"))
    );
}

#[test]
fn a_stream_whose_class_moves_to_another_base_gets_its_next_epoch_there() {
    let mut rig = rig(|_| {});
    let held = rig.lease(aeron(1), produce(7));
    let reader = rig.lease(aeron(2), consume(8));
    let mut moved = policy();
    moved.streams[0].class = "huge".to_owned();
    let actions = follow(&mut rig, moved);
    let shown = rig.show(&actions);
    assert!(shown.contains("Revoked l1 Producer"), "{shown}");
    assert!(!shown.contains("Revoked l2"), "{shown}");
    let now = status(&rig, CAMERA);
    assert!(now.epoch > Some(held.epoch) && reader.epoch == held.epoch);
    assert!(
        now.directory.starts_with("/run/tensorpool/shm/2Mi/"),
        "{}",
        now.directory
    );
    // The old files are removed from where they lie.
    let removed = rig.pass(5).into_iter().find_map(|action| match action {
        Action::RemoveEpoch {
            base, directory, ..
        } => Some((base, directory)),
        _ => None,
    });
    if let Some((base, directory)) = removed {
        assert_eq!(base, BaseId(1));
        assert!(
            directory.starts_with("/run/tensorpool/shm/4Ki/"),
            "{directory}"
        );
    }
}

#[test]
// spec: X-1-30, X-1-31
fn a_region_that_was_made_longer_revokes_its_producer_and_says_so() {
    let mut rig = rig(|_| {});
    let held = rig.lease(aeron(1), produce(7));
    let actions = rig.event(Event::RegionPoisoned {
        stream: CAMERA,
        epoch: held.epoch,
        damage: Damage::Grew,
    });
    let shown = rig.show(&actions);
    assert!(
        shown.starts_with("aeron <- Revoked l1 Producer of client 7 on 10000 Revoked `region was made longer than it may be`"),
        "{shown}"
    );
    assert!(status(&rig, CAMERA).epoch > Some(held.epoch));
}
