//! Volumes with `transport: aeron`.

use tensorpool_driver_core::ClientRange;

use super::*;

const WITH_AERON: [&str; 2] = ["Socket", "Aeron"];

/// A driver whose class allows Aeron.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.follow_with(&[("camera", 7)], &WITH_AERON);
    rig
}

fn mount(answer: &Answer) -> Mounting {
    match answer {
        Answer::Prepared { mount, .. } => *mount,
        other => panic!("{other:?}"),
    }
}

fn refusal(answer: Answer) -> (Code, String) {
    match answer {
        Answer::Refused(refusal) => (refusal.code, refusal.message),
        other => panic!("{other:?}"),
    }
}

/// The client ids that the duty cycle was told with the last thing that it did.
fn clients(rig: &Rig) -> Option<ClientRange> {
    let done = rig.take_done();
    let access = match done.last() {
        Some(Did::Open(access) | Did::SetAccess(access, _)) => access,
        other => panic!("{other:?}"),
    };
    let place = access.aeron.as_ref()?;
    assert_eq!(place.directory, "/run/tensorpool/aeron/media");
    Some(place.clients)
}

// spec: X-2-73
#[test]
fn a_volume_on_aeron_gets_client_ids_of_its_own_and_keeps_them_over_a_restart() {
    let rig = rig();
    run(async {
        assert_eq!(
            mount(&rig.publish_as("consume", "aeron").await),
            Mounting::AeronConsumer
        );
    });
    let first = clients(&rig).expect("it has client ids");
    assert!(rig.view().join("aeron").is_dir());
    let next = rig.next();
    next.follow_with(&[("camera", 7)], &WITH_AERON);
    run(async {
        next.restore().await;
        assert_eq!(clients(&next), Some(first));
    });
}

#[test]
fn a_producer_on_aeron_gets_a_writable_mount_and_its_view_is_removed_by_csi() {
    let rig = rig();
    run(async {
        assert_eq!(
            mount(&rig.publish_as("produce", "aeron").await),
            Mounting::AeronProducer
        );
        let unpublish = || Question::Unpublish {
            volume: "csi-1".to_owned(),
        };
        let answer = rig.keeper.answer(unpublish()).await;
        let base = "4Ki".to_owned();
        assert_eq!(answer, Answer::Sweep { base });
        assert!(rig.view().exists(), "a driver without privileges leaves it");
        std::fs::remove_dir_all(rig.view()).unwrap();
        assert_eq!(rig.keeper.answer(unpublish()).await, Answer::Released);
        let (_, found) = Records::open(rig.dir.path()).unwrap();
        assert!(found.records.is_empty());
    });
}

#[test]
fn without_the_class_or_the_verb_aeron_is_refused_in_words() {
    let rig = Rig::new();
    run(async {
        rig.api.set(Rbac::DeniesAeron);
        let (code, text) = refusal(rig.publish_as("consume", "aeron").await);
        assert_eq!(code, Code::PermissionDenied);
        assert!(text.contains("`aeron`"), "{text}");
        rig.api.set(Rbac::Allows);
        let (code, text) = refusal(rig.publish_as("consume", "aeron").await);
        assert_eq!(code, Code::FailedPrecondition);
        assert!(
            text.contains("the class default of TensorStream vision/camera has sockets only"),
            "{text}"
        );
        assert_eq!(rig.publish().await, prepared(), "on a socket it may");
    });
}

#[test]
fn a_class_of_another_domain_is_refused_in_words() {
    let rig = rig();
    run(async {
        rig.follow_in("robots", &[("camera", 7)], &["Socket", "Aeron"]);
        let (code, text) = refusal(rig.publish_as("consume", "aeron").await);
        assert_eq!(code, Code::FailedPrecondition);
        assert!(
            text.contains("is of the domain robots") && text.contains("`aeron.domain: robots`"),
            "{text}"
        );
        assert_eq!(rig.publish().await, prepared(), "on a socket it may");
    });
}

#[test]
fn a_node_without_a_media_driver_says_so() {
    let rig = rig();
    run(async {
        rig.keeper.table.lock().await.aeron_dir = None;
        let (code, text) = refusal(rig.publish_as("consume", "aeron").await);
        assert_eq!(code, Code::FailedPrecondition);
        assert!(text.contains("node n1 has no media driver"), "{text}");
    });
}

#[test]
fn a_class_that_stops_to_allow_aeron_takes_it_from_live_volumes() {
    let rig = rig();
    run(async {
        rig.publish_as("consume", "aeron").await;
        rig.take_done();
        rig.follow(&[("camera", 7)]);
        rig.keeper.follow_policy().await;
        match rig.take_done().as_slice() {
            [Did::SetAccess(access, text)] => {
                assert_eq!(access.visible, Visible::Only(BTreeMap::new()));
                assert_eq!(
                    text,
                    "the class of TensorStream vision/camera does not allow Aeron any more"
                );
            }
            other => panic!("{other:?}"),
        }
        rig.follow_with(&[("camera", 7)], &WITH_AERON);
        rig.keeper.follow_policy().await;
        assert!(clients(&rig).is_some());
    });
}

#[test]
fn a_verb_that_is_taken_away_is_noticed_by_the_review() {
    let rig = rig();
    run(async {
        rig.publish_as("consume", "aeron").await;
        rig.take_done();
        rig.api.set(Rbac::DeniesAeron);
        advance(REVIEWED_WITHIN).await;
        rig.keeper.review_due().await;
        match rig.take_done().as_slice() {
            [Did::SetAccess(access, text)] => {
                assert_eq!(access.visible, Visible::Only(BTreeMap::new()));
                assert!(text.contains("`aeron`"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    });
}
