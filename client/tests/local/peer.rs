//! A driver that does what a test says: attach, revoke, announce, die. Not the real one, which this
//! crate must not know; the real memory and the real socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tensorpool_client::ClientOptions;
use tensorpool_shm::{CreatedEpoch, Creator, EpochStore, Permissions, StoreOptions, StreamLayout};
use tensorpool_transport::port::{Coalesce, Destination, Inbound, Outbound, ServerPort};
use tensorpool_transport::socket::{Limits, SocketServer};
use tensorpool_wire::{
    ClientId, ClockDomain, ConnectionId, DiscoveryResponse, Epoch, LeaseId, LeaseRevokeReason,
    LogicalStream, Message, MonoNanos, Origin, PayloadPool, PoolId, PoolStride, ResponseCode, Role,
    ShmAttachResponse, ShmDetachResponse, ShmDriverShutdown, ShmLeaseRevoked, ShmPoolAnnounce,
    ShutdownReason, StreamId,
};

#[path = "peer/answers.rs"]
mod answers;
#[cfg(feature = "aeron-tests")]
#[path = "media.rs"]
mod media;

pub(crate) const STREAM: StreamId = StreamId(10_000);
pub(crate) const NAME: &str = "camera/front";
pub(crate) const NSLOTS: u32 = 16;
pub(crate) const STRIDES: [u32; 2] = [256, 4_096];

type Task = Box<dyn FnOnce(&mut State) + Send>;

/// The peer and its directory.
pub(crate) struct Peer {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) dir: TempDir,
}

/// What the peer's thread holds.
pub(crate) struct State {
    server: Option<Box<dyn ServerPort>>,
    #[cfg(feature = "aeron-tests")]
    aeron: Option<(media::MediaDriver, PathBuf)>,
    socket: PathBuf,
    store: EpochStore,
    base: PathBuf,
    pub(crate) current: Option<CreatedEpoch>,
    next_epoch: u64,
    next_lease: u64,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    /// Every message that came, in order.
    pub(crate) heard: Vec<Message>,
    /// How attaches are answered beside the truth.
    pub(crate) spoil: Option<fn(&mut ShmAttachResponse)>,
    /// How discovery is answered beside the truth.
    pub(crate) spoil_discovery: Option<fn(&mut DiscoveryResponse)>,
    /// Time granted per lease, in nanoseconds.
    pub(crate) grant_ns: u64,
    pub(crate) is_announcing: bool,
    announce_at: MonoNanos,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) connection: ConnectionId,
    pub(crate) client: ClientId,
    pub(crate) role: Role,
}

pub(crate) fn now() -> MonoNanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    MonoNanos(
        u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap(),
    )
}

impl Peer {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let socket = dir.path().join("driver.sock");
        let base = dir.path().join("base");
        std::fs::create_dir(&base).unwrap();
        let (tasks, inbox) = channel();
        let thread = std::thread::spawn(move || run(State::new(socket, base), &inbox));
        let peer = Self {
            tasks: Some(tasks),
            thread: Some(thread),
            dir,
        };
        peer.with(State::listen);
        peer
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("driver.sock")
    }

    pub(crate) fn options(&self) -> ClientOptions {
        ClientOptions {
            socket: Some(self.socket()),
            allowed_base_dirs: vec![self.dir.path().join("base")],
            ..ClientOptions::default()
        }
    }

    /// Runs `task` on the peer's thread between two of its cycles.
    pub(crate) fn with<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut State) -> R + Send + 'static,
    ) -> R {
        let (answer, answered) = channel();
        let task: Task = Box::new(move |state| {
            let _ = answer.send(task(state));
        });
        self.tasks.as_ref().unwrap().send(task).unwrap();
        answered.recv().expect("the peer's thread lives")
    }

    /// Asks until the peer's state is as `ready` says, 10 s at most.
    pub(crate) fn until<R: Send + 'static>(
        &self,
        what: &str,
        ready: impl Fn(&mut State) -> Option<R> + Clone + Send + 'static,
    ) -> R {
        eventually(what, || {
            let ready = ready.clone();
            self.with(move |state| ready(state))
        })
    }
}

/// Asks until there is an answer, 10 s at most.
pub(crate) fn eventually<R>(what: &str, mut ask: impl FnMut() -> Option<R>) -> R {
    let deadline = now().saturating_add(10_000_000_000);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(now() < deadline, "{what}: not within 10 s");
        std::thread::yield_now();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the peer did not panic");
            }
        }
    }
}

fn run(mut state: State, inbox: &Receiver<Task>) {
    loop {
        match inbox.recv_timeout(Duration::from_micros(500)) {
            Ok(task) => task(&mut state),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        }
        state.cycle();
    }
}

