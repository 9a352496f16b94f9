//! Any list of events whatever: the driver neither panics nor breaks an invariant, which debug builds
//! check after every event, nor lets anything grow beyond its bound.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config as ProptestConfig, RngAlgorithm, TestRng, TestRunner};
use tensorpool_driver_core::config::{
    Access, Base, ClassSpec, ConfigSpec, ConsumerRules, Gc, IdRange, Identity, Limits, PolicySpec,
    PoolSpec, Profile, QuotaSpec, Roles, StreamSpec, Timing, Visible,
};
use tensorpool_driver_core::{
    Action, BaseId, ClientRange, Damage, Driver, Event, ExistingEpoch, OpId, Owner, RegionsError,
    Restored, ShutdownMode,
};
use tensorpool_wire::{
    Bool, ClientId, ConnectionId, ConsumerHello, CorrelationId, DiscoveryRequest, Epoch,
    HugepagesPolicy, LeaseId, LogicalStream, Message, Mode, MonoNanos, NodeId, Origin, PoolId,
    PublishMode, QosConsumer, QosProducer, Role, Seq, ShmAttachRequest, ShmDetachRequest,
    ShmDriverShutdownRequest, ShmLeaseKeepalive, ShutdownReason, StreamId,
};

const FIRST_LEASE: u64 = 100;

/// An event before the driver exists: numbers that are small enough to meet each other.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Back(u64),
    Bytes(Origin, LogicalStream, Vec<u8>),
    Say(Origin, Box<Message>),
    Open(u64, bool),
    Closing(u64),
    Closed(u64),
    Own(Vec<i32>),
    Persisted(u64, bool),
    Created(u64, u8),
    /// It is gone, in use, or could not be removed.
    Removed(u64, u8),
    Found(u32, u64, u8),
    Poisoned(u32, u64),
    Policy(u32, bool),
    /// A policy of a cluster: limits of the quota, epochs of the class, cordoned, eager.
    Cluster(u64, u64, bool, bool),
    Access(u64, bool),
    /// Ids of an attachment on Aeron are given, limited or not, or taken back.
    Clients(Option<bool>),
    Shutdown(bool),
}

fn spec(nslots: u32, lidar: bool) -> ConfigSpec {
    let stream = |name: &str, id| StreamSpec {
        name: name.to_owned(),
        stream_id: StreamId(id),
        profile: "p".to_owned(),
        tags: vec!["t".to_owned()],
        ..StreamSpec::default()
    };
    let mut streams = vec![stream("camera", 1)];
    if lidar {
        streams.push(stream("lidar", 2));
    }
    let range = |start, end| Some(IdRange { start, end });
    ConfigSpec {
        identity: Identity {
            instance_id: "any".to_owned(),
            bases: vec![Base {
                name: String::new(),
                directory: "/dev/shm".to_owned(),
                hugepages: false,
                page_size_bytes: 4_096,
            }],
            user: "any".to_owned(),
            namespace: "default".to_owned(),
            control_channel: "aeron:ipc".to_owned(),
            control_stream_id: 1_000,
            other_stream_ids: vec![],
        },
        timing: Timing::default(),
        gc: Gc::default(),
        limits: Limits {
            streams: 4,
            leases: 6,
            leases_per_connection: 2,
            consumers_per_stream: 3,
            pending_attaches_per_stream: 2,
            connections: 3,
            unknown_leases: 2,
            node_ids: 3,
            progress_per_second: 2,
            ..Limits::default()
        },
        shutdown_token: "t".to_owned(),
        first_lease_id: FIRST_LEASE,
        policy: PolicySpec {
            profiles: BTreeMap::from([(
                "p".to_owned(),
                Profile {
                    header_nslots: nslots,
                    pools: vec![PoolSpec {
                        pool_id: PoolId(1),
                        stride_bytes: 64,
                    }],
                },
            )]),
            default_profile: Some("p".to_owned()),
            allow_dynamic_streams: true,
            stream_id_range: range(10, 12),
            descriptor_stream_id_range: range(31_000, 31_001),
            control_stream_id_range: range(32_000, 32_000),
            streams,
            consumers: ConsumerRules::default(),
            ..PolicySpec::default()
        },
    }
}

