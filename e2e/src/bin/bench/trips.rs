//! The series of round trips: ours, and the references that they are held against.

use std::time::Duration;

use tensorpool_e2e::cache_line::{CACHE_LINE, CacheLine};
use tensorpool_e2e::distance::Distance;
use tensorpool_e2e::driver::LocalDriver;
use tensorpool_e2e::latency::{self, Amount, Percentiles, RoundTrip};
use tensorpool_e2e::machine::Machine;

use crate::connect::{By, Way};
use crate::copy;
use crate::quiet;
use crate::report::{Row, Target};

use aeron::{BARE_AERON, BareAeron};
use aeron_lines::{AERON_AND_LINES, AeronLines};
use frames::{Frames, Payload};
use iceoryx::{ICEORYX, Iceoryx};
use two_lines::{TWO_LINES, TWO_LINES_AND_TIME, TwoLines};

pub(crate) mod aeron;
pub(crate) mod aeron_lines;
pub(crate) mod frames;
pub(crate) mod iceoryx;
pub(crate) mod two_lines;

/// First eight bytes of a message that sends the peer to rest.
pub(crate) const REST: u64 = u64::MAX;

/// Sets a series up: its memory, its peer, its connections.
type Make<'a> = Box<dyn Fn() -> Result<Box<dyn RoundTrip>, String> + 'a>;
/// The series that is the reference, and the largest median that its own allows.
type Bound = (&'static str, fn(f64) -> f64);

/// Names of the series, as the table has them.
const RING: &str = "ring, 64 bytes";
const DESCRIPTORS: &str = "descriptors over Aeron, 64 bytes";
const RELAYED: &str = "socket to Aeron, relayed, 64 bytes";
const SMALL: Payload = Payload {
    len: 64,
    touched: 64,
};
/// How often each series is set up anew. Which physical pages it got decides by some 15 % how long a
/// round trip takes.
const PLACEMENTS: usize = 6;

/// The rows of all series.
pub(crate) fn rows(
    machine: &Machine,
    driver: &LocalDriver,
    quick: bool,
) -> Result<Vec<Row>, String> {
    let rounds: u32 = if quick { 100 } else { 600 };
    let amount = Amount {
        trips: 2_000,
        warm_up: 1_100,
        longest: Duration::from_millis(4),
    };
    let makes = series(machine, driver);
    let names: Vec<String> = makes.iter().map(|(name, _)| name.clone()).collect();
    let mut placed: Vec<Placed> = names.iter().map(|_| Placed::default()).collect();
    let turns = usize::try_from(rounds).unwrap_or(1).div_ceil(PLACEMENTS);
    let mut gauge = CacheLine::new(machine);
    let measured = latency::interleave(&mut gauge, &names, rounds, Distance::farthest, |place| {
        let series = placed[place].or_anew(&makes[place].1, turns)?;
        latency::turn(series, amount)
    })?;
    println!("round trips: {}", measured.distance);
    let mut rows = Vec::new();
    for (name, outcome) in &measured.series {
        rows.extend(rows_of(name, outcome, &measured.series));
    }
    let ring = names.iter().position(|name| name == RING);
    if let Some(ring) = ring.and_then(|place| placed[place].series.as_mut()) {
        rows.extend(quiet::rows(ring.as_mut()));
    }
    Ok(rows)
}

/// A series that is set up.
#[derive(Default)]
struct Placed {
    series: Option<Box<dyn RoundTrip>>,
    turns: usize,
}

impl Placed {
    /// It, set up anew after so many turns.
    fn or_anew(&mut self, make: &Make<'_>, turns: usize) -> Result<&mut dyn RoundTrip, String> {
        if self.turns.is_multiple_of(turns) {
            // The old one has the stream, until it is gone.
            self.series = None;
        }
        self.turns += 1;
        let series = match self.series.take() {
            Some(series) => series,
            None => make()?,
        };
        Ok(self.series.insert(series).as_mut())
    }
}

/// All series, in the order of the table.
fn series<'a>(machine: &'a Machine, driver: &LocalDriver) -> Vec<(String, Make<'a>)> {
    let way = |producers, consumers| Way::new(driver, producers, consumers);
    let sockets = way(By::Socket, By::Socket);
    let directory = driver.aeron_directory();
    let other = directory.clone();
    let mut all: Vec<(String, Make<'a>)> = vec![
        (
            CACHE_LINE.to_owned(),
            Box::new(|| boxed(CacheLine::new(machine))),
        ),
        by_hand(machine, TWO_LINES, false),
        by_hand(machine, TWO_LINES_AND_TIME, true),
        frames(RING, machine, sockets.clone(), "ring", SMALL),
        (
            BARE_AERON.to_owned(),
            Box::new(move || BareAeron::new(machine, &directory).and_then(boxed)),
        ),
        (
            AERON_AND_LINES.to_owned(),
            Box::new(move || boxed(AeronLines::new(machine, &other))),
        ),
        frames(
            DESCRIPTORS,
            machine,
            way(By::Aeron, By::Aeron),
            "descriptors",
            SMALL,
        ),
        (
            ICEORYX.to_owned(),
            Box::new(|| Iceoryx::new(machine).and_then(boxed)),
        ),
        frames(
            RELAYED,
            machine,
            way(By::Socket, By::Aeron),
            "relayed",
            SMALL,
        ),
    ];
    for (len, size) in copy::SIZES {
        let payload = Payload { len, touched: 8 };
        let stream = format!("claim-{len}");
        all.push(frames(
            &claimed(size),
            machine,
            sockets.clone(),
            &stream,
            payload,
        ));
    }
    all
}

