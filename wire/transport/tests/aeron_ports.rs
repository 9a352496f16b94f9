//! The ports on Aeron against a real media driver: shared streams, answers on streams that peers
//! name, and a media driver that dies under both ends.
#![cfg(all(feature = "rusteron", feature = "media-driver"))]

mod aeron_support;

use std::time::{Duration, Instant};

use aeron_support::{Media, Peer, drain, fast, listen, role, say, shm_dir, until};
use tensorpool_transport::aeron::media_driver::EmbeddedMediaDriver;
use tensorpool_transport::aeron::port::{AeronClientPort, AeronServerPort, Endpoint, Endpoints};
use tensorpool_transport::aeron::reconnect::{Backoff, Progress, Reconnecting};
use tensorpool_transport::aeron::rusteron::{RusteronClient, RusteronConfig};
use tensorpool_transport::port::{
    ClientPort, Coalesce, Destination, Inbound, Outbound, ServerPort,
};
use tensorpool_transport::pubsub::{Dead, MessageClient, SendError};
use tensorpool_transport::{LogicalStream, Origin};
use tensorpool_wire::MonoNanos;

const IPC: &str = "aeron:ipc?term-length=1m";

fn endpoints() -> Endpoints {
    Endpoints {
        control: Endpoint::new(IPC, 1000),
        announce: Endpoint::new(IPC, 1001),
        qos: Endpoint::new(IPC, 1200),
        metadata: Endpoint::new(IPC, 1300),
        discovery: Some(Endpoint::new(IPC, 7000)),
    }
}

fn answers() -> Option<Endpoint> {
    Some(Endpoint::new("aeron:ipc", 7004))
}

fn announce(bytes: &[u8]) -> Outbound<'_> {
    Outbound {
        to: Destination::Aeron,
        stream: LogicalStream::Announce,
        bytes,
        coalesce: Coalesce::Never,
        fds: &[],
    }
}

/// A clock for polls, which starts at 0.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> MonoNanos {
        MonoNanos(u64::try_from(self.0.elapsed().as_nanos()).expect("a short test"))
    }
}

fn seen(
    server: &mut AeronServerPort<RusteronClient>,
    now: MonoNanos,
) -> Vec<(Origin, LogicalStream, Vec<u8>)> {
    let mut all = Vec::new();
    server
        .poll(now, &mut |inbound| match inbound {
            Inbound::Message {
                origin,
                stream,
                bytes,
            } => all.push((origin, stream, bytes.to_vec())),
            other => panic!("Aeron has no connections: {other:?}"),
        })
        .expect("a live media driver");
    all
}

fn heard(client: &mut AeronClientPort<RusteronClient>) -> Vec<(LogicalStream, Vec<u8>)> {
    let mut all = Vec::new();
    client
        .poll(&mut |inbound| all.push((inbound.stream, inbound.bytes.to_vec())))
        .expect("a live media driver");
    all
}

/// Asks until the server has it: a client's publication is not connected from the start.
fn ask(
    client: &mut AeronClientPort<RusteronClient>,
    server: &mut AeronServerPort<RusteronClient>,
    clock: &Clock,
    stream: LogicalStream,
    bytes: &[u8],
) -> (Origin, LogicalStream) {
    until("the client can send", || {
        heard(client);
        seen(server, clock.now());
        client.send(stream, bytes).is_ok()
    });
    let mut from = None;
    until("the server hears it", || {
        heard(client);
        for (origin, on, message) in seen(server, clock.now()) {
            if message == bytes {
                from = Some((origin, on));
            }
        }
        from.is_some()
    });
    from.expect("waited for")
}

#[test]
fn media_driver_carries_two_streams_on_one_and_each_message_comes_once() {
    let media = Media::fast();
    let clock = Clock(Instant::now());
    let mut shared = endpoints();
    shared.announce = shared.control.clone();
    let mut server = AeronServerPort::open(media.client(), shared.clone()).expect("open");
    let mut client = AeronClientPort::open(media.client(), shared, None).expect("open");
    let (_, on) = ask(
        &mut client,
        &mut server,
        &clock,
        LogicalStream::Control,
        b"attach",
    );
    assert_eq!(on, LogicalStream::Control);
    server.send(&announce(b"announce")).expect("sent or kept");
    let mut all = Vec::new();
    until("the announce", || {
        assert_eq!(
            seen(&mut server, clock.now()),
            [],
            "it does not hear itself"
        );
        all.extend(heard(&mut client));
        !all.is_empty()
    });
    let as_control = (LogicalStream::Control, b"announce".to_vec());
    assert_eq!(all, [as_control], "once, on the first stream of the two");
    assert_eq!(server.outbox_counts(LogicalStream::Announce).failed, 0);
}

#[test]
fn media_driver_carries_discovery_answers_where_the_request_says() {
    let media = Media::fast();
    let clock = Clock(Instant::now());
    let mut server = AeronServerPort::open(media.client(), endpoints()).expect("open");
    let mut client = AeronClientPort::open(media.client(), endpoints(), answers()).expect("open");
    let (_, on) = ask(
        &mut client,
        &mut server,
        &clock,
        LogicalStream::Discovery,
        b"request",
    );
    assert_eq!(on, LogicalStream::Discovery);
    for number in 0..3_u8 {
        server
            .send_to(clock.now(), "aeron:ipc?alias=mine", 7004, &[number])
            .expect("sent or kept until the asker is connected");
    }
    let mut all = Vec::new();
    until("three answers", || {
        seen(&mut server, clock.now());
        all.extend(heard(&mut client));
        all.len() >= 3
    });
    // spec: DI-4.3-1
    let answer = |number| (LogicalStream::Discovery, vec![number]);
    assert_eq!(all, [answer(0), answer(1), answer(2)]);
}

