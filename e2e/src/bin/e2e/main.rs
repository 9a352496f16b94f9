//! `tensorpool-e2e`: the whole product once through, on a real Kubernetes.
//!
//! It brings a cluster up, builds the images with the repository's Dockerfile, installs the charts, lets
//! two pods exchange frames of which every byte is known, runs `helm test` and the quickstart, uninstalls,
//! and takes the cluster down, whatever happened. `cargo xtask e2e` builds and runs it.

use std::process::ExitCode;
use std::time::Instant;

use arguments::Arguments;
use clap::Parser;
use world::World;

mod access;
mod aeron;
mod arguments;
mod audit;
mod ending;
mod faults;
mod hostile;
mod images;
mod pace;
mod pages;
mod report;
mod steps;
mod uninstall;
mod world;

fn main() -> ExitCode {
    if aeron::member::is_one() {
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    let arguments = Arguments::parse();
    if let Err(why) = ending::watch(&arguments) {
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    let mut report = report::Report::default();
    if let Some(world) = world_of(&arguments, &mut report) {
        for suite in arguments.suites() {
            if suite.is_alone {
                report.settle();
            }
            (suite.run)(&world, &mut report);
        }
        report.settle();
        if report.has_failed() {
            world.tell_what_runs();
        }
        if arguments.keep || arguments.kept {
            println!(
                "the cluster stays: cargo xtask cluster --name {} down",
                arguments.name
            );
        } else {
            report.step("the cluster goes, and nothing stays", || world.down());
        }
    }
    println!("{}", report.summary(started.elapsed()));
    if report.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The cluster with the charts installed. Without it no suite can run.
fn world_of(arguments: &Arguments, report: &mut report::Report) -> Option<World> {
    if arguments.kept {
        return report.step("the cluster of an earlier run is up", || {
            World::kept(arguments)
        });
    }
    let world = report.step("a cluster with a node comes up", || World::up(arguments))?;
    let installed = steps::install(&world, report);
    if installed.is_none() {
        world.tell_what_runs();
        if !arguments.keep {
            report.step("the cluster goes, and nothing stays", || world.down());
        }
        return None;
    }
    Some(world)
}
