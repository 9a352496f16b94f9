//! The driver as a process, reached by raw packets on its socket.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{OFlags, fcntl_getfl, fstat};
use rustix::process::Signal;
use support::raw::Raw;
use support::{Driver, Options, Place, wait_until};
use tensorpool_wire::{LeaseRevokeReason, Message, ResponseCode, Role, ShutdownReason, Superblock};

const CAMERA: u32 = 10_000;

fn shm_path(uri: &str) -> &str {
    uri.strip_prefix("shm:file?path=").expect("a region URI")
}

#[test]
fn an_attach_makes_files_that_are_allocated_private_and_complete() {
    // spec: W-15.14-1, W-15.21a-1, W-15.10-1, D-4.2-9, D-8-2, W-7.1-1
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Consumer, CAMERA, 7);

    let ring = shm_path(&lease.response.header_region_uri);
    let pool = shm_path(&lease.response.payload_pools[0].region_uri);
    let tail = format!("/default/{CAMERA}/{}", lease.epoch());
    assert!(ring.ends_with(&format!("{tail}/header.ring")), "{ring}");
    assert!(pool.ends_with(&format!("{tail}/1.pool")), "{pool}");
    for (path, bytes) in [(ring, 64 + 16 * 256), (pool, 64 + 16 * 4096)] {
        let meta = std::fs::metadata(path).unwrap();
        assert_eq!(meta.len(), bytes, "{path}");
        assert!(meta.blocks() * 512 >= bytes, "{path} is not allocated");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o660, "{path}");
        let head: [u8; 64] = std::fs::read(path).unwrap()[..64].try_into().unwrap();
        let block = Superblock::decode(&head).unwrap();
        assert_eq!(block.epoch.get(), lease.epoch());
        assert_eq!(block.stream_id.get(), CAMERA);
    }
    let announce = client.announce_above(CAMERA, 0);
    assert_eq!(announce.epoch.get(), lease.epoch());
    assert_eq!(announce.producer_id.get(), 0);
}

#[test]
fn a_producer_gets_its_regions_as_descriptors_in_the_order_of_the_message_and_a_consumer_none() {
    // spec: X-2-8, X-2-9
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let producer = client.lease(Role::Producer, CAMERA, 7);
    let uris = std::iter::once(&producer.response.header_region_uri).chain(
        producer
            .response
            .payload_pools
            .iter()
            .map(|pool| &pool.region_uri),
    );
    assert_eq!(producer.fds.len(), 2);
    for (fd, uri) in producer.fds.iter().zip(uris) {
        let by_path = std::fs::metadata(shm_path(uri)).unwrap();
        let by_fd = fstat(fd).unwrap();
        assert_eq!((by_fd.st_dev, by_fd.st_ino), (by_path.dev(), by_path.ino()));
        assert!(fcntl_getfl(fd).unwrap().contains(OFlags::RDWR));
    }
    let consumer = client.lease(Role::Consumer, CAMERA, 8);
    assert_eq!(consumer.fds.len(), 0);
    assert_eq!(consumer.epoch(), producer.epoch());
}

#[test]
fn the_activity_of_a_stream_without_producer_stays_fresh() {
    // spec: W-7.1-4, D-3-2
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Consumer, CAMERA, 7);
    let activity = || {
        let bytes = std::fs::read(shm_path(&lease.response.header_region_uri)).unwrap();
        let head: [u8; 64] = bytes[..64].try_into().unwrap();
        Superblock::decode(&head).unwrap().activity_timestamp_ns
    };
    let first = activity();
    for _ in 0..2 {
        let before = activity();
        wait_until("a newer activity timestamp", || {
            let now = activity();
            (now > before).then_some(()).ok_or_else(|| format!("{now}"))
        });
    }
    assert!(activity() > first);
}

#[test]
fn a_detach_revokes_answers_and_makes_a_new_epoch_whose_old_files_go_in_time() {
    // spec: D-4.9-11, D-4.9-12, D-4.9-13, D-6-1, GC-1, GC-2
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let first = client.lease(Role::Producer, CAMERA, 7);
    client.announce_above(CAMERA, first.epoch() - 1);
    assert_eq!(client.detach(&first), ResponseCode::Ok);
    let revoked = client.revoked(first.lease_id);
    assert_eq!(revoked.reason, LeaseRevokeReason::Detached);

    let mut watcher = Raw::socket(&place.socket());
    let consumer = watcher.lease(Role::Consumer, CAMERA, 8);
    assert!(consumer.epoch() > first.epoch());
    // Current and one before are kept; a third one pushes the first out.
    let second = client.lease(Role::Producer, CAMERA, 9);
    assert!(second.epoch() > consumer.epoch());
    place.wait_for_epochs("the first is gone, two are kept", |epochs| {
        !epochs.contains(&first.epoch()) && epochs.len() == 2
    });
    assert_eq!(driver.stream(CAMERA)["epoch"], second.epoch());
}

