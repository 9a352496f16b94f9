//! Gates that run tests and count them by what they need.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::process::Command;
use std::thread;

use super::Outcome;
use crate::ci::Bench;
use crate::command::{self, Show};
use crate::junit::{self, TestCase};

/// Tests are told apart by a word in their id; `docs/testing.md` has the table.
const KINDS: [(&str, &str); 6] = [
    ("two-process", "two_process"),
    ("real media driver", "media_driver"),
    ("hugepage", "hugepage"),
    ("corpus replay", "corpus"),
    ("control plane", "control_plane"),
    ("whole cluster", "whole_cluster"),
];

/// Counts that must not be zero when all tests ran.
const NEVER_ZERO: [&str; 7] = [
    "unit",
    "simulation seeds",
    "two-process",
    "real media driver",
    "hugepage",
    "corpus replay",
    "control plane",
];

/// Counts that must not be zero where every test must run; elsewhere there may be no root.
const NEVER_ZERO_IN_CI: [&str; 1] = ["whole cluster"];

pub(super) fn nextest(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.nextest {
        return Ok(Outcome::Skipped {
            tool: "cargo-nextest",
        });
    }
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args([
        "nextest",
        "run",
        "--locked",
        "--workspace",
        "--all-features",
    ]);
    cargo.args(["--profile", "ci"]);
    // Two more than cores: many a test waits for a Kubernetes or a media driver most of its time.
    let threads = thread::available_parallelism().map_or(1, NonZero::get) + 2;
    cargo.args(["--test-threads", &threads.to_string()]);
    environment(bench, &mut cargo);
    // Relative to the workspace, wherever the build directory is.
    let report = bench.workspace.root.join("target/nextest/ci/junit.xml");
    remove_old(&report)?;
    let done = command::run(&mut cargo, Show::All)?;
    let cases = junit::parse(
        &fs::read_to_string(&report)
            .map_err(|error| format!("no test report {}: {error}", report.display()))?,
    );
    let failed = cases.iter().filter(|case| !case.passed).count();
    if failed > 0 {
        return Err(format!("{failed} of {} tests failed", cases.len()));
    }
    done.success("cargo nextest")?;
    let counts = counts(&cases);
    let not_run = not_run(&cases);
    for line in &not_run {
        println!("{line}");
    }
    if bench.must_run_all && !not_run.is_empty() {
        return Err(format!(
            "{} tests did not run, and here they must",
            not_run.len()
        ));
    }
    let in_ci = NEVER_ZERO_IN_CI.iter().filter(|_| bench.must_run_all);
    let zero: Vec<&str> = NEVER_ZERO
        .iter()
        .chain(in_ci)
        .copied()
        .filter(|name| counts.get(*name).copied().unwrap_or(0) == 0)
        .collect();
    if !zero.is_empty() {
        return Err(format!("no test of kind: {}", zero.join(", ")));
    }
    let tests = u64::try_from(cases.len()).unwrap_or(u64::MAX);
    Ok(Outcome::tested(
        tests,
        format!("tests, {} reported as not run", not_run.len()),
        counts.into_iter().collect(),
    ))
}

pub(super) fn doctests(bench: &Bench<'_>) -> Result<Outcome, String> {
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args(["test", "--locked", "--doc", "--workspace", "--all-features"]);
    environment(bench, &mut cargo);
    let done = command::run(&mut cargo, Show::All)?.success("cargo test --doc")?;
    let passed = totals(&done.stdout).passed;
    Ok(Outcome::tested(
        passed,
        "examples",
        vec![("documentation examples".to_owned(), passed)],
    ))
}

pub(super) fn client_alone(bench: &Bench<'_>) -> Result<Outcome, String> {
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args(["test", "--locked", "--package", "tensorpool-client"]);
    cargo.args(["--no-default-features", "--lib", "--tests", "--examples"]);
    environment(bench, &mut cargo);
    let done = command::run(&mut cargo, Show::All)?.success("the client without features")?;
    let passed = totals(&done.stdout).passed;
    Ok(Outcome::tested(passed, "tests", Vec::new()))
}

/// What the test runner of the standard library said, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Tests that ran and passed.
    pub(super) passed: u64,
}

impl Totals {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
        }
    }
}

/// Sums what lines like `test result: ok. 3 passed; …` say. Miri's seeds speak all at once, so that one
/// may begin within another's line.
pub(super) fn totals(output: &str) -> Totals {
    let mut before: Vec<&str> = output.split(" passed; ").collect();
    before.pop();
    let numbers = before.iter().filter_map(|text| {
        let (_, number) = text.rsplit_once(". ")?;
        number.parse::<u64>().ok()
    });
    Totals {
        passed: numbers.sum(),
    }
}

fn environment(bench: &Bench<'_>, command: &mut Command) {
    if bench.must_run_all {
        command.env("TENSORPOOL_CI", "1");
    }
    match bench.hugepages {
        Ok(hugepages) => {
            println!(
                "huge pages: {} reserved for the tests, at {}",
                hugepages.pages(),
                hugepages.mount().display()
            );
            command.env("TENSORPOOL_HUGETLB_DIR", hugepages.mount());
        }
        Err(why) => println!("huge pages: none: {why}"),
    }
}

/// A report of an earlier run must not be taken for this one's.
fn remove_old(report: &std::path::Path) -> Result<(), String> {
    match fs::remove_file(report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!(
            "could not remove the old report {}: {error}",
            report.display()
        )),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Tests by kind, plus what tests counted themselves with lines `count: NAME = NUMBER`.
fn counts(cases: &[TestCase]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut add = |name: &str, number: u64| *counts.entry(name.to_owned()).or_default() += number;
    for case in cases {
        if did_not_run(case) {
            continue;
        }
        let kinds = KINDS.iter().filter(|(_, word)| case.id.contains(word));
        let mut special = false;
        for (name, _) in kinds {
            add(name, 1);
            special = true;
        }
        let binary = case.id.split(' ').next().unwrap_or_default();
        if !special {
            add(
                if binary.contains("::") {
                    "integration"
                } else {
                    "unit"
                },
                1,
            );
        }
        for line in case.output.lines() {
            let told = line.trim().strip_prefix("count: ");
            let told = told.and_then(|rest| rest.split_once(" = "));
            if let Some((name, number)) = told {
                add(name, number.trim().parse().unwrap_or(0));
            }
        }
    }
    counts
}

fn not_run(cases: &[TestCase]) -> Vec<String> {
    let mut lines = Vec::new();
    for case in cases {
        for line in case.output.lines() {
            if line.trim().starts_with("not run: ") {
                lines.push(format!("{} ({})", line.trim(), case.id));
            }
        }
    }
    lines
}

fn did_not_run(case: &TestCase) -> bool {
    case.output
        .lines()
        .any(|line| line.trim().starts_with("not run: "))
}

#[cfg(test)]
#[path = "tests/checks.rs"]
mod checks;
