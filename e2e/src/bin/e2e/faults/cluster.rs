//! Kubernetes itself: kubelet, the API server, the Node.

use std::time::{Duration, Instant};

use super::{
    FIRST, NAMESPACE, SECOND, apply_manifest, both, field, here, kill, pod, signal, stream,
    untouched,
};
use crate::world::{World, until, until_within};

const READY: &str = "--for=condition=Ready";

const KUBELET: &str = "/kubelet --config=";
const API_SERVER: &str = "/kube-apiserver ";
/// Longer than everything of ours that is renewed through the API server: the operators' Lease (15 s),
/// the driver's (30 s), and what RBAC allowed (30 s). A minute would bring nothing new.
const AWAY: Duration = Duration::from_secs(33);

/// Kubelet dies while the second pair's consumer has lost its RoleBinding: what is mounted stays.
pub(super) fn kubelet(world: &World) -> Result<(), String> {
    let witness = FIRST.look(world)?;
    let second = SECOND.look(world)?;
    here(world, &["delete", "rolebinding", "second"])?;
    kill(world, KUBELET)?;
    // A volume is mounted again by a kubelet and a driver that know each other.
    let watch = ["/exchange", "watch", "witness"];
    world.apply(&[pod("late", "consumer", &watch, "witness")])?;
    here(world, &["wait", READY, "pod/late", "--timeout=60s"])?;
    FIRST.noticed_nothing(world, &witness)?;
    let mounted = ["pod", "second", "--namespace", NAMESPACE];
    let state = "{.status.phase} {.status.containerStatuses[0].restartCount}";
    let state = field(world, &mounted, state)?;
    println!("the pod without its RoleBinding: {state} restarts");
    if state != "Running 0" {
        return Err("it was to stay as it is".to_owned());
    }
    apply_manifest(world)?;
    // Live volumes are looked at again from time to time, so it may have lost its lease meanwhile.
    SECOND.goes_on(world, &second)?;
    here(world, &["delete", "pod", "late", "--now"]).map(drop)
}

/// The API server does not answer, and whoever is connected to it hears nothing.
pub(super) fn api_server(world: &World) -> Result<(), String> {
    untouched(world, || {
        signal(world, "STOP", API_SERVER)?;
        let began = Instant::now();
        let seen = until_within(AWAY * 2, || match began.elapsed() {
            passed if passed >= AWAY => Ok(()),
            passed => Err(format!("{} s", passed.as_secs())),
        });
        signal(world, "CONT", API_SERVER)?;
        seen
    })?;
    // It takes an operator that leads and a driver that follows, and both have to be heard.
    let began = Instant::now();
    world.apply(&[stream("after", 64, 4096, "Eager")])?;
    here(
        world,
        &["wait", READY, "tensorstream/after", "--timeout=60s"],
    )?;
    let took = began.elapsed().as_millis();
    println!("a stream that is made afterwards is ready on the node after {took} ms");
    here(world, &["delete", "tensorstream", "after", "--wait=false"]).map(drop)
}

/// The Node is deleted, and with it our object; kubelet registers the node again when it is restarted.
pub(super) fn node(world: &World) -> Result<(), String> {
    let ours = ["tensorpoolnode", "node"];
    let uid = |world| field(world, &ours, "{.metadata.uid}");
    let before = uid(world)?;
    untouched(world, || {
        world.kubectl(&["delete", "node", "node"])?;
        let gone = until(|| match uid(world) {
            Ok(_) => Err("the TensorPoolNode is there".to_owned()),
            Err(said) if said.contains("NotFound") => Ok(()),
            Err(said) => Err(said),
        });
        let meanwhile = gone.and_then(|()| {
            println!("Node and TensorPoolNode are gone");
            let before = both(world)?;
            FIRST.noticed_nothing(world, &before[0])
        });
        // Whatever was seen: without a Node its pods are collected after less than a minute.
        kill(world, KUBELET)?;
        meanwhile?;
        until(|| {
            let now = uid(world)?;
            let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
            let streams = "{.status.streams[?(@.namespace==\"faults\")].name}";
            let (ready, streams) = (field(world, &ours, ready)?, field(world, &ours, streams)?);
            if now != before && ready == "True" && streams == "second witness" {
                println!("another TensorPoolNode reports the streams {streams}");
                return Ok(());
            }
            Err(format!("{now}, Ready {ready}, streams {streams}"))
        })
    })
}
