//! Status on the socket: one JSON document per stream, then `{"end":true}`.
//!
//! The documents are an interface of their own, so they are made of structs of their own and not of
//! the core's. A document fits one packet: lists are cut at a limit, beside which their full length
//! stands.

// spec: X-2-50, X-2-51, X-2-52

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use tensorpool_driver_core::{
    ConsumerStatus, Lifecycle, ProducerStatus, StatusSnapshot, StreamStatus, Way,
};
use tensorpool_wire::{ConnectionId, MonoNanos};

use crate::counters::{Counters, ReportedDrops, WayIn};

/// Consumers in one document.
const CONSUMERS_SHOWN: usize = 200;
/// Epochs in one document.
const EPOCHS_SHOWN: usize = 64;
/// Bytes sent to one asker per millisecond, so that one who reads keeps up.
const BYTES_PER_MS: usize = 64 * 1024;
const MS: u64 = 1_000_000;

/// The packet that ends an answer.
pub const END: &str = r#"{"end":true}"#;

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDocument {
    /// The driver that answers.
    pub driver: DriverDocument,
    /// The stream's id.
    pub stream_id: u32,
    /// Its configured name, empty for a dynamic stream.
    pub name: String,
    /// Its namespace in a cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its class in a cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub class: String,
    /// Whether a client brought it into being.
    pub dynamic: bool,
    /// `absent`, `provisioning`, `ready` or `failed`.
    pub phase: String,
    /// The announced epoch.
    pub epoch: Option<u64>,
    /// Why the last attempt to make an epoch failed.
    pub error: Option<String>,
    /// It could not get memory, and comes before streams of lower priority for a while.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_for_memory: bool,
    /// Slots of the ring.
    pub nslots: u32,
    /// Directory of the announced epoch.
    pub directory: String,
    /// The producer.
    pub producer: Option<ProducerDocument>,
    /// How many consumers there are.
    pub consumers_total: usize,
    /// The first of them.
    pub consumers: Vec<ConsumerDocument>,
    /// Attaches that wait for files.
    pub pending_attaches: u32,
    /// Frames missed, by reason: the sums of what consumers report (`gap`, `late`), and what the relay
    /// to Aeron dropped (`relay_...`).
    pub drops: BTreeMap<String, u64>,
    /// Of these, what consumers report, by their way in and reason.
    pub drops_by_way: BTreeMap<String, BTreeMap<String, u64>>,
    /// Descriptors relayed to Aeron.
    pub relayed: u64,
    /// Bytes of all epochs.
    pub memory_bytes: u64,
    /// The epochs, oldest first.
    pub memory: Vec<EpochDocument>,
}

/// The driver, repeated in each document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverDocument {
    /// `driver.instance_id`.
    pub instance_id: String,
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// `running`, `draining` or `stopped`.
    pub lifecycle: String,
    /// CLOCK_MONOTONIC of the answer, in nanoseconds.
    pub now_ns: u64,
    /// Live leases.
    pub leases: u32,
    /// Open connections.
    pub connections: u32,
    /// Bytes of all epochs.
    pub memory_bytes: u64,
}

/// A stream's producer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerDocument {
    /// Its client id.
    pub client_id: u32,
    /// `socket` or `aeron`.
    pub way: String,
    /// Its process on a socket, `-` on Aeron.
    pub pid: String,
    /// Frames of this epoch, as it last reported.
    pub frames: Option<u64>,
    /// When it reported.
    pub reported_at_ns: Option<u64>,
    /// When its lease ends without a keepalive.
    pub expires_at_ns: u64,
}

/// One consumer of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerDocument {
    /// Its client id.
    pub client_id: u32,
    /// `socket` or `aeron`.
    pub way: String,
    /// Its process on a socket, `-` on Aeron.
    pub pid: String,
    /// Last frame that it saw, as it last reported.
    pub last_seq: Option<u64>,
    /// Frames that it never saw.
    pub drops_gap: Option<u64>,
    /// Frames that were overwritten under it.
    pub drops_late: Option<u64>,
    /// When it reported.
    pub reported_at_ns: Option<u64>,
    /// When its lease ends without a keepalive.
    pub expires_at_ns: u64,
}

/// One epoch's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochDocument {
    /// Which epoch.
    pub epoch: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Whether it is the announced one.
    pub current: bool,
}

