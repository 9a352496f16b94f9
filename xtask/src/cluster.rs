//! `cluster`: builds the program `tensorpool-cluster` and becomes it; and the gate that builds
//! what a cluster consists of before tests start one.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::command::{self, Show};
use crate::setup;
use crate::workspace::{BuildDirectory, Workspace};

const PACKAGE: &str = "tensorpool-cluster";

/// Builds the program and becomes it, in the caller's directory. Nothing is printed that is not
/// its own: its output is read by programs.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    if arguments.iter().any(|word| word == "up" || word == "build") {
        setup::run(workspace)?;
    }
    let directory = BuildDirectory::take(workspace)?;
    let mut program = build(workspace, &directory.path)?;
    if let Ok(here) = env::current_dir() {
        program.current_dir(here);
    }
    let error = program.args(arguments).exec();
    Err(format!("could not start {PACKAGE}: {error}"))
}

/// Builds every program of a cluster into the cache; how many they are.
pub(crate) fn build_programs(workspace: &Workspace, target: &Path) -> Result<usize, String> {
    let mut program = build(workspace, target)?;
    let done = command::run(program.arg("build"), Show::All)?
        .success("building the programs of a cluster")?;
    let last = done.stdout.lines().last().unwrap_or_default();
    let number = last.split(' ').next().unwrap_or_default();
    number
        .parse()
        .map_err(|_| format!("`{PACKAGE} build` ended with `{last}`, not with a count"))
}

fn build(workspace: &Workspace, target: &Path) -> Result<Command, String> {
    let mut cargo = workspace.cargo(target);
    cargo.args(["build", "--locked", "--quiet", "--package", PACKAGE]);
    cargo.args(["--bin", PACKAGE]);
    command::run(&mut cargo, Show::Errors)?.success("building tensorpool-cluster")?;
    let mut program = workspace.command(target.join("debug").join(PACKAGE), target);
    // What the program runs for others builds where they build.
    program.env_remove("CARGO_TARGET_DIR");
    if let Some(given) = env::var_os("CARGO_TARGET_DIR") {
        program.env("CARGO_TARGET_DIR", given);
    }
    Ok(program)
}
