//! What is refused, and what does not answer.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tensorpool_crds::{TensorPoolNode, TensorStream};
use tensorpool_operator::LEASE;

use crate::world::{World, reason};

#[tokio::test]
async fn control_plane_that_forbids_one_thing_stops_nothing_else() {
    let world = World::start(&["n1"]).await;
    // Nodes may be read, not labelled.
    let read_only = r#"[
        {"op": "test", "path": "/rules/3/resources", "value": ["nodes"]},
        {"op": "replace", "path": "/rules/3/verbs", "value": ["list", "watch"]}
    ]"#;
    let role = "tensorpool-operator";
    world.kubectl(&["patch", "clusterrole", role, "--type=json", "-p", read_only]);
    let operator = world.operator("one");
    world.make_stream("camera").await;
    let told = |it: &TensorPoolNode| it.spec.streams.len() == 1;
    world.when(world.all(), "n1", told).await;
    world.driver_serves("n1", &["camera"]).await;
    world
        .when(world.vision(), "camera", |it: &TensorStream| {
            reason(it, "Ready", "True").as_deref() == Some("Ready")
        })
        .await;
    operator.logged("not written");
    let forbidden = r#"tensorpool_operator_writes_total{part="label",result="forbidden"}"#;
    assert!(operator.metric(forbidden) >= 1.0);
    world.make_stream("second").await;
    let accepted = |it: &TensorStream| reason(it, "Accepted", "True").is_some();
    world.when(world.vision(), "second", accepted).await;
    assert!(
        world
            .forbidden()
            .iter()
            .all(|it| it == r#""patch" "nodes""#),
        "{:?}",
        world.forbidden()
    );
}

#[tokio::test]
async fn control_plane_that_is_gone_ends_the_leader_in_time() {
    let world = World::start(&["n1"]).await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "tensorpool-system");
    let operator = world.operator("one");
    let held = |lease: &Lease| {
        let spec = lease.spec.as_ref();
        spec.and_then(|spec| spec.holder_identity.as_deref()) == Some("one")
    };
    world.when(leases, LEASE, held).await;
    // The Lease is there before the operator has the answer to its own write.
    operator.logged("leading");
    drop(world);
    let ends = operator.logged("the operator ends");
    let why = ends["fields"]["error"].as_str().unwrap_or_default();
    assert!(why.starts_with("the lease was lost"), "{ends}");
    assert!(!operator.ended().success());
}
