//! Cases of the upper layer: a driver and its clients.

mod world;

use tensorpool_wire::{LogicalStream, MonoNanos, Origin};

use super::{Patience, pattern};
use crate::port::{ClientPort, CloseReason, Coalesce, Destination, Outbound, ServerPort};
use crate::pubsub::{Dead, SendError};

use world::{Heard, Seen, World, answer_to, listen};

/// What a way brings to the cases of this layer.
pub trait PortFixture {
    /// The driver's end.
    type Server: ServerPort;
    /// A client's end.
    type Client: ClientPort;

    /// The driver's end, made once per case, before any client.
    fn server(&mut self) -> Self::Server;

    /// A new client of that server.
    fn client(&mut self) -> Self::Client;

    /// The time to be passed to polls. It must advance by at least 1 ms from step to step.
    fn now(&self) -> MonoNanos;

    /// Called again and again while a case waits; `waited` counts from 0 for each wait.
    fn step(&mut self, waited: u32) -> Patience;
}

/// Streams that clients send on and drivers answer on.
const BOTH_WAYS: [LogicalStream; 3] = [
    LogicalStream::Control,
    LogicalStream::Qos,
    LogicalStream::Metadata,
];

/// Each client has an origin of its own, and keeps it.
pub fn every_message_carries_its_origin<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let (mut one, mut two) = (fixture.client(), fixture.client());
    let from_one = world.ask(fixture, &mut one, b"one asks");
    let from_two = world.ask(fixture, &mut two, b"two asks");
    assert_ne!(from_one, from_two);
    // spec: X-2-16
    assert_eq!(world.ask(fixture, &mut one, b"one asks again"), from_one);
}

/// Messages name the stream that they were sent on, in both directions.
pub fn streams_are_kept_apart<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let mut client = fixture.client();
    let origin = world.ask(fixture, &mut client, b"hello");
    for stream in BOTH_WAYS {
        let body = pattern(usize::from(stream.number()), 64);
        world.client_send(fixture, &mut client, stream, &body);
        world.send(fixture, answer_to(origin), stream, &body);
    }
    let mut heard = Heard::new();
    world.until(fixture, "three messages each way", |world| {
        listen(&mut client, &mut heard);
        heard.len() >= 3 && world.messages().len() >= 4
    });
    let expected = BOTH_WAYS.map(|stream| (stream, pattern(usize::from(stream.number()), 64)));
    heard.sort_by_key(|(stream, _)| *stream);
    assert_eq!(heard, expected);
    let mut seen: Vec<_> = world
        .messages()
        .into_iter()
        .skip(1)
        .map(|(_, stream, bytes)| (stream, bytes))
        .collect();
    seen.sort_by_key(|(stream, _)| *stream);
    assert_eq!(seen, expected);
}

/// Messages of one stream keep their order in both directions.
pub fn order_is_kept_both_ways<F: PortFixture>(fixture: &mut F) {
    const COUNT: usize = 500;
    let mut world = World::new(fixture);
    let mut client = fixture.client();
    let origin = world.ask(fixture, &mut client, b"hello");
    let mut heard = Heard::new();
    for n in 0..COUNT {
        let body = u32::try_from(n).expect("small").to_le_bytes();
        world.client_send(fixture, &mut client, LogicalStream::Control, &body);
        world.send(fixture, answer_to(origin), LogicalStream::Control, &body);
        listen(&mut client, &mut heard);
        world.poll(fixture);
        // Rates are limited; a step is a millisecond or more.
        assert_eq!(fixture.step(0), Patience::GoOn);
    }
    world.until(fixture, "all messages", |world| {
        listen(&mut client, &mut heard);
        heard.len() >= COUNT && world.messages().len() > COUNT
    });
    let expected: Vec<_> = (0..COUNT)
        .map(|n| (LogicalStream::Control, number(n)))
        .collect();
    assert_eq!(heard, expected);
    let seen: Vec<_> = world
        .messages()
        .into_iter()
        .skip(1)
        .map(|(_, s, b)| (s, b))
        .collect();
    assert_eq!(seen, expected);
}

fn number(n: usize) -> Vec<u8> {
    u32::try_from(n).expect("small").to_le_bytes().to_vec()
}

