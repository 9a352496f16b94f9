//! Gates on what is linked in.

use std::collections::BTreeSet;

use super::Outcome;
use crate::ci::Bench;
use crate::command::{self, Show};

/// Crates that run a C or C++ toolchain, or bring a runtime that the smallest client must not have.
const NOT_WITHOUT_FEATURES: [&str; 7] = [
    "bindgen",
    "cc",
    "cmake",
    "rusteron-client",
    "rusteron-code-gen",
    "rusteron-media-driver",
    "tokio",
];

/// How many crates the smallest client may be built from, this workspace's own included. Raise it
/// only with a reason in the commit.
const CLIENT_CRATES_MAX: usize = 30;

pub(super) fn deny(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.deny {
        return Ok(Outcome::Skipped { tool: "cargo-deny" });
    }
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args(["deny", "--all-features", "--locked", "check"]);
    cargo.args(["bans", "licenses", "sources"]);
    command::run(&mut cargo, Show::All)?.success("cargo deny")?;
    let lock = bench.workspace.read("Cargo.lock")?;
    Ok(Outcome::checked(
        lock.matches("[[package]]").count(),
        "crates in Cargo.lock",
    ))
}

pub(super) fn client(bench: &Bench<'_>) -> Result<Outcome, String> {
    let smallest = crates_of_client(bench, &["--no-default-features"])?;
    println!("the client without features is built from:");
    for name in &smallest {
        println!("  {name}");
    }
    forbid(&smallest, &NOT_WITHOUT_FEATURES, "without features")?;
    if smallest.len() > CLIENT_CRATES_MAX {
        return Err(format!(
            "the client without features is built from {} crates, {CLIENT_CRATES_MAX} are allowed",
            smallest.len()
        ));
    }
    let default = crates_of_client(bench, &[])?;
    let no_c: Vec<&str> = NOT_WITHOUT_FEATURES
        .into_iter()
        .filter(|name| *name != "tokio")
        .collect();
    forbid(&default, &no_c, "with its default features")?;
    Ok(Outcome::checked(
        smallest.len(),
        format!(
            "crates in the smallest client, {} in the default one",
            default.len()
        ),
    ))
}

pub(super) fn musl(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.musl {
        return Ok(Outcome::Skipped { tool: super::MUSL });
    }
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args(["build", "--locked", "--package", "tensorpool-client"]);
    cargo.args(["--no-default-features", "--examples"]);
    cargo.args(["--target", "x86_64-unknown-linux-musl"]);
    // For the benchmark library alone, which comes with the examples and is linked into none of them;
    // the crate itself has no C in it (gate `dependencies`).
    cargo.env("CC_x86_64_unknown_linux_musl", "cc");
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let done = bench
        .workspace
        .run(&mut cargo, Show::Errors)?
        .success("the static build")?;
    Ok(Outcome::checked(
        super::own_artifacts(&done.stdout).len(),
        "targets of this workspace",
    ))
}

/// Names of all crates, build scripts' too, that the client is built from.
fn crates_of_client(bench: &Bench<'_>, features: &[&str]) -> Result<BTreeSet<String>, String> {
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args(["tree", "--locked", "--package", "tensorpool-client"]);
    cargo.args([
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    cargo.args(features);
    let done = command::run(&mut cargo, Show::Errors)?.success("cargo tree")?;
    let names = done
        .stdout
        .lines()
        .filter_map(|line| line.split(' ').next());
    Ok(names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

fn forbid(crates: &BTreeSet<String>, names: &[&str], how: &str) -> Result<(), String> {
    let found: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| crates.contains(*name))
        .collect();
    if found.is_empty() {
        Ok(())
    } else {
        Err(format!("the client {how} needs {}", found.join(", ")))
    }
}