/// The same streams as one of a cluster has them, with a priority each.
fn in_cluster(quota: u64, class: u64, cordoned: bool, eager: bool) -> PolicySpec {
    let mut policy = spec(8, true).policy;
    let limits = QuotaSpec {
        bytes: Some(quota * 8_192),
        producers: Some(quota),
        consumers: Some(quota),
        leases: None,
    };
    policy.quotas = [("q".to_owned(), limits)].into();
    let class = ClassSpec {
        base: String::new(),
        size_bytes: class * 8_192,
    };
    policy.classes = [("c".to_owned(), class)].into();
    policy.cordoned = cordoned;
    policy.aeron_clients_assigned = eager;
    for (stream, priority) in policy.streams.iter_mut().zip(0..) {
        stream.class = "c".to_owned();
        stream.quotas = vec!["q".to_owned()];
        stream.priority = priority;
        stream.eager = eager;
        stream.on_aeron = !cordoned;
        stream.grace_ns = 500_000_000;
        stream.force_after_ns = eager.then_some(1_000_000_000);
    }
    policy
}

fn access(limited: bool) -> Access {
    let roles = Roles {
        produce: true,
        consume: false,
    };
    if limited {
        Access {
            visible: Visible::Only([(StreamId(1), roles)].into()),
            leases: 1,
            aeron: None,
        }
    } else {
        Access::everything()
    }
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        (0..3i32).prop_map(|session| Origin::Aeron { session }),
        (0..4u64).prop_map(|id| Origin::Socket {
            connection: ConnectionId(id)
        }),
    ]
}

fn stream() -> impl Strategy<Value = StreamId> {
    prop_oneof![
        4 => Just(StreamId(1)),
        2 => Just(StreamId(2)),
        1 => Just(StreamId(0)),
        1 => (9..14u32).prop_map(StreamId),
    ]
}

fn client() -> impl Strategy<Value = ClientId> {
    // The last ones are those that an attachment on Aeron may have.
    prop_oneof![3 => 0..9u32, 1 => 254..258u32].prop_map(ClientId)
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![
        3 => Just(Role::Producer),
        4 => Just(Role::Consumer),
        1 => Just(Role::Unknown(9)),
    ]
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (FIRST_LEASE - 1..FIRST_LEASE + 12).prop_map(LeaseId)
}

fn mode() -> impl Strategy<Value = Option<PublishMode>> {
    prop_oneof![
        Just(None),
        Just(Some(PublishMode::ExistingOrCreate)),
        Just(Some(PublishMode::Unknown(7))),
    ]
}

fn attach() -> impl Strategy<Value = Message> {
    (
        0..3i64,
        stream(),
        client(),
        role(),
        mode(),
        prop::option::of(0..4u32),
    )
        .prop_map(
            |(correlation, stream_id, client_id, role, publish_mode, node)| {
                ShmAttachRequest {
                    correlation_id: CorrelationId(correlation),
                    stream_id,
                    client_id,
                    role,
                    expected_layout_version: 1,
                    publish_mode,
                    require_hugepages: HugepagesPolicy::Unspecified,
                    desired_node_id: node.map(NodeId),
                }
                .into()
            },
        )
}

fn hello() -> impl Strategy<Value = Message> {
    (
        stream(),
        client(),
        30_999..31_003u32,
        31_999..32_002u32,
        any::<bool>(),
    )
        .prop_map(
            |(stream_id, consumer_id, descriptor_stream_id, control_stream_id, asks)| {
                let channel = if asks { "aeron:ipc" } else { "" };
                ConsumerHello {
                    stream_id,
                    consumer_id,
                    supports_shm: Bool::True,
                    supports_progress: Bool::False,
                    mode: Mode::Stream,
                    max_rate_hz: 0,
                    expected_layout_version: 0,
                    progress_interval_us: None,
                    progress_bytes_delta: None,
                    progress_major_delta_units: None,
                    descriptor_stream_id,
                    control_stream_id,
                    descriptor_channel: channel.to_owned(),
                    control_channel: channel.to_owned(),
                }
                .into()
            },
        )
}

