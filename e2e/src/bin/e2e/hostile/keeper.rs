//! A pod that never lets go of a stream that was deleted, and what becomes of the memory.

use std::time::Instant;

use serde_json::json;

use super::driver::Driver;
use super::{HOSTILE, PRODUCING, attack, both, says};
use crate::world::{World, until};

const POD: &str = "keeping";
/// Header ring and pool of the stream, a page of 2 MiB each.
const EPOCH: f64 = 4_194_304.0;
const PINNED: &str = "mount_bytes{page_size=\"2Mi\",state=\"pinned\"}";
/// Pages are not given back later than grace, `forceAfterSeconds`, and what reports need.
const MOST_SECONDS: u64 = 15;

/// Its class gets the memory back under it, and its client says so.
pub(super) fn loses_it(world: &World) -> Result<(), String> {
    let revocation = json!({"spec": {"revocation": {
        "gracePeriodSeconds": 1, "reclaimPolicy": "Force", "forceAfterSeconds": 1,
    }}});
    let prey = ["tensorstream", "prey", "--namespace", HOSTILE];
    let patch = ["--type=merge", "--patch", &revocation.to_string()];
    world.kubectl(&[&["patch"], &prey[..], &patch].concat())?;
    world.apply(&[pod()])?;
    both(
        || attack(world, PRODUCING, &["offer", "prey"]).map(drop),
        || delete(world, &prey),
    )
}

fn delete(world: &World, prey: &[&str]) -> Result<(), String> {
    let policies =
        "--output=jsonpath={.items[*].spec.streams[?(@.name==\"prey\")].revocation.reclaimPolicy}";
    until(|| {
        says(&said(world)?, &["keeps frame"])?;
        says(
            &world.kubectl(&["get", "tensorpoolnodes", policies])?,
            &["Force"],
        )
    })?;
    let before = Driver::look(world)?;
    let began = Instant::now();
    world.kubectl(&[&["delete"], prey, &["--timeout=60s"]].concat())?;
    let took = began.elapsed();
    println!("kubectl delete tensorstream: {} ms", took.as_millis());
    let told = until(|| {
        let told = said(world)?;
        let words = [
            "was truncated while it was mapped",
            "stream was removed",
            "lives on",
        ];
        says(&told, &words).map(|()| told)
    })?;
    for line in told.lines() {
        println!("{POD}: {line}");
    }
    let after = Driver::look(world)?;
    let bytes = after.metric("forced_bytes_total") - before.metric("forced_bytes_total");
    println!(
        "{bytes} bytes were taken; pinned before: {}, after: {}",
        before.metric(PINNED),
        after.metric(PINNED)
    );
    if bytes < EPOCH || after.metric(PINNED) > before.metric(PINNED) {
        return Err("the pages are not free".to_owned());
    }
    let log = Driver::log(world)?;
    let taken = log.lines().find(|line| line.contains("was taken from"));
    says(taken.unwrap_or_default(), &["hostile/prey", "4194304"])?;
    if took.as_secs() > MOST_SECONDS {
        return Err("that is too long".to_owned());
    }
    Ok(())
}

fn said(world: &World) -> Result<String, String> {
    world.kubectl(&["logs", "--namespace", HOSTILE, POD])
}

fn pod() -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": HOSTILE},
        "spec": {
            "serviceAccountName": "villain",
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10004, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "probe",
                "image": concat!("tensorpool.io/probe:", env!("CARGO_PKG_VERSION")),
                "command": ["/tensorpool-probe", "keep", "prey"],
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "stream", "mountPath": "/run/tensorpool", "readOnly": true}],
            }],
            "volumes": [{"name": "stream", "csi": {
                "driver": "csi.tensorpool.io", "readOnly": true,
                "volumeAttributes": {"stream": "prey", "access": "consume"},
            }}],
        },
    })
}
