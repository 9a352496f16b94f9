//! The API server is away, refuses, or has lost the node's object: what runs on the node goes on.

use std::path::Path;

use serde_json::json;
use tensorpool_wire::Role;

use crate::node::{Node, stream as report};
use crate::objects::{node, stream};
use crate::support::Driver;
use crate::support::raw::Raw;
use crate::world::{World, eventually};

#[test]
fn control_plane_away_refusing_or_without_the_object_stops_nothing_on_the_node() {
    let world = World::start();
    let streams = [stream("camera", 20_000), stream("lidar", 20_001)];
    world.apply("n1.json", &node("n1", "r1", &streams).to_string());
    let n1 = Node::new(&world, "n1");
    let mut driver = n1.start();
    n1.follows("r1");
    let mut client = n1.client();
    let camera = client.lease(Role::Producer, 20_000, 7);
    n1.status("the lease is reported", |status| status["attachments"] == 1);

    // Away: leases are kept, and new ones granted, by the policy that was seen last.
    world.freeze();
    client.keepalive(&camera);
    client.lease(Role::Consumer, 20_000, 8);
    client.lease(Role::Producer, 20_001, 9);
    driver.wait_for("the node's status was not written, and will be");
    world.thaw();
    let status = n1.status("what changed meanwhile is written", |status| {
        status["attachments"] == 3
    });
    assert_eq!(report(&status, "camera")["epoch"], camera.epoch());

    // Refusing: the right to write is taken away and given back.
    let role = "tensorpool-node-driver";
    let without = json!([{"op": "replace", "path": "/rules/1/verbs", "value": ["get"]}]);
    world.kubectl(&[
        "patch",
        "clusterrole",
        role,
        "--type=json",
        "-p",
        &without.to_string(),
    ]);
    the_right_is(&world, &n1, "no");
    client.lease(Role::Consumer, 20_001, 10);
    let refused = driver.wait_for_line("a refused write", |line| line["reason"] == "forbidden");
    assert!(
        refused["error"]
            .as_str()
            .is_some_and(|text| text.contains("forbidden")),
        "{refused}"
    );
    let counted = r#"tensorpool_driver_api_requests_total{request="status",result="forbidden"}"#;
    assert!(driver.metric(counted) >= Some(1.0));
    let with = json!([{"op": "replace", "path": "/rules/1/verbs", "value": ["patch"]}]);
    world.kubectl(&[
        "patch",
        "clusterrole",
        role,
        "--type=json",
        "-p",
        &with.to_string(),
    ]);
    n1.status("it is written at last", |status| status["attachments"] == 4);

    the_object_is_lost(&world, &n1, &mut driver, &mut client);
    client.keepalive(&camera);
    client.poll();
    assert!(client.dead.is_none(), "{:?}", client.dead);
    assert!(
        client
            .inbox
            .iter()
            .all(|(message, _)| message.name() != "ShmLeaseRevoked"),
        "no lease was lost: {:?}",
        client.inbox
    );
    drop(client);
    the_next_driver_starts_without_an_api_server(&world, &n1, driver);
}

/// Killed; the next one comes up while nobody answers, and takes over as soon as somebody does.
fn the_next_driver_starts_without_an_api_server(world: &World, n1: &Node<'_>, driver: Driver) {
    let before = n1.object()["status"].clone();
    driver.kill();
    world.freeze();
    let mut next = n1.spawn();
    next.wait_for("serving /metrics, /livez and /readyz");
    world.thaw();
    next.wait_for("the first policy has come");
    let status = n1.status("the next driver reports", |status| {
        status["driver"]["bootEpoch"] != before["driver"]["bootEpoch"]
    });
    assert_eq!(status["observedPolicyRevision"], "r2");
    // Its clients were the other driver's.
    assert_eq!(status["attachments"], 0, "{status}");
    let lease = n1.client().lease(Role::Producer, 20_000, 7);
    let last = report(&before, "camera")["epoch"].as_u64();
    assert!(Some(lease.epoch()) > last, "epochs rise");
}

fn the_right_is(world: &World, n1: &Node<'_>, answer: &str) {
    let own: &Path = n1.kubeconfig();
    let question = ["auth", "can-i", "patch", "tensorpoolnodes/status"];
    eventually("the role takes effect", || {
        let output = world.kubectl_as(own, &question);
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if said == answer { Ok(()) } else { Err(said) }
    });
}

/// Deleted and made again, as by the operator: what is attached goes on, and is in the new status.
fn the_object_is_lost(world: &World, n1: &Node<'_>, driver: &mut Driver, client: &mut Raw) {
    world.kubectl(&["delete", "tpn", "n1"]);
    driver.wait_for_line("that the object is gone", |line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("there is no TensorPoolNode for this node")
    });
    client.lease(Role::Consumer, 20_001, 11);
    let streams = [stream("camera", 20_000), stream("lidar", 20_001)];
    world.apply("n1.json", &node("n1", "r2", &streams).to_string());
    let status = n1.follows("r2");
    assert_eq!(status["attachments"], 5, "{status}");
}
