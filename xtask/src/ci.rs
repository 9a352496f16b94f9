//! `ci`: runs every gate, then says in one table what each of them really did.
//!
//! A gate that did nothing is red. A gate whose tool cannot be had is skipped aloud, and red where every
//! test must run (`CI=true`) or under `--strict`.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::gates::{self, Gate, Outcome};
use crate::hugepages::Hugepages;
use crate::setup::{self, Tools};
use crate::workspace::{BuildDirectory, Workspace};

/// What every gate gets.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// The checkout.
    pub(crate) workspace: &'a Workspace,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// What `setup` found.
    pub(crate) tools: Tools,
    /// Whether this is a machine on which every test must run.
    pub(crate) must_run_all: bool,
    /// Huge pages for the tests, or why there are none.
    pub(crate) hugepages: &'a Result<Hugepages, String>,
}

/// How one gate ended.
struct Row {
    gate: &'static str,
    outcome: Result<Outcome, String>,
    took: Duration,
}

impl Row {
    fn failed(&self, strict: bool) -> bool {
        match &self.outcome {
            Ok(Outcome::Passed(done)) => done.count == 0,
            Ok(Outcome::Skipped { .. }) => strict,
            Err(_) => true,
        }
    }

    fn print(&self, strict: bool) {
        let seconds = self.took.as_secs();
        let gate = self.gate;
        match &self.outcome {
            Ok(Outcome::Passed(done)) if done.count == 0 => {
                println!(
                    "FAILED   {gate:<14} {:>6} {seconds:>5} s  {}: it did nothing",
                    0, done.what
                );
            }
            Ok(Outcome::Passed(done)) => println!(
                "ok       {gate:<14} {:>6} {seconds:>5} s  {}",
                done.count, done.what
            ),
            Ok(Outcome::Skipped { tool }) => {
                let red = if strict {
                    " is missing, and here every gate must run"
                } else {
                    ""
                };
                println!("SKIPPED  {gate:<14} {:>6} {seconds:>5} s  {tool}{red}", 0);
            }
            Err(why) => {
                println!("FAILED   {gate:<14} {:>6} {seconds:>5} s  {why}", "-");
            }
        }
    }
}

/// Runs the named gates, all without names. Fails when one of them is red.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    let (flags, names): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|word| word.starts_with("--"));
    if flags.iter().any(|flag| *flag == "--list") {
        for gate in gates::ALL {
            println!("{:<14} {}", gate.name, gate.what);
        }
        return Ok(());
    }
    if let Some(unknown) = flags.iter().find(|flag| **flag != "--strict") {
        return Err(format!("`ci` has no flag {unknown}"));
    }
    let gates = chosen(&names)?;
    let must_run_all = variable_is("CI", "true") || variable_is("TENSORPOOL_CI", "1");
    let strict = must_run_all || !flags.is_empty();
    let started = Instant::now();
    let tools = setup::run(workspace)?;
    let directory = BuildDirectory::take(workspace)?;
    let hugepages = Hugepages::reserve(workspace);
    let bench = Bench {
        workspace,
        target: directory.path.clone(),
        tools,
        must_run_all,
        hugepages: &hugepages,
    };
    // Who names gates wants to see them one after the other.
    let beside = |gate: &&Gate| names.is_empty() && gate.beside;
    let (beside, front): (Vec<&Gate>, Vec<&Gate>) = gates.into_iter().partition(beside);
    let mut rows = run_all(&front, &beside, &bench)?;
    drop(hugepages);
    let place = |row: &Row| gates::ALL.iter().position(|gate| gate.name == row.gate);
    rows.sort_by_key(place);
    println!("\ngate                   count    time  what");
    for row in &rows {
        row.print(strict);
    }
    finish(&rows, strict, started.elapsed())
}

/// Runs `front` one after the other, aloud, and meanwhile `beside`, whose words come when both are done.
fn run_all(front: &[&Gate], beside: &[&Gate], bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    if beside.is_empty() {
        return Ok(front.iter().map(|gate| run_gate(gate, bench)).collect());
    }
    let path = bench.workspace.root.join("target/ci-beside.log");
    let log =
        new_log(&path).map_err(|error| format!("could not write {}: {error}", path.display()))?;
    let workspace = bench.workspace.beside(log);
    let quiet = Bench {
        workspace: &workspace,
        target: bench.target.clone(),
        ..*bench
    };
    let ended = thread::scope(|scope| {
        let names: Vec<&str> = beside.iter().map(|gate| gate.name).collect();
        println!(
            "beside the other gates, into {}: {}",
            path.display(),
            names.join(", ")
        );
        let others = scope.spawn(|| beside.iter().map(|gate| run_gate(gate, &quiet)).collect());
        let rows: Vec<Row> = front.iter().map(|gate| run_gate(gate, bench)).collect();
        if !others.is_finished() {
            println!("\nwaiting for the gates beside: {}", path.display());
        }
        others.join().map(|others: Vec<Row>| (rows, others))
    });
    let said = fs::read_to_string(&path);
    print!(
        "{}",
        said.unwrap_or_else(|error| format!("{}: {error}\n", path.display()))
    );
    let (mut rows, others) =
        ended.map_err(|_| "a gate panicked; its words are above".to_owned())?;
    rows.extend(others);
    Ok(rows)
}

/// Empty, and appended to by all who have it.
fn new_log(path: &Path) -> std::io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    File::create(path)?;
    File::options().append(true).open(path)
}

fn chosen(names: &[&String]) -> Result<Vec<&'static Gate>, String> {
    if names.is_empty() {
        return Ok(gates::ALL.iter().collect());
    }
    let find = |name: &&String| {
        let found = gates::ALL.iter().find(|gate| gate.name == name.as_str());
        found
            .ok_or_else(|| format!("there is no gate `{name}`; `cargo xtask ci --list` names them"))
    };
    names.iter().map(find).collect()
}

fn run_gate(gate: &Gate, bench: &Bench<'_>) -> Row {
    bench
        .workspace
        .say(&format!("\n== {}: {}", gate.name, gate.what));
    let started = Instant::now();
    let outcome = (gate.run)(bench);
    Row {
        gate: gate.name,
        outcome,
        took: started.elapsed(),
    }
}

/// Prints the counts of the tests and the closing line. Tests count one by one, every other gate
/// counts as one.
fn finish(rows: &[Row], strict: bool, took: Duration) -> Result<(), String> {
    let mut passed = 0;
    let mut failed = 0;
    let mut skipped = 0;
    for row in rows {
        match &row.outcome {
            Ok(Outcome::Passed(done)) => {
                for (what, number) in &done.counts {
                    println!("count    {what:<28} {number}");
                }
                passed += done.tests.unwrap_or(1);
            }
            Ok(Outcome::Skipped { .. }) => skipped += 1,
            Err(_) => {}
        }
        failed += u64::from(row.failed(strict));
    }
    println!("took {} min {} s", took.as_secs() / 60, took.as_secs() % 60);
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} gates are red"))
    }
}

fn variable_is(name: &str, value: &str) -> bool {
    env::var(name).is_ok_and(|found| found == value)
}