fn message() -> impl Strategy<Value = Message> {
    let keepalive =
        (lease(), stream(), client(), role()).prop_map(|(lease, stream, client, role)| {
            ShmLeaseKeepalive {
                lease_id: lease,
                stream_id: stream,
                client_id: client,
                role,
                client_timestamp_ns: MonoNanos(0),
            }
            .into()
        });
    let detach = (lease(), stream(), client(), role()).prop_map(|(lease, stream, client, role)| {
        ShmDetachRequest {
            correlation_id: CorrelationId(1),
            lease_id: lease,
            stream_id: stream,
            client_id: client,
            role,
        }
        .into()
    });
    let consumer_qos = (stream(), client()).prop_map(|(stream_id, consumer_id)| {
        QosConsumer {
            stream_id,
            consumer_id,
            epoch: Epoch(1),
            last_seq_seen: Seq(1),
            drops_gap: 0,
            drops_late: 0,
            mode: Mode::Stream,
        }
        .into()
    });
    let producer_qos = (stream(), client(), 0..9u64).prop_map(|(stream_id, producer_id, epoch)| {
        QosProducer {
            stream_id,
            producer_id,
            epoch: Epoch(epoch),
            current_seq: Seq(1),
            watermark: None,
        }
        .into()
    });
    let discovery = (prop::option::of(stream()), 0..2u32).prop_map(|(stream_id, id)| {
        DiscoveryRequest {
            request_id: 1,
            client_id: ClientId(1),
            response_stream_id: id,
            stream_id,
            producer_id: None,
            data_source_id: None,
            tags: vec![],
            response_channel: "aeron:ipc".to_owned(),
            data_source_name: String::new(),
        }
        .into()
    });
    let shutdown = prop::bool::weighted(0.05).prop_map(|right| {
        ShmDriverShutdownRequest {
            correlation_id: CorrelationId(1),
            reason: ShutdownReason::Admin,
            token: if right { "t" } else { "" }.to_owned(),
            error_message: String::new(),
        }
        .into()
    });
    prop_oneof![
        12 => attach(),
        6 => keepalive,
        6 => detach,
        3 => hello(),
        2 => consumer_qos,
        2 => producer_qos,
        2 => discovery,
        1 => shutdown,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop::collection::vec(any::<u8>(), 0..80);
    prop_oneof![
        160 => (0..2_000_000_000u64).prop_map(Step::Pass),
        20 => (0..2_000_000_000u64).prop_map(Step::Back),
        40 => (origin(), 0..6usize, bytes)
            .prop_map(|(origin, at, bytes)| Step::Bytes(origin, LogicalStream::ALL[at], bytes)),
        600 => (origin(), message()).prop_map(|(origin, message)| Step::Say(origin, message.into())),
        80 => (0..4u64, any::<bool>()).prop_map(|(id, limited)| Step::Open(id, limited)),
        20 => (0..4u64).prop_map(Step::Closing),
        60 => (0..4u64).prop_map(Step::Closed),
        20 => prop::collection::vec(0..3i32, 0..2).prop_map(Step::Own),
        400 => (0..3u64, prop::bool::weighted(0.9)).prop_map(|(back, ok)| Step::Persisted(back, ok)),
        400 => (0..3u64, 0..12u8).prop_map(|(back, how)| Step::Created(back, how)),
        80 => (0..9u64, 0..4u8).prop_map(|(back, how)| Step::Removed(back, how)),
        20 => (0..3u32, any::<u64>(), 0..3u8).prop_map(|(s, e, owner)| Step::Found(s, e, owner)),
        40 => (0..3u32, 0..3u64).prop_map(|(stream, back)| Step::Poisoned(stream, back)),
        40 => (0..3u32, any::<bool>()).prop_map(|(bits, lidar)| Step::Policy(8 << bits, lidar)),
        40 => (0..4u64, 0..5u64, prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(quota, class, cordoned, eager)| Step::Cluster(quota, class, cordoned, eager)),
        40 => (0..4u64, any::<bool>()).prop_map(|(id, limited)| Step::Access(id, limited)),
        20 => prop::option::of(any::<bool>()).prop_map(Step::Clients),
        1 => prop::bool::weighted(0.9).prop_map(Step::Shutdown),
    ]
}

/// The driver with what it asked for, so that results name real operations.
struct Bench {
    driver: Driver,
    now: u64,
    out: Vec<Action>,
}

impl Bench {
    fn tell(&mut self, event: Event<'_>) {
        self.driver
            .handle(MonoNanos(self.now), event, &mut self.out);
    }

    /// The operation asked for `back` operations ago.
    fn op(&self, back: u64, pick: impl Fn(&Action) -> Option<OpId>) -> OpId {
        let mut ops = self.out.iter().rev().filter_map(pick);
        let back = usize::try_from(back).unwrap_or(0);
        ops.nth(back).unwrap_or(OpId(back as u64))
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Pass(ns) => {
                self.now += ns;
                self.tell(Event::Tick);
            }
            Step::Back(ns) => {
                self.now -= ns.min(self.now);
                self.tell(Event::Tick);
            }
            Step::Bytes(origin, stream, bytes) => self.tell(Event::Message {
                origin,
                stream,
                bytes: &bytes,
            }),
            Step::Say(origin, message) => self.tell(Event::Message {
                origin,
                stream: match *message {
                    Message::QosConsumer(_) | Message::QosProducer(_) => LogicalStream::Qos,
                    Message::DiscoveryRequest(_) => LogicalStream::Discovery,
                    _ => LogicalStream::Control,
                },
                bytes: &message.encode(),
            }),
            Step::Open(id, limited) => self.open(id, limited),
            Step::Closing(id) => self.tell(Event::ConnectionClosing {
                connection: ConnectionId(id),
                text: "garbage".to_owned(),
            }),
            Step::Closed(id) => self.tell(Event::ConnectionClosed {
                connection: ConnectionId(id),
            }),
            Step::Own(sessions) => self.tell(Event::OwnSessions(sessions)),
            Step::Persisted(..) | Step::Created(..) | Step::Removed(..) => self.finish(step),
            Step::Found(stream, epoch, owner) => {
                self.tell(Event::EpochsFound(vec![ExistingEpoch {
                    base: BaseId::default(),
                    stream: StreamId(stream),
                    epoch: Epoch(epoch),
                    bytes: epoch,
                    activity: MonoNanos(0),
                    owner: [Owner::Mine, Owner::Dead, Owner::Alive][usize::from(owner)],
                    free_at: (epoch % 2 == 0).then_some(MonoNanos(epoch)),
                }]))
            }
            Step::Poisoned(stream, back) => {
                let stream = StreamId(stream);
                let memory = self.driver.status().streams;
                let memory = memory.iter().find(|s| s.stream_id == stream);
                let epochs = memory.map(|s| s.memory.as_slice()).unwrap_or_default();
                let back = usize::try_from(back).unwrap_or(0);
                let epoch = epochs.iter().rev().nth(back).map_or(Epoch(0), |e| e.epoch);
                self.tell(Event::RegionPoisoned {
                    stream,
                    epoch,
                    damage: Damage::LostPages,
                });
            }
            Step::Policy(nslots, lidar) => {
                let policy = spec(nslots, lidar).policy.validate(&[]).expect("valid");
                self.tell(Event::PolicyChanged(Box::new(policy)));
            }
            Step::Cluster(quota, class, cordoned, eager) => {
                let policy = in_cluster(quota, class, cordoned, eager);
                let policy = policy.validate(&[]).expect("valid");
                self.tell(Event::PolicyChanged(Box::new(policy)));
            }
            Step::Access(id, limited) => self.tell(Event::AccessChanged {
                connection: ConnectionId(id),
                access: access(limited),
                text: "another role binding".to_owned(),
            }),
            Step::Clients(limited) => self.tell(Event::AeronClients {
                clients: ClientRange::of_prefix(1).expect("a prefix"),
                access: limited.map(access),
                text: "the pod's volume was unmounted".to_owned(),
            }),
            Step::Shutdown(drain) => self.tell(Event::Shutdown(if drain {
                ShutdownMode::Drain
            } else {
                ShutdownMode::Handover
            })),
        }
    }

    fn open(&mut self, id: u64, limited: bool) {
        self.tell(Event::ConnectionOpened {
            connection: ConnectionId(id),
            access: access(limited),
            pid: 1,
            uid: 1,
        });
    }

    fn finish(&mut self, step: Step) {
        match step {
            Step::Persisted(back, ok) => {
                let op = self.op(back, |action| match action {
                    Action::PersistEpoch { op, .. } => Some(*op),
                    _ => None,
                });
                self.tell(if ok {
                    Event::EpochPersisted { op }
                } else {
                    Event::EpochPersistFailed {
                        op,
                        error: "full".to_owned(),
                    }
                });
            }
            Step::Created(back, how) => {
                let op = self.op(back, |action| match action {
                    Action::CreateRegions { op, .. } => Some(*op),
                    _ => None,
                });
                let error = match how {
                    0 => RegionsError::Other("no".to_owned()),
                    1 | 2 => RegionsError::NoSpace {
                        needed_bytes: 1,
                        free_bytes: 0,
                        node: (how == 2).then_some(1),
                    },
                    _ => return self.tell(Event::RegionsReady { op }),
                };
                self.tell(Event::RegionsFailed { op, error });
            }
            Step::Removed(back, how) => {
                let op = self.op(back, |action| match action {
                    Action::RemoveEpoch { op, .. } => Some(*op),
                    _ => None,
                });
                self.tell(match how {
                    0 | 1 => Event::EpochRemoved { op },
                    2 => Event::EpochInUse { op },
                    _ => Event::EpochRemoveFailed {
                        op,
                        error: "busy".to_owned(),
                    },
                });
            }
            _ => {}
        }
    }
}

