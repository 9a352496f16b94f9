//! A driver under test with its files and journal played by the test, and a transcript that people
//! can read: epochs are `e1, e2, …` and leases `l1, l2, …` in the order in which they appear.

use std::collections::BTreeMap;

use tensorpool_driver_core::config::{
    Access, Base, ConfigSpec, ConsumerRules, Gc, IdRange, Identity, Limits, PolicySpec, PoolSpec,
    Profile, StreamSpec, Timing,
};
use tensorpool_driver_core::{
    Action, Driver, EpochKey, Event, OpId, Reclaim, RegionsError, Restored, StatusSnapshot, To,
};
use tensorpool_wire::{
    ClientId, ConnectionId, CorrelationId, Epoch, HugepagesPolicy, LeaseId, LogicalStream, Message,
    MonoNanos, NodeId, Origin, PoolId, PublishMode, ResponseCode, Role, ShmAttachRequest,
    ShmAttachResponse, ShmDetachRequest, ShmLeaseKeepalive, StreamId,
};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const START: u64 = 1_000 * SECOND;
pub(crate) const CAMERA: StreamId = StreamId(10_000);
pub(crate) const LIDAR: StreamId = StreamId(10_001);
pub(crate) const FIRST_LEASE: u64 = 5_000;

pub(crate) const fn aeron(session: i32) -> Origin {
    Origin::Aeron { session }
}

pub(crate) const fn socket(connection: u64) -> Origin {
    Origin::Socket {
        connection: ConnectionId(connection),
    }
}

/// An attach request by a consumer of the camera; change what matters.
pub(crate) fn consume(client: u32) -> ShmAttachRequest {
    ShmAttachRequest {
        correlation_id: CorrelationId(i64::from(client) * 10),
        stream_id: CAMERA,
        client_id: ClientId(client),
        role: Role::Consumer,
        expected_layout_version: 1,
        publish_mode: Some(PublishMode::RequireExisting),
        require_hugepages: HugepagesPolicy::Unspecified,
        desired_node_id: None,
    }
}

/// The same by a producer.
pub(crate) fn produce(client: u32) -> ShmAttachRequest {
    ShmAttachRequest {
        role: Role::Producer,
        ..consume(client)
    }
}

pub(crate) fn spec() -> ConfigSpec {
    let profile = Profile {
        header_nslots: 8,
        pools: vec![PoolSpec {
            pool_id: PoolId(1),
            stride_bytes: 4_096,
        }],
    };
    let stream = |name: &str, stream_id| StreamSpec {
        name: name.to_owned(),
        stream_id,
        profile: "small".to_owned(),
        tags: vec![],
        ..StreamSpec::default()
    };
    ConfigSpec {
        identity: Identity {
            instance_id: "driver-01".to_owned(),
            bases: vec![Base {
                name: String::new(),
                directory: "/dev/shm".to_owned(),
                hugepages: false,
                page_size_bytes: 4_096,
            }],
            user: "ada".to_owned(),
            namespace: "default".to_owned(),
            control_channel: "aeron:ipc".to_owned(),
            control_stream_id: 1_000,
            other_stream_ids: vec![1_001, 1_100, 1_200, 1_300, 7_000],
        },
        timing: Timing::default(),
        gc: Gc::default(),
        limits: Limits::default(),
        shutdown_token: "open sesame".to_owned(),
        first_lease_id: FIRST_LEASE,
        policy: PolicySpec {
            profiles: BTreeMap::from([("small".to_owned(), profile)]),
            default_profile: None,
            allow_dynamic_streams: false,
            stream_id_range: None,
            descriptor_stream_id_range: None,
            control_stream_id_range: None,
            streams: vec![stream("camera", CAMERA), stream("lidar", LIDAR)],
            consumers: ConsumerRules::default(),
            ..PolicySpec::default()
        },
    }
}

/// Dynamic streams with ids 20000 to 20001.
pub(crate) fn allow_dynamic(spec: &mut ConfigSpec) {
    spec.policy.allow_dynamic_streams = true;
    spec.policy.default_profile = Some("small".to_owned());
    spec.policy.stream_id_range = Some(IdRange {
        start: 20_000,
        end: 20_001,
    });
}