#[test]
fn media_driver_is_not_asked_for_more_than_a_bounded_number_of_answer_streams() {
    let media = Media::fast();
    let clock = Clock(Instant::now());
    let mut server = AeronServerPort::open(media.client(), endpoints()).expect("open");
    // Nobody listens on any of these, so every answer waits and none of their streams is free.
    for stream in 8000..8016 {
        server
            .send_to(clock.now(), "aeron:ipc", stream, b"answer")
            .expect("kept");
    }
    assert_eq!(
        server.send_to(clock.now(), "aeron:ipc", 8016, b"answer"),
        Err(SendError::BackPressured),
        "one past the bound"
    );
    let mut much_later = clock.now();
    until("nobody came for any of them", || {
        much_later = much_later.saturating_add(6_000_000_000);
        seen(&mut server, much_later);
        server.all_outbox_counts().unheard == 16
    });
    server
        .send_to(much_later, "aeron:ipc", 8016, b"answer")
        .expect("the unheard ones were dropped, so there is room");
    for channel in ["aeron:udp?endpoint=localhost:40456", "socket", ""] {
        let refused = server.send_to(clock.now(), channel, 7004, b"answer");
        assert!(matches!(refused, Err(SendError::Closed(_))), "{refused:?}");
    }
    let to_nobody = Outbound {
        to: Destination::Connection(tensorpool_wire::ConnectionId(1)),
        ..announce(b"x")
    };
    assert_eq!(server.send(&to_nobody), Err(SendError::NotConnected));
}

#[test]
fn media_driver_lets_the_owner_of_a_port_open_streams_of_its_own() {
    let media = Media::fast();
    let clock = Clock(Instant::now());
    let mut server = AeronServerPort::open(media.client(), endpoints()).expect("open");
    let mut client = AeronClientPort::open(media.client(), endpoints(), None).expect("open");
    let mut descriptors = server
        .client_mut()
        .add_publication(IPC, 1100)
        .expect("a publication");
    let mut consumer = client
        .client_mut()
        .add_subscription(IPC, 1100)
        .expect("a subscription");
    until("a descriptor", || {
        seen(&mut server, clock.now());
        heard(&mut client);
        use tensorpool_transport::pubsub::Publication;
        let _refused_until_connected = descriptors.offer(&[7; 48]);
        !drain(&mut consumer).is_empty()
    });
}

#[test]
fn media_driver_killed_under_both_ends_is_an_error_and_both_come_back() {
    let home = shm_dir();
    let dir = home.path().join("aeron");
    let mut peer = Peer::start("media_driver", &dir);
    assert_eq!(peer.line(), "up");
    let clock = Clock(Instant::now());
    let config = RusteronConfig {
        dir: dir.clone(),
        driver_timeout: Duration::from_secs(1),
    };
    let connect = || RusteronClient::connect(&config).map_err(|error| error.to_string());
    let mut server = Reconnecting::new(Backoff::default(), || {
        AeronServerPort::open(connect()?, endpoints()).map_err(|dead| dead.to_string())
    });
    let mut client = Reconnecting::new(Backoff::default(), || {
        AeronClientPort::open(connect()?, endpoints(), None).map_err(|dead| dead.to_string())
    });
    for round in 1..=2_u64 {
        let bytes = round.to_le_bytes();
        until("both ends are up and a message passes", || {
            server.poll(clock.now());
            client.poll(clock.now());
            let (Some(server), Some(client)) = (server.get(), client.get()) else {
                return false;
            };
            let heard_before = heard(client);
            assert!(heard_before.is_empty(), "{heard_before:?}");
            let _refused_until_connected = client.send(LogicalStream::Control, &bytes);
            seen(server, clock.now())
                .iter()
                .any(|(_, _, message)| *message == bytes)
        });
        assert_eq!((server.built(), client.built()), (round, round));
        peer.kill();
        let mut dead = (None, None);
        until("both ends notice", || {
            if let Some(server) = server.get() {
                dead.0 = server
                    .poll(clock.now(), &mut |_| {})
                    .err()
                    .or_else(|| dead.0.take());
            }
            if let Some(client) = client.get() {
                dead.1 = client.poll(&mut |_| {}).err().or_else(|| dead.1.take());
            }
            dead.0.is_some() && dead.1.is_some()
        });
        assert!(
            matches!(
                dead,
                (Some(Dead::MediaDriver(_)), Some(Dead::MediaDriver(_)))
            ),
            "{dead:?}"
        );
        server.lost(clock.now());
        client.lost(clock.now());
        until("an attempt without a media driver", || {
            matches!(server.poll(clock.now()), Progress::Failed { .. })
        });
        peer = Peer::start("media_driver", &dir);
        assert_eq!(peer.line(), "up");
    }
    peer.tell("stop");
    peer.finish();
}

#[test]
#[ignore = "the other process of these tests"]
fn peer_process() {
    let (role, dir) = role().expect("started by a test of this file");
    assert_eq!(role, "media_driver");
    let driver = EmbeddedMediaDriver::start(&fast(&dir)).expect("the media driver starts");
    say("up");
    assert_eq!(listen(), "stop");
    driver.stop().expect("a clean stop");
}
