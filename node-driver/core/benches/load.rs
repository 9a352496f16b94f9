//! What the decisions cost: 1,000 streams and 10,000 leases over ten seconds of protocol time.
//!
//! Prints one line: the share of one core that handling takes, without I/O. Encoding of requests is
//! part of the set-up, decoding is measured.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads the clock"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tensorpool_driver_core::config::Access;
use tensorpool_driver_core::config::{
    Base, ConfigSpec, ConsumerRules, Gc, Identity, Limits, PolicySpec, PoolSpec, Profile,
    StreamSpec, Timing,
};
use tensorpool_driver_core::{Action, Driver, Event};
use tensorpool_wire::{
    ClientId, ConnectionId, CorrelationId, HugepagesPolicy, LogicalStream, Message, Mode,
    MonoNanos, Origin, PoolId, QosConsumer, Role, Seq, ShmAttachRequest, ShmLeaseKeepalive,
    StreamId,
};

const STREAMS: u32 = 1_000;
/// One producer and nine consumers each.
const LEASES_PER_STREAM: u32 = 10;
const SECONDS: u64 = 10;
const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

struct Client {
    origin: Origin,
    keepalive: Vec<u8>,
    qos: Option<Vec<u8>>,
}

fn main() {
    let mut driver = Driver::new(config());
    let mut now = 1_000 * SECOND;
    let mut out = Vec::new();
    driver.handle(MonoNanos(now), Event::Tick, &mut out);
    let clients = attach_all(&mut driver, &mut now);
    let leases = driver.status().leases;
    assert_eq!(leases, STREAMS * LEASES_PER_STREAM, "everybody is attached");

    let mut spent = Duration::ZERO;
    let mut messages = 0u64;
    let mut actions = 0u64;
    let first = now;
    let per_cycle = clients.len() / 1_000;
    while now < first + SECONDS * SECOND {
        now += MS;
        let cycle = usize::try_from((now - first) / MS % 1_000).unwrap_or(0);
        let begun = Instant::now();
        for client in &clients[cycle * per_cycle..(cycle + 1) * per_cycle] {
            messages += deliver(&mut driver, now, client, &mut out);
        }
        driver.handle(MonoNanos(now), Event::Tick, &mut out);
        actions += out.len() as u64;
        out.clear();
        spent += begun.elapsed();
    }
    assert_eq!(driver.status().leases, leases, "nobody was lost");
    let percent = spent.as_secs_f64() / Duration::from_secs(SECONDS).as_secs_f64() * 100.0;
    println!(
        "driver core: {STREAMS} streams, {leases} leases, {messages} messages and {actions} actions in {SECONDS} s: {percent:.2} % of a core"
    );
}

fn deliver(driver: &mut Driver, now: u64, client: &Client, out: &mut Vec<Action>) -> u64 {
    let keepalive = Event::Message {
        origin: client.origin,
        stream: LogicalStream::Control,
        bytes: &client.keepalive,
    };
    driver.handle(MonoNanos(now), keepalive, out);
    let Some(qos) = &client.qos else { return 1 };
    let qos = Event::Message {
        origin: client.origin,
        stream: LogicalStream::Qos,
        bytes: qos,
    };
    driver.handle(MonoNanos(now), qos, out);
    2
}

/// Half of the clients are on Aeron, half on a socket each.
fn attach_all(driver: &mut Driver, now: &mut u64) -> Vec<Client> {
    let mut clients = Vec::new();
    for stream in 0..STREAMS {
        for member in 0..LEASES_PER_STREAM {
            let client = stream * LEASES_PER_STREAM + member + 1;
            clients.push(attach(
                driver,
                *now,
                StreamId(10_000 + stream),
                client,
                member == 0,
            ));
        }
        *now += MS / 10;
    }
    clients
}

