mod aeron;
mod api;
mod rig;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use kube::{Client, Config};
use tensorpool_crds::{PageSize, TensorPoolNodeSpec};
use tensorpool_driver_core::config::{Access, Visible};
use tokio::runtime::Runtime;
use tokio::time::advance;

use self::api::{Api, Rbac};
use self::rig::{Did, Rig, consumer_of, prepared, run};
use super::*;
use crate::attachments::protocol::Held;
use crate::attachments::record::Records;
use crate::attachments::serve::restore;
use crate::attachments::views::Views;
use crate::cluster::CsiState;
use crate::cluster::{Here, PolicySlot, policy_channel, policy_of};
use crate::control::AttachmentId;
use crate::control::{self, Closed, Command, Commands};

/// Time between two reviews of these keepers.
const REVIEWED_WITHIN: Duration = Duration::from_secs(300);

#[test]
fn a_permission_that_went_is_noticed_within_five_minutes_and_one_that_came_back_too() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        assert_eq!(rig.take_done(), [Did::Open(consumer_of(Some(7)))]);
        let asked = rig.api.reviews();
        rig.api.set(Rbac::Denies);
        assert!(rig.keeper.review_due().await.is_some());
        assert_eq!(rig.api.reviews(), asked, "it is not asked all the time");

        advance(REVIEWED_WITHIN).await;
        rig.keeper.review_due().await;
        let done = rig.take_done();
        let [Did::SetAccess(access, text)] = done.as_slice() else {
            panic!("{done:?}");
        };
        assert_eq!(*access, consumer_of(None));
        assert!(
            text.contains("may not `consume` TensorStream vision/camera"),
            "{text}"
        );
        assert!(!rig.is_allowed_on_disk(), "a restart does not give it back");

        rig.api.set(Rbac::Allows);
        advance(REVIEWED_WITHIN).await;
        rig.keeper.review_due().await;
        let again = Did::SetAccess(consumer_of(Some(7)), String::new());
        assert_eq!(rig.take_done(), [again]);
        assert!(rig.is_allowed_on_disk());
    });
}

#[test]
fn a_permission_that_went_is_noticed_within_the_time_that_was_set() {
    let mut rig = Rig::new();
    rig.keeper.review_every = Duration::from_secs(2);
    run(async {
        assert_eq!(rig.publish().await, prepared());
        rig.take_done();
        rig.api.set(Rbac::Away);
        advance(Duration::from_secs(2)).await;
        let next = rig.keeper.review_due().await.unwrap();
        assert!(next <= Instant::now() + Duration::from_secs(2));
        rig.api.set(Rbac::Denies);
        advance(Duration::from_secs(2)).await;
        rig.keeper.review_due().await;
        let done = rig.take_done();
        let [Did::SetAccess(access, _)] = done.as_slice() else {
            panic!("{done:?}");
        };
        assert_eq!(*access, consumer_of(None));
    });
}

#[test]
fn without_an_answer_of_the_api_server_a_live_volume_goes_on_and_is_asked_about_sooner() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        rig.take_done();
        rig.api.set(Rbac::Away);
        advance(REVIEWED_WITHIN).await;
        let next = rig.keeper.review_due().await.unwrap();
        assert!(next <= Instant::now() + REVIEW_AGAIN);
        assert_eq!(rig.take_done(), []);
        rig.api.set(Rbac::Denies);
        advance(REVIEW_AGAIN).await;
        rig.keeper.review_due().await;
        assert_eq!(rig.take_done().len(), 1, "now it is known");
    });
}

#[test]
fn a_new_volume_needs_an_answer_of_the_api_server() {
    let rig = Rig::new();
    run(async {
        rig.api.set(Rbac::Away);
        let Answer::Refused(refusal) = rig.publish().await else {
            panic!("nobody said that it may");
        };
        assert_eq!(refusal.code, Code::Unavailable);
        assert_eq!(rig.take_done(), []);
        assert_eq!(rig.keeper.table.lock().await.list(), []);
    });
}

#[test]
fn a_volume_follows_its_stream_through_policies() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        rig.take_done();
        rig.keeper.follow_policy().await;
        assert_eq!(rig.take_done(), [], "nothing changed");
        rig.follow(&[("lidar", 9)]);
        rig.keeper.follow_policy().await;
        let gone = "node n1 does not carry TensorStream vision/camera any more".to_owned();
        assert_eq!(
            rig.take_done(),
            [Did::SetAccess(consumer_of(None), gone.clone())]
        );
        rig.follow(&[("camera", 8)]);
        rig.keeper.follow_policy().await;
        assert_eq!(
            rig.take_done(),
            [Did::SetAccess(consumer_of(Some(8)), gone)]
        );
    });
}

