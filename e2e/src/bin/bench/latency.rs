//! Round trips: each series gets its turn in every round, so that all see the same machine.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// A wait for an answer that takes longer than this is an error.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

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

/// Runs all series. A series that fails is out, with its reason; the others go on.
pub(crate) fn interleave(
    series: &mut [Box<dyn RoundTrip>],
    amount: Amount,
) -> Vec<(String, Result<Percentiles, String>)> {
    let mut measured: Vec<(String, Result<Histogram<u64>, String>)> = series
        .iter()
        .map(|series| (series.name().to_owned(), new_histogram()))
        .collect();
    for _ in 0..amount.rounds {
        for (series, (_, so_far)) in series.iter_mut().zip(&mut measured) {
            if let Ok(histogram) = so_far
                && let Err(why) = turn(series.as_mut(), amount, histogram)
            {
                *so_far = Err(why);
            }
        }
    }
    measured
        .into_iter()
        .map(|(name, histogram)| (name, histogram.map(|histogram| percentiles(&histogram))))
        .collect()
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

fn turn(
    series: &mut dyn RoundTrip,
    amount: Amount,
    histogram: &mut Histogram<u64>,
) -> Result<(), String> {
    series.begin()?;
    let begun = Instant::now();
    for _ in 0..amount.warm_up {
        series.trip()?;
    }
    for _ in 0..amount.trips {
        let start = Instant::now();
        if start.duration_since(begun) > amount.longest {
            break;
        }
        series.trip()?;
        let took = start.elapsed();
        histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
    series.end()
}