#[test]
// spec: D-5-1, D-4.8-4, D-4.9-14, W-15.14-1
fn any_list_of_events_keeps_every_invariant() {
    let config = ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    // The same cases every time: a failure is a fault, never bad luck.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let steps = prop::collection::vec(step(), 50..200);
    let (mut granted, mut epochs) = (0u64, 0u64);
    let result = runner.run(&steps, |steps| {
        let config = spec(8, true).validate().expect("valid");
        let mut bench = Bench {
            driver: Driver::restore(config, &Restored::default()),
            now: 5_000_000_000,
            out: Vec::new(),
        };
        bench.tell(Event::Tick);
        for step in steps {
            bench.play(step);
            bench.driver.check();
        }
        let status = bench.driver.status();
        prop_assert!(status.leases + status.pending_attaches <= 6);
        prop_assert!(status.connections <= 3);
        prop_assert!(status.streams.len() <= 4);
        Ok(())
    });
    result.expect("no invariant breaks");
    // Not vacuous: the same generator gets leases and epochs.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    for _ in 0..40 {
        let steps = steps.new_tree(&mut runner).expect("a tree").current();
        let config = spec(8, true).validate().expect("valid");
        let mut bench = Bench {
            driver: Driver::restore(config, &Restored::default()),
            now: 5_000_000_000,
            out: Vec::new(),
        };
        for step in steps {
            bench.play(step);
        }
        let counters = bench.driver.status().counters;
        granted += counters.attaches.get("ok").copied().unwrap_or(0);
        epochs += counters.epochs.values().sum::<u64>();
    }
    assert!(
        granted > 30 && epochs > 30,
        "{granted} leases, {epochs} epochs"
    );
}
