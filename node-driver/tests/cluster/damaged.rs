//! The node's object edited by hand into what no operator writes.

use serde_json::json;
use tensorpool_wire::Role;

use crate::node::{Node, condition, stream as report};
use crate::objects::{node, stream};
use crate::witness::Witness;
use crate::world::World;

#[test]
fn control_plane_with_a_spec_edited_by_hand_loses_only_what_that_takes_away() {
    let world = World::start();
    let camera = || stream("camera", 20_000);
    world.apply("n1.json", &node("n1", "r2", &[camera()]).to_string());
    let n1 = Node::new(&world, "n1");
    let _driver = n1.start();
    n1.follows("r2");
    let witness = Witness::start(&n1.socket(), "camera");

    // A number twice, a number that is none, a class and a quota that are not there, twice the same
    // name; and the revision goes back.
    let mut twin = stream("twin", 20_000);
    twin["priority"] = json!(-1);
    let none = stream("none", 4_294_967_295);
    let mut classless = stream("classless", 20_002);
    classless["className"] = json!("");
    let mut unlimited = stream("unlimited", 20_003);
    unlimited["quotas"] = json!(["gone"]);
    let good = stream("good", 20_004);
    let mut again = stream("good", 20_005);
    again["uid"] = json!("uid-other");
    let streams = [camera(), twin, classless, unlimited, good, again];
    world.apply("n1.json", &node("n1", "r1", &streams).to_string());
    let status = n1.follows("r1");
    let reason = |name: &str| report(&status, name)["reason"].clone();
    assert_eq!(reason("twin"), "StreamIdInUse", "{status}");
    assert_eq!(reason("classless"), "NoSuchClass", "{status}");
    assert_eq!(reason("unlimited"), "NoSuchQuota", "{status}");
    let message = condition(&status, "PolicyApplied")["message"].clone();
    let message = message.as_str().unwrap_or_default();
    for words in [
        "4 streams cannot be carried",
        "vision/twin: stream id 20000 is that of vision/camera",
        "vision/good: the policy names the stream twice, with different UIDs",
    ] {
        assert!(message.contains(words), "{message}");
    }
    n1.client().lease(Role::Producer, 20_004, 77);
    witness.goes_on();

    // The API server refuses a number that no stream can have.
    let file = world.write("bad.json", &node("n1", "r9", &[camera(), none]).to_string());
    let bad = ["apply", "--server-side", "--force-conflicts", "-f"];
    let refused = world
        .control_plane
        .kubectl()
        .args(bad)
        .arg(&file)
        .output()
        .expect("kubectl starts");
    assert!(!refused.status.success(), "{refused:?}");

    pages_of_another_version(&world, &n1);
    witness.goes_on();

    // Nothing at all is asked for: what ran ends, in words. Put right, everything is there again.
    println!("{} frames, none lost", witness.end());
    let mut client = n1.client();
    let lease = client.lease(Role::Producer, 20_000, 78);
    // A replaced object would lose against a status that the driver writes at the same time.
    let empty = json!([{"op": "replace", "path": "/spec", "value": {}}]).to_string();
    world.kubectl(&["patch", "tensorpoolnode", "n1", "--type=json", "-p", &empty]);
    let revoked = client.revoked(lease.lease_id);
    assert!(!revoked.error_message.is_empty());
    world.apply("n1.json", &node("n1", "r3", &[camera()]).to_string());
    let status = n1.follows("r3");
    assert_eq!(
        condition(&status, "PolicyApplied")["message"],
        "",
        "{status}"
    );
    n1.client().lease(Role::Producer, 20_000, 79);
}

/// Definitions that allow pages of which this driver does not know: what it knew stays.
fn pages_of_another_version(world: &World, n1: &Node<'_>) {
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let anything = json!([{
        "op": "replace", "path": spec,
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }]);
    let definition = "tensorpoolnodes.tensorpool.io";
    let anything = anything.to_string();
    world.kubectl(&["patch", "crd", definition, "--type=json", "-p", &anything]);
    let mut odd = stream("camera", 20_000);
    odd["pageSize"] = json!("16Ki");
    let mut new = stream("new", 20_007);
    new["pageSize"] = json!("16Ki");
    let object = node("n1", "r5", &[odd, new]).to_string();
    crate::world::eventually("the definition counts", || {
        let file = world.write("n1.json", &object);
        let mut apply = world.control_plane.kubectl();
        apply.args(["apply", "--server-side", "--force-conflicts", "-f"]);
        let output = apply.arg(&file).output().expect("kubectl starts");
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    });
    let status = n1.follows("r5");
    let applied = condition(&status, "PolicyApplied");
    assert_eq!(applied["reason"], "PolicyRejected", "{status}");
    let message = applied["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("stream vision/camera cannot be read and stays as it was"),
        "{message}"
    );
    assert_eq!(report(&status, "camera")["phase"], "Ready", "{status}");
    assert_eq!(report(&status, "new")["reason"], "Unreadable", "{status}");
}

#[test]
fn control_plane_with_another_count_of_huge_pages_than_the_machine_is_told_so() {
    let world = World::start();
    // As a kubelet writes it that was started when the machine had them.
    let capacity = json!({"status": {"capacity": {"hugepages-2Mi": "1Ti"}}});
    let patch = ["patch", "node", "n1", "--subresource=status", "-p"];
    world.kubectl(&[&patch[..], &[capacity.to_string().as_str()]].concat());
    let mut object = node("n1", "r1", &[]);
    object["spec"]["pools"][0]["pageSize"] = json!("2Mi");
    world.apply("n1.json", &object.to_string());
    let n1 = Node::new(&world, "n1");
    let driver = n1.start();
    let status = n1.status("the condition is there", |status| {
        !condition(status, "HugepagesStale").is_null()
    });
    let stale = condition(&status, "HugepagesStale");
    assert_eq!(
        (&stale["status"], &stale["reason"]),
        (&json!("True"), &json!("RestartKubelet")),
        "{status}"
    );
    let message = stale["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("kubelet counts 524288 pages of 2Mi and this machine has "),
        "{message}"
    );
    assert!(message.ends_with(": restart kubelet"), "{message}");
    let looked = r#"tensorpool_driver_api_requests_total{request="node",result="ok"}"#;
    assert!(driver.metric(looked) >= Some(1.0));
}
