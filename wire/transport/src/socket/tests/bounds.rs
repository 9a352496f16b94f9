//! What a peer can cost the driver.

use super::*;
use crate::socket::PacketClass;

// spec: X-2-32, X-2-33
#[test]
fn a_flood_is_cut_off_with_the_limit_and_what_was_seen() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    for n in 0..1_000_u32 {
        client
            .send(LogicalStream::Control, &n.to_le_bytes())
            .unwrap();
        desk.poll_to_empty();
    }
    assert_eq!(
        desk.messages_of(connection).len(),
        1_000,
        "the limit itself is allowed"
    );
    client.send(LogicalStream::Control, b"one more").unwrap();
    desk.poll_to_empty();
    assert_eq!(desk.messages_of(connection).len(), 1_000);
    let text = "more packets than 1000 within one second: 1001 seen";
    assert_eq!(
        desk.closing_of(connection),
        (CloseReason::Flood, text.to_owned())
    );
    desk.answer(connection, text.as_bytes()).unwrap();
    desk.server.disconnect(connection, CloseReason::Local);
    let (heard, over) = read_all(&mut client);
    assert_eq!(heard, [text.as_bytes().to_vec()]);
    assert!(over.is_some());
    desk.poll_to_empty();
    assert_eq!(
        desk.seen.last(),
        Some(&Seen::Closed(connection, CloseReason::Flood))
    );
    assert_eq!(desk.server.stats().closed, [0, 0, 1, 0, 0, 0, 0]);
}

// spec: X-2-32
#[test]
fn progress_counts_for_itself_as_the_driver_classifies_it() {
    let classify = |_: LogicalStream, body: &[u8]| match body.first() {
        Some(b'p') => PacketClass::Keyed(7),
        Some(_) | None => PacketClass::Ordinary,
    };
    let mut desk = Desk::with_limits(Limits {
        classify,
        ..Limits::default()
    });
    let (mut client, connection) = desk.connect();
    for _ in 0..2_000 {
        client.send(LogicalStream::Control, b"progress").unwrap();
        desk.poll_to_empty();
    }
    client.send(LogicalStream::Control, b"keepalive").unwrap();
    desk.poll_to_empty();
    assert_eq!(desk.messages_of(connection).len(), 2_001);
    client.send(LogicalStream::Control, b"progress").unwrap();
    desk.poll_to_empty();
    let text = "more packets of key 7 than 2000 within one second: 2001 seen";
    assert_eq!(
        desk.closing_of(connection),
        (CloseReason::Flood, text.to_owned())
    );
}

// spec: X-2-34
#[test]
fn one_poll_takes_32_packets_of_a_busy_connection_and_reaches_the_next() {
    let mut desk = Desk::new();
    let (mut busy, busy_connection) = desk.connect();
    let (mut quiet, quiet_connection) = desk.connect();
    for n in 0..100_u32 {
        busy.send(LogicalStream::Control, &n.to_le_bytes()).unwrap();
    }
    quiet.send(LogicalStream::Control, b"keepalive").unwrap();
    assert_eq!(desk.poll(), 33);
    assert_eq!(desk.messages_of(busy_connection).len(), 32);
    assert_eq!(desk.messages_of(quiet_connection).len(), 1);
    desk.poll_to_empty();
    let expected: Vec<_> = (0..100_u32).map(|n| n.to_le_bytes().to_vec()).collect();
    assert_eq!(desk.messages_of(busy_connection), expected);
}

/// Answers of 4 KiB to a client that does not read, until the driver is told to stop.
fn overflow(desk: &mut Desk, connection: ConnectionId) -> u32 {
    for sent in 0..10_000_u32 {
        let mut body = vec![0; 4_096];
        body[..4].copy_from_slice(&sent.to_le_bytes());
        match desk.answer(connection, &body) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, SendError::Overflow { limit: 262_144 });
                assert!(!error.is_retryable());
                return sent;
            }
        }
    }
    panic!("10,000 answers were kept for a client that does not read");
}

