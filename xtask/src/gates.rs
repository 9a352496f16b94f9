//! The gates of `ci`. Each one counts what it looked at.

use std::collections::BTreeSet;

use crate::ci::Bench;
use crate::cluster;
use crate::codegen;
use crate::command::{self, Show};
use crate::crdgen;
use crate::e2e;
use crate::spec;

mod dependencies;
mod emulated;
mod models;
mod tests;

/// What is missing where static programs cannot be built.
const MUSL: &str = "rustup target x86_64-unknown-linux-musl";

/// One gate.
#[derive(Debug)]
pub(crate) struct Gate {
    /// What one types.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) what: &'static str,
    /// Only computes: where all gates run, it runs beside the others, which wait more than they work.
    pub(crate) beside: bool,
    /// Does it.
    pub(crate) run: fn(&Bench<'_>) -> Result<Outcome, String>,
}

/// How a gate ended when it did not fail.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It looked at `count` things.
    Passed(Done),
    /// Its tool is not there and cannot be installed.
    Skipped {
        /// The missing tool.
        tool: &'static str,
    },
}

/// What a gate did.
#[derive(Debug)]
pub(crate) struct Done {
    /// How many things it looked at; zero makes the gate red.
    pub(crate) count: u64,
    /// What the things are.
    pub(crate) what: String,
    /// How many tests passed, where the gate runs tests.
    pub(crate) tests: Option<u64>,
    /// Further counts for the summary.
    pub(crate) counts: Vec<(String, u64)>,
}

impl Outcome {
    fn checked(count: usize, what: impl Into<String>) -> Self {
        Self::Passed(Done {
            count: u64::try_from(count).unwrap_or(u64::MAX),
            what: what.into(),
            tests: None,
            counts: Vec::new(),
        })
    }

    fn tested(tests: u64, what: impl Into<String>, counts: Vec<(String, u64)>) -> Self {
        Self::Passed(Done {
            count: tests,
            what: what.into(),
            tests: Some(tests),
            counts,
        })
    }
}

/// All gates, quick ones first.
pub(crate) const ALL: &[Gate] = &[
    Gate {
        name: "fmt",
        what: "every Rust file is formatted",
        beside: false,
        run: format,
    },
    Gate {
        name: "deny",
        what: "bans, licences and sources of all dependencies",
        beside: false,
        run: dependencies::deny,
    },
    Gate {
        name: "dependencies",
        what: "the client without Aeron needs no C toolchain and few crates",
        beside: false,
        run: dependencies::client,
    },
    Gate {
        name: "codegen",
        what: "the golden vectors are those of the independent codec",
        beside: false,
        run: golden,
    },
    Gate {
        name: "crds",
        what: "the chart's definitions and the API reference are those of the types",
        beside: false,
        run: definitions,
    },
    Gate {
        name: "spec",
        what: "no requirement loses its code or its test",
        beside: false,
        run: requirements,
    },
    Gate {
        name: "clippy",
        what: "all crates, targets and features, without a warning",
        beside: false,
        run: clippy,
    },
    Gate {
        name: "images",
        what: "the static programs that go into the images are built",
        beside: true,
        run: image_programs,
    },
    Gate {
        name: "rustdoc",
        what: "the documentation builds without a warning",
        beside: true,
        run: rustdoc,
    },
    Gate {
        name: "cluster",
        what: "the programs of a Kubernetes cluster are built, for the tests that start one",
        beside: false,
        run: cluster_programs,
    },
    Gate {
        name: "tests",
        what: "all tests of all crates with all features",
        beside: false,
        run: tests::nextest,
    },
    Gate {
        name: "doctests",
        what: "the examples in the documentation",
        beside: false,
        run: tests::doctests,
    },
    Gate {
        name: "client-alone",
        what: "the client's tests without any feature",
        beside: false,
        run: tests::client_alone,
    },
    Gate {
        name: "loom",
        what: "all interleavings of the lock-free code",
        beside: true,
        run: models::loom,
    },
    Gate {
        name: "miri",
        what: "undefined behaviour in shm and wire",
        beside: true,
        run: models::miri,
    },
    Gate {
        name: "musl",
        what: "the client without Aeron for a static target",
        beside: true,
        run: dependencies::musl,
    },
    Gate {
        name: "emulated",
        what: "what few machines have: several NUMA nodes, and control groups v2 alone",
        beside: true,
        run: emulated::emulated,
    },
    Gate {
        name: "e2e",
        what: "images, charts and pods on a real Kubernetes",
        beside: false,
        run: end_to_end,
    },
];