#[test]
fn publishing_again_before_the_mount_starts_anew_and_unpublishing_ends_all() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        assert_eq!(rig.publish().await, prepared());
        let open = || Did::Open(consumer_of(Some(7)));
        assert_eq!(rig.take_done(), [open(), Did::Close, open()]);
        assert_eq!(
            rig.keeper.surroundings.borrow().pods,
            BTreeMap::from([(AttachmentId(1), "viewer-0".to_owned())])
        );
        for _ in 0..2 {
            let volume = "csi-1".to_owned();
            let released = rig.keeper.answer(Question::Unpublish { volume }).await;
            assert_eq!(released, Answer::Released);
        }
        assert_eq!(rig.take_done(), [Did::Close]);
        assert_eq!(rig.keeper.table.lock().await.list(), []);
        assert!(rig.keeper.surroundings.borrow().pods.is_empty());
        let views: PathBuf = rig.dir.path().join("4Ki/views");
        assert_eq!(std::fs::read_dir(views).unwrap().count(), 0);
    });
}

#[test]
fn a_driver_that_was_killed_before_the_view_was_there_is_followed_by_one_that_makes_it() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
    });
    std::fs::remove_dir_all(rig.view()).unwrap();
    let next = rig.next();
    run(async {
        next.restore().await;
        assert_eq!(next.take_done(), [Did::Open(consumer_of(Some(7)))]);
        assert!(next.view().is_dir());
        let asked = next.api.reviews();
        next.keeper.review_due().await;
        assert_eq!(next.api.reviews(), asked + 1, "it is asked about at once");
    });
}

#[test]
fn a_view_whose_record_is_gone_is_emptied_and_offered_for_collection() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
    });
    std::fs::write(rig.view().join("driver.sock"), "stands for the socket").unwrap();
    std::fs::remove_dir_all(rig.dir.path().join("attachments")).unwrap();
    let next = rig.next();
    run(async {
        next.restore().await;
        assert_eq!(next.take_done(), []);
        assert_eq!(std::fs::read_dir(next.view()).unwrap().count(), 0);
        let volume = "csi-1".to_owned();
        let held = Held {
            volume: volume.clone(),
            target_path: None,
        };
        let volumes = vec![held];
        let list = next.keeper.answer(Question::List).await;
        assert_eq!(list, Answer::Volumes { volumes });
        let released = next.keeper.answer(Question::Unpublish { volume }).await;
        // Nobody knows what a pod could do there.
        let base = "4Ki".to_owned();
        assert_eq!(released, Answer::Sweep { base });
        std::fs::remove_dir(next.view()).unwrap();
        let volume = "csi-1".to_owned();
        let released = next.keeper.answer(Question::Unpublish { volume }).await;
        assert_eq!(released, Answer::Released);
    });
}

#[test]
fn a_pod_that_lost_its_permission_does_not_get_it_back_by_a_restart() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        rig.api.set(Rbac::Denies);
        advance(REVIEWED_WITHIN).await;
        rig.keeper.review_due().await;
    });
    let next = rig.next();
    next.api.set(Rbac::Away);
    run(async {
        next.restore().await;
        next.keeper.review_due().await;
        assert_eq!(next.take_done(), [Did::Open(consumer_of(None))]);
    });
}

#[test]
fn the_nodes_status_hears_whether_kubelet_knows_the_driver() {
    let rig = Rig::new();
    run(async {
        for (registered, state) in [
            (false, CsiState::NotRegistered),
            (true, CsiState::Registered),
        ] {
            let answer = rig
                .keeper
                .answer(Question::Probe {
                    registered,
                    calls: Vec::new(),
                })
                .await;
            assert_eq!(answer, Answer::Ready { node: "n1".into() });
            assert_eq!(rig.keeper.surroundings.borrow().csi, Some(state));
        }
    });
}

#[test]
fn questions_are_spread_and_never_later_than_they_must_be() {
    let rig = Rig::new();
    run(async {
        let now = Instant::now();
        for number in 0..50 {
            let volume = VolumeId::new(format!("csi-{number}")).unwrap();
            rig.keeper.review_later(&volume).await;
        }
        let due = rig.keeper.due.lock().await;
        let times: std::collections::BTreeSet<Duration> =
            due.values().map(|at| at.duration_since(now)).collect();
        assert!(times.len() > 40, "{times:?}");
        assert!(times.last().is_some_and(|last| *last <= REVIEWED_WITHIN));
        assert!(
            times
                .first()
                .is_some_and(|first| *first >= REVIEWED_WITHIN - REVIEWED_WITHIN / 5)
        );
    });
}