// spec: X-2-29, X-2-30, X-2-31, X-2-33
#[test]
fn a_client_that_never_reads_is_cut_off_and_finds_the_reason_when_it_does() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    client
        .send(LogicalStream::Control, b"never read by the driver")
        .unwrap();
    let sent = overflow(&mut desk, connection);
    desk.poll_to_empty();
    let (why, text) = desk.closing_of(connection);
    assert_eq!(why, CloseReason::Overflow);
    assert_eq!(text, "more unread bytes than 262144: 262656 would wait");
    assert_eq!(desk.messages_of(connection), Vec::<Vec<u8>>::new());
    desk.answer(connection, b"revoked: overflow")
        .expect("last words fit beside the full buffer");
    desk.server.disconnect(connection, CloseReason::Local);
    desk.poll_to_empty();
    assert_eq!(
        desk.seen.last(),
        Some(&Seen::Closed(connection, CloseReason::Overflow))
    );
    let (heard, over) = read_all(&mut client);
    // spec: X-2-38
    let text = format!("the driver closed with something unread: {text}");
    assert_eq!(over, Some(Dead::Closed(text)));
    let (last, answers) = heard.split_last().unwrap();
    assert_eq!(last, b"revoked: overflow");
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(
            u32::from_le_bytes(*answer.first_chunk().unwrap()),
            u32::try_from(n).unwrap()
        );
    }
    let unsent = u64::from(sent) + 1 - u64::try_from(answers.len()).unwrap();
    assert_eq!(
        desk.server.stats().unsent,
        unsent,
        "what was not sent was counted"
    );
}

// spec: X-2-30
#[test]
fn a_client_that_reads_late_gets_everything_in_order() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    for n in 0..80_u32 {
        let mut body = vec![0; 4_096];
        body[..4].copy_from_slice(&n.to_le_bytes());
        desk.answer(connection, &body).unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < 80 {
        let (more, over) = read_all(&mut client);
        assert_eq!(over, None);
        assert!(!more.is_empty(), "{} of 80 answers arrived", heard.len());
        heard.extend(more);
        desk.poll_to_empty();
    }
    for (n, answer) in heard.iter().enumerate() {
        assert_eq!(
            u32::from_le_bytes(*answer.first_chunk().unwrap()),
            u32::try_from(n).unwrap()
        );
    }
    assert_eq!(desk.server.stats().unsent, 0);
}

// spec: X-2-31
#[test]
fn announces_never_cut_a_client_off_and_the_newest_of_each_stream_arrives() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    for n in 0..20_000_u32 {
        let mut body = vec![0; 1_024];
        body[..4].copy_from_slice(&n.to_le_bytes());
        desk.announce(connection, u64::from(n % 2), &body).unwrap();
    }
    desk.answer(connection, b"an answer").unwrap();
    let mut heard = Vec::new();
    while heard
        .last()
        .is_none_or(|last: &Vec<u8>| last != b"an answer")
    {
        let (more, over) = read_all(&mut client);
        assert_eq!(over, None);
        assert!(!more.is_empty(), "the answer is missing");
        heard.extend(more);
        desk.poll_to_empty();
    }
    let numbers: Vec<_> = heard[..heard.len() - 1]
        .iter()
        .map(|body| u32::from_le_bytes(*body.first_chunk().unwrap()))
        .collect();
    assert!(numbers.is_sorted(), "order is kept");
    assert_eq!(numbers[numbers.len() - 2..], [19_998, 19_999]);
    assert_eq!(
        desk.server.stats().replaced + u64::try_from(numbers.len()).unwrap(),
        20_000,
        "every announce was sent or counted as replaced"
    );
}

// spec: X-2-36
#[test]
fn who_does_not_attach_in_time_is_closed_and_who_did_is_not() {
    let mut desk = Desk::new();
    let (_idle, idle_connection) = desk.connect();
    let (_attached, attached_connection) = desk.connect();
    desk.server.mark_attached(attached_connection);
    desk.seen.clear();
    desk.now = MonoNanos(6 * SECOND - 1);
    assert_eq!(desk.poll(), 0);
    desk.now = MonoNanos(6 * SECOND);
    desk.poll_to_empty();
    let text = "no attach within 5000 ms of connecting".to_owned();
    assert_eq!(
        desk.seen,
        [Seen::Closing(idle_connection, CloseReason::NoAttach, text)]
    );
}

