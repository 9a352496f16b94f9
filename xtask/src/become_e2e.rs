//! `demo` and `bench`: builds the programs of `tensorpool-e2e` and becomes one of them.

use std::os::unix::process::CommandExt;

use crate::command::{Show, run};
use crate::setup;
use crate::workspace::{BuildDirectory, Workspace};

/// Builds the driver and the demo's processes, then runs the demo.
pub(crate) fn demo(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    become_program(workspace, "tensorpool-demo", arguments)
}

/// Builds the benchmark, then runs it.
pub(crate) fn bench(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    become_program(workspace, "tensorpool-bench", arguments)
}

fn become_program(
    workspace: &Workspace,
    program: &str,
    arguments: &[String],
) -> Result<(), String> {
    setup::run(workspace)?;
    let directory = BuildDirectory::take(workspace)?;
    let mut build = workspace.cargo(&directory.path);
    build.args(["build", "--release", "--package", "tensorpool-e2e"]);
    build.args(["--package", "tensorpool-node-driver", "--bins"]);
    run(&mut build, Show::All)?.success("building the programs")?;
    let binaries = directory.path.join("release");
    let mut command = workspace.command(binaries.join(program), &directory.path);
    command
        .args(arguments)
        .env("TENSORPOOL_WORKSPACE", &workspace.root);
    drop(directory);
    let error = command.exec();
    Err(format!("could not start {program}: {error}"))
}