#[test]
fn a_closed_connection_ends_its_leases_at_once_and_the_revoke_precedes_the_announce() {
    // spec: X-2-21, X-2-22, X-2-20, D-4.9-13
    let place = Place::new(Options {
        keepalive_ms: 60_000,
        ..Options::default()
    });
    let _driver = Driver::start(&place);
    let mut consumer = Raw::socket(&place.socket());
    let watching = consumer.lease(Role::Consumer, CAMERA, 8);
    let mut producer = Raw::socket(&place.socket());
    let lease = producer.lease(Role::Producer, CAMERA, 7);
    consumer.announce_above(CAMERA, watching.epoch());
    drop(producer);

    consumer.announce_above(CAMERA, lease.epoch());
    let revoked = consumer
        .inbox
        .iter()
        .find_map(|(message, _)| match message {
            Message::ShmLeaseRevoked(revoked) => Some(revoked.clone()),
            _ => None,
        })
        .expect("the revocation came before the announce of the new epoch");
    assert_eq!(revoked.lease_id, lease.lease_id);
    assert_eq!(revoked.reason, LeaseRevokeReason::Expired);
    assert_eq!(revoked.error_message, "connection closed");
    // The stream can be produced again although the keepalive interval is a minute.
    let mut next = Raw::socket(&place.socket());
    next.lease(Role::Producer, CAMERA, 7);
}

#[test]
fn a_stopped_producer_expires_after_the_grace_and_is_told_when_it_goes_on() {
    // spec: D-4.4-4, D-4.7a-2, D-7-1
    let place = Place::new(Options {
        keepalive_ms: 50,
        ..Options::default()
    });
    let driver = Driver::start(&place);
    let mut silent = Raw::socket(&place.socket());
    let lease = silent.lease(Role::Producer, CAMERA, 7);
    // It says nothing, as a stopped process; its connection stays open.
    driver.wait_for_stream(CAMERA, "no producer", |doc| doc["producer"].is_null());
    let revoked = silent.revoked(lease.lease_id);
    assert_eq!(revoked.reason, LeaseRevokeReason::Expired);
    let mut other = Raw::socket(&place.socket());
    let next = other.lease(Role::Producer, CAMERA, 8);
    assert!(next.epoch() > lease.epoch());
    assert_eq!(
        driver.metric("tensorpool_driver_leases_ended_total{reason=\"expired\"}"),
        Some(1.0)
    );
}

#[test]
fn of_two_producers_with_one_client_id_exactly_one_is_served() {
    // spec: D-5-1, D-4.8-5, X-2-18
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let mut one = Raw::socket(&place.socket());
    let mut two = Raw::socket(&place.socket());
    let first = one.request_attach(Role::Producer, CAMERA, 7);
    let second = two.request_attach(Role::Producer, CAMERA, 7);
    let answer = |client: &mut Raw, id| {
        client.expect("an answer", |message| match message {
            Message::ShmAttachResponse(response) if response.correlation_id == id => {
                Some((response.code, response.error_message.clone()))
            }
            _ => None,
        })
    };
    let (first, fds_first) = answer(&mut one, first);
    let (second, fds_second) = answer(&mut two, second);
    let refused = (
        ResponseCode::Rejected,
        "client_id already attached".to_owned(),
    );
    let granted = (ResponseCode::Ok, String::new());
    let mut answers = [(first, fds_first.len()), (second, fds_second.len())];
    answers.sort_by_key(|(_, fds)| *fds);
    assert_eq!(answers, [(refused, 0), (granted, 2)]);
}