#[test]
fn a_connection_that_the_driver_forgets_to_end_ends_by_itself_a_second_later() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    client
        .send(LogicalStream::Control, b"ignored once it is closing")
        .unwrap();
    desk.now = MonoNanos(6 * SECOND);
    desk.poll_to_empty();
    desk.seen.clear();
    desk.now = MonoNanos(7 * SECOND - 1);
    assert_eq!(desk.poll(), 0);
    desk.now = MonoNanos(7 * SECOND);
    desk.poll_to_empty();
    assert_eq!(desk.seen, [Seen::Closed(connection, CloseReason::NoAttach)]);
    // spec: X-2-38
    let over = "the driver closed with something unread: no attach within 5000 ms of connecting";
    assert_eq!(read_all(&mut client).1, Some(Dead::Closed(over.to_owned())));
}

// spec: X-2-34
#[test]
fn a_crowd_at_one_socket_file_keeps_nobody_from_another() {
    let mut desk = Desk::new();
    let other = desk.directory.path().join("other.sock");
    desk.server.add_listener(1, &other, 0o600).unwrap();
    let crowd = || SocketClient::connect(&desk.path()).unwrap();
    let _crowd: Vec<_> = std::iter::repeat_with(crowd).take(200).collect();
    let _one = SocketClient::connect(&other).unwrap();
    let mut came = Vec::new();
    let polled = desk.server.poll(desk.now, &mut |inbound| match inbound {
        Inbound::Opened { attachment, .. } => came.push(attachment),
        other => panic!("{other:?}"),
    });
    polled.unwrap();
    assert!(came.contains(&1), "{} of the crowd came first", came.len());
    assert!(came.contains(&0));
}

/// Opens one connection more than a limit allows, then makes room.
fn bounded_by(limits: Limits, text: &str) {
    let mut desk = Desk::with_limits(limits);
    let (first, first_connection) = desk.connect();
    let (_second, _) = desk.connect();
    let mut refused = SocketClient::connect(&desk.path()).unwrap();
    desk.poll_to_empty();
    // spec: X-2-35
    assert_eq!(desk.seen.last(), Some(&Seen::Refused(text.to_owned())));
    // spec: X-2-38
    let told = format!("the driver closed the connection: {text}");
    // Whoever sends before it reads is told as well, and reads it afterwards all the same.
    assert_eq!(
        refused.send(LogicalStream::Control, b"too early"),
        Err(SendError::Closed(told.clone()))
    );
    assert_eq!(read_all(&mut refused).1, Some(Dead::Closed(told)));
    assert_eq!(desk.server.stats().refused, 1);
    drop(first);
    desk.poll_to_empty();
    assert!(
        desk.seen
            .contains(&Seen::Closed(first_connection, CloseReason::PeerClosed))
    );
    let opened = desk.server.stats().opened;
    desk.connect();
    assert_eq!(
        desk.server.stats().opened,
        opened + 1,
        "there is room again"
    );
}

#[test]
fn connections_are_limited_per_socket_file() {
    let text = "2 connections through this socket file are open, no more are allowed";
    bounded_by(
        Limits {
            per_attachment: 2,
            ..Limits::default()
        },
        text,
    );
}

#[test]
fn connections_are_limited_per_uid() {
    let text = "2 connections of this uid are open, no more are allowed";
    bounded_by(
        Limits {
            per_uid: 2,
            ..Limits::default()
        },
        text,
    );
}

#[test]
fn connections_are_limited_in_total() {
    let text = "2 connections in all are open, no more are allowed";
    bounded_by(
        Limits {
            total: 2,
            ..Limits::default()
        },
        text,
    );
}

// spec: X-2-6
#[test]
fn what_waits_is_sent_before_the_driver_ends_a_connection() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    for n in 0..70_u32 {
        let mut body = vec![0; 4_096];
        body[..4].copy_from_slice(&n.to_le_bytes());
        desk.answer(connection, &body).unwrap();
    }
    desk.server.disconnect(connection, CloseReason::Local);
    assert_eq!(
        desk.answer(connection, b"too late"),
        Err(SendError::NotConnected)
    );
    let (mut heard, mut over) = (Vec::new(), None);
    while over.is_none() {
        let (more, end) = read_all(&mut client);
        assert!(
            !more.is_empty() || end.is_some(),
            "{} of 70 answers arrived",
            heard.len()
        );
        heard.extend(more);
        over = end;
        desk.poll_to_empty();
    }
    assert_eq!(heard.len(), 70);
    assert_eq!(
        desk.seen.last(),
        Some(&Seen::Closed(connection, CloseReason::Local))
    );
}
