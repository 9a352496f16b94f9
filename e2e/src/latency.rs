//! Round trips: each series gets its turn in every round, so that all see the same machine.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::cache_line::CacheLine;
use crate::distance::{Choice, Distance};

/// A wait for an answer that takes longer than this is an error.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Trips of the bare cache line before and after a turn.
const GAUGE_TRIPS: u32 = 300;
/// And how long they may take.
const GAUGE_LONGEST: Duration = Duration::from_millis(4);
/// A series with fewer turns that count says nothing.
const FEWEST_TURNS: u32 = 10;

/// One way to send something to the peer and get it back.
pub trait RoundTrip {
    /// What the table calls it.
    fn name(&self) -> &str;
    /// Wakes the peer and connects.
    ///
    /// # Errors
    /// A sentence, as for the other two.
    fn begin(&mut self) -> Result<(), String>;
    /// One trip, spinning.
    ///
    /// # Errors
    /// A sentence, where nothing came back.
    fn trip(&mut self) -> Result<(), String>;
    /// One trip, and the instants between which it was sent.
    ///
    /// # Errors
    /// A sentence, where nothing came back.
    fn trip_and_sending(&mut self) -> Result<[Instant; 2], String> {
        let begun = Instant::now();
        self.trip().map(|()| [begun, Instant::now()])
    }
    /// Sends the peer to rest.
    ///
    /// # Errors
    /// A sentence, where it does not answer.
    fn end(&mut self) -> Result<(), String>;
}

/// Percentiles of one series, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// 999 of 1,000 are at most this.
    pub p999: f64,
}

/// How long a turn is.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Trips of a turn that are measured.
    pub trips: u32,
    /// Trips of a turn before those.
    pub warm_up: u32,
    /// A turn of a slow series ends after this time, with as many trips as there were.
    pub longest: Duration,
}

/// What all series measured, and where the two cores lay meanwhile.
#[derive(Debug)]
pub struct Measured {
    /// Each series by its name.
    pub series: Vec<(String, Result<Percentiles, String>)>,
    /// Which turns count.
    pub distance: Distance,
}

/// Gives each series its turn in every round, forth and back (A B, B A), with the bare cache line before
/// and after each turn, which says how far apart the two cores are. Only turns at one distance are
/// compared. `turn` has the place of a name and gives nanoseconds; a series whose turn fails is out, with
/// its reason, and the others go on.
///
/// # Errors
/// A sentence, where the cache line cannot be measured.
pub fn interleave(
    gauge: &mut CacheLine,
    names: &[String],
    rounds: u32,
    choice: Choice,
    mut turn: impl FnMut(usize) -> Result<Vec<u64>, String>,
) -> Result<Measured, String> {
    let mut failures: Vec<Option<String>> = vec![None; names.len()];
    let mut gauged = Vec::new();
    let mut measured = Vec::new();
    let mut before = gauge_turn(gauge)?;
    for round in 0..rounds {
        let mut places: Vec<usize> = (0..names.len()).collect();
        if !round.is_multiple_of(2) {
            places.reverse();
        }
        for place in places {
            if failures[place].is_some() {
                continue;
            }
            match turn(place) {
                Ok(nanos) => {
                    let after = gauge_turn(gauge)?;
                    gauged.push([before, after]);
                    measured.push((place, nanos));
                    before = after;
                }
                Err(why) => failures[place] = Some(why),
            }
        }
    }
    let distance = choice(&gauged);
    let mut outcomes = Vec::new();
    for (place, (name, failure)) in names.iter().zip(failures).enumerate() {
        let outcome = match failure {
            Some(why) => Err(why),
            None => at_distance(&measured, &gauged, &distance, place),
        };
        outcomes.push((name.clone(), outcome));
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
            "{turns} turns with the cores at one distance, {FEWEST_TURNS} are needed: the host moves its cores"
        ));
    }
    Ok(percentiles(&histogram))
}

/// The median of one turn of the bare cache line.
fn gauge_turn(gauge: &mut CacheLine) -> Result<u64, String> {
    let amount = Amount {
        trips: GAUGE_TRIPS,
        warm_up: GAUGE_TRIPS,
        longest: GAUGE_LONGEST,
    };
    turn(gauge, amount).map(|trips| median(&trips))
}

fn median(trips: &[u64]) -> u64 {
    let mut sorted = trips.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

/// An empty histogram of nanoseconds up to ten seconds, three digits.
///
/// # Errors
/// A sentence, where there is no memory for it.
pub fn new_histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3)
        .map_err(|error| format!("no histogram: {error}"))
}

/// The percentiles of a histogram.
#[must_use]
pub fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
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

/// Spins until `answer` says true.
///
/// # Errors
/// What `answer` fails with, or a sentence after ten seconds.
pub fn spin_until(mut answer: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
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

/// One turn: the nanoseconds of each trip.
///
/// # Errors
/// A sentence, where a trip fails.
pub fn turn(series: &mut dyn RoundTrip, amount: Amount) -> Result<Vec<u64>, String> {
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
