//! Round trips: each series gets its turn in every round, so that all see the same machine.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::distance::Distance;

/// A wait for an answer that takes longer than this is an error.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Trips of the bare cache line before and after a turn.
const GAUGE_TRIPS: u32 = 300;
/// A series with fewer turns that count says nothing.
const FEWEST_TURNS: u32 = 10;

/// One way to send something to the peer and get it back.
pub(crate) trait RoundTrip {
    /// What the table calls it.
    fn name(&self) -> &str;
    /// Wakes the peer and connects.
    fn begin(&mut self) -> Result<(), String>;
    /// One trip, spinning.
    fn trip(&mut self) -> Result<(), String>;
    /// Sends the peer to rest.
    fn end(&mut self) -> Result<(), String>;
}

/// Percentiles of one series, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Percentiles {
    /// Median.
    pub(crate) p50: f64,
    /// 99 of 100 are at most this.
    pub(crate) p99: f64,
    /// 999 of 1,000 are at most this.
    pub(crate) p999: f64,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// How often each series gets its turn.
    pub(crate) rounds: u32,
    /// Trips of a turn that are measured.
    pub(crate) trips: u32,
    /// Trips of a turn before those.
    pub(crate) warm_up: u32,
    /// A turn of a slow series ends after this time, with as many trips as there were.
    pub(crate) longest: Duration,
}

/// What all series measured, and where the two cores lay meanwhile.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Each series by its name.
    pub(crate) series: Vec<(String, Result<Percentiles, String>)>,
    /// Which turns count.
    pub(crate) distance: Distance,
}

/// Runs all series, with a turn of the bare cache line before and after each of theirs, which says how
/// far apart the two cores are. Only turns at one distance, the farthest, are compared. A series that
/// fails is out, with its reason; the others go on.
pub(crate) fn interleave(
    gauge: &mut dyn RoundTrip,
    series: &mut [Box<dyn RoundTrip>],
    amount: Amount,
) -> Result<Measured, String> {
    let mut failures: Vec<Option<String>> = vec![None; series.len()];
    let mut gauged = Vec::new();
    let mut measured = Vec::new();
    let mut before = gauge_turn(gauge, amount)?;
    for _ in 0..amount.rounds {
        for (place, (series, failure)) in series.iter_mut().zip(&mut failures).enumerate() {
            if failure.is_some() {
                continue;
            }
            let trips = match turn(series.as_mut(), amount) {
                Ok(trips) => trips,
                Err(why) => {
                    *failure = Some(why);
                    continue;
                }
            };
            let after = gauge_turn(gauge, amount)?;
            gauged.push([&before, &after].map(|trips| median(trips)));
            measured.push((place, trips));
            before = after;
        }
    }
    let distance = Distance::of(&gauged);
    let mut outcomes = Vec::new();
    for (place, (series, failure)) in series.iter().zip(failures).enumerate() {
        let outcome = match failure {
            Some(why) => Err(why),
            None => at_distance(&measured, &gauged, &distance, place),
        };
        outcomes.push((series.name().to_owned(), outcome));
    }
    Ok(Measured {
        series: outcomes,
        distance,
    })
}

/// The percentiles of the turns of one series that count.
fn at_distance(
    measured: &[(usize, Vec<u64>)],
    gauged: &[[u64; 2]],
    distance: &Distance,
    place: usize,
) -> Result<Percentiles, String> {
    let mut histogram = new_histogram()?;
    let mut turns = 0_u32;
    for ((of, trips), ends) in measured.iter().zip(gauged) {
        if *of == place && distance.holds(*ends) {
            turns += 1;
            for nanos in trips {
                histogram.saturating_record(*nanos);
            }
        }
    }
    if turns < FEWEST_TURNS {
        return Err(format!(
            "{turns} turns with the cores as far apart as possible, {FEWEST_TURNS} are needed: the host moves its cores"
        ));
    }
    Ok(percentiles(&histogram))
}

fn gauge_turn(gauge: &mut dyn RoundTrip, amount: Amount) -> Result<Vec<u64>, String> {
    let amount = Amount {
        trips: GAUGE_TRIPS,
        warm_up: GAUGE_TRIPS,
        ..amount
    };
    turn(gauge, amount)
}

fn median(trips: &[u64]) -> u64 {
    let mut sorted = trips.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

/// An empty histogram of nanoseconds up to ten seconds, three digits.
pub(crate) fn new_histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3)
        .map_err(|error| format!("no histogram: {error}"))
}

/// The percentiles of a histogram.
pub(crate) fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let at = |quantile| {
        let nanos = histogram.value_at_quantile(quantile);
        f64::from(u32::try_from(nanos).unwrap_or(u32::MAX))
    };
    Percentiles {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
    }
}

/// Spins until `answer` says true; an error after ten seconds.
pub(crate) fn spin_until(mut answer: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let mut spins = 0_u32;
    let mut since: Option<Instant> = None;
    while !answer()? {
        std::hint::spin_loop();
        spins = spins.wrapping_add(1);
        // The clock is read rarely: it would be part of what is measured.
        if spins.is_multiple_of(1 << 16) {
            let begun = *since.get_or_insert_with(Instant::now);
            if begun.elapsed() > ANSWER_LIMIT {
                return Err("the peer did not answer within 10 s".to_owned());
            }
        }
    }
    Ok(())
}

/// The nanoseconds of each trip.
fn turn(series: &mut dyn RoundTrip, amount: Amount) -> Result<Vec<u64>, String> {
    series.begin()?;
    let begun = Instant::now();
    for _ in 0..amount.warm_up {
        if begun.elapsed() > amount.longest {
            break;
        }
        series.trip()?;
    }
    let begun = Instant::now();
    let mut trips = Vec::new();
    for _ in 0..amount.trips {
        let start = Instant::now();
        if start.duration_since(begun) > amount.longest {
            break;
        }
        series.trip()?;
        let took = start.elapsed();
        trips.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
    series.end().map(|()| trips)
}
