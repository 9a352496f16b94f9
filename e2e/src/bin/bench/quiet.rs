//! What a frame must not cost while both sides spin: heap allocations and system calls.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::latency::RoundTrip;
use crate::report::{Row, Target};

const TRIPS: u32 = 20_000;
const ALLOCATIONS: &str = "heap allocations per round trip, this side's data path";
const CALLS: &str = "system calls per round trip, this side's data path";

/// The rows for one series: both the producer's and the consumer's part of a trip run in this
/// thread.
pub(crate) fn rows(series: &mut dyn RoundTrip) -> Vec<Row> {
    let none = |name: &str, outcome: Result<f64, String>| match outcome {
        Ok(count) => Row::against(name, (count, ""), 1.0, Target::AtMost(0.0)),
        Err(why) => Row::not_measured(name, why),
    };
    vec![
        none(ALLOCATIONS, allocations(series)),
        none(CALLS, system_calls(series)),
    ]
}

/// A producer wakes those who may sleep when its previous frame is older than this; that is one
/// system call, and this thread is traced and so sometimes late.
const WAKE_AFTER: Duration = Duration::from_micros(100);
/// The wake as strace writes it.
const WAKE: &str = "FUTEX_WAKE";

fn allocations(series: &mut dyn RoundTrip) -> Result<f64, String> {
    series.begin()?;
    // The first trips may still set something up.
    go(series)?;
    let mut outcome = Ok(());
    let counted = allocation_counter::measure(|| outcome = go(series));
    outcome?;
    series.end()?;
    let count = u32::try_from(counted.count_total).unwrap_or(u32::MAX);
    Ok(f64::from(count) / f64::from(TRIPS))
}

/// Counted by strace on this thread. Its own attaching is outside: it is waited for first.
fn system_calls(series: &mut dyn RoundTrip) -> Result<f64, String> {
    let file = tempfile::NamedTempFile::new().map_err(|error| format!("no file: {error}"))?;
    series.begin()?;
    go(series)?;
    let mut strace = Command::new("strace")
        .args(["-o"])
        .arg(file.path())
        .args(["-p", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("strace: {error}"))?;
    wait_until_traced(&mut strace)?;
    let late = go_and_count_late(series);
    // Ended before the file is read: the reading would be traced into the file that is read.
    end(&mut strace)?;
    let late = late?;
    series.end()?;
    let text = fs::read_to_string(file.path()).map_err(|error| error.to_string())?;
    // The calls by which this thread looked whether it was traced stand before the first trip, as
    // `openat`, `read` and `close` of one file of /proc; they end with the last of those.
    let after = text
        .rsplit_once("/proc/self/status")
        .map_or("", |(_, rest)| rest);
    let in_trips: Vec<&str> = after
        .lines()
        .skip(1)
        // The end of the trace is asked for by this thread too.
        .take_while(|line| !line.starts_with("kill("))
        .filter(|line| line.contains('('))
        .collect();
    let wakes = in_trips.iter().filter(|line| line.contains(WAKE)).count();
    let calls = in_trips.len() - wakes.min(late);
    let own = ["read(", "close("];
    let of_look = after
        .lines()
        .skip(1)
        .take_while(|line| own.iter().any(|call| line.contains(call)))
        .count();
    let calls = u32::try_from(calls.saturating_sub(of_look)).unwrap_or(u32::MAX);
    Ok(f64::from(calls) / f64::from(TRIPS))
}

/// Trips, and after how many of them the next frame had to wake.
fn go_and_count_late(series: &mut dyn RoundTrip) -> Result<usize, String> {
    let mut late = 0;
    let mut before = Instant::now();
    for _ in 0..TRIPS {
        series.trip()?;
        let now = Instant::now();
        // The first one may follow a long pause, of which nothing is known here.
        late += usize::from(now.duration_since(before) > WAKE_AFTER);
        before = now;
    }
    Ok(late + 1)
}

fn go(series: &mut dyn RoundTrip) -> Result<(), String> {
    for _ in 0..TRIPS {
        series.trip()?;
    }
    Ok(())
}

/// Returns right after this thread was seen to be traced.
fn wait_until_traced(strace: &mut Child) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_some_and(|tracer| tracer.trim() != "0") {
            // One more look, so that a whole look stands in the trace.
            return fs::read_to_string("/proc/self/status")
                .map(drop)
                .map_err(|error| error.to_string());
        }
        if Instant::now() > deadline || !matches!(strace.try_wait(), Ok(None)) {
            return Err("strace could not attach".to_owned());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn end(strace: &mut Child) -> Result<(), String> {
    let id = i32::try_from(strace.id()).ok().and_then(Pid::from_raw);
    let id = id.ok_or("strace has no process id")?;
    kill_process(id, Signal::INT).map_err(|error| format!("strace goes on: {error}"))?;
    strace.wait().map(drop).map_err(|error| error.to_string())
}
