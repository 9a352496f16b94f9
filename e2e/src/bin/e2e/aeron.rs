//! Pods on Aeron beside pods on sockets.

use crate::report::Report;
use crate::world::World;

/// The namespace of these pods.
const PEERS: &str = "peers";
/// The pods that read, each so many frames.
const READERS: [&str; 3] = ["mixed-on-socket", "mixed-on-aeron", "peer-on-socket"];
const READ: &str = "8000 frames of 16001 bytes were as they should be";
/// In the manifest; it lacks the verb.
const REFUSED: &str = "refused";

/// Two streams, one produced on a socket and one on Aeron.
pub(crate) fn run(world: &World, report: &mut Report) {
    report.step("pods on sockets and on Aeron see the same frames", || {
        frames(world)
    });
    report.step("pods on Aeron are refused in words", || refused(world));
    report.step("what pods on Aeron had is gone with them", || gone(world));
}

fn frames(world: &World) -> Result<(), String> {
    let manifest = world.path("e2e/manifests/aeron.yaml");
    world.kubectl(&["apply", "--filename", &manifest])?;
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
