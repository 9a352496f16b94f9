//! The socket between processes: killed ones, restarted ones, forked ones, one without descriptors.
#![cfg(feature = "server")]

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Rlimit, setrlimit};
use tensorpool_transport::port::{
    ClientPort, CloseReason, Coalesce, Destination, Inbound, Outbound, ServerPort,
};
use tensorpool_transport::socket::{Limits, SocketClient, SocketServer};
use tensorpool_wire::{ConnectionId, LogicalStream, MonoNanos, Origin};

/// Names the socket file, or its directory, for a peer process.
const PATH_VARIABLE: &str = "TENSORPOOL_TEST_SOCKET";

/// Longest wait for another process.
const WAIT_MAX: Duration = Duration::from_secs(30);

const NOW: MonoNanos = MonoNanos(1_000_000_000);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Opened(ConnectionId),
    Message(ConnectionId, Vec<u8>),
    Closed(ConnectionId, CloseReason),
}

/// A server on a socket file of its own.
struct Desk {
    directory: tempfile::TempDir,
    server: SocketServer,
    seen: Vec<Seen>,
}

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut server = SocketServer::new(Limits::default()).expect("a server");
        server
            .add_listener(0, &directory.path().join("driver.sock"), 0o600)
            .expect("listens");
        Self {
            directory,
            server,
            seen: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("driver.sock")
    }

    fn poll_to_empty(&mut self) {
        let seen = &mut self.seen;
        let mut keep = |inbound: Inbound<'_>| {
            seen.push(match inbound {
                Inbound::Opened { connection, .. } => Seen::Opened(connection),
                Inbound::Message {
                    origin: Origin::Socket { connection },
                    bytes,
                    ..
                } => Seen::Message(connection, bytes.to_vec()),
                Inbound::Closed { connection, why } => Seen::Closed(connection, why),
                other @ (Inbound::Message { .. }
                | Inbound::Refused { .. }
                | Inbound::Closing { .. }) => panic!("unexpected: {other:?}"),
            });
        };
        while self.server.poll(NOW, &mut keep).expect("the server lives") > 0 {}
    }

    /// Polls until this was seen, waiting for other processes.
    fn until(&mut self, wanted: &Seen) {
        let began = Instant::now();
        self.poll_to_empty();
        while !self.seen.contains(wanted) {
            assert!(
                began.elapsed() < WAIT_MAX,
                "{wanted:?} is missing in {:?}",
                self.seen
            );
            wait_readable(&self.server, 100);
            self.poll_to_empty();
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
    rustix::event::poll(&mut fds, Some(&timeout)).expect("polls") > 0
}

/// Runs one of the ignored tests of this file as a process of its own.
fn start(peer: &str, path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--ignored", "--exact", "--nocapture", peer]);
    command
        .env(PATH_VARIABLE, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command.spawn().expect("a process starts")
}

fn path_from_parent() -> PathBuf {
    PathBuf::from(std::env::var_os(PATH_VARIABLE).expect("started by a test of this file"))
}

/// What is seen of a peer that attaches and is killed.
fn life(number: u64) -> [Seen; 3] {
    let connection = ConnectionId(number);
    [
        Seen::Opened(connection),
        Seen::Message(connection, b"attach".to_vec()),
        Seen::Closed(connection, CloseReason::PeerClosed),
    ]
}

#[test]
#[ignore = "a peer process, started by the tests that kill it"]
fn peer_that_attaches_and_waits() {
    let mut client = SocketClient::connect(&path_from_parent()).unwrap();
    client.send(LogicalStream::Control, b"attach").unwrap();
    // Until the parent closes it or kills us.
    std::io::stdin().lines().for_each(drop);
}

// spec: X-2-21, X-2-22
#[test]
fn a_killed_peer_is_a_close_after_what_it_sent() {
    let mut desk = Desk::new();
    let mut child = start("peer_that_attaches_and_waits", &desk.path());
    let expected = life(1);
    desk.until(&expected[1]);
    assert_eq!(desk.seen, expected[..2]);
    child.kill().unwrap();
    child.wait().unwrap();
    desk.until(&expected[2]);
    assert_eq!(desk.seen, expected);
}

// spec: X-2-21, X-2-23
#[test]
fn a_restarted_producer_never_meets_its_own_corpse() {
    const LIVES: u64 = 20;
    let mut desk = Desk::new();
    for number in 1..=LIVES {
        let mut child = start("peer_that_attaches_and_waits", &desk.path());
        desk.until(&life(number)[1]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    desk.until(&life(LIVES)[2]);
    let place = |wanted: &Seen| desk.seen.iter().position(|seen| seen == wanted).unwrap();
    for number in 1..LIVES {
        let closed = place(&life(number)[2]);
        let next = place(&life(number + 1)[1]);
        assert!(
            closed < next,
            "life {number} had not ended when the next one attached"
        );
    }
}

// spec: X-2-21
#[test]
fn a_forked_child_that_holds_the_connection_keeps_it_open() {
    let mut desk = Desk::new();
    let client = SocketClient::connect(&desk.path()).unwrap();
    let connection = ConnectionId(1);
    desk.until(&Seen::Opened(connection));
    let held = client.as_fd().try_clone_to_owned().unwrap();
    // It gets the connection as its standard input, and lives until it is killed.
    let mut child = Command::new("sleep")
        .arg("600")
        .stdin(held)
        .spawn()
        .unwrap();
    drop(client);
    desk.poll_to_empty();
    assert_eq!(
        desk.seen,
        [Seen::Opened(connection)],
        "a close of one holder is no close"
    );
    let message = Outbound {
        to: Destination::Connection(connection),
        stream: LogicalStream::Control,
        bytes: b"still open",
        coalesce: Coalesce::Never,
        fds: &[],
    };
    desk.server.send(&message).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let closed = Seen::Closed(connection, CloseReason::PeerClosed);
    desk.until(&closed);
    assert_eq!(desk.seen, [Seen::Opened(connection), closed]);
}

#[test]
#[ignore = "a process that lives with few descriptors, started by another test"]
fn server_with_few_descriptors() {
    let path = path_from_parent().join("driver.sock");
    let mut server = SocketServer::new(Limits::default()).unwrap();
    server.add_listener(0, &path, 0o600).unwrap();
    let mut clients: Vec<_> = (0..8)
        .map(|_| SocketClient::connect(&path).unwrap())
        .collect();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let limit = u64::try_from(open + 3).unwrap();
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        },
    )
    .unwrap();
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..4 {
        let mut count = |inbound: Inbound<'_>| match inbound {
            Inbound::Opened { .. } => opened += 1,
            Inbound::Refused { text, .. } => {
                assert_eq!(text, "this process has no file descriptor left");
                refused += 1;
            }
            Inbound::Message { .. } | Inbound::Closing { .. } | Inbound::Closed { .. } => {}
        };
        server.poll(NOW, &mut count).unwrap();
    }
    assert_eq!(
        opened + refused,
        8,
        "{opened} opened, {refused} turned away"
    );
    assert!(
        opened > 0 && refused > 0,
        "{opened} opened, {refused} turned away"
    );
    assert!(
        !wait_readable(&server, 0),
        "the listener must not stay ready"
    );
    let is_over = |client: &mut SocketClient| client.poll(&mut |_| {}).is_err();
    let over = clients.iter_mut().map(is_over).filter(|over| *over).count();
    assert_eq!(over, refused, "who was turned away knows");
}

// spec: X-2-35
#[test]
fn a_server_without_descriptors_turns_away_instead_of_spinning() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start("server_with_few_descriptors", directory.path());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let output: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{output:#?}");
    assert!(
        output.iter().any(|line| line.contains("1 passed")),
        "{output:#?}"
    );
}