pub(crate) struct Rig {
    pub(crate) driver: Driver,
    pub(crate) now: u64,
    epochs: Vec<Epoch>,
    first_lease: u64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut ConfigSpec)) -> Self {
        Self::restored(change, &Restored::default())
    }

    pub(crate) fn restored(change: impl FnOnce(&mut ConfigSpec), restored: &Restored) -> Self {
        let mut spec = spec();
        change(&mut spec);
        let first_lease = spec.first_lease_id;
        let config = spec.validate().expect("the configuration is valid");
        let mut rig = Self {
            driver: Driver::restore(config, restored),
            now: START,
            epochs: Vec::new(),
            first_lease,
        };
        rig.tick();
        rig
    }

    /// One event; the actions as they come, with nothing done.
    pub(crate) fn raw(&mut self, event: Event<'_>) -> Vec<Action> {
        let mut out = Vec::new();
        self.driver.handle(MonoNanos(self.now), event, &mut out);
        out
    }

    /// One event; journal and files succeed at once. All actions, in order.
    pub(crate) fn event(&mut self, event: Event<'_>) -> Vec<Action> {
        let mut all = self.raw(event);
        let mut done = 0;
        while let Some(action) = all.get(done) {
            done += 1;
            if let Some(event) = success(action) {
                let mut more = self.raw(event);
                all.append(&mut more);
            }
        }
        all
    }

    pub(crate) fn tick(&mut self) -> Vec<Action> {
        self.event(Event::Tick)
    }

    /// Ticks ten times a second until `seconds` have passed.
    pub(crate) fn pass(&mut self, seconds: u64) -> Vec<Action> {
        let mut all = Vec::new();
        for _ in 0..seconds * 10 {
            self.now += SECOND / 10;
            all.append(&mut self.tick());
        }
        all
    }

    pub(crate) fn open(&mut self, connection: u64) {
        self.open_with(connection, Access::everything());
    }

    pub(crate) fn open_with(&mut self, connection: u64, access: Access) {
        let actions = self.event(Event::ConnectionOpened {
            connection: ConnectionId(connection),
            access,
            pid: 4_000 + u32::try_from(connection).expect("a small number"),
            uid: 1_000,
        });
        assert_eq!(actions, []);
    }

    pub(crate) fn close(&mut self, connection: u64) -> Vec<Action> {
        self.event(Event::ConnectionClosed {
            connection: ConnectionId(connection),
        })
    }

    pub(crate) fn send(&mut self, origin: Origin, message: impl Into<Message>) -> Vec<Action> {
        let message = message.into();
        let bytes = message.encode();
        self.event(Event::Message {
            origin,
            stream: home(&message),
            bytes: &bytes,
        })
    }

    /// The same, with nothing done.
    pub(crate) fn send_raw(&mut self, origin: Origin, message: impl Into<Message>) -> Vec<Action> {
        let message = message.into();
        let bytes = message.encode();
        self.raw(Event::Message {
            origin,
            stream: home(&message),
            bytes: &bytes,
        })
    }

    /// Attaches and returns the one answer.
    pub(crate) fn attach(
        &mut self,
        origin: Origin,
        request: ShmAttachRequest,
    ) -> ShmAttachResponse {
        let correlation_id = request.correlation_id;
        let actions = self.send(origin, request);
        let mut answers = answers(&actions);
        assert_eq!(answers.len(), 1, "one answer: {}", self.show(&actions));
        let (to, answer) = answers.remove(0);
        assert_eq!(to, To::Origin(origin));
        assert_eq!(answer.correlation_id, correlation_id);
        answer
    }

    /// Attaches, which must succeed.
    pub(crate) fn lease(&mut self, origin: Origin, request: ShmAttachRequest) -> Held {
        let (client, role) = (request.client_id, request.role);
        let answer = self.attach(origin, request);
        assert_eq!(answer.code, ResponseCode::Ok, "{}", answer.error_message);
        Held {
            origin,
            lease: answer.lease_id.expect("OK has it"),
            stream: answer.stream_id.expect("OK has it"),
            client,
            role,
            epoch: answer.epoch.expect("OK has it"),
        }
    }

    /// Attaches, which must fail, and returns code and text.
    pub(crate) fn refused(
        &mut self,
        origin: Origin,
        request: ShmAttachRequest,
    ) -> (ResponseCode, String) {
        let answer = self.attach(origin, request);
        assert_ne!(answer.code, ResponseCode::Ok);
        // spec: D-4.2-11
        let empty = ShmAttachResponse {
            correlation_id: answer.correlation_id,
            code: answer.code,
            lease_id: None,
            lease_expiry_timestamp_ns: None,
            stream_id: None,
            epoch: None,
            layout_version: None,
            header_nslots: None,
            header_slot_bytes: None,
            node_id: None,
            payload_pools: vec![],
            header_region_uri: String::new(),
            error_message: answer.error_message.clone(),
        };
        assert_eq!(answer, empty, "optional fields of a refusal are null");
        (answer.code, answer.error_message)
    }

    pub(crate) fn keepalive(&mut self, held: &Held) -> Vec<Action> {
        self.send(held.origin, held.keepalive())
    }

    pub(crate) fn detach(&mut self, held: &Held) -> Vec<Action> {
        self.send(held.origin, held.detach())
    }

    pub(crate) fn status(&self) -> StatusSnapshot {
        self.driver.status()
    }

    pub(crate) fn drops(&self) -> Vec<(String, u64)> {
        let drops = &self.driver.status().counters.drops;
        drops
            .iter()
            .map(|((reason, name), count)| (format!("{} {name}", reason.label()), *count))
            .collect()
    }

    /// A transcript without notes.
    pub(crate) fn show(&mut self, actions: &[Action]) -> String {
        let lines: Vec<String> = actions
            .iter()
            .filter_map(|action| self.line(action))
            .collect();
        lines.join("\n")
    }

    pub(crate) fn epoch_name(&mut self, epoch: Epoch) -> String {
        let at = self.epochs.iter().position(|known| *known == epoch);
        let at = at.unwrap_or_else(|| {
            self.epochs.push(epoch);
            self.epochs.len() - 1
        });
        format!("e{}", at + 1)
    }

    fn lease_name(&self, lease: LeaseId) -> String {
        match lease.get().checked_sub(self.first_lease) {
            Some(offset) if offset < 1_000_000 => format!("l{}", offset + 1),
            Some(_) | None => format!("lease {lease}"),
        }
    }

    fn key_name(&mut self, key: EpochKey) -> String {
        format!("{}/{}", key.stream, self.epoch_name(key.epoch))
    }

    fn line(&mut self, action: &Action) -> Option<String> {
        Some(match action {
            Action::Send {
                to,
                stream: _,
                message,
                regions,
            } => {
                let to = show_to(to);
                let fds = if regions.is_some() { " +fds" } else { "" };
                format!("{to} <- {}{fds}", self.message(message))
            }
            Action::AnswerStatus { connection, .. } => format!("c{} <- status", connection.0),
            Action::PersistEpoch { key, .. } => format!("persist {}", self.key_name(*key)),
            Action::CreateRegions { regions, .. } => {
                format!("create {}", self.key_name(regions.key))
            }
            Action::RemoveEpoch {
                key, reclaim, why, ..
            } => {
                let how = match reclaim {
                    Reclaim::Unlink => "",
                    Reclaim::IfUnused => " if unused",
                    Reclaim::Empty => " emptied",
                };
                format!("remove {}{how} ({})", self.key_name(*key), why.label())
            }
            Action::MarkEpoch { key, free_at, .. } => {
                let seconds = (free_at.get() - START) / SECOND;
                format!("mark {} free at {seconds} s", self.key_name(*key))
            }
            Action::RefreshActivity { key } => format!("refresh {}", self.key_name(*key)),
            Action::StartRelay { key } => format!("start relay {}", self.key_name(*key)),
            Action::StopRelay { stream } => format!("stop relay {stream}"),
            Action::HoldDescriptors { stream } => format!("hold descriptors {stream}"),
            Action::ReleaseDescriptors { stream } => format!("release descriptors {stream}"),
            Action::MarkAttached { connection } => format!("mark attached c{}", connection.0),
            Action::Disconnect { connection } => format!("disconnect c{}", connection.0),
            Action::Note(_) => return None,
            Action::Stop => "stop".to_owned(),
        })
    }

    fn message(&mut self, message: &Message) -> String {
        match message {
            Message::ShmAttachResponse(m) => match (m.lease_id, m.epoch, m.stream_id) {
                (Some(lease), Some(epoch), Some(stream)) => format!(
                    "AttachResponse #{} {:?} {} on {stream}/{}",
                    m.correlation_id,
                    m.code,
                    self.lease_name(lease),
                    self.epoch_name(epoch)
                ),
                (_, _, _) => format!(
                    "AttachResponse #{} {:?} `{}`",
                    m.correlation_id, m.code, m.error_message
                ),
            },
            Message::ShmDetachResponse(m) => format!(
                "DetachResponse #{} {:?} `{}`",
                m.correlation_id, m.code, m.error_message
            ),
            Message::ShmPoolAnnounce(m) => format!(
                "Announce {}/{} producer {}",
                m.stream_id,
                self.epoch_name(m.epoch),
                m.producer_id
            ),
            Message::ShmLeaseRevoked(m) => format!(
                "Revoked {} {:?} of client {} on {} {:?} `{}`",
                self.lease_name(m.lease_id),
                m.role,
                m.client_id,
                m.stream_id,
                m.reason,
                m.error_message
            ),
            Message::ShmDriverShutdown(m) => {
                format!("DriverShutdown {:?} `{}`", m.reason, m.error_message)
            }
            other => other.name().to_owned(),
        }
    }
}

