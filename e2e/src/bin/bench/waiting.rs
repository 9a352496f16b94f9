//! A consumer that waits for 30 frames per second: what it costs, and how fast it wakes, next to a
//! thread that sleeps on a bare futex and is woken between the frames.

mod futex;

use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, Timespec, clock_gettime};
use tensorpool_e2e::latency::{Percentiles, new_histogram, percentiles};
use tensorpool_e2e::machine::Machine;

use self::futex::Sleeper;
use crate::connect::{self, Way};
use crate::peer::{self, answer, next_order};
use crate::report::{Row, Target};

/// The stream of these frames.
pub(crate) const STREAM: &str = "waiting";
const PERIOD: Duration = Duration::from_nanos(33_333_333);
/// Percent of a core.
const CPU_LIMIT: f64 = 1.0;
const WAKE_LIMIT_NS: f64 = 100_000.0;
/// How much longer than the kernel alone a wake may take.
const BARE_LIMIT: f64 = 1.25;

/// The rows of waiting.
pub(crate) fn rows(machine: &Machine, way: &Way, quick: bool) -> Vec<Row> {
    match measure(machine, way, if quick { 90 } else { 900 }) {
        Ok(Waited { cpu, wake, bare }) => vec![
            Row::against(
                "waiting at 30 frames/s, consumer's CPU",
                (cpu, "%"),
                CPU_LIMIT,
                Target::AtMost(CPU_LIMIT),
            ),
            Row::value("waiting at 30 frames/s, wake p50", wake.p50, "ns"),
            Row::against(
                "waiting at 30 frames/s, wake p99",
                (wake.p99, "ns"),
                WAKE_LIMIT_NS,
                Target::AtMost(WAKE_LIMIT_NS),
            ),
            Row::value("bare futex between the frames, wake p50", bare.p50, "ns"),
            Row::value("bare futex between the frames, wake p99", bare.p99, "ns"),
            Row::against(
                "waiting at 30 frames/s, wake p50, against the bare futex",
                (wake.p50, "ns"),
                bare.p50,
                Target::AtMost(bare.p50 * BARE_LIMIT),
            ),
        ],
        Err(why) => vec![Row::not_measured("waiting at 30 frames/s", why)],
    }
}

/// What was seen of one waiting consumer.
#[derive(Debug)]
struct Waited {
    /// Percent of a core.
    cpu: f64,
    wake: Percentiles,
    /// The reference's.
    bare: Percentiles,
}

fn measure(machine: &Machine, way: &Way, frames: u32) -> Result<Waited, String> {
    let mut producer = connect::producer(way, STREAM)?;
    let mut arguments = way.arguments();
    arguments.push(frames.to_string());
    let mut peer = peer::start("waiting", machine.there, &arguments)?;
    peer.expect("idle")?;
    peer.tell("go")?;
    peer.expect("ready")?;
    let sleeper = Sleeper::start(machine);
    let mut next = Instant::now();
    for _ in 0..frames {
        next += PERIOD / 2;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        sleeper.wake()?;
        next += PERIOD / 2;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        producer
            .publish(&[7; 64])
            .map_err(|error| connect::words(&error))?;
    }
    let bare = sleeper.end()?;
    let said = peer.expect("done")?;
    let numbers: Vec<f64> = said
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(f64::NAN))
        .collect();
    let [cpu, p50, p99, p999] = numbers.as_slice() else {
        return Err(format!("the waiting peer said `{said}`"));
    };
    let wake = Percentiles {
        p50: *p50,
        p99: *p99,
        p999: *p999,
    };
    Ok(Waited {
        cpu: *cpu,
        wake,
        bare,
    })
}

/// The waiting end.
pub(crate) fn serve(arguments: &[&str]) -> Result<(), String> {
    let (way, rest) = Way::parse(arguments)?;
    let [frames] = rest else {
        return Err("the waiting peer needs a number".to_owned());
    };
    let frames: u32 = frames
        .parse()
        .map_err(|error| format!("{frames}: {error}"))?;
    let mut consumer = connect::consumer(&way, STREAM)?;
    answer("idle")?;
    while next_order().is_some() {
        answer("ready")?;
        let (cpu, started) = (clock(ClockId::ProcessCPUTime), Instant::now());
        let mut wakes: Histogram<u64> = new_histogram()?;
        let mut seen = 0;
        while seen < frames {
            let frame = consumer.wait(Duration::from_secs(5));
            let frame = frame.map_err(|error| connect::words(&error))?;
            let frame = frame.ok_or("no frame for 5 s")?;
            let now = clock(ClockId::Monotonic);
            if let Some(sent) = frame.timestamp_ns() {
                wakes.saturating_record(now.saturating_sub(sent.get()).max(1));
            }
            seen += 1;
        }
        let busy = Duration::from_nanos(clock(ClockId::ProcessCPUTime) - cpu);
        let percent = 100.0 * busy.as_secs_f64() / started.elapsed().as_secs_f64();
        let wake = percentiles(&wakes);
        answer(&format!(
            "done {percent} {} {} {}",
            wake.p50, wake.p99, wake.p999
        ))?;
    }
    Ok(())
}

fn clock(id: ClockId) -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
    let seconds = u64::try_from(tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(tv_nsec).unwrap_or(0)
}
