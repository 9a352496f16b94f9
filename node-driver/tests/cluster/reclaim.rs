//! Memory of a removed stream that a client does not let go.

use std::error::Error;

use serde_json::{Value, json};
use tensorpool_client::{Consumer, PollError, Producer};
use tensorpool_wire::{ResponseCode, Role};

use crate::node::{Node, stream as report};
use crate::objects;
use crate::support::PATIENCE;
use crate::world::{World, eventually};

const PAGE: u64 = 2 << 20;
/// Header ring and pool, a page each.
const EPOCH: u64 = 2 * PAGE;
/// Room for one epoch, and none for a second.
const PAGES: u64 = 3;

/// A stream in huge pages, whose memory is taken back two seconds after it is deleted.
fn stream(name: &str, id: u32) -> Value {
    let mut stream = objects::stream(name, id);
    stream["pageSize"] = json!("2Mi");
    stream["bytes"] = json!(EPOCH);
    stream["revocation"] = json!({
        "gracePeriodSeconds": 0, "reclaimPolicy": "Force", "forceAfterSeconds": 2,
    });
    stream
}

fn node(revision: &str, streams: &[Value]) -> String {
    let mut node = objects::node("n1", revision, streams);
    node["spec"]["pools"][0]["pageSize"] = json!("2Mi");
    node["spec"]["pools"][0]["sizeBytes"] = json!(PAGES * PAGE);
    node.to_string()
}

#[test]
fn control_plane_hugepages_are_taken_from_a_client_that_does_not_let_go_of_a_deleted_stream() {
    let world = World::start();
    let n1 = Node::new(&world, "n1");
    let Some(mount) = n1.huge_pages(PAGES) else {
        return;
    };
    let free = || rustix::fs::statvfs(mount.path()).expect("a mount").f_bfree;
    world.apply("n1.json", &node("r1", &[stream("camera", 20_000)]));
    let mut driver = n1.start();
    n1.follows("r1");
    let producer = Producer::builder("camera").socket(n1.socket()).build();
    let mut producer = producer.expect("the producer attaches");
    let consumer = Consumer::builder("camera").socket(n1.socket()).build();
    let mut consumer = consumer.expect("the consumer attaches");
    producer.publish(&[7; 64]).expect("attached");
    let frame = consumer.wait(PATIENCE).expect("the lease lives");
    let frame = frame.expect("the frame comes");
    assert_eq!(free(), PAGES - 2);

    // The consumer works on its frame for as long as it likes, and so does the producer.
    world.apply("n1.json", &node("r2", &[stream("lidar", 20_001)]));
    n1.follows("r2");
    let said = format!("clients that did not let go have {EPOCH} bytes of it");
    let status = n1.status("it is said who has the memory", |status| {
        let message = &report(status, "camera")["message"];
        message.as_str().is_some_and(|text| text.contains(&said))
    });
    assert_eq!(status["pools"][0]["pinnedBytes"], EPOCH, "{status}");
    let mut client = n1.client();
    let (refused, _) = client.attach(Role::Producer, 20_001, 9);
    let text = &refused.error_message;
    assert!(text.contains("held by vision/camera"), "{text}");

    let line = driver.wait_for_line("whose memory was taken", |line| {
        let text = line["message"].as_str().unwrap_or_default();
        text.starts_with("the memory of an epoch was taken")
    });
    assert_eq!(line["name"], "vision/camera", "{line}");
    assert_eq!(line["bytes"], EPOCH, "{line}");
    n1.status("the stream is gone", |status| {
        report(status, "camera").is_null()
    });
    eventually("another stream has the pages", || {
        match client.attach(Role::Producer, 20_001, 10).0 {
            answer if answer.code == ResponseCode::Ok => Ok(()),
            refused => Err(refused.error_message),
        }
    });
    assert_eq!(free(), PAGES - 2, "the client still maps what is gone");
    assert_eq!(
        driver.metric("tensorpool_driver_forced_bytes_total"),
        Some(4_194_304.0)
    );

    // Whoever did not let go lives, and is told.
    let lost = frame.copy_to(&mut [0; 64]).expect_err("it is gone");
    let why = lost.source().expect("it has a cause").to_string();
    println!("the frame: {lost}: {why}");
    assert!(why.contains("was truncated while it was mapped"), "{why}");
    let end = consumer.wait(PATIENCE);
    let Err(PollError::LeaseEnded(end)) = end else {
        panic!("{end:?}")
    };
    println!("the consumer: {end}");
    assert!(end.to_string().contains("stream was removed"), "{end}");
    let refused = producer.publish(&[8; 64]).expect_err("it is gone");
    println!("the producer: {refused}");
    drop((consumer, producer, client));
    assert_eq!(driver.terminate(), Some(0));
}

#[test]
fn control_plane_hugepages_of_a_deleted_stream_are_taken_by_the_driver_that_comes_after() {
    let world = World::start();
    let n1 = Node::new(&world, "n1");
    let Some(mount) = n1.huge_pages(PAGES) else {
        return;
    };
    let free = || rustix::fs::statvfs(mount.path()).expect("a mount").f_bfree;
    world.apply("n1.json", &node("r1", &[stream("camera", 20_000)]));
    let mut driver = n1.start();
    n1.follows("r1");
    // The descriptors that a producer gets hold the files as well as a mapping does.
    let mut client = n1.client();
    let held = client.lease(Role::Producer, 20_000, 7);
    world.apply("n1.json", &node("r2", &[]));
    driver.wait_for_line("who has the memory", |line| {
        let text = line["message"].as_str().unwrap_or_default();
        text.starts_with("a client still has the memory of an epoch")
    });
    driver.kill();
    assert_eq!(free(), PAGES - 2);

    let mut driver = n1.start();
    driver.wait_for_line("whose memory was taken", |line| {
        let text = line["message"].as_str().unwrap_or_default();
        text.starts_with("the memory of an epoch was taken")
    });
    assert_eq!(free(), PAGES);
    let blocks = held.fds.iter().map(|file| {
        let file = rustix::fs::fstat(file).expect("it is open");
        file.st_blocks
    });
    assert_eq!(blocks.sum::<i64>(), 0, "the descriptors lead to nothing");
    assert_eq!(driver.terminate(), Some(0));
}
