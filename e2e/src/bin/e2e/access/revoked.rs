//! A permission that is taken away.

use std::time::{Duration, Instant};

use super::{CAMERA, CONSUME, GUEST, Refused, STRANGERS, pod};
use crate::world::{World, until};

/// What a permission that went may still be good for, for new pods.
const ALLOWED_FOR: Duration = Duration::from_secs(30);
/// As in the values of the run, and as long for the answer and the way to the pod.
const REVIEWED_WITHIN: Duration = Duration::from_secs(10);
/// What the pod that has the stream is told, and what `kubectl describe pod` says of the next one.
const WORDS: &str = "service account strangers/guest may not `consume` TensorStream vision/camera";

/// The guest loses its RoleBinding: its lease ends in words and its volume shows no memory any more; the
/// next pod of the same account is refused.
pub(super) fn ends_leases(world: &World) -> Result<(), String> {
    let binding = ["delete", "rolebinding", "guest-consumes"];
    world.kubectl(&[&binding[..], &["--namespace", "vision"]].concat())?;
    let removed = Instant::now();
    let log = || world.kubectl(&["logs", "--namespace", STRANGERS, GUEST]);
    let said = until(|| {
        let said = log()?;
        let told = said.lines().find(|line| line.contains(WORDS));
        told.map(ToOwned::to_owned)
            .ok_or_else(|| format!("{GUEST} was not told `{WORDS}`:\n{said}"))
    })?;
    let live = removed.elapsed();
    println!("after {:.1} s: {said}", live.as_secs_f64());
    let files =
        "pid=$(pgrep --full '^/consumer vision/camera$'); find /proc/$pid/root/camera -type f";
    let files = world.inside("sh", &["-c", files])?;
    if !files.is_empty() {
        return Err(format!("its volume still shows {files}"));
    }
    let late = Refused {
        name: "late-guest",
        account: GUEST,
        read_only: true,
        attributes: &[CAMERA, CONSUME],
        words: WORDS,
    };
    world.apply(&[pod(&late)])?;
    let events = "--field-selector=involvedObject.name=late-guest,reason=FailedMount";
    until(|| {
        let said = world.kubectl(&["get", "events", "--namespace", STRANGERS, events])?;
        match said.contains(late.words) {
            true => Ok(()),
            false => Err(format!("late-guest was not refused:\n{said}")),
        }
    })?;
    let new = removed.elapsed();
    println!("after {:.1} s a new pod is refused", new.as_secs_f64());
    if live > REVIEWED_WITHIN || new > ALLOWED_FOR {
        return Err("that was too late".to_owned());
    }
    Ok(())
}
