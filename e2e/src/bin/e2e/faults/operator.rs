//! Two operators, of which one leads.

use std::time::{Duration, Instant};

use super::{SYSTEM, field, here, stream};
use crate::world::{World, until, until_within};

/// As long as a Lease of a leader lives that does not renew it, and something for who looks.
const TAKEN_WITHIN: Duration = Duration::from_secs(25);

/// An operator that led when it was stopped.
#[derive(Debug)]
pub(super) struct Stopped {
    pod: String,
    /// That it had lost the Lease earlier, if so.
    lost_before: Option<String>,
    at: Instant,
}

fn leader(world: &World) -> Result<String, String> {
    let lease = ["lease/tensorpool-operator", "--namespace", SYSTEM];
    field(world, &lease, "{.spec.holderIdentity}")
}

/// Sends a signal to a pod's only container.
fn signal(world: &World, pod: &str, signal: &str) -> Result<(), String> {
    let pod = ["pod", pod, "--namespace", SYSTEM];
    let id = field(world, &pod, "{.status.containerStatuses[0].containerID}")?;
    let id = id.trim_start_matches("containerd://");
    let kill = ["--namespace", "k8s.io", "task", "kill", "--signal", signal];
    world.inside("ctr", &[&kill[..], &[id]].concat()).map(drop)
}

/// Stops the one that leads. It does not know, and takes itself for the leader when it goes on.
pub(super) fn stop(world: &World) -> Result<Stopped, String> {
    let pod = leader(world)?;
    signal(world, &pod, "SIGSTOP")?;
    println!("{pod} was leading");
    let lost_before = last_loss(world, &pod)?;
    Ok(Stopped {
        pod,
        lost_before,
        at: Instant::now(),
    })
}

/// Another one leads by now, and does so still when the stopped one has found out.
pub(super) fn go_on(world: &World, stopped: &Stopped) -> Result<(), String> {
    let left = TAKEN_WITHIN.saturating_sub(stopped.at.elapsed());
    let other = until_within(left, || match leader(world)? {
        other if other.is_empty() || other == stopped.pod => {
            Err(format!("{} has the Lease", stopped.pod))
        }
        other => Ok(other),
    });
    // Whatever was seen, it must not stay stopped.
    signal(world, &stopped.pod, "SIGCONT")?;
    let other = other?;
    println!("{other} leads");
    until(|| match last_loss(world, &stopped.pod)? {
        Some(line) if stopped.lost_before.as_ref() != Some(&line) => {
            println!("{} said: {line}", stopped.pod);
            Ok(())
        }
        Some(_) | None => Err(format!("{} does not say that it lost", stopped.pod)),
    })?;
    match leader(world)? {
        leads if leads == other => Ok(()),
        leads => Err(format!("{leads} leads, not {other}")),
    }
}

/// What an operator said when it lost the Lease the last time, as it lies on the node.
fn last_loss(world: &World, pod: &str) -> Result<Option<String>, String> {
    let files = format!("cat /var/log/pods/{SYSTEM}_{pod}_*/*/*.log");
    let log = world.inside("sh", &["-c", &files])?;
    let last = log
        .lines()
        .rfind(|line| line.contains("the lease was lost"));
    Ok(last.map(ToOwned::to_owned))
}

/// Kills the one that leads before it can hear of a new stream, which is accepted all the same.
pub(super) fn killed(world: &World) -> Result<(), String> {
    let pod = leader(world)?;
    signal(world, &pod, "SIGKILL")?;
    let began = Instant::now();
    world.apply(&[stream("new", 64, 4096, "OnDemand")])?;
    let accepted = "--for=condition=Accepted";
    here(
        world,
        &["wait", accepted, "tensorstream/new", "--timeout=40s"],
    )?;
    let took = began.elapsed().as_millis();
    println!(
        "the stream is accepted after {took} ms, {} leads",
        leader(world)?
    );
    here(world, &["delete", "tensorstream", "new", "--timeout=60s"]).map(drop)
}
