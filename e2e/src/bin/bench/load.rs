//! A driver with 1,000 streams and 10,000 leases: how much of a core it takes for keeping them.
//!
//! The leases are held with bare messages on 250 connections: 1,000 producers, 9,000
//! consumers, each kept alive once a second, as the protocol's defaults have it. No relay runs. The
//! whole process counts: system calls, the embedded media driver and the file worker included. Beside
//! it stand the same driver with nobody attached, the same load with a QoS message of each lease every
//! second, which the driver forwards to the other side, and what a thread costs that only sleeps.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tensorpool_e2e::driver::{LocalDriver, Stream};
use tensorpool_transport::port::ClientPort;
use tensorpool_transport::socket::SocketClient;
use tensorpool_wire::{
    ClientId, CorrelationId, Epoch, HugepagesPolicy, LeaseId, LogicalStream, Message, Mode,
    MonoNanos, PublishMode, QosConsumer, QosProducer, ResponseCode, Role, Seq, ShmAttachRequest,
    ShmLeaseKeepalive, StreamId,
};

use crate::report::{Row, Target};

const STREAMS: u32 = 1_000;
const LEASES: u32 = 10_000;
/// A connection may hold 64 leases by default.
const CONNECTIONS: u32 = 250;
const FIRST_STREAM: u32 = 20_000;
/// Attaches that one connection has on their way at a time.
const ON_THEIR_WAY: usize = 8;
/// How long attaching all of them may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// A core's share that the driver may take, in percent.
const LIMIT_PERCENT: f64 = 5.0;

/// The rows of the load.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let span = Duration::from_secs(if quick { 3 } else { 10 });
    let nap = nap_cpu();
    let mut rows = vec![Row::value("a sleep of 4 ms, CPU", nap, "ns")];
    let name = format!("driver with {STREAMS} streams, {LEASES} leases");
    let plain = format!("driver with {STREAMS} streams, nobody attached");
    let talkative = format!("{name}, each with QoS every second");
    rows.push(match measure(None, span) {
        Ok(percent) => Row::value(plain, percent, "%"),
        Err(why) => Row::not_measured(plain, why),
    });
    rows.push(match measure(Some(Talk::Keepalives), span) {
        Ok(percent) => Row::against(
            name,
            (percent, "%"),
            LIMIT_PERCENT,
            Target::AtMost(LIMIT_PERCENT),
        ),
        Err(why) => Row::not_measured(name, why),
    });
    rows.push(match measure(Some(Talk::KeepalivesAndQos), span) {
        Ok(percent) => Row::value(talkative, percent, "%"),
        Err(why) => Row::not_measured(talkative, why),
    });
    rows
}

/// What each lease says once a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Talk {
    Keepalives,
    KeepalivesAndQos,
}

/// CPU time of one sleep as long as those of the duty cycle, in nanoseconds: where a driver with
/// little to do spends its time.
fn nap_cpu() -> f64 {
    const NAPS: u32 = 250;
    let before = thread_cpu();
    for _ in 0..NAPS {
        thread::sleep(Duration::from_millis(4));
    }
    (thread_cpu() - before).as_secs_f64() * 1e9 / f64::from(NAPS)
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanos)
}

/// Percent of a core that the driver took over the span, with all leases held or nobody attached.
fn measure(talk: Option<Talk>, span: Duration) -> Result<f64, String> {
    let streams: Vec<Stream> = (0..STREAMS).map(stream).collect();
    let driver = LocalDriver::start(Path::new("/dev/shm"), &streams)?;
    let mut clients = match talk {
        Some(talk) => attach_all(&driver, talk)?,
        None => Vec::new(),
    };
    hold(&mut clients, Duration::from_secs(2))?;
    let before = cpu_ticks(driver.id())?;
    let started = Instant::now();
    hold(&mut clients, span)?;
    let took = started.elapsed();
    let ticks = cpu_ticks(driver.id())? - before;
    drop(clients);
    driver.stop()?;
    let seconds = f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / ticks_per_second();
    Ok(100.0 * seconds / took.as_secs_f64())
}

fn attach_all(driver: &LocalDriver, talk: Talk) -> Result<Vec<Connection>, String> {
    let mut clients = (0..CONNECTIONS)
        .map(|index| Connection::open(&driver.socket(), index, talk))
        .collect::<Result<Vec<_>, String>>()?;
    let deadline = Instant::now() + PATIENCE;
    while clients.iter().any(|client| !client.is_complete()) {
        for client in &mut clients {
            client.work()?;
        }
        if Instant::now() > deadline {
            let held: usize = clients.iter().map(|client| client.held.len()).sum();
            return Err(format!(
                "after 120 s only {held} of {LEASES} leases were granted"
            ));
        }
    }
    Ok(clients)
}

fn stream(index: u32) -> Stream {
    Stream {
        name: format!("load-{index}"),
        id: FIRST_STREAM + index,
        slots: 8,
        stride_bytes: 64,
        descriptors: None,
    }
}

