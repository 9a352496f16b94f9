//! A stream's life, from `kubectl apply` to `kubectl delete`.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use tensorpool_crds::{
    FINALIZER, Quantity, QuotaHard, TensorPoolClass, TensorPoolNode, TensorQuota, TensorQuotaSpec,
    TensorStream,
};

use crate::world::{World, reason};

#[tokio::test]
async fn control_plane_sees_a_stream_accepted_told_served_and_taken_down() {
    let world = World::start(&["n1", "n2"]).await;
    let operator = world.operator("one");
    // The default class comes from the operator's configuration.
    let class = |it: &TensorPoolClass| it.status.as_ref().is_some_and(|status| status.nodes == 2);
    world.when(world.all(), "default", class).await;
    world.make_stream("camera").await;
    let stream = world
        .when(world.vision(), "camera", |it: &TensorStream| {
            reason(it, "Ready", "True").is_some()
        })
        .await;
    assert_eq!(
        reason(&stream, "Ready", "True").as_deref(),
        Some("OnDemand")
    );
    assert_eq!(stream.finalizers(), [FINALIZER]);
    let status = stream.status.expect("it has one");
    assert_eq!(status.stream_id, Some(20_000));
    assert_eq!(status.bytes_per_node, Some(Quantity::new("40Ki")));
    let node = world
        .when(world.all(), "n1", |it: &TensorPoolNode| {
            it.spec.streams.len() == 1
        })
        .await;
    assert_eq!(node.owner_references()[0].kind, "Node");
    a_driver_serves_it(&world).await;
    quiet_while_nothing_changes(&world, &operator);
    a_quota_refuses_the_next_one(&world).await;
    it_waits_for_its_nodes_when_deleted(&world).await;
    assert_eq!(operator.get("/livez").0, "HTTP/1.1 200 OK");
    assert_eq!(operator.get("/readyz").0, "HTTP/1.1 200 OK");
    assert!((operator.metric("tensorpool_operator_leading") - 1.0).abs() < f64::EPSILON);
    assert!(operator.terminate().success());
    // It did all that with the rights that the documentation names.
    assert_eq!(world.forbidden(), Vec::<String>::new());
}

async fn a_driver_serves_it(world: &World) {
    world.driver_serves("n2", &[]).await;
    world.driver_serves("n1", &["camera"]).await;
    let stream = world
        .when(world.vision(), "camera", |it: &TensorStream| {
            reason(it, "Ready", "True").as_deref() == Some("Ready")
                && reason(it, "Programmed", "True").is_some()
        })
        .await;
    let status = stream.status.expect("it has one");
    assert_eq!(status.endpoints[0].node, "n1");
    assert_eq!(
        status.attachments.map(|it| (it.producers, it.consumers)),
        Some((1, 2))
    );
    let labelled = |it: &Node| {
        let labels = it.labels();
        labels
            .get("tensorpool.io/ready")
            .is_some_and(|it| it == "true")
            && labels
                .get("tensorpool.io/pool.default")
                .is_some_and(|it| it == "true")
    };
    let node = world.when(world.all(), "n1", labelled).await;
    assert_eq!(
        node.labels().get("zone").map(String::as_str),
        Some("a"),
        "others' labels stay"
    );
    let events = world.vision::<Event>().list(&ListParams::default()).await;
    let events = events.expect("events can be read").items;
    let told: Vec<_> = events
        .iter()
        .filter_map(|it| it.reason.as_deref())
        .collect();
    assert!(
        told.contains(&"Accepted") && told.contains(&"OnDemand"),
        "{told:?}"
    );
}

/// Somebody else's annotation makes the operator look, and nothing more.
fn quiet_while_nothing_changes(world: &World, operator: &crate::process::Operator) {
    let look = |value: &str| {
        let plans = operator.plans();
        world.kubectl(&[
            "annotate",
            "--overwrite",
            "-n",
            "vision",
            "tstream",
            "camera",
            value,
        ]);
        operator.has_planned_since(plans);
    };
    look("seen=0");
    let before = world.writes();
    assert!(before > 0, "the audit log shows the operator's writes");
    look("seen=1");
    look("seen=2");
    assert_eq!(world.writes(), before);
}

async fn a_quota_refuses_the_next_one(world: &World) {
    let hard = QuotaHard {
        streams: Some(Quantity::new("1")),
        ..QuotaHard::default()
    };
    let spec = TensorQuotaSpec {
        hard,
        scope_selector: None,
    };
    let quotas = world.vision::<TensorQuota>();
    let created = quotas
        .create(&PostParams::default(), &TensorQuota::new("all", spec))
        .await;
    created.expect("it is a good one");
    world
        .when(quotas, "all", |it: &TensorQuota| {
            let used = it.status.as_ref().and_then(|status| status.used.as_ref());
            used.is_some_and(|used| used.streams == Quantity::new("1"))
        })
        .await;
    world.make_stream("second").await;
    let refused = |it: &TensorStream| reason(it, "Accepted", "False").is_some();
    world.when(world.vision(), "second", refused).await;
    let words = world.kubectl(&["describe", "-n", "vision", "tstream", "second"]);
    assert!(
        words.contains("quota all is used up: streams: limit 1, used 1, asked 1"),
        "{words}"
    );
    // Room is made: it gets in by itself.
    let deleted = world
        .vision::<TensorQuota>()
        .delete("all", &DeleteParams::default())
        .await;
    deleted.expect("it was there");
    world
        .when(world.vision(), "second", |it: &TensorStream| {
            reason(it, "Accepted", "True").is_some()
        })
        .await;
}

async fn it_waits_for_its_nodes_when_deleted(world: &World) {
    let streams = world.vision::<TensorStream>();
    streams
        .delete("camera", &DeleteParams::default())
        .await
        .expect("it was there");
    let waits = |it: &TensorStream| {
        let conditions = it.status.iter().flat_map(|it| &it.conditions);
        conditions
            .into_iter()
            .any(|it| it.message == "waits until the stream is gone from n1, n2")
    };
    world.when(streams.clone(), "camera", waits).await;
    let told = |it: &TensorPoolNode| it.spec.streams.iter().all(|it| it.name != "camera");
    for name in ["n1", "n2"] {
        world.when(world.all(), name, told).await;
        world.driver_serves(name, &[]).await;
    }
    world.gone(streams, "camera").await;
}
