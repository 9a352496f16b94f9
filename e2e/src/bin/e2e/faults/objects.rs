//! Objects that go or shrink while they are used, and memory that is not there.

use serde_json::{Value, json};

use super::{FIRST, NAMESPACE, SECOND, apply_manifest, field, here, pod, stream, untouched};
use crate::world::{World, until};

/// Where somebody else holds huge pages.
const HOLDER: &str = "/run/faults-holder";
/// Pages that the holder leaves.
const LEFT: u32 = 4;

/// A producer is gone from one moment to the next, and another one comes.
pub(super) fn producer(world: &World) -> Result<(), String> {
    let first = FIRST.look(world)?;
    let before = SECOND.look(world)?;
    let at_once = ["--force", "--grace-period=0"];
    here(
        world,
        &[&["delete", "pod", "second-producer"], &at_once[..]].concat(),
    )?;
    apply_manifest(world)?;
    let after = SECOND.resumed(world, &before)?;
    let mut changes = after.changes.iter().skip(before.changes.len());
    if !changes.any(|change| change.is_another_producer) {
        return Err("the frames are those of the producer that was deleted".to_owned());
    }
    FIRST.noticed_nothing(world, &first).map(drop)
}

/// The second pair's class goes, and comes back.
pub(super) fn class(world: &World) -> Result<(), String> {
    untouched(world, || {
        world.kubectl(&["delete", "tensorpoolclass", "faults"])?;
        let why = condition(world, "second", "Accepted", "False")?;
        println!("second: {why}");
        let goes_on = condition(world, "second", "Programmed", "False")?;
        println!("second: {goes_on}");
        if !why.contains("`faults`") || !goes_on.contains("goes on where it lives: node") {
            return Err("that is not said".to_owned());
        }
        apply_manifest(world)?;
        condition(world, "second", "Ready", "True").map(drop)
    })
}

/// A condition's message, once it has this status.
fn condition(world: &World, name: &str, kind: &str, status: &str) -> Result<String, String> {
    let object = ["tensorstream", name, "--namespace", NAMESPACE];
    let of = |what: &str| format!("{{.status.conditions[?(@.type==\"{kind}\")].{what}}}");
    until(|| {
        let found = field(world, &object, &of("status"))?;
        let message = field(world, &object, &of("message"))?;
        if found == status {
            Ok(message)
        } else {
            Err(format!("{name} is {kind}={found}: {message}"))
        }
    })
}

fn quota(streams: &str, consumers: &str) -> Value {
    json!({
        "apiVersion": "tensorpool.io/v1alpha1",
        "kind": "TensorQuota",
        "metadata": {"name": "faults", "namespace": NAMESPACE},
        "spec": {"hard": {"streams": streams, "consumersPerNode": consumers}},
    })
}

/// Fewer are allowed than there are: they stay, and the next one waits.
pub(super) fn quota_lowered(world: &World) -> Result<(), String> {
    untouched(world, || {
        world.apply(&[quota("4", "8")])?;
        world.apply(&[quota("1", "1"), stream("third", 64, 4096, "OnDemand")])?;
        let why = condition(world, "third", "Accepted", "False")?;
        println!("third: {why}");
        // An example that is not patient ends with what it was told.
        let consumer = pod(
            "one-too-many",
            "consumer",
            &["/consumer", "witness"],
            "witness",
        );
        world.apply(&[consumer])?;
        until(|| {
            let log = here(world, &["logs", "one-too-many"])?;
            match log.lines().find(|line| line.contains("faults/faults")) {
                Some(refusal) => println!("one-too-many: {refusal}"),
                None => return Err(format!("the quota is not named: {log}")),
            }
            Ok(())
        })?;
        world.apply(&[quota("4", "8")])?;
        condition(world, "third", "Accepted", "True").map(drop)
    })?;
    here(world, &["delete", "pod", "one-too-many", "--now"])?;
    here(world, &["delete", "tensorstream", "third"])?;
    here(world, &["delete", "tensorquota", "faults"]).map(drop)
}

/// Another program holds nearly all huge pages of the machine while a stream wants some.
pub(super) fn huge_pages(world: &World) -> Result<(), String> {
    let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    // Where others take pages at the same time it gets all that were left, which is as good.
    let hold = format!(
        "mkdir -p {HOLDER} && mount -t hugetlbfs -o pagesize=2M none {HOLDER} && \
         (fallocate --length $((($(cat {free}) - {LEFT}) * 2097152)) {HOLDER}/pages || true)"
    );
    let end = || world.inside("umount", &[HOLDER]).map(drop);
    untouched(world, || {
        world.inside("sh", &["-c", &hold])?;
        let said = exhausted(world);
        end()?;
        let ready = said.and_then(|()| condition(world, "large", "Ready", "True"));
        here(world, &["delete", "tensorstream", "large", "--wait=false"])?;
        println!("once they are free: {}", ready?);
        Ok(())
    })
}

fn exhausted(world: &World) -> Result<(), String> {
    world.apply(&[stream("large", 64, 2 << 20, "Eager")])?;
    let wanted = ["bytes needed", "bytes free", "held by", "faults/witness ("];
    until(|| {
        let said = condition(world, "large", "Ready", "False")?;
        match wanted.iter().find(|words| !said.contains(*words)) {
            None => {
                println!("large: {said}");
                Ok(())
            }
            Some(words) => Err(format!("not said: {words}: {said}")),
        }
    })?;
    let available = "{.status.conditions[?(@.type==\"HugepagesAvailable\")].message}";
    until(|| {
        let said = field(world, &["tensorpoolnode", "node"], available)?;
        if said.contains("other programs hold so many") {
            println!("node: {said}");
            return Ok(());
        }
        Err(format!("HugepagesAvailable says: {said}"))
    })
}