/// A granted lease as its client knows it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) origin: Origin,
    pub(crate) lease: LeaseId,
    pub(crate) stream: StreamId,
    pub(crate) client: ClientId,
    pub(crate) role: Role,
    pub(crate) epoch: Epoch,
}

impl Held {
    pub(crate) fn keepalive(&self) -> ShmLeaseKeepalive {
        ShmLeaseKeepalive {
            lease_id: self.lease,
            stream_id: self.stream,
            client_id: self.client,
            role: self.role,
            client_timestamp_ns: MonoNanos(0),
        }
    }

    pub(crate) fn detach(&self) -> ShmDetachRequest {
        ShmDetachRequest {
            correlation_id: CorrelationId(77),
            lease_id: self.lease,
            stream_id: self.stream,
            client_id: self.client,
            role: self.role,
        }
    }
}

/// Wants this node id.
pub(crate) fn with_node(request: ShmAttachRequest, node: u32) -> ShmAttachRequest {
    ShmAttachRequest {
        desired_node_id: Some(NodeId(node)),
        ..request
    }
}

/// The event that says that an effect succeeded.
pub(crate) fn success(action: &Action) -> Option<Event<'static>> {
    match action {
        Action::PersistEpoch { op, .. } => Some(Event::EpochPersisted { op: *op }),
        Action::CreateRegions { op, .. } => Some(Event::RegionsReady { op: *op }),
        Action::RemoveEpoch { op, .. } => Some(Event::EpochRemoved { op: *op }),
        _ => None,
    }
}

