//! `tensorpool-bench`: what a frame costs, against references measured in the same run.
//!
//! Processes are pinned to two cores. Every series gets its turn in every round. The table goes to
//! standard output, the rows to `target/bench.json`. Exits with 1 when a target was missed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use tensorpool_e2e::driver::{LocalDriver, Stream};
use tensorpool_e2e::machine::{self, Machine};

use connect::{By, Way};
use copy::Memory;
use report::Row;

mod connect;
mod copy;
mod fan_out;
mod load;
mod peer;
mod quiet;
mod report;
mod trips;
mod waiting;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["peer", kind, core, rest @ ..] => serve(kind, core, rest).map(|()| true),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(true)
        }
        words => Wanted::parse(words).and_then(bench),
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

const USAGE: &str = "\
usage: tensorpool-bench [--quick] [--only PART]...

Measures what a frame costs, against references in the same run, pinned to two cores. Prints a table,
writes target/bench.json, ends with 1 when a target was missed. Wants a machine that does nothing
else: two cores spin.

  --quick        about a minute instead of three
  --only PART    one part, may be given several times: trips, copies, fan-out, waiting, hugepages,
                 load";

/// The parts of a run.
const PARTS: [&str; 6] = ["trips", "copies", "fan-out", "waiting", "hugepages", "load"];

/// What was asked for.
#[derive(Debug)]
struct Wanted {
    quick: bool,
    /// All of them where none is named.
    parts: Vec<String>,
}

impl Wanted {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut wanted = Self {
            quick: false,
            parts: Vec::new(),
        };
        let mut rest = words;
        loop {
            rest = match rest {
                [] => return Ok(wanted),
                ["--quick", rest @ ..] => {
                    wanted.quick = true;
                    rest
                }
                ["--only", part, rest @ ..] if PARTS.contains(part) => {
                    wanted.parts.push((*part).to_owned());
                    rest
                }
                ["--only", part, ..] => {
                    let parts = PARTS.join(", ");
                    return Err(format!("--only {part}: the parts are {parts}"));
                }
                [other, ..] => return Err(format!("unknown argument {other}\n\n{USAGE}")),
            }
        }
    }

    fn has(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }
}

/// Whether every target that was measured was met.
fn bench(wanted: Wanted) -> Result<bool, String> {
    let quick = wanted.quick;
    // It has no configuration file here, and says so each time that it starts.
    iceoryx2::prelude::set_log_level(iceoryx2::prelude::LogLevel::Error);
    let machine = Machine::find()?;
    println!("{machine}");
    let driver = LocalDriver::start(Path::new("/dev/shm"), &streams())?;
    machine::pin(machine.here)?;
    let sockets = Way::new(&driver, By::Socket, By::Socket);
    let mut rows = Vec::new();
    if wanted.has("trips") {
        rows.extend(trips::rows(&machine, &driver, quick)?);
    }
    if wanted.has("copies") {
        rows.extend(copies(&sockets, TMPFS, quick));
    }
    if wanted.has("fan-out") {
        rows.extend(fan_out::rows(&machine, &sockets, quick));
    }
    if wanted.has("waiting") {
        rows.extend(waiting::rows(&machine, &sockets, quick));
    }
    driver.stop()?;
    if wanted.has("hugepages") {
        rows.extend(hugepage_copies(quick));
    }
    if wanted.has("load") {
        rows.extend(load::rows(quick));
    }
    report::print(&rows);
    let file = workspace().join("target/bench.json");
    let context = json!({
        "machine": machine.to_string(),
        "quick": quick,
        "only": wanted.parts,
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

const TMPFS: Memory = Memory {
    name: "tmpfs",
    placements: 48,
};
/// Placed once: there is not memory for many epochs.
const HUGE_PAGES: Memory = Memory {
    name: "huge pages",
    placements: 1,
};

fn copies(way: &Way, memory: Memory, quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (len, size) in copy::SIZES {
        match copy::rows(way, memory, (len, size), quick) {
            Ok(measured) => rows.extend(measured),
            Err(why) => rows.push(Row::not_measured(
                format!("copies of {size}, {}", memory.name),
                why,
            )),
        }
    }
    rows
}

/// The copies again, with a driver whose memory is on huge pages.
fn hugepage_copies(quick: bool) -> Vec<Row> {
    let name = "copies, huge pages";
    let Some(mount) = env::var_os("TENSORPOOL_HUGETLB_DIR") else {
        return vec![Row::not_measured(
            name,
            "no hugetlbfs mount in TENSORPOOL_HUGETLB_DIR",
        )];
    };
    let streams: Vec<Stream> = copy::SIZES
        .iter()
        .map(|(len, _)| stream(&copy::stream_name(*len), copy::SLOTS, *len))
        .collect();
    match LocalDriver::start(Path::new(&mount), &streams) {
        Ok(driver) => {
            let way = Way::new(&driver, By::Socket, By::Socket);
            let mut rows = copies(&way, HUGE_PAGES, quick);
            if let Err(why) = driver.stop() {
                rows.push(Row::not_measured("the driver on huge pages", why));
            }
            rows
        }
        Err(why) => vec![Row::not_measured(name, why)],
    }
}

/// Every stream that is measured on tmpfs.
fn streams() -> Vec<Stream> {
    let mut all = Vec::new();
    for name in ["ring", "descriptors", "relayed"] {
        for end in ["there", "back"] {
            all.push(stream(&format!("{name}-{end}"), 1024, 64));
        }
    }
    for (len, _) in copy::SIZES {
        for end in ["there", "back"] {
            all.push(stream(&format!("claim-{len}-{end}"), 8, len));
        }
        all.push(stream(&copy::stream_name(len), copy::SLOTS, len));
    }
    all.push(stream(fan_out::STREAM, 1024, fan_out::LEN));
    all.push(stream(waiting::STREAM, 64, 64));
    all
}

fn stream(name: &str, slots: u32, stride_bytes: usize) -> Stream {
    Stream {
        name: name.to_owned(),
        id: connect::stream_id(name),
        slots,
        stride_bytes,
        descriptors: Some(connect::descriptors_of(name)),
    }
}

fn serve(kind: &str, core: &str, arguments: &[&str]) -> Result<(), String> {
    let core = core
        .parse()
        .map_err(|error| format!("core {core}: {error}"))?;
    machine::pin(core)?;
    iceoryx2::prelude::set_log_level(iceoryx2::prelude::LogLevel::Error);
    match (kind, arguments) {
        ("aeron", [directory]) => trips::aeron::serve(Path::new(directory)),
        ("iceoryx", [run]) => trips::iceoryx::serve(run),
        ("frames", arguments) => trips::frames::serve(arguments),
        ("fan-out", arguments) => fan_out::serve(arguments),
        ("waiting", arguments) => waiting::serve(arguments),
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
