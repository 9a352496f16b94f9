//! What people break by hand is put right.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tensorpool_crds::{FINALIZER, TensorPoolNode, TensorStream};

use crate::world::{World, reason};

#[tokio::test]
async fn control_plane_gets_back_what_was_edited_by_hand() {
    let world = World::start(&["n1"]).await;
    let _operator = world.operator("one");
    world.make_stream("camera").await;
    let ready = |it: &TensorStream| reason(it, "Ready", "True").is_some();
    world.when(world.vision(), "camera", ready).await;
    let told = |it: &TensorPoolNode| it.spec.streams.len() == 1;
    let node = world.when(world.all(), "n1", told).await;

    // A policy that was emptied, with a cordon that stays.
    world.kubectl(&[
        "patch",
        "tpn",
        "n1",
        "--type=merge",
        "-p",
        r#"{"spec":{"streams":[],"cordoned":true}}"#,
    ]);
    let restored = world
        .when(world.all(), "n1", |it: &TensorPoolNode| {
            told(it) && it.spec.cordoned == Some(true)
        })
        .await;
    assert_eq!(restored.spec.policy_revision, node.spec.policy_revision);
    // A node object that was deleted.
    world.kubectl(&["delete", "tpn", "n1"]);
    let old = node.uid();
    world
        .when(world.all(), "n1", |it: &TensorPoolNode| {
            told(it) && it.uid() != old
        })
        .await;
    // A status that was forged; the number is the one that the node was told.
    let forged = json!({"status": {"streamId": 4711, "conditions": []}});
    let streams = world.vision::<TensorStream>();
    let patched = streams
        .patch_status("camera", &PatchParams::default(), &Patch::Merge(&forged))
        .await;
    patched.expect("a person may write a status");
    let stream = world.when(streams.clone(), "camera", ready).await;
    let id = stream
        .status
        .and_then(|it| it.stream_id)
        .expect("it has one");
    let follows = |it: &TensorPoolNode| it.spec.streams.iter().all(|it| it.stream_id == id);
    world.when(world.all(), "n1", follows).await;
    // A finalizer that was taken off.
    let bare = json!({"metadata": {"finalizers": []}});
    let patched = streams
        .patch("camera", &PatchParams::default(), &Patch::Merge(&bare))
        .await;
    patched.expect("a person may take it off");
    world
        .when(streams, "camera", |it: &TensorStream| {
            it.finalizers() == [FINALIZER]
        })
        .await;
    // Labels that nobody but the operator may claim.
    world.kubectl(&["label", "node", "n1", "tensorpool.io/ready=true"]);
    world
        .when(world.all(), "n1", |it: &Node| {
            !it.labels().contains_key("tensorpool.io/ready")
        })
        .await;
}
