//! Kubernetes itself: kubelet, the Node.

use super::{FIRST, NAMESPACE, SECOND, apply_manifest, both, field, here, kill, pod, untouched};
use crate::world::{World, until};

const READY: &str = "--for=condition=Ready";
const KUBELET: &str = "/kubelet --config=";

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
            // Streams of other steps may still be there.
            let are_there =
                ["second", "witness"].map(|name| streams.split(' ').any(|it| it == name));
            if now != before && ready == "True" && are_there == [true; 2] {
                println!("another TensorPoolNode reports the streams {streams}");
                return Ok(());
            }
            Err(format!("{now}, Ready {ready}, streams {streams}"))
        })
    })
}
