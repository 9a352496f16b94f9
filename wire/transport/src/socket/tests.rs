//! Real sockets: the conformance suite, then what only they can be asked to do.

mod bounds;
mod descriptors;
mod files;
mod framing;
mod watched;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use tensorpool_wire::{ConnectionId, LogicalStream, MonoNanos, Origin};

use super::{Limits, SocketClient, SocketServer};
use crate::conformance::Patience;
use crate::conformance::port::PortFixture;
use crate::port::{ClientPort, CloseReason, Coalesce, Destination, Inbound, Outbound, ServerPort};
use crate::pubsub::{Dead, SendError};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Longest wait for another process or thread.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// What the server handed out, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Opened(ConnectionId),
    Refused(String),
    Message(ConnectionId, Vec<u8>),
    Closing(ConnectionId, CloseReason, String),
    Closed(ConnectionId, CloseReason),
}

/// A server on a socket file of its own, in virtual time.
struct Desk {
    directory: tempfile::TempDir,
    server: SocketServer,
    now: MonoNanos,
    seen: Vec<Seen>,
}

impl Desk {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = SocketServer::new(limits).unwrap();
        server
            .add_listener(0, &directory.path().join("driver.sock"), 0o600)
            .unwrap();
        Self {
            directory,
            server,
            now: MonoNanos(SECOND),
            seen: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("driver.sock")
    }

    /// One poll; what it handed out is appended.
    fn poll(&mut self) -> usize {
        let seen = &mut self.seen;
        let handed = self.server.poll(self.now, &mut |inbound| {
            seen.push(match inbound {
                Inbound::Opened { connection, .. } => Seen::Opened(connection),
                Inbound::Refused { text, .. } => Seen::Refused(text.to_owned()),
                Inbound::Message {
                    origin: Origin::Socket { connection },
                    bytes,
                    ..
                } => Seen::Message(connection, bytes.to_vec()),
                Inbound::Message {
                    origin: Origin::Aeron { .. },
                    ..
                } => panic!("no Aeron here"),
                Inbound::Closing {
                    connection,
                    why,
                    text,
                } => Seen::Closing(connection, why, text.to_owned()),
                Inbound::Closed { connection, why } => Seen::Closed(connection, why),
            });
        });
        handed.unwrap()
    }

    /// Polls until nothing more comes.
    fn poll_to_empty(&mut self) {
        while self.poll() > 0 {}
    }

    /// A new client and its connection.
    fn connect(&mut self) -> (SocketClient, ConnectionId) {
        let client = SocketClient::connect(&self.path()).unwrap();
        self.poll_to_empty();
        let opened = |seen: &Seen| match seen {
            Seen::Opened(connection) => Some(*connection),
            Seen::Refused(_) | Seen::Message(..) | Seen::Closing(..) | Seen::Closed(..) => None,
        };
        let connection = self
            .seen
            .iter()
            .rev()
            .find_map(opened)
            .expect("the connection opened");
        (client, connection)
    }

    fn answer(&mut self, to: ConnectionId, bytes: &[u8]) -> Result<(), SendError> {
        self.server.send(&answer(to, bytes))
    }

    fn announce(&mut self, to: ConnectionId, key: u64, bytes: &[u8]) -> Result<(), SendError> {
        self.server.send(&Outbound {
            stream: LogicalStream::Announce,
            coalesce: Coalesce::Latest(key),
            ..answer(to, bytes)
        })
    }

    fn messages_of(&self, of: ConnectionId) -> Vec<Vec<u8>> {
        let message = |seen: &Seen| match seen {
            Seen::Message(from, bytes) if *from == of => Some(bytes.clone()),
            Seen::Message(..)
            | Seen::Opened(_)
            | Seen::Refused(_)
            | Seen::Closing(..)
            | Seen::Closed(..) => None,
        };
        self.seen.iter().filter_map(message).collect()
    }

    /// Why a connection is being cut off, as the driver was told; it must have been told once.
    fn closing_of(&self, of: ConnectionId) -> (CloseReason, String) {
        let closing = |seen: &Seen| match seen {
            Seen::Closing(connection, why, text) if *connection == of => Some((*why, text.clone())),
            Seen::Closing(..)
            | Seen::Message(..)
            | Seen::Opened(_)
            | Seen::Refused(_)
            | Seen::Closed(..) => None,
        };
        let mut told: Vec<_> = self.seen.iter().filter_map(closing).collect();
        assert_eq!(told.len(), 1, "{:?}", self.seen);
        told.remove(0)
    }
}

fn answer(to: ConnectionId, bytes: &[u8]) -> Outbound<'_> {
    Outbound {
        to: Destination::Connection(to),
        stream: LogicalStream::Control,
        bytes,
        coalesce: Coalesce::Never,
        fds: &[],
    }
}

/// Everything that a client can read now, and how it ended if it did.
fn read_all(client: &mut SocketClient) -> (Vec<Vec<u8>>, Option<Dead>) {
    let mut heard = Vec::new();
    loop {
        match client.poll(&mut |inbound| heard.push(inbound.bytes.to_vec())) {
            Ok(0) => return (heard, None),
            Ok(_) => {}
            Err(dead) => return (heard, Some(dead)),
        }
    }
}

/// Waits until a descriptor is readable, `ms` milliseconds at most; says whether it is.
fn wait_readable(fd: impl AsFd, ms: i64) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: ms / 1_000,
        tv_nsec: ms % 1_000 * 1_000_000,
    };
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0
}

/// A socket that sends what it likes.
fn raw_connect(desk: &Desk) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, 200_000).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(desk.path()).unwrap()).unwrap();
    socket
}

fn raw_send(socket: &OwnedFd, packet: &[u8]) {
    let sent = rustix::net::send(socket, packet, rustix::net::SendFlags::NOSIGNAL).unwrap();
    assert_eq!(sent, packet.len());
}

/// The conformance suite's fixture.
struct SocketFixture {
    directory: tempfile::TempDir,
    ready: Option<OwnedFd>,
    now: MonoNanos,
    began: Instant,
}

impl SocketFixture {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            ready: None,
            now: MonoNanos(SECOND),
            began: Instant::now(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("driver.sock")
    }
}

impl PortFixture for SocketFixture {
    type Server = SocketServer;
    type Client = SocketClient;

    fn server(&mut self) -> SocketServer {
        let mut server = SocketServer::new(Limits::default()).unwrap();
        server.add_listener(0, &self.path(), 0o600).unwrap();
        self.ready = Some(server.as_fd().try_clone_to_owned().unwrap());
        server
    }

    fn client(&mut self) -> SocketClient {
        SocketClient::connect(&self.path()).unwrap()
    }

    fn now(&self) -> MonoNanos {
        self.now
    }

    fn step(&mut self, waited: u32) -> Patience {
        if waited == 0 {
            self.began = Instant::now();
        }
        self.now = self.now.saturating_add(MS);
        if let Some(ready) = &self.ready {
            wait_readable(ready, 1);
        }
        if self.began.elapsed() < WAIT_MAX {
            Patience::GoOn
        } else {
            Patience::GiveUp
        }
    }
}

mod conformance {
    // spec: X-2-4, X-2-16, X-2-19, X-2-22, X-2-23, X-2-25, X-2-29
    crate::port_conformance!(super::SocketFixture::new());
    crate::connection_port_conformance!(super::SocketFixture::new());
}