/// The longest messages pass in both directions, and one byte more is refused.
pub fn the_longest_messages_pass_both_ways<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let mut client = fixture.client();
    let origin = world.ask(fixture, &mut client, b"hello");
    let stream = LogicalStream::Metadata;
    let (up, down) = (
        client.max_message_len(stream),
        world.server.max_message_len(stream),
    );
    assert!(
        up >= 65_536 + 128 && down >= 65_536 + 128,
        "a 64 KiB metadata chunk must fit"
    );
    // spec: X-2-4
    let refused = client.send(stream, &vec![0; up + 1]);
    assert_eq!(
        refused,
        Err(SendError::TooLong {
            len: up + 1,
            max: up
        })
    );
    let longer = vec![0; down + 1];
    let outbound = Outbound {
        to: answer_to(origin),
        stream,
        bytes: &longer,
        coalesce: Coalesce::Never,
        fds: &[],
    };
    let refused = world.server.send(&outbound);
    assert_eq!(
        refused,
        Err(SendError::TooLong {
            len: down + 1,
            max: down
        })
    );
    world.client_send(fixture, &mut client, stream, &pattern(1, up));
    world.send(fixture, answer_to(origin), stream, &pattern(2, down));
    let mut heard = Heard::new();
    world.until(fixture, "both long messages", |world| {
        listen(&mut client, &mut heard);
        heard.len() == 1 && world.messages().len() == 2
    });
    assert!(
        heard == [(stream, pattern(2, down))],
        "the answer was changed"
    );
    let (_, seen_on, seen) = world.messages().pop().expect("two messages");
    assert!(
        seen_on == stream && seen == pattern(1, up),
        "the request was changed"
    );
}

/// A broadcast way delivers the driver's messages to all clients, and not back to the driver.
pub fn a_broadcast_reaches_all_but_its_sender<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let (mut one, mut two) = (fixture.client(), fixture.client());
    world.ask(fixture, &mut one, b"one asks");
    world.ask(fixture, &mut two, b"two asks");
    let before = world.messages().len();
    world.send(
        fixture,
        Destination::Aeron,
        LogicalStream::Announce,
        b"announce",
    );
    let (mut by_one, mut by_two) = (Heard::new(), Heard::new());
    let wanted = (LogicalStream::Announce, b"announce".to_vec());
    world.until(fixture, "the announce at both", |_| {
        listen(&mut one, &mut by_one);
        listen(&mut two, &mut by_two);
        by_one.contains(&wanted) && by_two.contains(&wanted)
    });
    world.poll(fixture);
    assert_eq!(world.messages().len(), before, "the server heard itself");
}

/// On a way with connections an answer goes to the asker and to nobody else.
pub fn an_answer_reaches_only_the_asker<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let (mut asker, mut other) = (fixture.client(), fixture.client());
    let from_other = world.ask(fixture, &mut other, b"other asks");
    let from_asker = world.ask(fixture, &mut asker, b"asker asks");
    world.send(
        fixture,
        answer_to(from_asker),
        LogicalStream::Control,
        b"for the asker",
    );
    world.send(
        fixture,
        answer_to(from_other),
        LogicalStream::Control,
        b"for the other",
    );
    let (mut by_asker, mut by_other) = (Heard::new(), Heard::new());
    world.until(fixture, "both answers", |_| {
        listen(&mut asker, &mut by_asker);
        listen(&mut other, &mut by_other);
        !by_asker.is_empty() && !by_other.is_empty()
    });
    // spec: X-2-19
    assert_eq!(
        by_asker,
        [(LogicalStream::Control, b"for the asker".to_vec())]
    );
    assert_eq!(
        by_other,
        [(LogicalStream::Control, b"for the other".to_vec())]
    );
}

/// What a client sent before it closed is delivered before its close, which comes once.
pub fn a_closed_connection_is_read_to_its_end<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let mut client = fixture.client();
    let origin = world.ask(fixture, &mut client, b"hello");
    let Origin::Socket { connection } = origin else {
        panic!("this way has no connections")
    };
    // More than one poll takes from a connection that is open.
    for n in 0..100 {
        world.client_send(fixture, &mut client, LogicalStream::Control, &number(n));
    }
    drop(client);
    world.until(fixture, "the close", |world| {
        world
            .seen
            .contains(&Seen::Closed(connection, CloseReason::PeerClosed))
    });
    // spec: X-2-22
    let message = |n| Seen::Message(origin, LogicalStream::Control, number(n));
    let mut expected = vec![
        Seen::Opened(connection),
        Seen::Message(origin, LogicalStream::Control, b"hello".to_vec()),
    ];
    expected.extend((0..100).map(message));
    expected.push(Seen::Closed(connection, CloseReason::PeerClosed));
    assert_eq!(world.seen, expected);
    world.poll(fixture);
    assert_eq!(
        world.seen.len(),
        expected.len(),
        "the close is the last that is heard of it"
    );
}

