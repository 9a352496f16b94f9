//! Another version of everything, and back.
//!
//! The programs are the same: what a version is to Helm, kubelet and the controllers is another chart with
//! other images.

use super::{NAMESPACE, SYSTEM, both, driver, field, here, interrupted, pod, untouched};
use crate::images::{self, VERSION};
use crate::report::Report;
use crate::world::{World, until};

/// The version after this one: the last number is one higher.
fn next() -> Result<String, String> {
    let (rest, last) = VERSION.rsplit_once('.').unwrap_or(("0", VERSION));
    let last: u64 = last
        .parse()
        .map_err(|error| format!("{VERSION} ends with no number: {error}"))?;
    Ok(format!("{rest}.{}", last + 1))
}

/// Its images.
pub(super) fn fetch(world: &World) -> Result<(), String> {
    images::build_and_load_as(world, &next()?)
}

pub(super) fn run(world: &World, report: &mut Report) {
    report.step(
        "an upgrade to the next version: pods stay, and frames are delivered or counted",
        || forth(world),
    );
    report.step(
        "the rollback to the version before: as much, and no more",
        || back(world),
    );
}

fn forth(world: &World) -> Result<(), String> {
    let version = next()?;
    let packages = tempfile::tempdir().map_err(|error| error.to_string())?;
    let directory = packages.path().display().to_string();
    let package = |chart: &str| -> Result<String, String> {
        let source = world.path(&format!("helm/{chart}"));
        let as_next = ["--version", &version, "--app-version", &version];
        let into = ["package", &source, "--destination", &directory];
        world.helm(&[&into[..], &as_next].concat())?;
        Ok(format!("{directory}/{chart}-{version}.tgz"))
    };
    let definitions = package("tensorpool-crds")?;
    let product = package("tensorpool")?;
    // As docs/kubernetes.md says: the definitions first.
    untouched(world, || {
        let upgrade = ["upgrade", "tensorpool-crds", &definitions, "--wait"];
        world.helm(&upgrade).map(drop)
    })?;
    replaced_by(world, &version, || {
        let values = world.path("e2e/manifests/values.yaml");
        let upgrade = ["upgrade", "tensorpool", &product, "--values", &values];
        let how = ["--namespace", SYSTEM, "--wait", "--timeout=120s"];
        world.helm(&[&upgrade[..], &how].concat()).map(drop)
    })
}

fn back(world: &World) -> Result<(), String> {
    replaced_by(world, VERSION, || {
        let rollback = ["rollback", "tensorpool", "--namespace", SYSTEM];
        let how = ["--wait", "--timeout=120s"];
        world.helm(&[&rollback[..], &how].concat()).map(drop)
    })
}

/// Afterwards operators and driver are of `version`, and nothing else is another one: each pod with a volume
/// has the container that it had, its frames go on in later epochs, and a pod that began meanwhile has its.
fn replaced_by(
    world: &World,
    version: &str,
    act: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let containers = "{range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID}{\"\\n\"}{end}";
    let containers = || field(world, &["pods", "--namespace", NAMESPACE], containers);
    let (pods, sights) = (containers()?, both(world)?);
    interrupted(world, || {
        let watch = ["/exchange", "watch", "witness"];
        world.apply(&[pod("meanwhile", "consumer", &watch, "witness")])?;
        act()
    })?;
    for (before, after) in sights.iter().zip(both(world)?) {
        let epochs = after.changes.iter().skip(before.changes.len());
        let pauses: Vec<_> = epochs.map(|epoch| epoch.pause_ms).collect();
        println!("epochs began after pauses of {pauses:?} ms");
    }
    let ready = "--for=condition=Ready";
    here(world, &["wait", ready, "pod/meanwhile", "--timeout=60s"])?;
    here(world, &["delete", "pod", "meanwhile", "--now"])?;
    match containers()? {
        now if now == pods => {}
        now => return Err(format!("pods have other containers: {pods}, then {now}")),
    }
    runs(world, version)
}

/// Whether all that runs is of this version, the node's driver has said so, and one of the operators leads.
fn runs(world: &World, version: &str) -> Result<(), String> {
    let part = "app.kubernetes.io/component in (operator, node-driver)";
    let pods = ["pods", "--namespace", SYSTEM, "--selector", part];
    let lines = "{range .items[*]}{.metadata.name} {.spec.containers[*].image}{\"\\n\"}{end}";
    let lease = ["lease/tensorpool-operator", "--namespace", SYSTEM];
    until(|| {
        let found = field(world, &pods, lines)?;
        let others = found.lines().flat_map(|line| line.split(' ').skip(1));
        if let Some(image) = others.into_iter().find(|it| !it.ends_with(version)) {
            return Err(format!("{image} still runs:\n{found}"));
        }
        let leader = field(world, &lease, "{.spec.holderIdentity}")?;
        let speaks = field(
            world,
            &["tensorpoolnode", "node"],
            "{.status.driver.podName}",
        )?;
        for name in [&leader, &speaks] {
            if !found
                .lines()
                .any(|line| line.split(' ').next() == Some(name))
            {
                return Err(format!("`{name}` is none of:\n{found}"));
            }
        }
        println!("{leader} leads, {speaks} reports, all of version {version}");
        Ok(())
    })?;
    driver::rolled_out(world)
}