impl State {
    fn new(socket: PathBuf, base: PathBuf) -> Self {
        let store = EpochStore::open(StoreOptions {
            base_dir: base.clone(),
            user: None,
            namespace: "test".into(),
            permissions: Permissions::GROUP,
            require_hugepages: false,
            expected_page_bytes: None,
            prefault: true,
            lock: false,
        })
        .expect("a store");
        Self {
            server: None,
            #[cfg(feature = "aeron-tests")]
            aeron: None,
            socket,
            store,
            base,
            current: None,
            next_epoch: 1_000,
            next_lease: 1,
            leases: BTreeMap::new(),
            heard: Vec::new(),
            spoil: None,
            spoil_discovery: None,
            grant_ns: 3_000_000_000,
            is_announcing: true,
            announce_at: MonoNanos(0),
        }
    }

    /// A driver (again): new socket, no lease known.
    pub(crate) fn listen(&mut self) {
        let mut server = SocketServer::new(Limits::default()).unwrap();
        server.add_listener(0, &self.socket, 0o600).unwrap();
        self.server = Some(Box::new(server));
    }

    /// A driver on Aeron, with a media driver of its own in `dir`.
    #[cfg(feature = "aeron-tests")]
    pub(crate) fn listen_on_aeron(&mut self, dir: PathBuf) {
        let (driver, port) = media::listen(&dir);
        self.aeron = Some((driver, dir));
        self.server = Some(Box::new(port));
    }

    /// Dies without a word.
    pub(crate) fn die(&mut self) {
        self.server = None;
        self.leases.clear();
    }

    /// New files under a new epoch.
    pub(crate) fn bump(&mut self) {
        self.next_epoch += 1;
        let pools = STRIDES
            .iter()
            .zip(1..)
            .map(|(&stride_bytes, id)| PoolStride {
                pool_id: PoolId(id),
                stride_bytes,
            });
        let layout =
            StreamLayout::new(STREAM, Epoch(self.next_epoch), NSLOTS, pools.collect()).unwrap();
        let creator = Creator {
            pid: std::process::id().into(),
            start: now(),
        };
        self.current = Some(
            self.store
                .create(layout, creator)
                .expect("room for an epoch"),
        );
        self.announce_at = MonoNanos(0);
    }

    pub(crate) fn directory(&self) -> &Path {
        self.current.as_ref().unwrap().directory()
    }

    /// Whether every client hears every message.
    pub(crate) fn is_shared(&self) -> bool {
        #[cfg(feature = "aeron-tests")]
        if self.aeron.is_some() {
            return true;
        }
        false
    }

    fn address(&self, connection: ConnectionId) -> Destination {
        if self.is_shared() {
            Destination::Aeron
        } else {
            Destination::Connection(connection)
        }
    }

    pub(crate) fn send(
        &mut self,
        to: ConnectionId,
        stream: LogicalStream,
        message: impl Into<Message>,
    ) {
        let bytes = message.into().encode();
        let outbound = Outbound {
            to: self.address(to),
            stream,
            bytes: &bytes,
            coalesce: Coalesce::Never,
            fds: &[],
        };
        if let Some(server) = &mut self.server {
            let _ = server.send(&outbound);
        }
    }

    /// Sends bytes that need not be a message.
    pub(crate) fn send_raw(&mut self, to: ConnectionId, stream: LogicalStream, bytes: &[u8]) {
        let outbound = Outbound {
            to: self.address(to),
            stream,
            bytes,
            coalesce: Coalesce::Never,
            fds: &[],
        };
        let _ = self.server.as_mut().unwrap().send(&outbound);
    }

    pub(crate) fn send_all(&mut self, stream: LogicalStream, message: impl Into<Message>) {
        let message = message.into();
        let mut to: Vec<_> = self.leases.values().map(|lease| lease.connection).collect();
        if self.is_shared() {
            to.truncate(1);
        }
        for connection in to {
            self.send(connection, stream, message.clone());
        }
    }

    pub(crate) fn lease_of(&self, role: Role) -> Option<(LeaseId, Lease)> {
        self.leases
            .iter()
            .find(|(_, lease)| lease.role == role)
            .map(|(id, lease)| (*id, *lease))
    }

    pub(crate) fn pools(&self) -> Vec<PayloadPool> {
        let current = self.current.as_ref().unwrap();
        let uris = current.uris().unwrap();
        let pools = current.layout().pools().iter().zip(uris.iter().skip(1));
        pools
            .map(|(pool, uri)| PayloadPool {
                pool_id: pool.pool_id,
                pool_nslots: NSLOTS,
                stride_bytes: pool.stride_bytes,
                region_uri: uri.to_string(),
            })
            .collect()
    }

    pub(crate) fn header_uri(&self) -> String {
        self.current.as_ref().unwrap().uris().unwrap()[0].to_string()
    }

    pub(crate) fn announce(&self) -> ShmPoolAnnounce {
        let producer = self
            .lease_of(Role::Producer)
            .map_or(ClientId(0), |(_, lease)| lease.client);
        ShmPoolAnnounce {
            stream_id: STREAM,
            producer_id: producer,
            epoch: self.current.as_ref().unwrap().layout().epoch(),
            announce_timestamp_ns: now(),
            announce_clock_domain: ClockDomain::Monotonic,
            layout_version: 1,
            header_nslots: NSLOTS,
            header_slot_bytes: 256,
            payload_pools: self.pools(),
            header_region_uri: self.header_uri(),
        }
    }