fn attach(driver: &mut Driver, now: u64, stream: StreamId, client: u32, produces: bool) -> Client {
    let mut out = Vec::new();
    let origin = if client.is_multiple_of(2) {
        let connection = ConnectionId(u64::from(client));
        let opened = Event::ConnectionOpened {
            connection,
            access: Access::everything(),
            pid: 1,
            uid: 1,
        };
        driver.handle(MonoNanos(now), opened, &mut out);
        Origin::Socket { connection }
    } else {
        Origin::Aeron { session: 1 }
    };
    let role = if produces {
        Role::Producer
    } else {
        Role::Consumer
    };
    let request = ShmAttachRequest {
        correlation_id: CorrelationId(i64::from(client)),
        stream_id: stream,
        client_id: ClientId(client),
        role,
        expected_layout_version: 1,
        publish_mode: None,
        require_hugepages: HugepagesPolicy::Unspecified,
        desired_node_id: None,
    };
    let event = Event::Message {
        origin,
        stream: LogicalStream::Control,
        bytes: &request.encode(),
    };
    driver.handle(MonoNanos(now), event, &mut out);
    let mut done = 0;
    while let Some(action) = out.get(done) {
        done += 1;
        let event = match action {
            Action::PersistEpoch { op, .. } => Event::EpochPersisted { op: *op },
            Action::CreateRegions { op, .. } => Event::RegionsReady { op: *op },
            _ => continue,
        };
        driver.handle(MonoNanos(now), event, &mut out);
    }
    let answer = out.iter().find_map(|action| match action {
        Action::Send {
            message: Message::ShmAttachResponse(answer),
            ..
        } => Some(answer),
        _ => None,
    });
    let answer = answer.expect("every attach is answered");
    let keepalive = ShmLeaseKeepalive {
        lease_id: answer.lease_id.expect("OK has it"),
        stream_id: stream,
        client_id: ClientId(client),
        role,
        client_timestamp_ns: MonoNanos(now),
    };
    let qos = QosConsumer {
        stream_id: stream,
        consumer_id: ClientId(client),
        epoch: answer.epoch.expect("OK has it"),
        last_seq_seen: Seq(1),
        drops_gap: 0,
        drops_late: 0,
        mode: Mode::Stream,
    };
    Client {
        origin,
        keepalive: keepalive.encode(),
        qos: (!produces).then(|| qos.encode()),
    }
}

fn config() -> tensorpool_driver_core::Config {
    let profile = Profile {
        header_nslots: 1_024,
        pools: vec![PoolSpec {
            pool_id: PoolId(1),
            stride_bytes: 65_536,
        }],
    };
    let streams = (0..STREAMS)
        .map(|index| StreamSpec {
            name: format!("stream-{index}"),
            stream_id: StreamId(10_000 + index),
            profile: "p".to_owned(),
            tags: vec![],
            ..StreamSpec::default()
        })
        .collect();
    let spec = ConfigSpec {
        identity: Identity {
            instance_id: "bench".to_owned(),
            bases: vec![Base {
                name: String::new(),
                directory: "/dev/shm".to_owned(),
                hugepages: false,
                page_size_bytes: 4_096,
            }],
            user: "bench".to_owned(),
            namespace: "default".to_owned(),
            control_channel: "aeron:ipc".to_owned(),
            control_stream_id: 1_000,
            other_stream_ids: vec![],
        },
        timing: Timing::default(),
        gc: Gc::default(),
        limits: Limits {
            connections: 16_384,
            ..Limits::default()
        },
        shutdown_token: String::new(),
        first_lease_id: 1,
        policy: PolicySpec {
            profiles: BTreeMap::from([("p".to_owned(), profile)]),
            default_profile: None,
            allow_dynamic_streams: false,
            stream_id_range: None,
            descriptor_stream_id_range: None,
            control_stream_id_range: None,
            streams,
            consumers: ConsumerRules::default(),
            ..PolicySpec::default()
        },
    };
    spec.validate()
        .expect("the benchmark's configuration is valid")
}
