//! `tensorpool-bench`: what a frame costs, against references measured in the same run.
//!
//! Processes are pinned to two cores. Every series gets its turn in every round. The table goes to
//! standard output, the rows to `target/bench.json`. Exits with 1 when a target was missed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use tensorpool_transport::aeron::media_driver::{EmbeddedMediaDriver, MediaDriverConfig};

use latency::{Amount, Percentiles, RoundTrip};
use machine::Machine;
use report::Row;

mod latency;
mod machine;
mod peer;
mod report;
mod trips;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["peer", kind, core, rest @ ..] => serve(kind, core, rest).map(|()| true),
        [] => bench(false),
        ["--quick"] => bench(true),
        other => Err(format!(
            "usage: tensorpool-bench [--quick], not {}",
            other.join(" ")
        )),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every target that was measured was met.
fn bench(quick: bool) -> Result<bool, String> {
    let machine = Machine::find()?;
    println!("{machine}");
    let rows = latencies(&machine, quick)?;
    report::print(&rows);
    let file = workspace().join("target/bench.json");
    let context = json!({
        "machine": machine.to_string(),
        "quick": quick,
        "commit": commit(),
    });
    report::write(&rows, &context, &file)?;
    let (met, missed, not_measured) = report::summary(&rows);
    println!(
        "bench: {met} targets met, {missed} missed, {not_measured} not measured; rows in {}",
        file.display()
    );
    Ok(missed == 0)
}

fn latencies(machine: &Machine, quick: bool) -> Result<Vec<Row>, String> {
    let amount = Amount {
        rounds: if quick { 3 } else { 10 },
        trips: if quick { 20_000 } else { 100_000 },
        warm_up: 2_000,
    };
    let aeron = tempfile::Builder::new()
        .prefix("tensorpool-bench-aeron-")
        .tempdir_in("/dev/shm")
        .map_err(|error| format!("no directory for the media driver: {error}"))?;
    let aeron_directory = aeron.path().join("aeron");
    let media_driver = EmbeddedMediaDriver::start(&MediaDriverConfig::new(&aeron_directory))
        .map_err(|error| error.to_string())?;
    machine::pin(machine.here)?;
    let mut series: Vec<Box<dyn RoundTrip>> = vec![
        Box::new(trips::cache_line::CacheLine::new(machine)),
        Box::new(trips::aeron::BareAeron::new(machine, &aeron_directory)?),
        Box::new(trips::iceoryx::Iceoryx::new(machine)?),
    ];
    let measured = latency::interleave(&mut series, amount);
    drop(series);
    media_driver
        .stop()
        .map_err(|ended| format!("the media driver ended: {ended:?}"))?;
    Ok(measured
        .into_iter()
        .flat_map(|(name, outcome)| rows_of(&name, outcome))
        .collect())
}

fn rows_of(name: &str, outcome: Result<Percentiles, String>) -> Vec<Row> {
    match outcome {
        Ok(found) => vec![
            Row::value(format!("round trip, {name}, p50"), found.p50, "ns"),
            Row::value(format!("round trip, {name}, p99"), found.p99, "ns"),
            Row::value(format!("round trip, {name}, p99.9"), found.p999, "ns"),
        ],
        Err(why) => vec![Row::not_measured(format!("round trip, {name}"), why)],
    }
}

fn serve(kind: &str, core: &str, arguments: &[&str]) -> Result<(), String> {
    let core = core
        .parse()
        .map_err(|error| format!("core {core}: {error}"))?;
    machine::pin(core)?;
    match (kind, arguments) {
        ("aeron", [directory]) => trips::aeron::serve(Path::new(directory)),
        ("iceoryx", [run]) => trips::iceoryx::serve(run),
        (kind, _) => Err(format!("there is no peer `{kind}` with these arguments")),
    }
}

fn workspace() -> PathBuf {
    env::var_os("TENSORPOOL_WORKSPACE").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn commit() -> String {
    let described = std::process::Command::new("git")
        .current_dir(workspace())
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    described.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
