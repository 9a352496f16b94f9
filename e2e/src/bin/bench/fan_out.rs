//! What consumers cost the producer: its thread's CPU time per frame with one, two and four of
//! them, each spinning on a core of its own.

use rustix::time::{ClockId, clock_gettime};
use tensorpool_client::Producer;
use tensorpool_e2e::latency::spin_until;
use tensorpool_e2e::machine::Machine;
use tensorpool_e2e::peer::Peer;

use crate::connect::{self, Way};
use crate::peer::{self, answer, next_order};
use crate::report::{Row, Target};
use crate::trips::REST;

/// The stream of these frames.
pub(crate) const STREAM: &str = "fan-out";
/// Bytes of a frame.
pub(crate) const LEN: usize = 4096;
const CONSUMERS: [usize; 3] = [1, 2, 4];
/// More consumers may cost this much more than one.
const FACTOR: f64 = 1.10;

/// The rows for one, two and four consumers, which take turns in every round.
pub(crate) fn rows(machine: &Machine, way: &Way, quick: bool) -> Vec<Row> {
    let (rounds, frames) = if quick { (9, 20_000) } else { (15, 100_000) };
    let name = |consumers| format!("producer's CPU per frame, {consumers} consumers");
    let (runnable, others): (Vec<usize>, Vec<usize>) =
        CONSUMERS.iter().partition(|count| **count < machine.cores);
    let mut rows = match measure(machine, way, &runnable, (rounds, frames)) {
        Err(why) => vec![Row::not_measured("producer's CPU per frame", why)],
        Ok(medians) => {
            let one = medians.first().copied();
            let row = |(count, nanos): (&usize, &f64)| match one {
                Some(one) if *count > 1 => Row::against(
                    name(*count),
                    (*nanos, "ns"),
                    one,
                    Target::AtMost(one * FACTOR),
                ),
                Some(_) | None => Row::value(name(*count), *nanos, "ns"),
            };
            runnable.iter().zip(&medians).map(row).collect()
        }
    };
    rows.extend(
        others
            .into_iter()
            .map(|count| Row::not_measured(name(count), format!("{} cores", machine.cores))),
    );
    rows
}

/// The median of all rounds for each number of consumers.
fn measure(
    machine: &Machine,
    way: &Way,
    counts: &[usize],
    (rounds, frames): (usize, u32),
) -> Result<Vec<f64>, String> {
    let mut producer = connect::producer(way, STREAM)?;
    let most = counts.iter().copied().max().unwrap_or(0);
    let mut peers = Vec::new();
    for core in machine.others().into_iter().take(most) {
        let mut peer = peer::start("fan-out", core, &way.arguments())?;
        peer.expect("idle")?;
        peers.push(peer);
    }
    let mut series = vec![Vec::new(); counts.len()];
    for _ in 0..rounds {
        for (count, turns) in counts.iter().zip(&mut series) {
            // The others wait for their turn in a blocking read.
            let reading = peers.get_mut(..*count).ok_or("a consumer without a core")?;
            turns.push(turn(&mut producer, reading, frames)?);
        }
    }
    let median = |mut turns: Vec<f64>| {
        turns.sort_by(f64::total_cmp);
        turns.get(turns.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Ok(series.into_iter().map(median).collect())
}

/// CPU time of this thread per frame while these consumers read.
fn turn(producer: &mut Producer, peers: &mut [Peer], frames: u32) -> Result<f64, String> {
    for peer in &mut *peers {
        peer.tell("go")?;
        peer.expect("ready")?;
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
    for peer in peers {
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
