//! Pods on Aeron beside pods on sockets.

use crate::report::Report;
use crate::world::World;

mod hostile;
pub(crate) mod member;

/// The namespace of these pods.
const PEERS: &str = "peers";
/// The pods that read, each so many frames.
const READERS: [&str; 3] = ["mixed-on-socket", "mixed-on-aeron", "peer-on-socket"];
const READ: &str = "8000 frames of 16001 bytes were as they should be";
/// In the manifest; it lacks the verb.
const REFUSED: &str = "refused";

/// Two streams, one produced on a socket and one on Aeron.
pub(crate) fn run(world: &World, report: &mut Report) {
    report.step(
        "pods on sockets and on Aeron see the same frames, over a killed media driver",
        || frames(world),
    );
    report.step("pods on Aeron are refused in words", || refused(world));
    report.step("another pod's client id is refused", || {
        hostile::client_ids(world)
    });
    report.step(
        "a producer on Aeron that abuses its volume leaves nothing behind",
        || hostile::leaves_nothing(world),
    );
    report.step("what pods on Aeron had is gone with them", || gone(world));
}

fn frames(world: &World) -> Result<(), String> {
    let manifest = world.path("e2e/manifests/aeron.yaml");
    world.kubectl(&["apply", "--filename", &manifest])?;
    // They say so when they have memory, and then nothing until they have seen all their frames.
    let attached = format!(
        "for pod in {}; do until kubectl logs --namespace {PEERS} $pod 2>/dev/null | grep --quiet attached; do sleep 0.2; done; done",
        READERS.join(" ")
    );
    world.inside("timeout", &["90", "sh", "-c", &attached])?;
    kill_media_driver(world)?;
    for pod in READERS {
        let succeeded = "--for=jsonpath={.status.phase}=Succeeded";
        let pod_name = format!("pod/{pod}");
        let wait = ["wait", succeeded, &pod_name, "--namespace", PEERS];
        world.kubectl(&[&wait[..], &["--timeout=120s"]].concat())?;
        let said = world.kubectl(&["logs", "--namespace", PEERS, pod])?;
        println!("{pod}: {}", said.lines().last().unwrap_or_default());
        let lost_none = format!("{READ}, 0 were lost");
        let wanted = match pod {
            "mixed-on-socket" => lost_none.as_str(),
            _on_or_from_aeron => READ,
        };
        if !said.contains(wanted) {
            return Err(format!("{pod} did not say `{wanted}`"));
        }
    }
    Ok(())
}

/// Kills it, and sees the next one serve.
fn kill_media_driver(world: &World) -> Result<(), String> {
    // In the cluster's own PID namespace.
    let kill = "pid=$(pgrep --full '^/tensorpool-node-driver media-driver') && kill -KILL $pid && echo $pid";
    let killed = world.inside("sh", &["-c", kill])?;
    let next = "until pgrep --full '^/tensorpool-node-driver media-driver'; do sleep 0.05; done";
    let next = world.inside("timeout", &["10", "sh", "-c", next])?;
    println!(
        "media driver {} was killed, {} serves",
        killed.trim(),
        next.trim()
    );
    if killed == next {
        return Err("it was not killed".to_owned());
    }
    let healthy = "--for=condition=AeronHealthy";
    let wait = ["wait", healthy, "tensorpoolnode", "--all"];
    world
        .kubectl(&[&wait[..], &["--timeout=60s"]].concat())
        .map(drop)
}

fn refused(world: &World) -> Result<(), String> {
    let events = [
        "get",
        "events",
        "--namespace",
        PEERS,
        "--field-selector",
        "involvedObject.name=refused,reason=FailedMount",
    ];
    let said = world.kubectl(&events)?;
    let words = "service account peers/no-peer may not `aeron` TensorStream peers/mixed";
    if !said.contains(words) {
        return Err(format!("not said: {words}:\n{said}"));
    }
    let manifest = std::fs::read_to_string(world.path("e2e/manifests/aeron.yaml"));
    let manifest = manifest.map_err(|error| error.to_string())?;
    let mut pods = manifest.split("\n---\n");
    let pod = pods.find(|it| it.contains("kind: Pod") && it.contains(REFUSED));
    let pod = pod.ok_or_else(|| format!("the manifest has no pod {REFUSED}"))?;
    let elsewhere = pod
        .replace("mountPath: /run/tensorpool", "mountPath: /data")
        .replace("name: refused", "name: elsewhere");
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(file.path(), elsewhere).map_err(|error| error.to_string())?;
    let path = file.path().display().to_string();
    let words = "has to be mounted at /run/tensorpool";
    match world.kubectl(&["create", "--dry-run=server", "--filename", &path]) {
        Err(said) if said.contains(words) => Ok(()),
        Err(said) => Err(said),
        Ok(_) => Err("a pod that mounts its volume elsewhere was taken".to_owned()),
    }
}

fn gone(world: &World) -> Result<(), String> {
    let all = ["delete", "pods", "--all", "--now", "--namespace", PEERS];
    world.kubectl(&all)?;
    world.kubectl(&["delete", "namespace", PEERS, "--wait=false"])?;
    // Kubelet has unmounted before a pod is gone.
    let left = "ls /run/tensorpool/aeron; grep --files-with-matches peers/ -r /run/tensorpool/state/attachments || true";
    let left = world.inside("sh", &["-c", left])?;
    let left: Vec<_> = left.lines().filter(|line| *line != "media").collect();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("left: {}", left.join(", ")))
    }
}
