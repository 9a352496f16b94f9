//! Packets that break each rule of the framing, and bodies that are no messages.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tensorpool_transport::port::MAX_FDS;
use tensorpool_transport::socket::packet::{MAX_PACKET_LEN, prefix};
use tensorpool_wire::{LogicalStream, Message, StreamId};

use crate::Failure;
use crate::line::{Dice, Line, discovery, random_client};

/// Connections that each send so many bodies: fewer than are cut off for their number.
const CONNECTIONS: usize = 12;
const BODIES: usize = 800;
/// Packets with as many descriptors as a packet can have.
const WITH_DESCRIPTORS: usize = 40;

pub(crate) fn run(socket: &Path) -> Result<(), Failure> {
    let stream = Line::connect(socket)?.stream()?;
    for (what, packet) in packets() {
        let mut line = Line::connect(socket)?;
        let _lease = line.lease(stream)?;
        line.send_packet(&packet)?;
        println!("{what}: told `{}`, then cut off", line.last_words()?);
    }
    bodies(socket, stream)?;
    descriptors(socket)
}

/// Each rule of the framing, broken once.
fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let good = prefix(LogicalStream::Control, 0).expect("an empty body is short enough");
    let changed = |at: usize, to: u8| {
        let mut packet = good.to_vec();
        packet[at] = to;
        packet
    };
    vec![
        ("an empty packet", Vec::new()),
        ("7 bytes", good[..7].to_vec()),
        ("version 2", changed(0, 2)),
        ("logical stream 0", changed(1, 0)),
        ("logical stream 7", changed(1, 7)),
        ("a reserved field of 1", changed(2, 1)),
        ("a length of 9 in 8 bytes", changed(4, 9)),
        ("131,073 bytes", vec![1; MAX_PACKET_LEN + 1]),
    ]
}

/// Random bytes, and requests with a few bytes changed or missing, on every logical stream.
fn bodies(socket: &Path, stream: StreamId) -> Result<(), Failure> {
    let mut dice = Dice(4);
    let (mut sent, mut answered) = (0, 0);
    for _ in 0..CONNECTIONS {
        let mut line = Line::connect(socket)?;
        let lease = line.lease(stream)?;
        let requests: [Message; 3] = [
            lease.keepalive()?.into(),
            lease.detach()?.into(),
            discovery().into(),
        ];
        for number in 0..BODIES {
            let body = if number % 2 == 0 {
                let length = dice.below(300);
                dice.bytes(length)
            } else {
                spoiled(&requests[dice.below(requests.len())], &mut dice)
            };
            let to = LogicalStream::ALL[dice.below(LogicalStream::ALL.len())];
            if !line.send_body(to, &body)? {
                return Err(format!("cut off after {sent}: {}", line.last_words()?).into());
            }
            sent += 1;
            line.read();
        }
        answered += usize::from(line.stream()? == stream);
    }
    println!(
        "{sent} bodies that are no messages: {answered} of {CONNECTIONS} connections answered afterwards"
    );
    Ok(())
}

/// A request with some of its bytes changed and perhaps some missing.
fn spoiled(request: &Message, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = request.encode();
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        bytes[at] ^= 1 << dice.below(8);
    }
    let keep = bytes.len() - dice.below(2) * dice.below(bytes.len());
    bytes.truncate(keep);
    bytes
}

/// Descriptors along with requests: the driver must not end up with them.
fn descriptors(socket: &Path) -> Result<(), Failure> {
    let mut line = Line::connect(socket)?;
    let stream = line.stream()?;
    let (answer, _) = line.ask(tensorpool_wire::Role::Unknown(9), stream, random_client())?;
    println!("role 9: refused, `{}`", answer.error_message);
    let file = std::fs::File::open("/proc/self/exe")?;
    let many = [file.as_fd(); MAX_FDS];
    let body = Message::from(discovery()).encode();
    let prefix = prefix(LogicalStream::Discovery, body.len()).ok_or("a long request")?;
    let mut room = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    for _ in 0..WITH_DESCRIPTORS {
        let mut along = SendAncillaryBuffer::new(&mut room);
        if !along.push(SendAncillaryMessage::ScmRights(&many)) {
            return Err("no room for the descriptors".into());
        }
        let parts = [IoSlice::new(&prefix), IoSlice::new(&body)];
        rustix::net::sendmsg(line.client(), &parts, &mut along, SendFlags::NOSIGNAL)?;
        let answer = line.wait_for(|message| match message {
            Message::DiscoveryResponse(_) => Some(()),
            _ => None,
        })?;
        answer.ok_or("the driver ended the connection")?;
    }
    let sent = WITH_DESCRIPTORS * MAX_FDS;
    println!("{sent} descriptors sent along: {WITH_DESCRIPTORS} requests answered");
    Ok(())
}
