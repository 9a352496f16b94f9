//! As many streams as a node may have.

use serde_json::Value;
use tensorpool_wire::Role;

use crate::node::{Node, condition};
use crate::objects::{node, stream};
use crate::world::World;

const STREAMS: u32 = 256;
/// Leases that one connection may hold.
const PER_CONNECTION: u32 = 64;

#[test]
fn control_plane_takes_the_status_of_as_many_streams_as_a_node_may_have() {
    let world = World::start();
    let streams: Vec<Value> = (0..STREAMS)
        .map(|at| stream(&format!("s{at:03}"), 20_000 + at))
        .collect();
    world.apply("n1.json", &node("n1", "r1", &streams).to_string());
    let n1 = Node::new(&world, "n1");
    let _driver = n1.start();
    n1.follows("r1");
    let mut clients = Vec::new();
    for first in (0..STREAMS).step_by(usize::try_from(PER_CONNECTION).expect("it is small")) {
        let mut client = n1.client();
        for at in first..first + PER_CONNECTION {
            client.lease(Role::Consumer, 20_000 + at, 1 + at);
        }
        clients.push(client);
    }
    let status = n1.status("all streams are reported", |status| {
        status["streamCount"] == STREAMS && status["attachments"] == STREAMS
    });
    let streams = status["streams"].as_array().expect("there are streams");
    assert_eq!(streams.len(), 256);
    assert!(streams.iter().all(|it| it["phase"] == "Ready"), "{status}");
    assert_eq!(condition(&status, "PolicyApplied")["status"], "True");
    let object = n1.object().to_string();
    assert!(object.len() < 1 << 20, "{} bytes", object.len());
    println!("a node with 256 streams: {} bytes", object.len());
}
