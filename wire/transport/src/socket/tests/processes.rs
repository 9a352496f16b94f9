//! Other processes, many connections, and what idling costs.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::os::fd::BorrowedFd;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use super::super::kernel::Kernel;
use super::super::listener::Listener;
use super::super::packet::PREFIX_LEN;
use super::super::service::Service;
use super::super::sockets::{Accepted, Ready, Received, Sent, Sockets};
use super::*;

/// Names the socket file for a peer process.
const PATH_VARIABLE: &str = "TENSORPOOL_TEST_SOCKET";

/// Runs one of the ignored tests of this file as a process of its own.
fn start(peer: &str, path: &std::path::Path) -> Child {
    let name = format!("{}::{peer}", module_path!().split_once("::").unwrap().1);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture", &name])
        .env(PATH_VARIABLE, path);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn path_from_parent() -> PathBuf {
    PathBuf::from(std::env::var_os(PATH_VARIABLE).expect("started by a test of this file"))
}

#[test]
#[ignore = "a peer process, started by the test that kills it"]
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
    let connection = ConnectionId(1);
    desk.until("the attach", |seen| {
        seen.contains(&Seen::Message(connection, b"attach".to_vec()))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel closes before it reports the death: nothing to wait for.
    desk.poll();
    let expected = [
        Seen::Opened(connection),
        Seen::Message(connection, b"attach".to_vec()),
        Seen::Closed(connection, CloseReason::PeerClosed),
    ];
    assert_eq!(desk.seen, expected);
}

// spec: X-2-21, X-2-23
#[test]
fn a_restarted_producer_never_meets_its_own_corpse() {
    let mut desk = Desk::new();
    for life in 1..=20 {
        let mut child = start("peer_that_attaches_and_waits", &desk.path());
        let attach = Seen::Message(ConnectionId(life), b"attach".to_vec());
        desk.until("the attach", |seen| seen.contains(&attach));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    desk.poll_to_empty();
    let order = |id| {
        let connection = ConnectionId(id);
        [
            Seen::Opened(connection),
            Seen::Message(connection, b"attach".to_vec()),
            Seen::Closed(connection, CloseReason::PeerClosed),
        ]
    };
    let place = |wanted: &Seen| desk.seen.iter().position(|seen| seen == wanted).unwrap();
    for life in 1..20 {
        let closed = place(&order(life)[2]);
        let next_attach = place(&order(life + 1)[1]);
        assert!(
            closed < next_attach,
            "life {} attached before life {life} had ended",
            life + 1
        );
    }
}

// spec: X-2-21
#[test]
fn a_forked_child_that_holds_the_connection_keeps_it_open() {
    let mut desk = Desk::new();
    let (client, connection) = desk.connect();
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
    desk.answer(connection, b"still open").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    desk.poll_to_empty();
    assert_eq!(
        desk.seen.last(),
        Some(&Seen::Closed(connection, CloseReason::PeerClosed))
    );
}

#[test]
#[ignore = "a peer process that lives with few descriptors, started by another test"]
fn server_with_few_descriptors() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let directory = path_from_parent();
    let path = directory.join("driver.sock");
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
        server.poll(MonoNanos(SECOND), &mut count).unwrap();
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
    let over = clients
        .iter_mut()
        .filter_map(|client| read_all(client).1)
        .count();
    assert_eq!(over, refused, "who was turned away knows");
}

#[test]
fn a_server_without_descriptors_turns_away_instead_of_spinning() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start("server_with_few_descriptors", directory.path());
    let output: Vec<_> = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .collect();
    assert!(child.wait().unwrap().success(), "{output:#?}");
    assert!(
        output.iter().any(|line| line.contains("1 passed")),
        "{output:#?}"
    );
}

/// The kernel, watched: counts the calls that pass, and lets things happen before a receive.
struct Watched {
    kernel: Kernel,
    looks: u32,
    others: u32,
    before_receive: Option<Box<dyn FnOnce()>>,
}

impl Watched {
    fn listening_on(path: &std::path::Path) -> Service<Self> {
        let mut kernel = Kernel::new().unwrap();
        kernel
            .add_listener(0, Listener::bind(path, 0o600).unwrap())
            .unwrap();
        let watched = Self {
            kernel,
            looks: 0,
            others: 0,
            before_receive: None,
        };
        Service::new(watched, Limits::default())
    }
}

impl Sockets for Watched {
    fn ready(&mut self, found: &mut Vec<Ready>) -> std::io::Result<()> {
        self.looks += 1;
        self.kernel.ready(found)
    }
    fn hung_up(&mut self, found: &mut Vec<ConnectionId>) -> std::io::Result<()> {
        self.others += 1;
        self.kernel.hung_up(found)
    }
    fn accept(&mut self, attachment: u32, id: ConnectionId) -> std::io::Result<Accepted> {
        self.others += 1;
        self.kernel.accept(attachment, id)
    }
    fn receive(&mut self, id: ConnectionId, buffer: &mut [u8]) -> Received {
        self.others += 1;
        if let Some(happen) = self.before_receive.take() {
            happen();
        }
        self.kernel.receive(id, buffer)
    }
    fn send(
        &mut self,
        id: ConnectionId,
        prefix: &[u8; PREFIX_LEN],
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Sent {
        self.others += 1;
        self.kernel.send(id, prefix, body, fds)
    }
    fn watch_output(&mut self, id: ConnectionId, watch: bool) {
        self.others += 1;
        self.kernel.watch_output(id, watch);
    }
    fn watch_nothing(&mut self, id: ConnectionId) {
        self.others += 1;
        self.kernel.watch_nothing(id);
    }
    fn widen(&mut self, id: ConnectionId) {
        self.others += 1;
        self.kernel.widen(id);
    }
    fn close(&mut self, id: ConnectionId) {
        self.others += 1;
        self.kernel.close(id);
    }
}

// spec: X-2-35, X-2-37
#[test]
fn twelve_hundred_idle_connections_cost_one_look_per_poll() {
    const CONNECTIONS: usize = 1_200;
    let need = u64::try_from(2 * CONNECTIONS + 512).unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert!(
        limit.maximum.is_none_or(|maximum| maximum >= need),
        "this test needs {need} file descriptors: raise the hard limit (ulimit -Hn)"
    );
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("driver.sock");
    let mut service = Watched::listening_on(&path);
    let now = MonoNanos(SECOND);
    let mut clients = Vec::new();
    let mut opened = 0;
    for _ in 0..CONNECTIONS {
        clients.push(SocketClient::connect(&path).unwrap());
        if clients.len() % 100 == 0 {
            while service.poll(now, &mut |_| opened += 1).unwrap() > 0 {}
        }
    }
    assert_eq!(opened, CONNECTIONS);
    service.sockets.looks = 0;
    service.sockets.others = 0;
    for _ in 0..100 {
        assert_eq!(service.poll(now, &mut |_| {}), Ok(0));
    }
    assert_eq!((service.sockets.looks, service.sockets.others), (100, 0));

    // The last one is still heard, and all closes are seen in one poll.
    clients[CONNECTIONS - 1]
        .send(LogicalStream::Control, b"hello")
        .unwrap();
    let mut heard = 0;
    service
        .poll(now, &mut |inbound| {
            heard += usize::from(matches!(inbound, Inbound::Message { .. }))
        })
        .unwrap();
    assert_eq!(heard, 1);
    drop(clients);
    let mut closed = 0;
    service
        .poll(now, &mut |inbound| {
            closed += usize::from(matches!(inbound, Inbound::Closed { .. }))
        })
        .unwrap();
    assert_eq!(closed, CONNECTIONS);
}

// spec: X-2-23
#[test]
fn a_close_that_happens_while_packets_are_read_still_comes_before_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("driver.sock");
    let mut service = Watched::listening_on(&path);
    let now = MonoNanos(SECOND);
    let corpse = SocketClient::connect(&path).unwrap();
    let successor = Rc::new(RefCell::new(SocketClient::connect(&path).unwrap()));
    while service.poll(now, &mut |_| {}).unwrap() > 0 {}
    successor
        .borrow_mut()
        .send(LogicalStream::Control, b"are you there?")
        .unwrap();
    let attaching = Rc::clone(&successor);
    // The server has seen that the successor has something to say, and nothing else. Now the other
    // one dies, and only then the successor attaches.
    service.sockets.before_receive = Some(Box::new(move || {
        drop(corpse);
        attaching
            .borrow_mut()
            .send(LogicalStream::Control, b"attach")
            .unwrap();
    }));
    let mut seen = Vec::new();
    let mut keep = |inbound: Inbound<'_>| match inbound {
        Inbound::Message { bytes, .. } => seen.push(String::from_utf8(bytes.to_vec()).unwrap()),
        Inbound::Closed { connection, .. } => seen.push(format!("closed {}", connection.0)),
        Inbound::Opened { .. } | Inbound::Refused { .. } | Inbound::Closing { .. } => {}
    };
    service.poll(now, &mut keep).unwrap();
    assert_eq!(seen, ["closed 1", "are you there?", "attach"]);
}
