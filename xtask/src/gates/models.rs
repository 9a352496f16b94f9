//! Gates that run tests under a model: loom for interleavings, Miri for undefined behaviour.

use super::Outcome;
use super::tests::{Totals, totals};
use crate::ci::Bench;
use crate::command::{self, Show};

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
        let done = command::run(&mut cargo, Show::All)?.success("loom")?;
        all = all.plus(totals(&done.stdout));
    }
    Ok(Outcome::tested(
        all.passed,
        format!("models of {}", packages.join(", ")),
        vec![("loom".to_owned(), all.passed)],
    ))
}

pub(super) fn miri(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.miri {
        return Ok(Outcome::Skipped {
            tool: "Miri (rustup component of a nightly toolchain)",
        });
    }
    let mut all = Totals::default();
    // Threads interleave otherwise with each seed, which only the tests with threads can show.
    for (package, tests, filter, seeds) in [
        ("tensorpool-shm", "--lib", "seqlock", 16),
        ("tensorpool-shm", "--lib", "", 1),
        ("tensorpool-wire", "--tests", "", 1),
    ] {
        let mut cargo = bench
            .workspace
            .command("rustup", &bench.target.join("miri"));
        cargo.args(["run", "nightly", "cargo", "miri", "test", "--locked", tests]);
        cargo.args(["--package", package, filter]);
        // Isolation hides the clock and the working directory, which property tests ask for.
        cargo.env(
            "MIRIFLAGS",
            format!("-Zmiri-disable-isolation -Zmiri-many-seeds=0..{seeds}"),
        );
        cargo.env("PROPTEST_CASES", "2");
        cargo.env_remove("RUSTUP_TOOLCHAIN");
        let done = command::run(&mut cargo, Show::All)?.success("Miri")?;
        all = all.plus(totals(&done.stdout));
    }
    Ok(Outcome::tested(
        all.passed,
        "tests of shm and wire",
        vec![("Miri".to_owned(), all.passed)],
    ))
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
