//! `demo` and `bench`: builds the programs of `tensorpool-e2e` and runs one of them.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::command::{self, Show};
use crate::hugepages::Hugepages;
use crate::setup;
use crate::workspace::{BuildDirectory, Workspace};

/// Builds the driver and the demo's processes, then becomes the demo.
pub(crate) fn demo(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    let mut demo = build(workspace, "tensorpool-demo", arguments)?;
    let error = demo.exec();
    Err(format!("could not start the demo: {error}"))
}

/// Builds the benchmark and runs it, with huge pages where they can be had.
pub(crate) fn bench(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    let mut bench = build(workspace, "tensorpool-bench", arguments)?;
    let hugepages = Hugepages::reserve(workspace);
    match &hugepages {
        Ok(pages) => {
            bench.env("TENSORPOOL_HUGETLB_DIR", pages.mount());
        }
        Err(why) => println!("without huge pages: {why}"),
    }
    let status = bench
        .status()
        .map_err(|error| format!("could not start the benchmark: {error}"))?;
    drop(hugepages);
    if status.success() {
        Ok(())
    } else {
        Err(format!("the benchmark ended with {status}"))
    }
}

fn build(workspace: &Workspace, program: &str, arguments: &[String]) -> Result<Command, String> {
    setup::run(workspace)?;
    let directory = BuildDirectory::take(workspace)?;
    println!("building (the first time this takes some minutes)");
    let mut build = workspace.cargo(&directory.path);
    build.args(["build", "--locked", "--quiet", "--release", "--bins"]);
    build.args([
        "--package",
        "tensorpool-e2e",
        "--package",
        "tensorpool-node-driver",
    ]);
    command::run(&mut build, Show::All)?.success("building the programs")?;
    let binary = directory.path.join("release").join(program);
    let mut command = workspace.command(binary, &directory.path);
    command
        .args(arguments)
        .env("TENSORPOOL_WORKSPACE", &workspace.root);
    Ok(command)
}
