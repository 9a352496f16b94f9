//! The driver as a process with a real media driver, and both worlds joined.
#![cfg(feature = "aeron")]

mod support;

use rustix::fs::ftruncate;
use support::frames::Frames;
use support::media::{ExternalMediaDriver, aeron_client, connect};
use support::raw::Raw;
use support::{Driver, Options, Place, wait_until};
use tensorpool_transport::aeron::rusteron::{
    RusteronClient, RusteronPublication, RusteronSubscription,
};
use tensorpool_transport::pubsub::{MessageClient, Publication, Subscription};
use tensorpool_wire::{FrameDescriptor, LeaseRevokeReason, Message, ResponseCode, Role};

const CAMERA: u32 = 10_000;
const DESCRIPTORS: (&str, i32) = ("aeron:ipc?term-length=256k", 1100);

/// A subscriber to descriptors.
struct Descriptors {
    subscription: RusteronSubscription,
    client: RusteronClient,
    seen: Vec<FrameDescriptor>,
}

impl Descriptors {
    fn subscribe(place: &Place) -> Self {
        let mut client = connect(&place.aeron_dir());
        Self {
            subscription: client
                .add_subscription(DESCRIPTORS.0, DESCRIPTORS.1)
                .expect("a subscription"),
            client,
            seen: Vec::new(),
        }
    }

    fn poll(&mut self) {
        self.client
            .do_work(&mut |_| {})
            .expect("the media driver lives");
        let seen = &mut self.seen;
        let polled = self
            .subscription
            .poll(
                256,
                &mut |bytes, _| match Message::decode(bytes).expect("a message") {
                    Message::FrameDescriptor(descriptor) => seen.push(descriptor),
                    other => panic!("not a descriptor: {other:?}"),
                },
            );
        polled.expect("the media driver lives");
    }

    /// Publishes frames until a descriptor of frame `seq` or a later one was seen.
    fn wait_beyond(&mut self, frames: &mut Frames, meta_version: Option<u32>, seq: u64) {
        wait_until("descriptors", || {
            frames.publish(meta_version).expect("the memory is there");
            self.poll();
            let last = self.seen.last().map(|descriptor| descriptor.seq.get());
            (last >= Some(seq))
                .then_some(())
                .ok_or_else(|| format!("{last:?}"))
        });
    }
}

/// Not a test of anything: what [`ExternalMediaDriver`] runs in its child process.
#[test]
fn child_process_media_driver() {
    support::media::serve();
}

#[test]
fn an_aeron_client_attaches_keeps_its_lease_and_detaches() {
    // spec: D-4.5-1, D-4.2-1, D-4.2-8, D-4.4-3, D-4.9-12
    let place = Place::new(Options {
        keepalive_ms: 100,
        ..Options::with_aeron()
    });
    let driver = Driver::start(&place);
    let mut client = aeron_client(&place);
    let lease = client.lease(Role::Producer, CAMERA, 7);
    assert_eq!(lease.fds.len(), 0, "Aeron carries no descriptors");
    let announce = client.announce_above(CAMERA, lease.epoch() - 1);
    assert_eq!(announce.producer_id.get(), 7);
    // Twice the time that a lease lives without keepalives.
    for _ in 0..6 {
        client.keepalive(&lease);
        client.announce_above(CAMERA, lease.epoch() - 1);
    }
    let doc = driver.stream(CAMERA);
    assert_eq!(doc["producer"]["way"], "aeron");
    assert_eq!(doc["producer"]["pid"], "-");
    assert_eq!(client.detach(&lease), ResponseCode::Ok);
    assert_eq!(
        client.revoked(lease.lease_id).reason,
        LeaseRevokeReason::Detached
    );
    client.announce_above(CAMERA, lease.epoch());
}

#[test]
fn of_two_producers_with_one_client_id_one_on_each_way_in_exactly_one_is_served() {
    // spec: D-5-1, X-2-18, X-2-19
    let place = Place::new(Options::with_aeron());
    let driver = Driver::start(&place);
    let mut socket = Raw::socket(&place.socket());
    let mut aeron = aeron_client(&place);
    let asked = [
        socket.request_attach(Role::Producer, CAMERA, 7),
        aeron.request_attach(Role::Producer, CAMERA, 7),
    ];
    let mut answers = Vec::new();
    for (client, id) in [(&mut socket, asked[0]), (&mut aeron, asked[1])] {
        let (answer, _) = client.expect("an answer", |message| match message {
            Message::ShmAttachResponse(response) if response.correlation_id == id => {
                Some((response.code, response.error_message.clone()))
            }
            _ => None,
        });
        answers.push(answer);
    }
    answers.sort_by_key(|(code, _)| *code == ResponseCode::Ok);
    assert_eq!(
        answers,
        [
            (
                ResponseCode::Rejected,
                "client_id already attached".to_owned()
            ),
            (ResponseCode::Ok, String::new()),
        ]
    );
    assert_eq!(
        driver
            .metric("tensorpool_driver_leases{stream=\"10000\",name=\"camera\",role=\"producer\"}"),
        Some(1.0)
    );
}