    fn cycle(&mut self) {
        if self.is_announcing && self.current.is_some() && now() >= self.announce_at {
            self.announce_at = now().saturating_add(100_000_000);
            self.current.as_ref().unwrap().refresh_activity(now());
            let announce = self.announce();
            self.send_all(LogicalStream::Announce, announce);
        }
        let Some(server) = &mut self.server else {
            return;
        };
        let mut messages = Vec::new();
        let mut closed = Vec::new();
        let mut asked = Vec::new();
        let polled = server.poll(now(), &mut |inbound| match inbound {
            Inbound::Message {
                origin: Origin::Socket { connection },
                stream: LogicalStream::Status,
                ..
            } => asked.push(connection),
            Inbound::Message { origin, bytes, .. } => {
                let connection = match origin {
                    Origin::Socket { connection } => connection,
                    Origin::Aeron { session } => ConnectionId(u64::from(session.cast_unsigned())),
                };
                messages.push((
                    connection,
                    Message::decode(bytes).expect("our client's messages"),
                ));
            }
            Inbound::Closed { connection, .. } => closed.push(connection),
            _ => {}
        });
        polled.expect("the socket server lives");
        for (connection, message) in messages {
            self.on_message(connection, message);
        }
        for connection in asked {
            self.tell_status(connection);
        }
        for connection in closed {
            let gone: Vec<_> = self
                .leases
                .iter()
                .filter(|(_, lease)| lease.connection == connection)
                .map(|(id, _)| *id)
                .collect();
            for id in gone {
                self.end(id, LeaseRevokeReason::Expired, "connection closed");
            }
        }
    }

    /// As much of the driver's status as clients look at.
    fn tell_status(&mut self, to: ConnectionId) {
        let producer = self.lease_of(Role::Producer).map_or_else(
            || "null".to_owned(),
            |(_, lease)| {
                let pid = std::process::id();
                format!(r#"{{"client_id":{},"pid":"{pid}"}}"#, lease.client)
            },
        );
        let document = format!(r#"{{"stream_id":{STREAM},"producer":{producer}}}"#);
        for bytes in [document.as_bytes(), br#"{"end":true}"#] {
            let outbound = Outbound {
                to: Destination::Connection(to),
                stream: LogicalStream::Status,
                bytes,
                coalesce: Coalesce::Never,
                fds: &[],
            };
            let _ = self.server.as_mut().unwrap().send(&outbound);
        }
    }

    /// Ends a lease with all that belongs to it: revoke first, then the new epoch.
    pub(crate) fn end(&mut self, id: LeaseId, reason: LeaseRevokeReason, text: &str) {
        let Some(lease) = self.leases.get(&id).copied() else {
            return;
        };
        let revoked = ShmLeaseRevoked {
            timestamp_ns: now(),
            lease_id: id,
            stream_id: STREAM,
            client_id: lease.client,
            role: lease.role,
            reason,
            error_message: text.into(),
        };
        if lease.role == Role::Producer {
            self.send_all(LogicalStream::Control, revoked);
        } else {
            self.send(lease.connection, LogicalStream::Control, revoked);
        }
        self.leases.remove(&id);
        if lease.role == Role::Producer {
            self.bump();
        }
    }

    pub(crate) fn shut_down(&mut self) {
        let shutdown = ShmDriverShutdown {
            timestamp_ns: now(),
            reason: ShutdownReason::Normal,
            error_message: "maintenance".into(),
        };
        self.send_all(LogicalStream::Control, shutdown);
        self.leases.clear();
    }

    fn on_message(&mut self, from: ConnectionId, message: Message) {
        self.heard.push(message.clone());
        match message {
            Message::ShmAttachRequest(request) => self.on_attach(from, &request),
            Message::ShmDetachRequest(request) => {
                self.end(request.lease_id, LeaseRevokeReason::Detached, "");
                let response = ShmDetachResponse {
                    correlation_id: request.correlation_id,
                    code: ResponseCode::Ok,
                    error_message: String::new(),
                };
                self.send(from, LogicalStream::Control, response);
            }
            Message::DiscoveryRequest(request) => self.on_discovery(from, &request),
            // On Aeron they hear each other.
            _ if self.is_shared() => {}
            // As the real driver joins them.
            Message::DataSourceAnnounce(_) | Message::DataSourceMeta(_) => {
                self.send_all(LogicalStream::Metadata, message);
            }
            Message::QosProducer(_) | Message::QosConsumer(_) => {
                self.send_all(LogicalStream::Qos, message);
            }
            Message::FrameProgress(_) | Message::ConsumerHello(_) => {
                self.send_all(LogicalStream::Control, message);
            }
            _ => {}
        }
    }
}
