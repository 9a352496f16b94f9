//! The end of it: refused, forced, and nothing that holds on to what is gone.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::report::Report;
use crate::world::World;

const SYSTEM: &str = "tensorpool-system";
const GUARD: &str = "job/tensorpool-uninstall-guard";
const DRIVER: &str = "--selector=app.kubernetes.io/component=node-driver";
/// Pods of the quickstart, which run.
const PODS: [&str; 2] = ["vision/camera", "vision/detector"];
/// Time between two looks at what the guard says.
const PERIOD: Duration = Duration::from_millis(200);

pub(crate) fn run(world: &World, report: &mut Report) {
    let refusal = report.step(
        "an uninstall under live volumes is refused, by name",
        || refused(world),
    );
    if let Some(refusal) = refusal {
        report.step(
            "forced as the refusal says, it names, deletes and awaits the pods first",
            || forced(world, &refusal),
        );
    }
    report.step(
        "streams, namespaces and definitions can go without it",
        || rest(world),
    );
}

fn guard_says(world: &World) -> Result<String, String> {
    world.kubectl(&["logs", "--namespace", SYSTEM, GUARD])
}

fn refused(world: &World) -> Result<String, String> {
    let said = world.helm_refuses(&["uninstall", "tensorpool", "--namespace", SYSTEM])?;
    println!("{said}");
    let why = guard_says(world)?;
    print!("{why}");
    if let Some(pod) = PODS.iter().find(|pod| !why.contains(*pod)) {
        return Err(format!("{pod} is not named"));
    }
    // Nothing was taken away.
    let drivers = world.kubectl(&["get", "pods", "--namespace", SYSTEM, DRIVER])?;
    if !drivers.contains("3/3") {
        return Err(format!("the driver should run on:\n{drivers}"));
    }
    Ok(why)
}

/// Does what the refusal says, word by word.
fn forced(world: &World, refusal: &str) -> Result<(), String> {
    let commands = refusal.trim().split("delete them: ").nth(1);
    let commands = commands.ok_or("the refusal does not say how")?;
    let chart = world.path("helm/tensorpool");
    for command in commands.split(" && ") {
        println!("{command}");
        let words = command.split_whitespace().skip(1);
        let words = words.map(|word| {
            if word == "CHART" {
                chart.as_str()
            } else {
                word
            }
        });
        let words: Vec<&str> = words.collect();
        if words.first() != Some(&"uninstall") {
            world.helm(&words)?;
            continue;
        }
        let waits = [&words[..], &["--wait", "--timeout=120s"]].concat();
        let guard = while_it_runs(world, || world.helm(&waits).map(drop))?;
        print!("{guard}");
        let missing = PODS.iter().find(|pod| !guard.contains(*pod));
        if let Some(pod) = missing {
            return Err(format!("{pod} was not named"));
        }
    }
    let of_each = "{range .items[?(@.spec.volumes[*].csi.driver==\"csi.tensorpool.io\")]}{.metadata.name},{.status.phase},{.metadata.deletionTimestamp} {end}";
    let pods = format!("--output=jsonpath={of_each}");
    let pods = world.kubectl(&["get", "pods", "-A", &pods])?;
    // Those that ended by themselves before have no volume any more, and nobody deletes them.
    let stayed = |pod: &&str| !pod.ends_with(",Succeeded,") && !pod.ends_with(",Failed,");
    let left: Vec<&str> = pods.split_whitespace().filter(stayed).collect();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("pods with volumes are there: {}", left.join(" ")))
    }
}

/// The last that the guard said while something ran; Helm removes the job at once when it has succeeded.
fn while_it_runs(
    world: &World,
    act: impl FnOnce() -> Result<(), String>,
) -> Result<String, String> {
    thread::scope(|scope| {
        let (ended, is_running) = mpsc::channel::<()>();
        let looks = scope.spawn(move || {
            let mut last = String::new();
            while let Err(mpsc::RecvTimeoutError::Timeout) = is_running.recv_timeout(PERIOD) {
                // Before the job and after it there is nothing to read.
                if let Ok(said) = guard_says(world) {
                    last = said;
                }
            }
            last
        });
        let done = act();
        drop(ended);
        let last = looks.join().map_err(|_| "the look at the guard failed")?;
        done.map(|()| last)
    })
}

fn rest(world: &World) -> Result<(), String> {
    let streams = world.kubectl(&["get", "tensorstreams", "-A"])?;
    println!("kept: {streams}");
    world.kubectl(&["delete", "namespace", "vision", "--timeout=60s"])?;
    world.helm(&["uninstall", "tensorpool-crds"])?;
    let ours = "--selector=app.kubernetes.io/part-of=tensorpool";
    print!(
        "{}",
        world.kubectl(&["delete", "crd", ours, "--timeout=60s"])?
    );
    let gone = ["wait", "--for=delete", "pods", "--all", "--timeout=60s"];
    world.kubectl(&[&gone[..], &["--namespace", SYSTEM]].concat())?;
    let left = world.kubectl(&["get", "pods", "--namespace", SYSTEM, "--output=name"])?;
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("pods stay: {left}"))
    }
}
