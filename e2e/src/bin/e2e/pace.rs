//! How long frames take between two pods, beside two processes of the same node, in the same run.
//!
//! The same static program (`client/examples/pace.rs`) does both: in two pods of a restricted namespace,
//! through the chart's driver, and as two processes of the node, in no pod, through a stand-alone driver
//! on huge pages of its own. Each pair has one process on each of the same two cores; while one has its
//! turn the other waits for orders. A frame that is lost or has another byte fails the run. How much
//! longer pods take is said, and fails it only where that is asked for: a machine that does other things
//! meanwhile is no place for it.

mod pair;
mod place;

use std::thread;

use tensorpool_e2e::cache_line::CacheLine;
use tensorpool_e2e::distance::Distance;
use tensorpool_e2e::latency::{self, Measured, Percentiles};
use tensorpool_e2e::machine::{Machine, pin};

use crate::report::Report;
use crate::world::World;
use pair::Pair;

/// Pods may take so much longer where a run is strict.
const MOST: f64 = 1.10;
/// How often each series has its turn.
const ROUNDS: u32 = 30;
const ROUNDS_STRICT: u32 = 240;
/// A pair has other memory after so many turns of each kind: which physical pages it got decides by half
/// how long large frames take, for pods as for processes of the node.
const TURNS: u32 = 5;
/// Small frames of a turn, there and back.
const TRIPS: usize = 3_000;
/// So many of them come before those that are measured.
const WARM_UP: usize = 1_000;
/// Large frames of a turn.
const BULK: usize = 96;
/// So many of them come before those that are measured: what brought the order to a pod, half a dozen
/// processes with buffers between them, still has to do on the same cores when the first are on their way.
const BULK_WARM_UP: usize = 32;
/// Large frames that are one measurement: fewer than another program's turn would spoil.
const GROUP: u16 = 8;
/// The series: a host's turn and a pod's, of each kind.
const SERIES: [&str; 4] = ["trips, node", "trips, pods", "bulk, node", "bulk, pods"];

/// Two pods beside two processes.
pub(crate) fn run(world: &World, report: &mut Report) {
    let what = "frames between pods are whole; how long they take beside processes of the node";
    report.step(what, || {
        let machine = Machine::find()?;
        println!("{machine}");
        let outcome = place::with_both_pairs(world, &machine, |pairs| {
            // Who answers is attached.
            for pair in &mut *pairs {
                pair.greet()?;
            }
            measure(world, &machine, pairs)?;
            place::of_huge_pages(world)
        });
        let cleared = place::clear(world);
        outcome.and(cleared)
    });
}

fn measure(world: &World, machine: &Machine, pairs: &mut [Pair; 2]) -> Result<(), String> {
    // Nothing but this thread is pinned.
    let measured = thread::scope(|scope| {
        let turns = scope.spawn(|| turns(world.is_strict(), machine, pairs));
        let ended = turns.join();
        ended.map_err(|_| "the thread that measures panicked".to_owned())?
    })?;
    for pair in pairs {
        match pair.lost()? {
            0 => {}
            frames => {
                return Err(format!(
                    "{frames} frames were lost between the {}",
                    pair.name
                ));
            }
        }
    }
    println!("{}", measured.distance);
    compare(world.is_strict(), &measured)
}

fn turns(is_strict: bool, machine: &Machine, pairs: &mut [Pair; 2]) -> Result<Measured, String> {
    pin(machine.here)?;
    let mut gauge = CacheLine::new(machine);
    let names = SERIES.map(str::to_owned);
    let rounds = if is_strict { ROUNDS_STRICT } else { ROUNDS };
    let mut wrong = None;
    let measured = latency::interleave(&mut gauge, &names, rounds, Distance::commonest, |place| {
        let pair = &mut pairs[place % 2];
        let nanos = pair.anew_after(2 * TURNS).and_then(|()| match place {
            0 | 1 => pair.trips(TRIPS, WARM_UP),
            _bulk => pair.bulk(BULK, BULK_WARM_UP, GROUP.into()),
        });
        nanos.inspect_err(|why| wrong = Some(why.clone()))
    })?;
    wrong.map_or(Ok(measured), Err)
}

/// One line for each kind. Fails in a strict run where pods take longer, or nothing can be said.
fn compare(is_strict: bool, measured: &Measured) -> Result<(), String> {
    let found = |place: usize| measured.series[place].1.as_ref();
    let mut slow = Vec::new();
    for (kind, place) in [("round trip of 64 bytes", 0), ("8 frames of 1 MiB", 2)] {
        let (node, pods) = match (found(place), found(place + 1)) {
            (Ok(node), Ok(pods)) => (node, pods),
            (Err(why), _) | (_, Err(why)) => {
                println!("{kind}: nothing to say: {why}");
                slow.push(format!("{kind}: {why}"));
                continue;
            }
        };
        let ratio = pods.p50 / node.p50;
        println!("{kind}, node: {}", described(node, place));
        println!("{kind}, pods: {}", described(pods, place));
        println!(
            "{kind}, pods beside node: {ratio:.2} (p99 {:.2})",
            pods.p99 / node.p99
        );
        if ratio > MOST {
            slow.push(format!(
                "{kind}: pods take {ratio:.2} times as long, at most {MOST} is right"
            ));
        }
    }
    if is_strict && !slow.is_empty() {
        return Err(slow.join("\n"));
    }
    Ok(())
}

fn described(found: &Percentiles, place: usize) -> String {
    let Percentiles { p50, p99, p999 } = found;
    match place {
        0 => format!("p50 {p50:.0} ns, p99 {p99:.0} ns, p99.9 {p999:.0} ns"),
        _bulk => {
            let bytes = f64::from(GROUP) * 1_048_576.0;
            format!("p50 {:.2} GB/s, p99 {:.2} GB/s", bytes / p50, bytes / p99)
        }
    }
}
