//! `tensorpool-e2e`: the whole product once through, on a real Kubernetes.
//!
//! It brings a cluster up, builds the images with the repository's Dockerfile, installs the charts, lets
//! two pods exchange frames of which every byte is known, runs `helm test` and the quickstart, uninstalls,
//! and takes the cluster down, whatever happened. `cargo xtask e2e` builds and runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use world::{Programs, World};

mod access;
mod aeron;
mod audit;
mod images;
mod pages;
mod report;
mod steps;
mod world;

const USAGE: &str = "\
usage: tensorpool-e2e --root CHECKOUT --static DIRECTORY --cluster PROGRAM [--keep]

  --root     the checkout, with the charts and the Dockerfile
  --static   the directory whose `out` has the static programs for the images
  --cluster  the program tensorpool-cluster
  --keep     leave the cluster up, to look at what failed";

fn main() -> ExitCode {
    let started = Instant::now();
    let (programs, keep) = match arguments(std::env::args().skip(1)) {
        Ok(given) => given,
        Err(message) => {
            eprintln!("error: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut report = report::Report::default();
    let world = report.step("a cluster with a node comes up", || World::up(programs));
    if let Some(world) = world {
        steps::run(&world, &mut report);
        if report.has_failed() {
            world.tell_what_runs();
        }
        if keep {
            println!(
                "the cluster stays: cargo xtask cluster --name {} down",
                world::NAME
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

fn arguments(words: impl Iterator<Item = String>) -> Result<(Programs, bool), String> {
    let (mut root, mut programs, mut cluster, mut keep) = (None, None, None, false);
    let mut words = words;
    while let Some(word) = words.next() {
        let mut path = || {
            let value = words.next().map(PathBuf::from);
            value.ok_or_else(|| format!("{word} needs a path"))
        };
        match word.as_str() {
            "--root" => root = Some(path()?),
            "--static" => programs = Some(path()?),
            "--cluster" => cluster = Some(path()?),
            "--keep" => keep = true,
            other => return Err(format!("there is no argument {other}")),
        }
    }
    let programs = Programs {
        root: root.ok_or("--root is missing")?,
        statics: programs.ok_or("--static is missing")?,
        cluster: cluster.ok_or("--cluster is missing")?,
    };
    Ok((programs, keep))
}
