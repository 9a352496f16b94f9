//! Volumes from end to end: a real API server with its RBAC, the real driver, the real `csi`, real
//! mounts, and our own clients on what was mounted. The test is kubelet.

#[cfg(feature = "aeron")]
mod aeron;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "../csi/inside.rs"]
mod inside;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "../csi/kubelet.rs"]
mod kubelet;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "../cluster/objects.rs"]
mod objects;
mod rig;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "../cluster/world.rs"]
mod world;

use std::path::Path;

use tensorpool_client::{Consumer, Producer};
use tonic::Code;

use inside::own_mounts;
use rig::{Rig, Wanted};
use support::wait_until;
use world::World;

/// One control plane for everything that needs one.
#[test]
fn volumes_of_a_real_driver_with_a_control_plane() {
    if !own_mounts("volumes_of_a_real_driver_with_a_control_plane") {
        return;
    }
    let world = World::start();
    let mut rig = Rig::start(&world);
    what_is_not_allowed_is_refused_in_words(&rig);
    frames_flow_through_volumes(&rig);
    a_published_volume_is_not_published_differently(&rig);
    volumes_outlive_a_killed_driver(&mut rig);
    a_lost_record_shows_nothing_until_kubelet_publishes_again(&mut rig);
    a_permission_that_went_is_noticed(&mut rig);
    nothing_is_left_after_unpublish(&rig);
    without_a_csidriver_object_nothing_is_published(&rig);
}

