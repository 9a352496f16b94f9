//! Gates that run tests under a model: loom for interleavings, Miri for undefined behaviour.

use std::thread;

use super::Outcome;
use super::tests::{Totals, totals};
use crate::ci::Bench;
use crate::command::Show;

/// Runs the loom models of every crate that has some, in a build directory of their own: the flag
/// changes every crate.
pub(super) fn loom(bench: &Bench<'_>) -> Result<Outcome, String> {
    let packages = packages_with(bench, "cfg(loom)")?;
    if packages.is_empty() {
        return Err("no crate has loom models".to_owned());
    }
    let mut all = Totals::default();
    for package in &packages {
        let mut cargo = bench.workspace.cargo(&bench.target.join("loom"));
        cargo.args([
            "test",
            "--locked",
            "--release",
            "--lib",
            "--package",
            package,
            "loom",
        ]);
        cargo.env("RUSTFLAGS", "--cfg loom");
        cargo.env("LOOM_MAX_PREEMPTIONS", "3");
        let done = bench
            .workspace
            .run(&mut cargo, Show::All)?
            .success("loom")?;
        all = all.plus(totals(&done.stdout));
    }
    Ok(Outcome::tested(
        all.passed,
        format!("models of {}", packages.join(", ")),
        vec![("loom".to_owned(), all.passed)],
    ))
}

/// One run of Miri.
struct Interpreted {
    package: &'static str,
    tests: &'static str,
    /// What the test runner is told.
    filter: &'static [&'static str],
    /// Threads interleave otherwise with each seed, which only the tests with threads can show.
    seeds: u32,
}

/// Takes all cores by itself, one for each seed.
const SEEDED: Interpreted = Interpreted {
    package: "tensorpool-shm",
    tests: "--lib",
    filter: &["seqlock"],
    seeds: 16,
};

/// Each takes one core, since Miri has one thread; so they run side by side.
const SINGLE: [Interpreted; 2] = [
    Interpreted {
        package: "tensorpool-shm",
        tests: "--lib",
        filter: &["--skip", "seqlock"],
        seeds: 1,
    },
    Interpreted {
        package: "tensorpool-wire",
        tests: "--tests",
        filter: &[],
        seeds: 1,
    },
];

pub(super) fn miri(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.miri {
        return Ok(Outcome::Skipped {
            tool: "Miri (rustup component of a nightly toolchain)",
        });
    }
    let mut all = interpret(bench, &SEEDED)?;
    let sides = thread::scope(|scope| {
        let started = SINGLE.each_ref();
        let started = started.map(|run| scope.spawn(move || interpret(bench, run)));
        started.map(|side| {
            let ended = side.join();
            ended.map_err(|_| "a thread that started Miri panicked".to_owned())?
        })
    });
    for side in sides {
        all = all.plus(side?);
    }
    Ok(Outcome::tested(
        all.passed,
        "tests of shm and wire",
        vec![("Miri".to_owned(), all.passed)],
    ))
}

fn interpret(bench: &Bench<'_>, run: &Interpreted) -> Result<Totals, String> {
    let mut cargo = bench
        .workspace
        .command("rustup", &bench.target.join("miri"));
    cargo.args(["run", "nightly", "cargo", "miri", "test", "--locked"]);
    cargo.args([run.tests, "--package", run.package, "--"]);
    cargo.args(run.filter);
    // Isolation hides the clock and the working directory, which property tests ask for.
    let seeds = run.seeds;
    cargo.env(
        "MIRIFLAGS",
        format!("-Zmiri-disable-isolation -Zmiri-many-seeds=0..{seeds}"),
    );
    cargo.env("PROPTEST_CASES", "2");
    cargo.env_remove("RUSTUP_TOOLCHAIN");
    let done = bench
        .workspace
        .run(&mut cargo, Show::All)?
        .success("Miri")?;
    Ok(totals(&done.stdout))
}

/// Names of the packages whose manifest contains `text`.
fn packages_with(bench: &Bench<'_>, text: &str) -> Result<Vec<String>, String> {
    let mut packages = Vec::new();
    for file in bench.workspace.files()? {
        if !file.ends_with("/Cargo.toml") {
            continue;
        }
        let manifest = bench.workspace.read(&file)?;
        let name = manifest
            .lines()
            .find_map(|line| line.strip_prefix("name = \""))
            .and_then(|rest| rest.strip_suffix('"'));
        if let Some(name) = name.filter(|_| manifest.contains(text)) {
            packages.push(name.to_owned());
        }
    }
    Ok(packages)
}
