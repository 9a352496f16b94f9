//! Clients that mean harm, or are out of order, and the driver as a process.

mod support;

use std::time::Instant;

use rustix::net::SendFlags;
use support::raw::Raw;
use support::{Driver, Options, Place};
use tensorpool_transport::socket::SocketClient;
use tensorpool_wire::{LeaseRevokeReason, LogicalStream, ResponseCode, Role};

const CAMERA: u32 = 10_000;

#[test]
fn a_flood_ends_the_connection_with_a_reason_in_revoke_log_and_metric_and_nobody_else_notices() {
    // spec: X-2-32, X-2-33
    let place = Place::new(Options::default());
    let mut driver = Driver::start(&place);
    let mut bystander = Raw::socket(&place.socket());
    let kept = bystander.lease(Role::Consumer, CAMERA, 8);
    let mut flood = Raw::socket(&place.socket());
    let lease = flood.lease(Role::Producer, CAMERA, 7);
    // The driver may have cut it off before the last one is sent.
    let sent = (0..1_200)
        .take_while(|_| flood.try_keepalive(&lease))
        .count();
    assert!(sent > 1_000, "cut off after {sent}");
    let revoked = flood.revoked(lease.lease_id);
    assert_eq!(revoked.reason, LeaseRevokeReason::Revoked);
    assert!(
        revoked.error_message.contains("1000"),
        "{}",
        revoked.error_message
    );
    flood.expect_end();
    driver.wait_for("a connection is cut off");
    assert_eq!(
        driver.metric("tensorpool_driver_connections_closed_total{reason=\"flood\"}"),
        Some(1.0)
    );
    bystander.keepalive(&kept);
    assert_eq!(bystander.detach(&kept), ResponseCode::Ok);
}

#[test]
fn a_crowd_of_garbage_is_counted_in_full_and_fills_no_log() {
    // spec: X-2-33, X-2-38
    const CROWD: usize = 200;
    let place = Place::new(Options::default());
    let mut driver = Driver::start(&place);
    for _ in 0..CROWD {
        let client = SocketClient::connect(&place.socket()).unwrap();
        rustix::net::send(&client, b"garbage", SendFlags::NOSIGNAL).unwrap();
        let mut client = Raw::over(Box::new(client));
        let told = client.expect_end().to_string();
        let words = "the packet has 7 bytes, its prefix alone needs 8";
        assert!(told.ends_with(words), "{told}");
    }
    assert_eq!(
        driver.metric("tensorpool_driver_connections_closed_total{reason=\"garbage\"}"),
        Some(200.0)
    );
    driver.wait_for("a connection is cut off");
    let log = driver.log();
    let lines = log.lines().filter(|line| line.contains("is cut off"));
    let lines = lines.count();
    assert!((1..CROWD / 2).contains(&lines), "{lines} lines");
}

#[test]
fn a_client_that_attaches_without_a_pause_is_counted_in_full_and_fills_no_log() {
    const ROUNDS: u32 = 300;
    let place = Place::new(Options::default());
    let mut driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let began = Instant::now();
    for round in 0..ROUNDS {
        let lease = client.lease(Role::Consumer, CAMERA, 7 + round);
        assert_eq!(client.detach(&lease), ResponseCode::Ok);
    }
    assert_eq!(
        driver.metric("tensorpool_driver_leases_ended_total{reason=\"detached\"}"),
        Some(f64::from(ROUNDS))
    );
    driver.wait_for("lease ended");
    let log = driver.log();
    // Twenty a second, where a second may have begun before and another goes on.
    let most = 20 * (began.elapsed().as_secs() + 2);
    for what in ["lease granted", "lease ended"] {
        let lines = log.lines().filter(|line| line.contains(what)).count();
        let lines = u64::try_from(lines).unwrap();
        assert!((1..=most).contains(&lines), "{lines} times {what}");
    }
}

#[test]
fn malformed_messages_are_answered_or_counted_and_never_fatal() {
    // spec: D-4.4a-2, D-4.6-1
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Consumer, CAMERA, 7);
    for bytes in [&[0_u8; 3][..], &[0xff; 64], &[0; 8]] {
        client.send_bytes(LogicalStream::Control, bytes);
        client.send_bytes(LogicalStream::Discovery, bytes);
        client.send_bytes(LogicalStream::Metadata, bytes);
    }
    assert_eq!(client.detach(&lease), ResponseCode::Ok);
    let (_, text) = driver.get("/metrics");
    let dropped: f64 = text
        .lines()
        .filter(|line| {
            line.starts_with("tensorpool_driver_messages_dropped_total{reason=\"undecodable\"")
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(dropped, 9.0, "{text}");
}