#[test]
fn frames_of_a_socket_producer_reach_an_aeron_consumer_as_descriptors() {
    // spec: X-2-58, X-2-59, X-2-62
    let place = Place::new(Options::with_aeron());
    let driver = Driver::start(&place);
    let mut consumer = aeron_client(&place);
    consumer.lease(Role::Consumer, CAMERA, 8);
    let mut descriptors = Descriptors::subscribe(&place);
    let mut producer = Raw::socket(&place.socket());
    let mut lease = producer.lease(Role::Producer, CAMERA, 7);
    let mut frames = Frames::over(&mut lease);
    descriptors.wait_beyond(&mut frames, Some(3), 20);
    for descriptor in &descriptors.seen {
        assert_eq!(descriptor.stream_id.get(), CAMERA);
        assert_eq!(descriptor.epoch.get(), lease.epoch());
        assert_eq!(descriptor.timestamp_ns, None);
        assert_eq!(descriptor.meta_version, Some(3));
        assert_eq!(descriptor.trace_id, None);
    }
    let numbers: Vec<u64> = descriptors.seen.iter().map(|d| d.seq.get()).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "{numbers:?}"
    );
    assert!(driver.stream(CAMERA)["relayed"].as_u64() >= Some(1));

    // The revocation of a socket lease is heard on Aeron, before the next epoch.
    drop(producer);
    consumer.announce_above(CAMERA, lease.epoch());
    let revoked = consumer.revoked(lease.lease_id);
    assert_eq!(revoked.error_message, "connection closed");
    let after = frames
        .publish(None)
        .expect("the old mapping is still memory");
    descriptors.poll();
    assert!(
        descriptors.seen.iter().all(|d| d.seq.get() < after),
        "a frame after the end of the lease was relayed"
    );
}

#[test]
fn an_aeron_producer_of_a_socket_consumer_sees_a_subscriber_that_is_always_drained() {
    // spec: X-1-6
    let place = Place::new(Options::with_aeron());
    let driver = Driver::start(&place);
    let mut aeron = aeron_client(&place);
    let lease = aeron.lease(Role::Producer, CAMERA, 7);
    let mut client = connect(&place.aeron_dir());
    let mut publication: RusteronPublication = client
        .add_publication(DESCRIPTORS.0, DESCRIPTORS.1)
        .expect("a publication");
    assert!(!publication.is_connected(), "nobody consumes yet");
    let mut consumer = Raw::socket(&place.socket());
    let consuming = consumer.lease(Role::Consumer, CAMERA, 8);
    assert_eq!(consuming.epoch(), lease.epoch());
    wait_until("a subscriber", || {
        client.do_work(&mut |_| {}).expect("the media driver lives");
        publication
            .is_connected()
            .then_some(())
            .ok_or_else(|| "none".to_owned())
    });
    // Many times what the window holds.
    let mut frames = Frames::by_path(&lease, &place.base_dir());
    for _ in 0..20_000 {
        let seq = frames.publish(None).expect("the memory is there");
        let descriptor = FrameDescriptor {
            stream_id: lease.stream_id,
            epoch: lease.response.epoch.unwrap(),
            seq: tensorpool_wire::Seq(seq),
            timestamp_ns: None,
            meta_version: None,
            trace_id: None,
        };
        wait_until("room for a descriptor", || {
            publication
                .offer(&descriptor.encode_array())
                .map_err(|error| error.to_string())
        });
    }
    wait_until("all of them drained", || {
        let drained = driver.metric("tensorpool_driver_drained_descriptors_total");
        (drained == Some(20_000.0))
            .then_some(())
            .ok_or_else(|| format!("{drained:?}"))
    });
    assert_eq!(consumer.detach(&consuming), ResponseCode::Ok);
    wait_until("no subscriber", || {
        client.do_work(&mut |_| {}).expect("the media driver lives");
        (!publication.is_connected())
            .then_some(())
            .ok_or_else(|| "one".to_owned())
    });
}

