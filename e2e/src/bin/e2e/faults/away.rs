//! The API server is away for a minute, and what else happens meanwhile. Nothing here may ask it.

use std::time::{Duration, Instant};

use super::{
    FIRST, NAMESPACE, SECOND, Sight, both, driver, here, kill, signal, stream, untouched, upgrade,
};
use crate::report::Report;
use crate::world::{World, until, until_within};

const API_SERVER: &str = "/kube-apiserver ";
/// Longer than everything of ours that is renewed through the API server: the operators' Lease (15 s), the
/// driver's (30 s), and what RBAC allowed (30 s).
const AWAY: Duration = Duration::from_secs(60);
/// A consumer in a container that kubelet starts again. By its stream's full name it is told apart.
const AGAIN: &str = "^/exchange watch faults/witness$";

/// An API server that does not answer.
struct Away {
    since: Instant,
    /// What the pairs had said by then.
    before: [Sight; 2],
}

pub(super) fn run(world: &World, report: &mut Report) {
    let away = report.step("the API server answers no longer", || stop(world));
    let Some(away) = away else { return };
    report.step(
        "meanwhile the media driver is killed, and pods on sockets notice nothing",
        || untouched(world, || kill(world, driver::MEDIA_DRIVER)),
    );
    report.step(
        "meanwhile a consumer's container dies, and the next one has its lease",
        || container(world),
    );
    report.step(
        "meanwhile images of the next version come to the node",
        || upgrade::fetch(world),
    );
    report.step(
        "a minute later the API server is back, and frames went on",
        || go_on(world, &away),
    );
}

/// Whoever is connected to it hears nothing.
fn stop(world: &World) -> Result<Away, String> {
    let before = both(world)?;
    signal(world, "STOP", API_SERVER)?;
    let since = Instant::now();
    Ok(Away { since, before })
}

/// Kubelet starts it again without being told, with the volume that the pod has.
fn container(world: &World) -> Result<(), String> {
    let log = format!("cat /var/log/pods/{NAMESPACE}_again_*/*/*.log");
    let starts = || -> Result<usize, String> {
        let said = world.inside("sh", &["-c", &log])?;
        Ok(said
            .lines()
            .filter(|line| line.contains("attached to"))
            .count())
    };
    let before = starts()?;
    let began = Instant::now();
    kill(world, AGAIN)?;
    until(|| match starts()? {
        after if after > before => Ok(()),
        after => Err(format!("{after} consumers had a lease, as before")),
    })?;
    println!("another lease after {} ms", began.elapsed().as_millis());
    Ok(())
}

/// After its time it answers again. A new stream shows that everybody has heard.
fn go_on(world: &World, away: &Away) -> Result<(), String> {
    let over = until_within(AWAY * 2, || match away.since.elapsed() {
        passed if passed >= AWAY => Ok(()),
        passed => Err(format!("{} s", passed.as_secs())),
    });
    // Whatever was seen, it must not stay away.
    signal(world, "CONT", API_SERVER)?;
    over?;
    println!("it was away for {} ms", away.since.elapsed().as_millis());
    FIRST.noticed_nothing(world, &away.before[0])?;
    SECOND.noticed_nothing(world, &away.before[1])?;
    // It takes an operator that leads and a driver that follows, and both have to be heard.
    let began = Instant::now();
    world.apply(&[stream("after", 64, 4096, "Eager")])?;
    let ready = "--for=condition=Ready";
    here(
        world,
        &["wait", ready, "tensorstream/after", "--timeout=60s"],
    )?;
    let took = began.elapsed().as_millis();
    println!("a stream that is made afterwards is ready on the node after {took} ms");
    here(world, &["delete", "tensorstream", "after", "--wait=false"]).map(drop)
}