/// Within one poll closes come before the packets of other connections, whatever the order in which
/// they happened.
pub fn closes_come_before_packets_of_others<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let (mut successor, mut corpse) = (fixture.client(), fixture.client());
    let from_successor = world.ask(fixture, &mut successor, b"successor");
    let from_corpse = world.ask(fixture, &mut corpse, b"corpse");
    let Origin::Socket { connection } = from_corpse else {
        panic!("this way has no connections")
    };
    world.seen.clear();
    successor
        .send(LogicalStream::Control, b"attach")
        .expect("sends");
    corpse
        .send(LogicalStream::Control, b"detach")
        .expect("sends");
    drop(corpse);
    world.until(fixture, "the attach", |world| world.messages().len() == 2);
    // spec: X-2-23
    let expected = [
        Seen::Message(from_corpse, LogicalStream::Control, b"detach".to_vec()),
        Seen::Closed(connection, CloseReason::PeerClosed),
        Seen::Message(from_successor, LogicalStream::Control, b"attach".to_vec()),
    ];
    assert_eq!(world.seen, expected);
}

/// A client hears what its driver sent before it ended the connection, then that it is over; the
/// driver hears of the end once.
pub fn last_words_arrive_before_the_end<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let mut client = fixture.client();
    let origin = world.ask(fixture, &mut client, b"hello");
    let Origin::Socket { connection } = origin else {
        panic!("this way has no connections")
    };
    // Left unread by the server: a close with something unread must not swallow the last words.
    client
        .send(LogicalStream::Control, b"never read")
        .expect("sends");
    world.send(
        fixture,
        answer_to(origin),
        LogicalStream::Control,
        b"you are revoked",
    );
    world.server.disconnect(connection, CloseReason::Local);
    world.until(fixture, "the close", |world| {
        world
            .seen
            .contains(&Seen::Closed(connection, CloseReason::Local))
    });
    let mut heard = Heard::new();
    let mut over = None;
    world.until(fixture, "the end at the client", |_| {
        let mut handler = |inbound: crate::port::ClientInbound<'_>| {
            heard.push((inbound.stream, inbound.bytes.to_vec()));
        };
        over = client.poll(&mut handler).err();
        over.is_some()
    });
    // spec: X-2-29
    assert_eq!(
        heard,
        [(LogicalStream::Control, b"you are revoked".to_vec())]
    );
    assert!(matches!(over, Some(Dead::Closed(_))), "{over:?}");
    let ends = world
        .seen
        .iter()
        .filter(|seen| matches!(seen, Seen::Closed(..)))
        .count();
    assert_eq!(ends, 1);
    let message = Outbound {
        to: answer_to(origin),
        stream: LogicalStream::Control,
        bytes: b"too late",
        coalesce: Coalesce::Never,
        fds: &[],
    };
    assert_eq!(world.server.send(&message), Err(SendError::NotConnected));
    assert!(client.send(LogicalStream::Control, b"too late").is_err());
}

/// A driver that ends is an error at its clients, after what it had sent.
pub fn a_dead_server_is_an_error_at_the_client<F: PortFixture>(fixture: &mut F) {
    let mut world = World::new(fixture);
    let mut client = fixture.client();
    let origin = world.ask(fixture, &mut client, b"hello");
    world.send(
        fixture,
        answer_to(origin),
        LogicalStream::Control,
        b"the last answer",
    );
    drop(world);
    let mut heard = Heard::new();
    let mut waited = 0;
    let over = loop {
        let mut handler = |inbound: crate::port::ClientInbound<'_>| {
            heard.push((inbound.stream, inbound.bytes.to_vec()));
        };
        match client.poll(&mut handler) {
            Ok(_) => assert_eq!(fixture.step(waited), Patience::GoOn, "waited for the end"),
            Err(over) => break over,
        }
        waited += 1;
    };
    // spec: X-2-25
    assert!(matches!(over, Dead::Closed(_)), "{over:?}");
    assert_eq!(
        heard,
        [(LogicalStream::Control, b"the last answer".to_vec())]
    );
}

/// One `#[test]` for each case that any way has to hold.
#[macro_export]
macro_rules! port_conformance {
    ($fixture:expr) => {
        $crate::conformance_tests!($crate::conformance::port, $fixture;
            every_message_carries_its_origin,
            streams_are_kept_apart,
            order_is_kept_both_ways,
            the_longest_messages_pass_both_ways,
        );
    };
}

/// One `#[test]` for each case of a way on which all clients hear the driver: Aeron.
#[macro_export]
macro_rules! broadcast_port_conformance {
    ($fixture:expr) => {
        $crate::conformance_tests!($crate::conformance::port, $fixture;
            a_broadcast_reaches_all_but_its_sender,
        );
    };
}

/// One `#[test]` for each case of a way with connections: the socket.
#[macro_export]
macro_rules! connection_port_conformance {
    ($fixture:expr) => {
        $crate::conformance_tests!($crate::conformance::port, $fixture;
            an_answer_reaches_only_the_asker,
            a_closed_connection_is_read_to_its_end,
            closes_come_before_packets_of_others,
            last_words_arrive_before_the_end,
            a_dead_server_is_an_error_at_the_client,
        );
    };
}