#[test]
fn a_hostile_producer_that_truncates_under_the_relay_is_revoked_and_the_driver_lives() {
    // spec: X-1-29, X-1-30
    let place = Place::new(Options {
        announce_ms: 10_000,
        ..Options::with_aeron()
    });
    let mut driver = Driver::start(&place);
    let mut consumer = aeron_client(&place);
    consumer.lease(Role::Consumer, CAMERA, 8);
    let mut descriptors = Descriptors::subscribe(&place);
    let mut producer = Raw::socket(&place.socket());
    let mut lease = producer.lease(Role::Producer, CAMERA, 7);
    let ring = lease.fds[0].try_clone().unwrap();
    let mut frames = Frames::over(&mut lease);
    descriptors.wait_beyond(&mut frames, None, 10);
    ftruncate(&ring, 0).unwrap();
    // Long before the next activity refresh: the relay itself saw it.
    let revoked = producer.revoked(lease.lease_id);
    assert_eq!(revoked.reason, LeaseRevokeReason::Revoked);
    assert_eq!(revoked.error_message, "region lost its pages");
    driver.wait_for("a producer changed the file of a region");
    let mut next = Raw::socket(&place.socket());
    let mut lease = next.lease(Role::Producer, CAMERA, 9);
    let mut frames = Frames::over(&mut lease);
    let before = descriptors.seen.len();
    descriptors.wait_beyond(&mut frames, None, 0);
    wait_until("descriptors of the new epoch", || {
        frames.publish(None).expect("the memory is there");
        descriptors.poll();
        let new = descriptors.seen[before..].iter();
        new.clone()
            .any(|d| d.epoch.get() == lease.epoch())
            .then_some(())
            .ok_or_else(|| format!("{} of the old epoch", new.count()))
    });
}

#[test]
fn an_external_media_driver_that_is_killed_and_comes_back_is_found_again() {
    // spec: D-10-1
    let place = Place::new(Options {
        media_driver: "external",
        keepalive_ms: 200,
        ..Options::default()
    });
    let media = ExternalMediaDriver::start(&place.aeron_dir());
    let mut driver = Driver::start(&place);
    let log = driver.log();
    assert!(
        log.contains("AERON_TETHER_SUBSCRIPTIONS"),
        "its settings are doubted: {log}"
    );
    let mut aeron = aeron_client(&place);
    let lost = aeron.lease(Role::Producer, CAMERA, 7);
    let mut socket = Raw::socket(&place.socket());
    socket.lease(Role::Consumer, CAMERA, 8);

    drop(media);
    wait_until("not ready", || {
        let (code, body) = driver.get("/readyz");
        (code == 503 && body == "no_media_driver\n")
            .then_some(())
            .ok_or(body)
    });
    // Who is on the socket is served all the while, and sees the lost producer expire.
    let revoked = socket.revoked(lost.lease_id);
    assert_eq!(revoked.reason, LeaseRevokeReason::Expired);
    drop(aeron);
    let mut consumer = Raw::socket(&place.socket());
    consumer.lease(Role::Consumer, CAMERA, 9);

    let _media = ExternalMediaDriver::start(&place.aeron_dir());
    wait_until("ready again", || {
        let (code, body) = driver.get("/readyz");
        (code == 200).then_some(()).ok_or(body)
    });
    let mut aeron = aeron_client(&place);
    let lease = aeron.lease(Role::Producer, CAMERA, 7);
    assert!(lease.epoch() > lost.epoch());
    assert_eq!(
        driver.metric("tensorpool_driver_media_driver_connects_total"),
        Some(2.0)
    );
}

#[test]
fn an_embedded_media_driver_whose_directory_is_in_use_refuses_the_start_with_advice() {
    let place = Place::new(Options::with_aeron());
    let _media = ExternalMediaDriver::start(&place.aeron_dir());
    let mut driver = Driver::spawn(&place);
    assert_eq!(driver.wait().code(), Some(1));
    let log = driver.log();
    assert!(
        log.contains("driver.media_driver = \\\"external\\\""),
        "{log}"
    );
}

#[test]
fn a_killed_drivers_successor_serves_aeron_again_with_higher_epochs() {
    // spec: D-10-2, X-2-27
    let place = Place::new(Options::with_aeron());
    let driver = Driver::start(&place);
    let mut aeron = aeron_client(&place);
    let lost = aeron.lease(Role::Producer, CAMERA, 7);
    driver.kill();
    drop(aeron);
    let _driver = Driver::start(&place);
    let mut aeron = aeron_client(&place);
    let lease = aeron.lease(Role::Producer, CAMERA, 7);
    assert!(lease.epoch() > lost.epoch());
    place.wait_for_epochs("the lost one is kept as the one before", |epochs| {
        epochs == [lost.epoch(), lease.epoch()]
    });
}
