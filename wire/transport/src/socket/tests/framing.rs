//! Packets as they are and as they must not be.

use super::*;

fn good(body: &[u8]) -> Vec<u8> {
    let mut packet = super::super::packet::prefix(LogicalStream::Control, body.len())
        .unwrap()
        .to_vec();
    packet.extend_from_slice(body);
    packet
}

/// Sends one packet after a good one and expects the cut-off that goes with it.
fn cut_off_by(bad: &[u8], label: &'static str, text: &str) {
    let mut desk = Desk::new();
    let (_, innocent) = desk.connect();
    let hostile = raw_connect(&desk);
    desk.poll_to_empty();
    let connection = ConnectionId(innocent.0 + 1);
    raw_send(&hostile, &good(b"before"));
    raw_send(&hostile, bad);
    raw_send(&hostile, &good(b"after"));
    desk.poll_to_empty();
    // spec: X-2-5
    assert_eq!(
        desk.messages_of(connection),
        [b"before".to_vec()],
        "{label}"
    );
    assert_eq!(
        desk.closing_of(connection),
        (CloseReason::Garbage, text.to_owned())
    );
    assert_eq!(desk.server.stats().garbage.get(label), Some(&1));
    raw_send(&hostile, &good(b"not even read any more"));
    // spec: X-2-33
    desk.answer(connection, b"you are revoked").unwrap();
    desk.server.disconnect(connection, CloseReason::Local);
    desk.poll_to_empty();
    assert_eq!(
        desk.seen.last(),
        Some(&Seen::Closed(connection, CloseReason::Garbage))
    );
    let mut heard = [0; 64];
    let reset = rustix::net::recv(&hostile, &mut heard, rustix::net::RecvFlags::empty());
    assert_eq!(
        reset.unwrap_err(),
        rustix::io::Errno::CONNRESET,
        "{label}: something was unread"
    );
    let (len, _) =
        rustix::net::recv(&hostile, &mut heard, rustix::net::RecvFlags::empty()).unwrap();
    assert_eq!(&heard[8..len], b"you are revoked");
}

#[test]
fn a_packet_shorter_than_its_prefix_is_cut_off() {
    let text = "the packet has 7 bytes, its prefix alone needs 8";
    cut_off_by(&good(b"")[..7], "too_short", text);
}

#[test]
fn an_empty_packet_is_cut_off() {
    let text = "the packet has 0 bytes, its prefix alone needs 8";
    cut_off_by(&[], "too_short", text);
}

#[test]
fn a_packet_beyond_the_longest_is_cut_off() {
    let mut packet = vec![0; 131_073];
    packet[..8].copy_from_slice(&[1, 1, 0, 0, 1, 0, 2, 0]);
    let text = "the packet has 131073 bytes, at most 131072 are allowed";
    cut_off_by(&packet, "too_long", text);
}

#[test]
fn another_version_is_cut_off() {
    let mut packet = good(b"x");
    packet[0] = 2;
    cut_off_by(
        &packet,
        "version",
        "the packet has version 2, only 1 is known",
    );
}

#[test]
fn an_unknown_stream_is_cut_off() {
    let mut packet = good(b"x");
    packet[1] = 7;
    cut_off_by(
        &packet,
        "stream",
        "the packet is for logical stream 7, only 1 to 6 exist",
    );
}

#[test]
fn a_wrong_length_is_cut_off() {
    let mut packet = good(b"x");
    packet[4] = 10;
    cut_off_by(
        &packet,
        "length",
        "the packet says it has 10 bytes, 9 were received",
    );
}

// spec: X-2-2, X-2-5
#[test]
fn a_client_ends_a_conversation_in_which_its_driver_sends_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("driver.sock");
    let listener = super::super::listener::Listener::bind(&path, 0o600).unwrap();
    let mut client = SocketClient::connect(&path).unwrap();
    let driver = rustix::net::accept(&listener).unwrap();
    raw_send(&driver, &good(b"fine"));
    raw_send(&driver, &[9; 8]);
    raw_send(&driver, &good(b"not reached"));
    let (heard, over) = read_all(&mut client);
    assert_eq!(heard, [b"fine".to_vec()]);
    let text = "driver's garbage: the packet has version 9, only 1 is known";
    assert_eq!(over, Some(Dead::Closed(text.to_owned())));
    assert!(matches!(
        client.send(LogicalStream::Control, b"x"),
        Err(SendError::Closed(_))
    ));
}

// spec: X-2-22
#[test]
fn a_half_closed_connection_is_a_closed_one() {
    let mut desk = Desk::new();
    let peer = raw_connect(&desk);
    desk.poll_to_empty();
    raw_send(&peer, &good(b"detach"));
    rustix::net::shutdown(&peer, rustix::net::Shutdown::Write).unwrap();
    desk.poll_to_empty();
    let connection = ConnectionId(1);
    let expected = [
        Seen::Opened(connection),
        Seen::Message(connection, b"detach".to_vec()),
        Seen::Closed(connection, CloseReason::PeerClosed),
    ];
    assert_eq!(desk.seen, expected);
}
