//! The node driver and the media driver: killed, replaced, taken away.

use super::{SYSTEM, both, interrupted, kill, operator};
use crate::report::Report;
use crate::world::World;

/// How often the driver is killed.
const KILLS: usize = 5;
/// What the supervisor starts in the driver's container.
const DRIVER: &str = "^/tensorpool-node-driver$";
pub(super) const MEDIA_DRIVER: &str = "^/tensorpool-node-driver media-driver ";
const OF_DRIVER: &str = "--selector=app.kubernetes.io/component=node-driver";
const DAEMON_SET: &str = "daemonset/tensorpool-node-driver-default";

pub(super) fn run(world: &World, report: &mut Report) {
    let stopped = report.step("the leading operator is stopped", || operator::stop(world));
    report.step(
        "the driver is killed five times under load, and consumers resume by themselves",
        || killed(world),
    );
    report.step("the driver's pod is replaced", || replaced(world));
    if let Some(stopped) = stopped {
        report.step(
            "another operator leads, and the one that was stopped gives way",
            || operator::go_on(world, &stopped),
        );
    }
    report.step("the DaemonSet is deleted, and Helm brings it back", || {
        deleted(world)
    });
}

fn killed(world: &World) -> Result<(), String> {
    let before = both(world)?;
    for _ in 0..KILLS {
        interrupted(world, || kill(world, DRIVER))?;
    }
    let after = both(world)?;
    let mut pauses: Vec<u64> = Vec::new();
    for (before, after) in before.iter().zip(&after) {
        let changes = after.changes.iter().skip(before.changes.len());
        pauses.extend(changes.map(|change| change.pause_ms));
    }
    pauses.sort_unstable();
    if let [min, .., max] = pauses[..] {
        let median = pauses[pauses.len() / 2];
        println!(
            "time from the last frame of an epoch to the first of the next, {} times: min {min} ms, median {median} ms, max {max} ms",
            pauses.len()
        );
    }
    Ok(())
}

fn replaced(world: &World) -> Result<(), String> {
    interrupted(world, || {
        world.kubectl(&["delete", "pod", OF_DRIVER, "--namespace", SYSTEM])?;
        rolled_out(world)
    })
    .map(drop)
}

fn deleted(world: &World) -> Result<(), String> {
    interrupted(world, || {
        world.kubectl(&["delete", DAEMON_SET, "--namespace", SYSTEM])?;
        let gone = ["wait", "--for=delete", "pod", OF_DRIVER, "--timeout=60s"];
        world.kubectl(&[&gone[..], &["--namespace", SYSTEM]].concat())?;
        super::upgrade(world, &[])?;
        rolled_out(world)
    })
    .map(drop)
}

/// Waits until the node has its driver.
pub(super) fn rolled_out(world: &World) -> Result<(), String> {
    let status = ["rollout", "status", DAEMON_SET, "--timeout=60s"];
    let said = world.kubectl(&[&status[..], &["--namespace", SYSTEM]].concat());
    said.map(drop)
}
