//! The bus's sockets: refusals, deaths, floods and silence, in virtual time.

use tensorpool_wire::{ConnectionId, LogicalStream, Origin};

use super::*;
use crate::port::{ClientPort, CloseReason, Coalesce, Destination, Inbound, Outbound, ServerPort};
use crate::pubsub::{Dead, SendError};

fn poll(bus: &Bus, server: &mut BusServer) -> Vec<String> {
    let mut seen = Vec::new();
    let mut keep = |inbound: Inbound<'_>| {
        seen.push(match inbound {
            Inbound::Opened {
                connection,
                attachment,
                ..
            } => {
                format!("opened {} through {attachment}", connection.0)
            }
            Inbound::Refused { text, .. } => format!("refused: {text}"),
            Inbound::Message {
                origin: Origin::Socket { connection },
                bytes,
                ..
            } => {
                format!("{} says {}", connection.0, String::from_utf8_lossy(bytes))
            }
            Inbound::Message {
                origin: Origin::Aeron { .. },
                ..
            } => "from Aeron?".to_owned(),
            Inbound::Closing {
                connection, why, ..
            } => {
                format!("closing {}: {}", connection.0, why.label())
            }
            Inbound::Closed { connection, why } => {
                format!("closed {}: {}", connection.0, why.label())
            }
        });
    };
    while server.poll(bus.now(), &mut keep).unwrap() > 0 {}
    seen
}

fn say(client: &mut BusConnection, text: &str) {
    client
        .send(LogicalStream::Control, text.as_bytes())
        .unwrap();
}

fn answer(connection: u64, bytes: &[u8]) -> Outbound<'_> {
    Outbound {
        to: Destination::Connection(ConnectionId(connection)),
        stream: LogicalStream::Control,
        bytes,
        coalesce: Coalesce::Never,
        fds: &[],
    }
}

// spec: X-2-26
#[test]
fn without_a_server_a_connect_is_refused_and_worth_another_attempt() {
    let bus = Bus::new(1);
    assert!(bus.connect(0).unwrap_err().is_retryable());
    let server = bus.listen(&[0], Limits::default());
    assert!(bus.connect(0).is_ok());
    assert!(
        bus.connect(1).unwrap_err().is_retryable(),
        "another attachment"
    );
    drop(server);
    assert!(bus.connect(0).unwrap_err().is_retryable());
}

#[test]
fn each_attachment_names_the_connections_that_came_through_it() {
    let bus = Bus::new(1);
    let mut server = bus.listen(&[3, 4], Limits::default());
    let _one = bus.connect(4).unwrap();
    let _two = bus.connect(3).unwrap();
    assert_eq!(
        poll(&bus, &mut server),
        ["opened 1 through 3", "opened 2 through 4"]
    );
    server.remove_listener(3);
    assert_eq!(poll(&bus, &mut server), ["closing 1: removed"]);
    assert!(bus.connect(3).is_err());
}

// spec: X-2-22, X-2-23
#[test]
fn a_killed_producer_is_closed_after_its_detach_and_before_its_successor_s_attach() {
    let bus = Bus::new(1);
    let mut server = bus.listen(&[0], Limits::default());
    let mut corpse = bus.connect(0).unwrap();
    poll(&bus, &mut server);
    say(&mut corpse, "detach");
    drop(corpse);
    let mut successor = bus.connect(0).unwrap();
    say(&mut successor, "attach");
    let expected = [
        "1 says detach",
        "closed 1: peer_closed",
        "opened 2 through 0",
        "2 says attach",
    ];
    assert_eq!(poll(&bus, &mut server), expected);
}