fn hold(clients: &mut [Connection], span: Duration) -> Result<(), String> {
    let until = Instant::now() + span;
    while Instant::now() < until {
        for client in &mut *clients {
            client.work()?;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A lease that is held, or asked for.
#[derive(Clone, Copy, Debug)]
struct Lease {
    stream: StreamId,
    client: ClientId,
    role: Role,
    id: LeaseId,
    epoch: Epoch,
    next_keepalive: Instant,
}

impl Lease {
    fn qos(&self) -> Message {
        match self.role {
            Role::Producer => Message::from(QosProducer {
                stream_id: self.stream,
                producer_id: self.client,
                epoch: self.epoch,
                current_seq: Seq(1),
                watermark: None,
            }),
            Role::Consumer | Role::Unknown(_) => Message::from(QosConsumer {
                stream_id: self.stream,
                consumer_id: self.client,
                epoch: self.epoch,
                last_seq_seen: Seq(1),
                drops_gap: 0,
                drops_late: 0,
                mode: Mode::Stream,
            }),
        }
    }
}

struct Connection {
    port: SocketClient,
    talk: Talk,
    /// Still to be asked for, the next one last.
    wanted: Vec<(StreamId, ClientId, Role)>,
    asked: Vec<(StreamId, ClientId, Role)>,
    held: Vec<Lease>,
    refused: Option<String>,
}

impl Connection {
    fn open(socket: &Path, index: u32, talk: Talk) -> Result<Self, String> {
        let port = SocketClient::connect(socket).map_err(|error| error.to_string())?;
        let mine = (0..LEASES)
            .filter(|lease| lease % CONNECTIONS == index)
            .rev();
        let wanted = mine.map(|lease| {
            let role = if lease < STREAMS {
                Role::Producer
            } else {
                Role::Consumer
            };
            (
                StreamId(FIRST_STREAM + lease % STREAMS),
                ClientId(lease + 1),
                role,
            )
        });
        Ok(Self {
            port,
            talk,
            wanted: wanted.collect(),
            asked: Vec::new(),
            held: Vec::new(),
            refused: None,
        })
    }

    fn is_complete(&self) -> bool {
        self.wanted.is_empty() && self.asked.is_empty()
    }

    /// Reads what came, asks for more, keeps alive what is held.
    fn work(&mut self) -> Result<(), String> {
        let Self {
            port,
            asked,
            held,
            refused,
            ..
        } = self;
        let polled = port.poll(&mut |inbound| {
            if let Ok(Message::ShmAttachResponse(answer)) = Message::decode(inbound.bytes) {
                let of_this = |(_, client, _): &(StreamId, ClientId, Role)| {
                    i64::from(client.get()) == answer.correlation_id.get()
                };
                let Some(at) = asked.iter().position(of_this) else {
                    return;
                };
                let (stream, client, role) = asked.swap_remove(at);
                match (answer.code, answer.lease_id.zip(answer.epoch)) {
                    (ResponseCode::Ok, Some((id, epoch))) => held.push(Lease {
                        stream,
                        client,
                        role,
                        id,
                        epoch,
                        next_keepalive: Instant::now() + Duration::from_millis(500),
                    }),
                    (code, _) => {
                        *refused = Some(format!("{code:?}: {}", answer.error_message));
                    }
                }
            }
        });
        polled.map_err(|dead| dead.to_string())?;
        if let Some(text) = refused {
            return Err(format!("an attach was refused: {text}"));
        }
        while self.asked.len() < ON_THEIR_WAY
            && let Some(next) = self.wanted.pop()
        {
            self.ask(next)?;
            self.asked.push(next);
        }
        self.keep_alive()
    }

    fn ask(&mut self, (stream, client, role): (StreamId, ClientId, Role)) -> Result<(), String> {
        let request = Message::from(ShmAttachRequest {
            correlation_id: CorrelationId(i64::from(client.get())),
            stream_id: stream,
            client_id: client,
            role,
            expected_layout_version: 0,
            publish_mode: Some(PublishMode::ExistingOrCreate),
            require_hugepages: HugepagesPolicy::Unspecified,
            desired_node_id: None,
        });
        let sent = self.port.send(LogicalStream::Control, &request.encode());
        sent.map_err(|error| error.to_string())
    }

    fn keep_alive(&mut self) -> Result<(), String> {
        let now = Instant::now();
        for lease in self
            .held
            .iter_mut()
            .filter(|lease| lease.next_keepalive <= now)
        {
            let keepalive = Message::from(ShmLeaseKeepalive {
                lease_id: lease.id,
                stream_id: lease.stream,
                client_id: lease.client,
                role: lease.role,
                client_timestamp_ns: monotonic(),
            });
            let sent = self.port.send(LogicalStream::Control, &keepalive.encode());
            sent.map_err(|error| error.to_string())?;
            if self.talk == Talk::KeepalivesAndQos {
                let sent = self.port.send(LogicalStream::Qos, &lease.qos().encode());
                sent.map_err(|error| error.to_string())?;
            }
            lease.next_keepalive += Duration::from_secs(1);
        }
        Ok(())
    }
}

/// CPU time of all threads of a process, in the kernel's ticks.
pub(crate) fn cpu_ticks(process: u32) -> Result<u64, String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))
        .map_err(|error| format!("process {process} is gone: {error}"))?;
    // The command's name, in brackets, may hold spaces; user and system time are fields 14 and 15.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = after_name
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    match (fields.get(11), fields.get(12)) {
        (Some(user), Some(system)) => Ok(user + system),
        (Some(_), None) | (None, _) => Err(format!("no CPU times for process {process}")),
    }
}

/// The unit of [`cpu_ticks`].
pub(crate) fn ticks_per_second() -> f64 {
    let ticks = rustix::param::clock_ticks_per_second();
    f64::from(u32::try_from(ticks).unwrap_or(100))
}

fn monotonic() -> MonoNanos {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    MonoNanos(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
}