fn what_is_not_allowed_is_refused_in_words(rig: &Rig<'_>) {
    let good = Wanted::consume("camera");
    let cases = [
        (
            good.clone().writable(),
            Code::InvalidArgument,
            "set `readOnly: true`",
        ),
        (
            good.clone().with("steam", "camera"),
            Code::InvalidArgument,
            "unknown key \"steam\"",
        ),
        (
            good.clone().with("csi.storage.k8s.io/ephemeral", "false"),
            Code::InvalidArgument,
            "has inline volumes only",
        ),
        (
            good.clone().with("csi.storage.k8s.io/pod.uid", ""),
            Code::FailedPrecondition,
            "`podInfoOnMount: true`",
        ),
        (
            good.clone(),
            Code::PermissionDenied,
            "service account vision/viewer may not `consume` TensorStream vision/camera",
        ),
    ];
    for (wanted, code, words) in cases {
        let refused = rig.publish("refused", &wanted).expect_err("it is refused");
        assert_eq!(refused.code(), code, "{}", refused.message());
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    rig.allow("viewer", "consume");
    rig.allow("sensor", "produce");
    let cases = [
        (
            Wanted::consume("no-such-stream"),
            Code::NotFound,
            "node n1 has no TensorStream vision/no-such-stream",
        ),
        (
            good.clone().with("transport", "aeron"),
            Code::PermissionDenied,
            "service account vision/viewer may not `aeron` TensorStream vision/camera",
        ),
        (
            Wanted::produce("camera").with("csi.storage.k8s.io/serviceAccount.name", "viewer"),
            Code::PermissionDenied,
            "may not `produce`",
        ),
    ];
    for (wanted, code, words) in cases {
        let refused = rig.publish("refused", &wanted).expect_err("it is refused");
        assert_eq!(refused.code(), code, "{}", refused.message());
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    rig.allow("viewer", "aeron");
    let refused = rig.publish("refused", &good.with("transport", "aeron"));
    let refused = refused.expect_err("it is refused");
    let words = "the class default of TensorStream vision/camera has sockets only";
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(words), "{}", refused.message());
    assert!(!rig.kubelet.target("refused").exists());
    assert_eq!(rig.views(), Vec::<String>::new());
    assert_eq!(rig.records(), Vec::<String>::new());
}

fn frames_flow_through_volumes(rig: &Rig<'_>) {
    rig.publish("sensor", &Wanted::produce("camera"))
        .expect("it works");
    rig.publish("viewer", &Wanted::consume("camera"))
        .expect("it works");
    let mut producer = produce(rig).expect("its volume is for producing");
    let mut consumer = consume(rig).expect("its volume is for consuming");
    one_frame_passes(&mut producer, &mut consumer);
    let other_way = Producer::builder("camera").socket(rig.socket("viewer"));
    assert!(other_way.build().is_err(), "the volume is for consuming");
    let other_stream = Consumer::builder("vision/lidar").socket(rig.socket("viewer"));
    assert!(other_stream.build().is_err(), "the volume shows one stream");
}

fn a_published_volume_is_not_published_differently(rig: &Rig<'_>) {
    let same = rig.ask_to_publish("viewer", &Wanted::consume("camera"), "viewer");
    same.expect("it is mounted already");
    // The same volume at another place: kubelet never asks for that.
    rig.allow("viewer", "produce");
    let wanted = Wanted::produce("camera").with("csi.storage.k8s.io/serviceAccount.name", "viewer");
    let refused = rig.ask_to_publish("elsewhere", &wanted, "viewer");
    let refused = refused.expect_err("it is refused");
    assert_eq!(refused.code(), Code::AlreadyExists, "{}", refused.message());
    rig.forbid("viewer", "produce");
}

fn volumes_outlive_a_killed_driver(rig: &mut Rig<'_>) {
    let epoch = rig.epochs_in("viewer");
    rig.kill_driver();
    assert!(rig.socket("viewer").exists(), "the mount stays");
    rig.start_driver();
    let mut producer = produce(rig).expect("the volume is taken up again");
    let mut consumer = consume(rig).expect("the volume is taken up again");
    one_frame_passes(&mut producer, &mut consumer);
    let now = rig.epochs_in("viewer");
    assert!(!now.is_empty());
    assert!(
        now.iter().all(|it| !epoch.contains(it)),
        "a driver that starts makes new epochs: {epoch:?}, {now:?}"
    );
}

fn a_lost_record_shows_nothing_until_kubelet_publishes_again(rig: &mut Rig<'_>) {
    rig.kill_driver();
    rig.damage_record("viewer");
    rig.start_driver();
    assert_eq!(rig.epochs_in("viewer"), Vec::<String>::new());
    assert!(consume(rig).is_err(), "nobody listens in the volume");
    // As kubelet does when it starts again.
    rig.publish("viewer", &Wanted::consume("camera"))
        .expect("it works");
    let mut producer = produce(rig).expect("its own volume is untouched");
    let mut consumer = wait_until("the volume to be allowed again", || {
        consume(rig).map_err(|error| error.to_string())
    });
    one_frame_passes(&mut producer, &mut consumer);
}

fn a_permission_that_went_is_noticed(rig: &mut Rig<'_>) {
    let mut producer = produce(rig).expect("it works");
    let mut consumer = consume(rig).expect("it works");
    one_frame_passes(&mut producer, &mut consumer);
    drop(consumer);
    rig.forbid("viewer", "consume");
    // A driver that starts asks about every volume that it takes up.
    rig.kill_driver();
    rig.start_driver();
    wait_until("the end of the permission", || match consume(rig) {
        Ok(_) => Err("it may still consume".to_owned()),
        Err(_) => Ok(()),
    });
    wait_until("an empty view", || {
        let epochs = rig.epochs_in("viewer");
        epochs
            .is_empty()
            .then_some(())
            .ok_or_else(|| format!("{epochs:?}"))
    });
    wait_until("the producer, which is not touched", || {
        let sent = producer.publish(b"tensor");
        sent.map_err(|error| error.to_string())
    });
    wait_until("its new epoch in its own volume", || {
        let epochs = rig.epochs_in("sensor");
        let is_there = !epochs.is_empty();
        is_there.then_some(()).ok_or_else(|| "none".to_owned())
    });
    assert_eq!(rig.epochs_in("viewer"), Vec::<String>::new());
}

fn nothing_is_left_after_unpublish(rig: &Rig<'_>) {
    for pod in ["sensor", "viewer"] {
        rig.unpublish(pod).expect("it works");
        rig.unpublish(pod).expect("again is no error");
        assert!(!rig.kubelet.target(pod).exists());
    }
    assert_eq!(rig.views(), Vec::<String>::new());
    assert_eq!(rig.records(), Vec::<String>::new());
}

fn without_a_csidriver_object_nothing_is_published(rig: &Rig<'_>) {
    rig.world
        .kubectl(&["delete", "csidriver", "csi.tensorpool.io"]);
    // What was right is believed for half a minute; a driver that starts believes nothing.
    let refused = rig.fresh_driver_refuses("sensor", &Wanted::produce("camera"));
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("has no CSIDriver object"),
        "{}",
        refused.message()
    );
}

fn produce(rig: &Rig<'_>) -> Result<Producer, tensorpool_client::BuildError> {
    let builder = Producer::builder("vision/camera");
    builder.socket(rig.socket("sensor")).build()
}

fn consume(rig: &Rig<'_>) -> Result<Consumer, tensorpool_client::BuildError> {
    let builder = Consumer::builder("camera");
    builder.socket(rig.socket("viewer")).build()
}

fn one_frame_passes(producer: &mut Producer, consumer: &mut Consumer) {
    producer.publish(b"tensor").expect("there is room");
    wait_until("the frame", || match consumer.next() {
        Ok(Some(frame)) => {
            let bytes = frame.to_vec().expect("nobody writes meanwhile");
            assert_eq!(bytes, b"tensor");
            Ok(())
        }
        Ok(None) => Err("nothing yet".to_owned()),
        Err(error) => Err(error.to_string()),
    });
}

/// What lies in a directory, by name; nothing where there is none.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
