//! `cluster`: builds the program `tensorpool-cluster` and becomes it; and the gate that builds
//! what a cluster consists of before tests start one.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{self, Show};
use crate::setup;
use crate::workspace::{BuildDirectory, Workspace};

const PACKAGE: &str = "tensorpool-cluster";

/// Builds the program and becomes it, in the caller's directory. Nothing is printed that is not
/// its own: its output is read by programs.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    let here = env::current_dir();
    let mut program = match kept(workspace, arguments) {
        Some(kept) => as_outside(workspace, kept),
        None => {
            if arguments.iter().any(|word| word == "up" || word == "build") {
                setup::run(workspace)?;
            }
            let directory = BuildDirectory::take(workspace)?;
            build(workspace, &directory.path)?
        }
    };
    if let Ok(here) = here {
        program.current_dir(here);
    }
    let error = program.args(arguments).exec();
    Err(format!("could not start {PACKAGE}: {error}"))
}

/// The program that a running cluster keeps with it. It is taken as it is: it fits the cluster, and
/// a build would wait for other builds.
fn kept(workspace: &Workspace, arguments: &[String]) -> Option<PathBuf> {
    let mut name = "main";
    let mut goes_in = false;
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--name" => name = words.next()?,
            "exec" | "kubectl" | "load" | "down" if !goes_in => goes_in = true,
            // What follows is for another program.
            _ if goes_in && !word.starts_with("--name=") => break,
            _ => name = word.strip_prefix("--name=")?,
        }
    }
    if !goes_in {
        return None;
    }
    let clusters = workspace.cache.join("clusters");
    Some(clusters.join(name).join("bin").join(PACKAGE)).filter(|program| program.is_file())
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
    Ok(as_outside(workspace, target.join("debug").join(PACKAGE)))
}

/// The program with the caller's environment, and the tools that `setup` installed on its path.
fn as_outside(workspace: &Workspace, program: PathBuf) -> Command {
    let mut command = workspace.command(program, Path::new(""));
    // What it runs for others builds where they build.
    match env::var_os("CARGO_TARGET_DIR") {
        Some(given) => command.env("CARGO_TARGET_DIR", given),
        None => command.env_remove("CARGO_TARGET_DIR"),
    };
    command
}