// spec: X-2-25
#[test]
fn a_dead_driver_ends_its_clients_and_a_new_one_takes_over() {
    let bus = Bus::new(1);
    let mut server = bus.listen(&[0], Limits::default());
    let mut client = bus.connect(0).unwrap();
    poll(&bus, &mut server);
    server.send(&answer(1, b"lease")).unwrap();
    drop(server);
    let mut heard = 0;
    assert_eq!(client.poll(&mut |_| heard += 1), Ok(1));
    assert!(matches!(
        client.poll(&mut |_| heard += 1),
        Err(Dead::Closed(_))
    ));
    assert_eq!(heard, 1);
    assert!(client.send(LogicalStream::Control, b"x").is_err());
    let mut server = bus.listen(&[0], Limits::default());
    let mut again = bus.connect(0).unwrap();
    say(&mut again, "attach");
    assert_eq!(
        poll(&bus, &mut server),
        ["opened 1 through 0", "1 says attach"]
    );
}

// spec: X-2-5
#[test]
fn garbage_is_cut_off_as_by_the_real_server() {
    let bus = Bus::new(1);
    let mut server = bus.listen(&[0], Limits::default());
    let mut client = bus.connect(0).unwrap();
    client.send_raw(vec![0; 12]).unwrap();
    assert_eq!(
        poll(&bus, &mut server),
        ["opened 1 through 0", "closing 1: garbage"]
    );
    let mut empty = bus.connect(0).unwrap();
    empty.send_raw(Vec::new()).unwrap();
    assert_eq!(
        poll(&bus, &mut server),
        ["opened 2 through 0", "closing 2: garbage"]
    );
}

// spec: X-2-30, X-2-33
#[test]
fn a_client_that_never_reads_overflows_and_finds_the_last_words() {
    let bus = Bus::new(1);
    let mut server = bus.listen(&[0], Limits::default());
    let mut client = bus.connect(0).unwrap();
    poll(&bus, &mut server);
    let refused = loop {
        if let Err(refused) = server.send(&answer(1, &[0; 4_096])) {
            break refused;
        }
    };
    assert_eq!(refused, SendError::Overflow { limit: 262_144 });
    assert_eq!(poll(&bus, &mut server), ["closing 1: overflow"]);
    server.send(&answer(1, b"revoked")).unwrap();
    server.disconnect(ConnectionId(1), CloseReason::Local);
    assert_eq!(poll(&bus, &mut server), ["closed 1: overflow"]);
    let mut last = Vec::new();
    while let Ok(count) = client.poll(&mut |inbound| last = inbound.bytes.to_vec()) {
        assert!(count > 0, "the close has arrived");
    }
    assert_eq!(last, b"revoked");
}

// spec: X-2-36
#[test]
fn the_limit_for_an_attach_runs_in_virtual_time() {
    let bus = Bus::new(1);
    let mut server = bus.listen(&[0], Limits::default());
    let _idle = bus.connect(0).unwrap();
    poll(&bus, &mut server);
    bus.advance(5_000 * MS - 1);
    assert_eq!(poll(&bus, &mut server), Vec::<String>::new());
    bus.advance(1);
    assert_eq!(poll(&bus, &mut server), ["closing 1: no_attach"]);
    bus.advance(1_000 * MS);
    assert_eq!(poll(&bus, &mut server), ["closed 1: no_attach"]);
}

#[test]
fn a_delayed_connection_keeps_its_order_and_its_close_comes_last() {
    let bus = Bus::new(9);
    bus.set_faults(Faults {
        delay_min_ns: 0,
        delay_max_ns: 50 * MS,
        ..Faults::default()
    });
    let mut server = bus.listen(&[0], Limits::default());
    let mut client = bus.connect(0).unwrap();
    (0..20).for_each(|n| say(&mut client, &n.to_string()));
    drop(client);
    let mut seen = Vec::new();
    while let Some(next) = bus.next_arrival() {
        bus.advance_to(next);
        seen.extend(poll(&bus, &mut server));
    }
    let mut expected = vec!["opened 1 through 0".to_owned()];
    expected.extend((0..20).map(|n| format!("1 says {n}")));
    expected.push("closed 1: peer_closed".to_owned());
    assert_eq!(seen, expected);
}
