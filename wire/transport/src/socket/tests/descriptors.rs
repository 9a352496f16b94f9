//! File descriptors: where they go, where they do not.

use std::io::{Read, Write};
use std::mem::MaybeUninit;

use rustix::io::FdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::*;

fn file_with(content: &str) -> std::fs::File {
    use std::io::Seek;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

/// Whether the last write end of a pipe is gone.
fn is_orphaned(read_end: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(read_end, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut fds, Some(&now)).unwrap();
    fds[0].revents().contains(PollFlags::HUP)
}

fn contents(fds: Vec<OwnedFd>) -> Vec<String> {
    let read = |fd: OwnedFd| {
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text).unwrap();
        text
    };
    fds.into_iter().map(read).collect()
}

// spec: X-2-8, X-2-10
#[test]
fn descriptors_arrive_with_their_message_in_order_and_are_closed_on_exec() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    let files = ["ring", "pool 1", "pool 2"].map(file_with);
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    desk.answer(connection, b"before").unwrap();
    desk.server
        .send(&Outbound {
            fds: &fds,
            ..answer(connection, b"attached")
        })
        .unwrap();
    desk.answer(connection, b"after").unwrap();
    let mut heard = Vec::new();
    client
        .poll(&mut |inbound| heard.push((inbound.bytes.to_vec(), std::mem::take(inbound.fds))))
        .unwrap();
    let counts: Vec<_> = heard
        .iter()
        .map(|(bytes, fds)| (bytes.as_slice(), fds.len()))
        .collect();
    assert_eq!(
        counts,
        [
            (&b"before"[..], 0),
            (&b"attached"[..], 3),
            (&b"after"[..], 0)
        ]
    );
    let (_, received) = heard.remove(1);
    for fd in &received {
        assert_eq!(rustix::io::fcntl_getfd(fd).unwrap(), FdFlags::CLOEXEC);
    }
    assert_eq!(contents(received), ["ring", "pool 1", "pool 2"]);
}

// spec: X-2-8, X-2-30
#[test]
fn descriptors_wait_with_their_message() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    for _ in 0..80 {
        desk.answer(connection, &[0; 4_096]).unwrap();
    }
    let file = file_with("ring");
    desk.server
        .send(&Outbound {
            fds: &[file.as_fd()],
            ..answer(connection, b"attached")
        })
        .unwrap();
    drop(file);
    let mut received = Vec::new();
    while received.is_empty() {
        let polled = client.poll(&mut |inbound| {
            assert_eq!(inbound.fds.is_empty(), inbound.bytes != b"attached");
            received.append(inbound.fds);
        });
        assert!(
            polled.unwrap() + desk.poll() > 0 || !received.is_empty(),
            "the answer is missing"
        );
    }
    assert_eq!(contents(received), ["ring"]);
}

#[test]
fn the_most_descriptors_that_a_packet_can_carry_arrive_and_one_more_is_refused() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    let file = file_with("x");
    let most = vec![file.as_fd(); crate::port::MAX_FDS];
    desk.server
        .send(&Outbound {
            fds: &most,
            ..answer(connection, b"most")
        })
        .unwrap();
    let more = vec![file.as_fd(); crate::port::MAX_FDS + 1];
    let refused = desk.server.send(&Outbound {
        fds: &more,
        ..answer(connection, b"more")
    });
    assert_eq!(refused, Err(SendError::TooLong { len: 254, max: 253 }));
    let mut count = 0;
    client
        .poll(&mut |inbound| count += inbound.fds.len())
        .unwrap();
    assert_eq!(count, 253);
}

#[test]
fn a_client_closes_descriptors_that_its_handler_leaves() {
    let mut desk = Desk::new();
    let (mut client, connection) = desk.connect();
    let (read_end, write_end) = rustix::pipe::pipe().unwrap();
    desk.server
        .send(&Outbound {
            fds: &[write_end.as_fd()],
            ..answer(connection, b"attached")
        })
        .unwrap();
    drop(write_end);
    assert!(!is_orphaned(&read_end), "it is on its way");
    assert_eq!(client.poll(&mut |_| {}), Ok(1));
    assert!(is_orphaned(&read_end));
}

// spec: X-2-7
#[test]
fn descriptors_sent_to_the_driver_are_dropped_and_the_message_counts() {
    let mut desk = Desk::new();
    let peer = raw_connect(&desk);
    desk.poll_to_empty();
    let (read_end, write_end) = rustix::pipe::pipe().unwrap();
    let prefix = super::super::packet::prefix(LogicalStream::Control, 6).unwrap();
    let parts = [
        std::io::IoSlice::new(&prefix),
        std::io::IoSlice::new(b"attach"),
    ];
    let fds = [write_end.as_fd(); 100];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(&peer, &parts, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    drop(write_end);
    assert!(!is_orphaned(&read_end), "they are on their way");
    desk.poll_to_empty();
    assert_eq!(desk.messages_of(ConnectionId(1)), [b"attach".to_vec()]);
    assert!(is_orphaned(&read_end), "the kernel dropped all of them");
}

// spec: X-2-24
#[test]
fn a_client_s_socket_is_closed_on_exec() {
    let mut desk = Desk::new();
    let (client, _) = desk.connect();
    assert_eq!(rustix::io::fcntl_getfd(&client).unwrap(), FdFlags::CLOEXEC);
}