#[test]
fn sigterm_drains_attaches_are_refused_and_the_end_is_announced() {
    // spec: X-2-28, D-4.13-3, D-4.13-4
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    client.lease(Role::Consumer, CAMERA, 7);
    driver.signal(Signal::TERM);
    wait_until("not ready", || {
        let (code, body) = driver.get("/readyz");
        (code == 503 && body == "draining\n")
            .then_some(())
            .ok_or(body)
    });
    let (refused, _) = client.attach(Role::Producer, CAMERA, 8);
    assert_eq!(refused.code, ResponseCode::Rejected);
    assert_eq!(refused.error_message, "driver draining");
    let (reason, _) = client.expect("the shutdown", |message| match message {
        Message::ShmDriverShutdown(shutdown) => Some(shutdown.reason),
        _ => None,
    });
    assert_eq!(reason, ShutdownReason::Normal);
    let mut driver = driver;
    assert_eq!(driver.wait().code(), Some(0));
    assert!(
        !place.socket().exists(),
        "a drained driver takes its socket away"
    );
}

#[test]
fn a_handover_says_nothing_and_leaves_socket_and_epochs_to_the_successor() {
    // spec: X-2-25, X-2-27, X-2-28, D-10-2
    let place = Place::new(Options {
        shutdown: "handover",
        ..Options::default()
    });
    let driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Producer, CAMERA, 7);
    assert_eq!(driver.terminate(), Some(0));
    client.expect_end();
    for (message, _) in &client.inbox {
        assert!(
            !matches!(
                message,
                Message::ShmDriverShutdown(_) | Message::ShmLeaseRevoked(_)
            ),
            "{message:?}"
        );
    }
    assert!(place.socket().exists());
    assert_eq!(place.epochs(), [lease.epoch()]);
    let _next = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    assert!(client.lease(Role::Producer, CAMERA, 7).epoch() > lease.epoch());
}

#[test]
fn a_second_signal_ends_the_driver_at_once() {
    let place = Place::new(Options::default());
    let text = std::fs::read_to_string(place.config()).unwrap();
    let slow = text.replace("shutdown_timeout_ms = 200", "shutdown_timeout_ms = 600000");
    std::fs::write(place.config(), slow).unwrap();
    let mut driver = Driver::start(&place);
    driver.signal(Signal::INT);
    driver.wait_for("asked to end");
    driver.signal(Signal::INT);
    assert_eq!(driver.wait().code(), Some(130));
}

#[test]
fn a_killed_drivers_successor_has_higher_epochs_and_collects_the_old_directories() {
    // spec: D-10-2, X-2-27, GC-1, W-15.21a-15, D-14-1
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let mut epochs = Vec::new();
    for round in 0..3 {
        let lease = client.lease(Role::Producer, CAMERA, 7 + round);
        epochs.push(lease.epoch());
        assert_eq!(client.detach(&lease), ResponseCode::Ok);
    }
    driver.kill();
    let left = place.epochs();
    assert!(!left.is_empty());
    let highest = *left.iter().max().unwrap();

    let mut successor = Driver::start(&place);
    assert!(
        successor.log().contains("journal read"),
        "the journal is trusted"
    );
    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Producer, CAMERA, 7);
    assert!(lease.epoch() > highest, "{} > {highest}", lease.epoch());
    place.wait_for_epochs("one of the old ones is kept", |epochs| {
        epochs.len() == 2 && epochs.contains(&lease.epoch())
    });
    assert_eq!(successor.stream(CAMERA)["epoch"], lease.epoch());
}

#[test]
fn a_damaged_journal_is_said_and_epochs_still_rise() {
    // spec: D-10-2
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Producer, CAMERA, 7);
    driver.kill();
    let journal = place.state_dir().join("epochs.journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 0x10;
    std::fs::write(&journal, bytes).unwrap();

    let mut driver = Driver::start(&place);
    assert!(
        driver
            .log()
            .contains("the journal is damaged and was put aside")
    );
    assert!(place.state_dir().join("epochs.journal.damaged").exists());
    let mut client = Raw::socket(&place.socket());
    assert!(client.lease(Role::Producer, CAMERA, 7).epoch() > lease.epoch());
}

#[test]
fn a_second_driver_is_refused_with_its_own_exit_code_and_disturbs_nobody() {
    // spec: D-2.1-1
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut second = Driver::spawn(&place);
    assert_eq!(second.wait().code(), Some(4));
    let log = second.log();
    assert!(
        log.contains(&format!("another driver (pid {})", driver.pid())),
        "{log}"
    );
    let mut client = Raw::socket(&place.socket());
    client.lease(Role::Consumer, CAMERA, 7);
}
