//! What idling costs, and what happens between two system calls.
//!
//! Nothing in this binary starts a process: a child has copies of all descriptors until its exec,
//! and a close would not be one for that moment. Those tests are in `tests/socket_processes.rs`.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::super::kernel::Kernel;
use super::super::listener::Listener;
use super::super::packet::PREFIX_LEN;
use super::super::service::Service;
use super::super::sockets::{Accepted, Ready, Received, Sent, Sockets};
use super::*;

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