/// All documents of one answer.
#[must_use]
pub fn documents(snapshot: &StatusSnapshot, counters: &Counters) -> Vec<StreamDocument> {
    let driver = DriverDocument {
        instance_id: snapshot.instance_id.clone(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lifecycle: match snapshot.lifecycle {
            Lifecycle::Running => "running",
            Lifecycle::Draining { .. } => "draining",
            Lifecycle::Stopped => "stopped",
        }
        .to_owned(),
        now_ns: snapshot.now.get(),
        leases: snapshot.leases,
        connections: snapshot.connections,
        memory_bytes: snapshot.memory_bytes,
    };
    snapshot
        .streams
        .iter()
        .map(|stream| document(&driver, stream, counters))
        .collect()
}

fn document(driver: &DriverDocument, stream: &StreamStatus, counters: &Counters) -> StreamDocument {
    StreamDocument {
        driver: driver.clone(),
        stream_id: stream.stream_id.get(),
        name: stream.name.clone(),
        namespace: stream.namespace.clone(),
        class: stream.class.clone(),
        dynamic: stream.dynamic,
        phase: stream.phase.label().to_owned(),
        epoch: stream.epoch.map(|epoch| epoch.get()),
        error: stream.error.clone(),
        waits_for_memory: stream.waits_for_memory,
        nslots: stream.nslots,
        directory: stream.directory.clone(),
        producer: stream.producer.as_ref().map(producer),
        consumers_total: stream.consumers.len(),
        consumers: stream
            .consumers
            .iter()
            .take(CONSUMERS_SHOWN)
            .map(consumer)
            .collect(),
        pending_attaches: stream.pending_attaches,
        drops: drops(stream, counters),
        drops_by_way: WayIn::ALL
            .map(|way| (way.label().to_owned(), reported_drops(stream, way)))
            .into(),
        relayed: counters
            .relayed
            .get(&stream.stream_id)
            .copied()
            .unwrap_or(0),
        memory_bytes: stream.memory.iter().map(|epoch| epoch.bytes).sum(),
        memory: stream
            .memory
            .iter()
            .rev()
            .take(EPOCHS_SHOWN)
            .rev()
            .map(|epoch| EpochDocument {
                epoch: epoch.epoch.get(),
                bytes: epoch.bytes,
                current: epoch.current,
            })
            .collect(),
    }
}

/// What the consumers of one way report.
fn reported_drops(stream: &StreamStatus, way: WayIn) -> BTreeMap<String, u64> {
    let drops = ReportedDrops::of(stream, way);
    [("gap", drops.gap), ("late", drops.late)]
        .map(|(reason, count)| (reason.to_owned(), count))
        .into()
}

fn drops(stream: &StreamStatus, counters: &Counters) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for way in WayIn::ALL {
        for (reason, count) in reported_drops(stream, way) {
            *drops.entry(reason).or_default() += count;
        }
    }
    for ((id, reason), count) in &counters.relay_drops {
        if *id == stream.stream_id {
            drops.insert(
                format!("relay_{}", reason.trim_start_matches("relay_")),
                *count,
            );
        }
    }
    drops
}

fn way(way: Way) -> (String, String) {
    match way {
        Way::Aeron => ("aeron".into(), "-".into()),
        Way::Socket { pid, .. } => ("socket".into(), pid.to_string()),
    }
}

fn producer(producer: &ProducerStatus) -> ProducerDocument {
    let (way, pid) = way(producer.way);
    ProducerDocument {
        client_id: producer.client.get(),
        way,
        pid,
        frames: producer.frames,
        reported_at_ns: producer.qos_at.map(MonoNanos::get),
        expires_at_ns: producer.expiry.get(),
    }
}

fn consumer(consumer: &ConsumerStatus) -> ConsumerDocument {
    let (way, pid) = way(consumer.way);
    ConsumerDocument {
        client_id: consumer.client.get(),
        way,
        pid,
        last_seq: consumer.qos.map(|qos| qos.last_seq),
        drops_gap: consumer.qos.map(|qos| qos.drops_gap),
        drops_late: consumer.qos.map(|qos| qos.drops_late),
        reported_at_ns: consumer.qos.map(|qos| qos.at.get()),
        expires_at_ns: consumer.expiry.get(),
    }
}

/// Answers on their way, paced so that a large one does not overflow its asker's backlog.
#[derive(Debug, Default)]
pub struct Answers {
    waiting: BTreeMap<ConnectionId, Answer>,
}

#[derive(Debug)]
struct Answer {
    packets: VecDeque<String>,
    next: MonoNanos,
}

impl Answers {
    /// Queues an answer. A second question before the end of the first answer is answered after it,
    /// from the newest state; a third replaces the second.
    pub fn add(&mut self, to: ConnectionId, documents: &[StreamDocument]) {
        let mut packets: VecDeque<String> = documents
            .iter()
            .map(|document| serde_json::to_string(document).expect("plain data serialises"))
            .collect();
        packets.push_back(END.to_owned());
        let answer = self.waiting.entry(to).or_insert(Answer {
            packets: VecDeque::new(),
            next: MonoNanos(0),
        });
        let first_end = answer.packets.iter().position(|packet| packet == END);
        answer.packets.truncate(first_end.map_or(0, |end| end + 1));
        answer.packets.append(&mut packets);
    }

    /// Forgets a connection that is gone.
    pub fn remove(&mut self, connection: ConnectionId) {
        self.waiting.remove(&connection);
    }

    /// Hands out what may go now. `send` returns whether the connection still takes packets.
    pub fn work(&mut self, now: MonoNanos, send: &mut dyn FnMut(ConnectionId, &str) -> bool) {
        self.waiting.retain(|connection, answer| {
            if now < answer.next {
                return true;
            }
            let mut sent = 0;
            while sent < BYTES_PER_MS
                && let Some(packet) = answer.packets.pop_front()
            {
                sent += packet.len();
                if !send(*connection, &packet) {
                    return false;
                }
            }
            answer.next = now.saturating_add(MS);
            !answer.packets.is_empty()
        });
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
