//! The node's object becomes policy, and what lives on the node becomes its status.

use std::time::{Duration, Instant};

use serde_json::json;
use tensorpool_wire::{ResponseCode, Role};

use crate::node::{Node, condition, stream as report};
use crate::objects::{node, stream};
use crate::world::{World, eventually_within, the_lease_says};

#[test]
fn control_plane_policy_is_followed_and_what_lives_on_the_node_is_its_status() {
    let world = World::start();
    let mut odd = stream("odd", 20_009);
    odd["className"] = json!("gone");
    let streams = [stream("camera", 20_000), stream("lidar", 20_001), odd];
    world.apply("n1.json", &node("n1", "r1", &streams).to_string());
    let n1 = Node::new(&world, "n1");
    let driver = n1.start();

    let status = n1.follows("r1");
    let ready = condition(&status, "Ready");
    assert_eq!(ready["reason"], "NotRegistered", "{status}");
    n1.kubelet_registers();
    let status = n1.status("the node is ready", |status| {
        condition(status, "Ready")["status"] == "True"
    });
    let applied = condition(&status, "PolicyApplied");
    assert_eq!(applied["status"], "True", "{status}");
    let message = applied["message"].as_str().unwrap_or_default();
    assert!(message.contains("vision/odd"), "{message}");
    assert_eq!(status["driver"]["podName"], "driver-n1");
    assert_eq!(status["pools"][0]["className"], "default");
    // Nobody has asked for a stream yet; the one that cannot be carried is named.
    assert_eq!(report(&status, "odd")["reason"], "NoSuchClass", "{status}");
    assert!(report(&status, "camera").is_null(), "{status}");

    let mut client = n1.client();
    let camera = client.lease(Role::Producer, 20_000, 7);
    let lidar = client.lease(Role::Producer, 20_001, 8);
    client.lease(Role::Consumer, 20_000, 9);
    let status = n1.status("the leases are reported", |status| {
        status["attachments"] == 3 && status["streamCount"] == 2
    });
    let there = report(&status, "camera");
    assert_eq!(there["phase"], "Ready", "{there}");
    assert_eq!(there["epoch"], camera.epoch(), "{there}");
    assert_eq!(there["layoutVersion"], 1, "{there}");
    assert_eq!(there["uid"], "uid-camera", "{there}");
    assert_eq!(
        (&there["producers"], &there["consumers"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        there["headerUri"],
        camera.response.header_region_uri.as_str(),
        "discovery says where clients were told it is"
    );
    assert!(there["bytes"].as_u64() > Some(0), "{there}");

    // Another policy: one stream changes nothing that its clients could notice, one goes, one comes.
    let mut camera_now = stream("camera", 20_000);
    camera_now["priority"] = json!(100);
    camera_now["limits"]["consumers"] = json!(1);
    let mut radar = stream("radar", 20_002);
    radar["mode"] = json!("Eager");
    let streams = [camera_now, radar];
    world.apply("n1.json", &node("n1", "r2", &streams).to_string());
    n1.follows("r2");
    let revoked = client.revoked(lidar.lease_id);
    assert!(
        !revoked.error_message.is_empty(),
        "the revocation has words"
    );
    client.keepalive(&camera);
    n1.status("an eager stream has memory before anybody asks", |status| {
        let radar = report(status, "radar");
        radar["phase"] == "Ready" && radar["bytes"].as_u64() > Some(0)
    });
    let radar = client.lease(Role::Producer, 20_002, 10);
    assert!(radar.epoch() > camera.epoch());
    let (refused, _) = client.attach(Role::Consumer, 20_000, 11);
    assert_ne!(refused.code, ResponseCode::Ok, "the new limit holds");
    let status = n1.status("the change is reported", |status| {
        report(status, "radar")["producers"] == 1 && report(status, "lidar").is_null()
    });
    assert_eq!(report(&status, "camera")["epoch"], camera.epoch());
    assert_eq!(report(&status, "camera")["producers"], 1);

    what_is_edited_by_hand_comes_back(&world, &n1);
    it_is_cordoned(&world, &n1, &mut client);
    let wanted = "driver-n1 TensorPoolNode";
    let asked = "{.spec.holderIdentity} {.metadata.ownerReferences[0].kind}";
    the_lease_says(&world, asked, wanted);
    // The last words of a driver that ends do not wait.
    let gaps = world.gaps_between_status_writes();
    let shortest = gaps.iter().min();
    assert!(shortest.is_some_and(|gap| *gap >= 900), "{gaps:?} ms");
    drop(client);
    assert_eq!(driver.terminate(), Some(0));
    let status = n1.object()["status"].clone();
    assert_eq!(
        condition(&status, "Ready")["reason"],
        "ShuttingDown",
        "{status}"
    );
    it_did_that_with_its_rights(&world);
}

/// What the driver reports without anything else happening: half of the time after which it looks again
/// by itself.
const BY_ITSELF: Duration = Duration::from_secs(15);

#[test]
fn control_plane_hears_at_once_that_the_memory_of_a_removed_stream_is_given_back() {
    let world = World::start();
    let mut camera = stream("camera", 20_000);
    camera["revocation"] = json!({"gracePeriodSeconds": 2});
    world.apply("n1.json", &node("n1", "r1", &[camera]).to_string());
    let n1 = Node::new(&world, "n1");
    let driver = n1.start();
    n1.follows("r1");
    let mut client = n1.client();
    let lease = client.lease(Role::Producer, 20_000, 7);
    n1.status("the stream has memory", |status| {
        report(status, "camera")["phase"] == "Ready"
    });
    world.apply("n1.json", &node("n1", "r2", &[]).to_string());
    let status = n1.follows("r2");
    let told = Instant::now();
    assert_eq!(report(&status, "camera")["reason"], "Removing", "{status}");
    client.revoked(lease.lease_id);
    eventually_within(BY_ITSELF, "the stream is gone", || {
        let status = n1.object()["status"].clone();
        match report(&status, "camera") {
            serde_json::Value::Null => Ok(()),
            there => Err(there.to_string()),
        }
    });
    println!("gone after {} ms", told.elapsed().as_millis());
    drop(client);
    assert_eq!(driver.terminate(), Some(0));
}

fn what_is_edited_by_hand_comes_back(world: &World, n1: &Node<'_>) {
    let before = n1.follows("r2");
    let forged = json!({"status": {
        "observedPolicyRevision": "forged", "streams": [], "attachments": 99,
        "conditions": [{
            "type": "SomebodyElses", "status": "True", "reason": "Whatever", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }});
    world.kubectl(&[
        "patch",
        "tpn",
        "n1",
        "--subresource=status",
        "--type=merge",
        "-p",
        &forged.to_string(),
    ]);
    let after = n1.status("the status is put right", |status| {
        status["observedPolicyRevision"] == "r2" && !condition(status, "Ready").is_null()
    });
    assert_eq!(after["streams"], before["streams"]);
    assert_eq!(after["attachments"], before["attachments"]);
}

fn it_is_cordoned(world: &World, n1: &Node<'_>, client: &mut crate::support::raw::Raw) {
    world.kubectl(&[
        "patch",
        "tpn",
        "n1",
        "--type=merge",
        "-p",
        r#"{"spec":{"cordoned":true,"policyRevision":"r3"}}"#,
    ]);
    let status = n1.follows("r3");
    assert_eq!(
        condition(&status, "Ready")["reason"],
        "Cordoned",
        "{status}"
    );
    assert_eq!(
        report(&status, "camera")["producers"],
        1,
        "what runs goes on"
    );
    client.poll();
    assert!(client.dead.is_none(), "{:?}", client.dead);
}

/// Everything was done with the rights that the chart gives, and each of them was used.
fn it_did_that_with_its_rights(world: &World) {
    let requests = world.driver_requests();
    let refused: Vec<_> = requests
        .iter()
        .filter(|it| it["responseStatus"]["code"] == 403)
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    let mut used: Vec<String> = requests
        .iter()
        .map(|it| {
            let part = it["objectRef"]["subresource"].as_str();
            let part = part.map(|part| format!("/{part}")).unwrap_or_default();
            format!(
                "{} {}{part}",
                it["verb"].as_str().unwrap_or_default(),
                it["objectRef"]["resource"].as_str().unwrap_or_default()
            )
        })
        .collect();
    used.sort();
    used.dedup();
    assert_eq!(
        used,
        [
            "get csidrivers",
            "list tensorpoolnodes",
            "patch leases",
            "patch tensorpoolnodes/status",
            "watch tensorpoolnodes"
        ]
    );
    let asked_for_others: Vec<_> = requests
        .iter()
        .filter(|it| it["objectRef"]["resource"] == "tensorpoolnodes")
        .filter(|it| it["verb"] == "list" || it["verb"] == "watch")
        .filter_map(|it| it["requestURI"].as_str())
        .filter(|uri| !uri.contains("fieldSelector=metadata.name%3Dn1"))
        .collect();
    assert!(asked_for_others.is_empty(), "{asked_for_others:?}");
}
