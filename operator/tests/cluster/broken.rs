//! An object that no longer parses.

use serde_json::json;
use tensorpool_crds::{TensorPoolNode, TensorStream};

use crate::world::{World, reason};

const METRIC: &str = r#"tensorpool_operator_unreadable_objects{kind="tensorstreams"}"#;

#[tokio::test]
async fn control_plane_with_an_object_that_cannot_be_read_serves_the_others() {
    let world = World::start(&["n1"]).await;
    let operator = world.operator("one");
    for name in ["camera", "lidar"] {
        world.make_stream(name).await;
    }
    let both = |it: &TensorPoolNode| it.spec.streams.len() == 2;
    let told = world.when(world.all(), "n1", both).await;
    // Definitions of another version, and an object that only they allow.
    let layout = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/layout";
    let anything = json!([
        {"op": "remove", "path": format!("{layout}/x-kubernetes-validations")},
        {"op": "replace", "path": format!("{layout}/properties/headerSlots"),
         "value": {"x-kubernetes-preserve-unknown-fields": true}},
    ]);
    let definition = "tensorstreams.tensorpool.io";
    let anything = anything.to_string();
    world.kubectl(&["patch", "crd", definition, "--type=json", "-p", &anything]);
    let many = r#"[{"op": "replace", "path": "/spec/layout/headerSlots", "value": "many"}]"#;
    world.kubectl_until_taken(&[
        "patch",
        "-n",
        "vision",
        "tstream",
        "camera",
        "--type=json",
        "-p",
        many,
    ]);
    operator.logged("an object cannot be read; what nodes have of it stays as it is");
    world.make_stream("radar").await;
    world
        .when(world.vision(), "radar", |it: &TensorStream| {
            reason(it, "Accepted", "True").is_some()
        })
        .await;
    let three = |it: &TensorPoolNode| it.spec.streams.len() == 3;
    let node = world.when(world.all(), "n1", three).await;
    let camera = |node: &TensorPoolNode| {
        let streams = node.spec.streams.iter();
        streams
            .filter(|it| it.name == "camera")
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(camera(&node), camera(&told));
    assert!((operator.metric(METRIC) - 1.0).abs() < f64::EPSILON);
    // A new leader finds it so from the start.
    assert!(operator.terminate().success());
    let operator = world.operator("two");
    operator.is_ready();
    assert!((operator.metric(METRIC) - 1.0).abs() < f64::EPSILON);
    // Mended, it is read again.
    let eight = r#"[{"op": "replace", "path": "/spec/layout/headerSlots", "value": 8}]"#;
    world.kubectl(&[
        "patch",
        "-n",
        "vision",
        "tstream",
        "camera",
        "--type=json",
        "-p",
        eight,
    ]);
    operator.logged("an object can be read again");
    assert!(operator.metric(METRIC).abs() < f64::EPSILON);
}