fn frames<'a>(
    name: &str,
    machine: &'a Machine,
    way: Way,
    stream: &str,
    payload: Payload,
) -> (String, Make<'a>) {
    let (called, stream) = (name.to_owned(), stream.to_owned());
    let make = move || Frames::new(&called, machine, &way, &stream, payload).and_then(boxed);
    (name.to_owned(), Box::new(make))
}

fn by_hand<'a>(machine: &'a Machine, name: &str, timed: bool) -> (String, Make<'a>) {
    (
        name.to_owned(),
        Box::new(move || boxed(TwoLines::new(machine, timed))),
    )
}

fn boxed(trip: impl RoundTrip + 'static) -> Result<Box<dyn RoundTrip>, String> {
    Ok(Box::new(trip))
}

fn claimed(size: &str) -> String {
    format!("ring, {size} claimed and not copied")
}

/// The three rows of a series; the median is held against what it must not be slower than.
fn rows_of(
    name: &str,
    outcome: &Result<Percentiles, String>,
    all: &[(String, Result<Percentiles, String>)],
) -> Vec<Row> {
    let found = match outcome {
        Ok(found) => found,
        Err(why) => {
            return vec![Row::not_measured(
                format!("round trip, {name}"),
                why.clone(),
            )];
        }
    };
    let median_of = |wanted: &str| {
        let series = all.iter().find(|(name, _)| name == wanted);
        series
            .and_then(|(_, outcome)| outcome.as_ref().ok())
            .map(|found| found.p50)
    };
    let bound: Option<Bound> = match name {
        RING => Some((CACHE_LINE, |line| (line * 1.25).max(line + 150.0))),
        DESCRIPTORS => Some((BARE_AERON, |bare| bare * 1.25)),
        _ if name.contains("claimed") => Some((RING, |small| small * 1.10)),
        _ => None,
    };
    let p50 = format!("round trip, {name}, p50");
    let reference = bound.and_then(|(of, limit)| Some((median_of(of)?, limit)));
    let mut rows = vec![match reference {
        Some((reference, limit)) => Row::against(
            p50,
            (found.p50, "ns"),
            reference,
            Target::AtMost(limit(reference)),
        ),
        None => Row::value(p50, found.p50, "ns"),
    }];
    rows.push(Row::value(
        format!("round trip, {name}, p99"),
        found.p99,
        "ns",
    ));
    rows.push(Row::value(
        format!("round trip, {name}, p99.9"),
        found.p999,
        "ns",
    ));
    // What the layout asks for by itself, and the competitor.
    let rivals: &[(&str, &str, f64)] = match name {
        RING => &[
            (TWO_LINES_AND_TIME, "the same lines by hand", 1.25),
            (ICEORYX, "iceoryx2", 1.0),
        ],
        DESCRIPTORS => &[(AERON_AND_LINES, "the same by hand", 1.25)],
        _ => &[],
    };
    for &(rival, words, limit) in rivals {
        if let Some(rival) = median_of(rival) {
            let name = format!("round trip, {name}, p50, against {words}");
            let target = Target::AtMost(rival * limit);
            rows.push(Row::against(name, (found.p50, "ns"), rival, target));
        }
    }
    rows
}