fn format(bench: &Bench<'_>) -> Result<Outcome, String> {
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args(["fmt", "--all", "--check"]);
    command::run(&mut cargo, Show::All)?.success("cargo fmt --check")?;
    let files = bench.workspace.files()?;
    let sources = files.iter().filter(|file| file.ends_with(".rs")).count();
    Ok(Outcome::checked(sources, "Rust files"))
}

fn clippy(bench: &Bench<'_>) -> Result<Outcome, String> {
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args(["clippy", "--locked", "--workspace", "--all-targets"]);
    cargo.args([
        "--all-features",
        "--message-format",
        "json-render-diagnostics",
    ]);
    cargo.args(["--", "-D", "warnings"]);
    let done = command::run(&mut cargo, Show::Errors)?.success("cargo clippy")?;
    Ok(Outcome::checked(
        own_artifacts(&done.stdout).len(),
        "targets of this workspace",
    ))
}

fn rustdoc(bench: &Bench<'_>) -> Result<Outcome, String> {
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args([
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--all-features",
    ]);
    cargo.args(["--document-private-items", "--message-format"]);
    cargo.arg("json-render-diagnostics");
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    let done = bench
        .workspace
        .run(&mut cargo, Show::Errors)?
        .success("cargo doc")?;
    Ok(Outcome::checked(
        own_artifacts(&done.stdout).len(),
        "targets of this workspace",
    ))
}

/// The artifacts that cargo reports for packages of this workspace, fresh ones too.
fn own_artifacts(messages: &str) -> BTreeSet<&str> {
    messages
        .lines()
        .filter(|line| {
            line.starts_with("{\"reason\":\"compiler-artifact\"")
                && line.contains("\"package_id\":\"path+file://")
        })
        .collect()
}

fn golden(_: &Bench<'_>) -> Result<Outcome, String> {
    let line = codegen::run(true)?;
    println!("{line}");
    let vectors = line
        .split_whitespace()
        .find_map(|word| word.parse::<usize>().ok())
        .unwrap_or(0);
    Ok(Outcome::checked(vectors, line))
}

fn definitions(bench: &Bench<'_>) -> Result<Outcome, String> {
    let files = crdgen::run(bench.workspace, &bench.target, true)?;
    Ok(Outcome::checked(files, "files of the Kubernetes API"))
}

fn cluster_programs(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.go {
        return Ok(Outcome::Skipped { tool: "go" });
    }
    let built = cluster::build_programs(bench.workspace, &bench.target)?;
    Ok(Outcome::checked(built, "programs of a cluster"))
}

/// What [`end_to_end`] would build first.
fn image_programs(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.musl {
        return Ok(Outcome::Skipped { tool: MUSL });
    }
    if !bench.tools.cmake {
        return Ok(Outcome::Skipped { tool: "cmake" });
    }
    let built = e2e::build_programs_of_images(bench.workspace, &bench.target)?;
    Ok(Outcome::checked(built, "static programs"))
}

/// Not run for people who are not root; where every test must run, that is an error of sudo.
fn end_to_end(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.go {
        return Ok(Outcome::Skipped { tool: "go" });
    }
    if !bench.tools.musl {
        return Ok(Outcome::Skipped { tool: MUSL });
    }
    if !e2e::is_root() && !bench.must_run_all {
        return Ok(Outcome::Skipped { tool: "root" });
    }
    let steps = e2e::through(bench.workspace, &bench.target)?;
    let steps = usize::try_from(steps).unwrap_or(usize::MAX);
    Ok(Outcome::checked(steps, "steps on a real Kubernetes"))
}

/// Red when more required ids lack code or a test than `docs/requirements/uncovered.txt` allows.
fn requirements(bench: &Bench<'_>) -> Result<Outcome, String> {
    let count = spec::count(bench.workspace)?;
    let allowed = bench.workspace.read("docs/requirements/uncovered.txt")?;
    let allowed: usize = allowed
        .trim()
        .parse()
        .map_err(|error| format!("docs/requirements/uncovered.txt holds no number: {error}"))?;
    println!("{}", count.summary());
    if !count.unknown().is_empty() {
        return Err(format!(
            "marks name no requirement: {}",
            count.unknown().join(", ")
        ));
    }
    if count.uncovered() > allowed {
        return Err(format!(
            "{} required ids lack code or a test, {allowed} are allowed; `cargo xtask spec` names them",
            count.uncovered()
        ));
    }
    let covered = count.required() - count.uncovered();
    Ok(Outcome::checked(
        covered,
        format!(
            "of {} required ids covered ({allowed} may be open)",
            count.required()
        ),
    ))
}
