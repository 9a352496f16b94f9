//! What consumers cost the producer: its thread's CPU time per frame with one, two and four of
//! them, each spinning on a core of its own.

use rustix::time::{ClockId, clock_gettime};
use tensorpool_client::Producer;

use crate::connect::{self, Way};
use crate::latency::spin_until;
use crate::machine::Machine;
use crate::peer::{Peer, answer, next_order};
use crate::report::{Row, Target};
use crate::trips::REST;

/// The stream of these frames.
pub(crate) const STREAM: &str = "fan-out";
/// Bytes of a frame.
pub(crate) const LEN: usize = 4096;
const CONSUMERS: [usize; 3] = [1, 2, 4];
/// More consumers may cost this much more than one.
const FACTOR: f64 = 1.10;

/// The rows for one, two and four consumers.
pub(crate) fn rows(machine: &Machine, way: &Way, quick: bool) -> Vec<Row> {
    let frames = if quick { 50_000 } else { 1_000_000 };
    let mut producer = match connect::producer(way, STREAM) {
        Ok(producer) => producer,
        Err(why) => return vec![Row::not_measured("producer's CPU per frame", why)],
    };
    let mut rows = Vec::new();
    let mut one: Option<f64> = None;
    for consumers in CONSUMERS {
        let name = format!("producer's CPU per frame, {consumers} consumers");
        let row = if machine.cores <= consumers {
            Row::not_measured(name, format!("{} cores", machine.cores))
        } else {
            match measure(machine, way, &mut producer, consumers, frames) {
                Err(why) => Row::not_measured(name, why),
                Ok(nanos) => match one {
                    None => {
                        one = Some(nanos);
                        Row::value(name, nanos, "ns")
                    }
                    Some(one) => {
                        Row::against(name, (nanos, "ns"), one, Target::AtMost(one * FACTOR))
                    }
                },
            }
        };
        rows.push(row);
    }
    rows
}

fn measure(
    machine: &Machine,
    way: &Way,
    producer: &mut Producer,
    consumers: usize,
    frames: u32,
) -> Result<f64, String> {
    let mut peers = Vec::new();
    for core in machine.others().into_iter().take(consumers) {
        let mut peer = Peer::start("fan-out", core, &way.arguments())?;
        peer.expect("idle")?;
        peer.tell("go")?;
        peer.expect("ready")?;
        peers.push(peer);
    }
    let mut payload = vec![3_u8; LEN];
    let before = thread_cpu_ns();
    for _ in 0..frames {
        send(producer, &payload)?;
    }
    let took = thread_cpu_ns() - before;
    if let Some(head) = payload.first_chunk_mut::<8>() {
        *head = REST.to_le_bytes();
    }
    send(producer, &payload)?;
    for peer in &mut peers {
        peer.expect("idle")?;
    }
    let took = f64::from(u32::try_from(took / 1000).unwrap_or(u32::MAX)) * 1000.0;
    Ok(took / f64::from(frames))
}

fn send(producer: &mut Producer, payload: &[u8]) -> Result<(), String> {
    let sent = producer.publish(payload);
    sent.map(drop).map_err(|error| connect::words(&error))
}

/// A consumer that takes every frame until the one that sends it to rest.
pub(crate) fn serve(arguments: &[&str]) -> Result<(), String> {
    let (way, _) = Way::parse(arguments)?;
    let mut consumer = connect::consumer(&way, STREAM)?;
    answer("idle")?;
    while next_order().is_some() {
        answer("ready")?;
        spin_until(|| {
            let frame = consumer.next().map_err(|error| connect::words(&error))?;
            let Some(frame) = frame else { return Ok(false) };
            let mut head = [0; 8];
            // A frame that is overwritten meanwhile is not the last one.
            let read = frame.bytes().copy_range_to(0, &mut head).is_ok();
            Ok(read && u64::from_le_bytes(head) == REST)
        })?;
        answer("idle")?;
    }
    Ok(())
}

fn thread_cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