pub(crate) fn persist_op(actions: &[Action]) -> OpId {
    let mut ops = actions.iter().rev().filter_map(|action| match action {
        Action::PersistEpoch { op, .. } => Some(*op),
        _ => None,
    });
    ops.next().expect("an epoch is persisted")
}

pub(crate) fn create_op(actions: &[Action]) -> OpId {
    let mut ops = actions.iter().rev().filter_map(|action| match action {
        Action::CreateRegions { op, .. } => Some(*op),
        _ => None,
    });
    ops.next().expect("regions are created")
}

pub(crate) fn no_space() -> RegionsError {
    RegionsError::NoSpace {
        needed_bytes: 49_152,
        free_bytes: 100,
        node: None,
    }
}

pub(crate) fn answers(actions: &[Action]) -> Vec<(To, ShmAttachResponse)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Send {
                to,
                message: Message::ShmAttachResponse(answer),
                ..
            } => Some((to.clone(), answer.clone())),
            _ => None,
        })
        .collect()
}

/// Messages that were sent, with their addressees.
pub(crate) fn sent(actions: &[Action]) -> Vec<(String, Message)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { to, message, .. } => Some((show_to(to), message.clone())),
            _ => None,
        })
        .collect()
}

fn show_to(to: &To) -> String {
    match to {
        To::Origin(Origin::Aeron { session }) => format!("aeron:{session}"),
        To::Origin(Origin::Socket { connection }) => format!("c{}", connection.0),
        To::All { aeron, connections } => {
            let mut names: Vec<String> = connections.iter().map(|c| format!("c{}", c.0)).collect();
            if *aeron {
                names.insert(0, "aeron".to_owned());
            }
            names.join("+")
        }
        To::Endpoint { channel, stream_id } => format!("{channel}|{stream_id}"),
    }
}

pub(crate) fn home(message: &Message) -> LogicalStream {
    match message {
        Message::QosConsumer(_) | Message::QosProducer(_) => LogicalStream::Qos,
        Message::DataSourceAnnounce(_)
        | Message::DataSourceMeta(_)
        | Message::MetaBlobAnnounce(_)
        | Message::MetaBlobChunk(_)
        | Message::MetaBlobComplete(_) => LogicalStream::Metadata,
        Message::DiscoveryRequest(_) | Message::DiscoveryResponse(_) => LogicalStream::Discovery,
        Message::ShmPoolAnnounce(_) => LogicalStream::Announce,
        _ => LogicalStream::Control,
    }
}

/// Asserts a transcript, one line per action.
#[macro_export]
macro_rules! assert_transcript {
    ($rig:expr, $actions:expr, [$($line:expr),* $(,)?]) => {{
        let actions = $actions;
        let shown = $rig.show(&actions);
        let expected: Vec<&str> = vec![$($line),*];
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
    }};
}
