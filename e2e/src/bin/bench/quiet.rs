//! What a frame must not cost while both sides spin: heap allocations and system calls.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tensorpool_e2e::latency::RoundTrip;

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
    mark("begin");
    let late = go_and_count_late(series);
    mark("end");
    // Ended before the file is read: the reading would be traced into the file that is read.
    end(&mut strace)?;
    let late = late?;
    series.end()?;
    let text = fs::read_to_string(file.path()).map_err(|error| error.to_string())?;
    let in_trips: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.contains(&mark_path("begin")))
        .skip(1)
        .take_while(|line| !line.contains(&mark_path("end")))
        .filter(|line| line.contains('('))
        .collect();
    if !text.contains(&mark_path("end")) {
        return Err("the trace does not hold the trips".to_owned());
    }
    let is_wake = |line: &&str| line.contains(WAKE);
    let wakes = in_trips.iter().copied().filter(is_wake).count();
    let others = in_trips.len() - wakes;
    let too_many = wakes.saturating_sub(late);
    if others + too_many > 0 {
        println!("system calls in {TRIPS} trips: {wakes} wakes, of which {late} were due, and");
        for line in in_trips.iter().filter(|line| !is_wake(line)).take(5) {
            println!("  {line}");
        }
    }
    let calls = u32::try_from(others + too_many).unwrap_or(u32::MAX);
    Ok(f64::from(calls) / f64::from(TRIPS))
}

/// A place in the trace: a look at a path that does not exist.
fn mark(name: &str) {
    let is_there = Path::new(&mark_path(name)).exists();
    assert!(!is_there, "nobody makes files of that name");
}

fn mark_path(name: &str) -> String {
    format!("/tensorpool-bench-{name}-of-trips")
}

/// Trips, and how many of their frames had to wake: those that may have been sent that long after the
/// one before, by the widest reading.
fn go_and_count_late(series: &mut dyn RoundTrip) -> Result<usize, String> {
    // The first one may follow a long pause, of which nothing is known here.
    let mut late = 1;
    let mut before = None;
    for _ in 0..TRIPS {
        let [begun, sent] = series.trip_and_sending()?;
        let since = before.unwrap_or(begun);
        late += usize::from(sent.duration_since(since) > WAKE_AFTER);
        before = Some(begun);
    }
    Ok(late)
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
            return Ok(());
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
