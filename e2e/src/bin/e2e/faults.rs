//! What happens to frames while parts of the cluster die, are replaced, or are away.
//!
//! Two pairs of pods exchange frames of which every byte is known, through everything that follows, and
//! say twice a second what arrived and what did not. What must not touch frames may cost none; what costs
//! some is counted: delivered and dropped make published.

use serde_json::{Value, json};

use crate::report::Report;
use crate::world::{World, until};

use witness::{NAMESPACE, Sight, Witness};

mod away;
mod cluster;
mod driver;
mod objects;
mod operator;
mod size;
mod upgrade;
mod witness;

/// The namespace of the release.
const SYSTEM: &str = "tensorpool-system";
/// On the quickstart's class.
const FIRST: Witness = Witness { pod: "witness" };
/// On a class of its own, with a service account of its own.
const SECOND: Witness = Witness { pod: "second" };

/// In an order that lets waits overlap: the operator that is stopped first is looked at later.
pub(crate) fn run(world: &World, report: &mut Report) {
    let begun = report.step("two pairs of pods begin to exchange frames", || {
        begin(world)
    });
    if begun.is_none() {
        return;
    }
    away::run(world, report);
    driver::run(world, report);
    upgrade::run(world, report);
    report.step(
        "kubelet is restarted, also while a RoleBinding is gone",
        || cluster::kubelet(world),
    );
    report.step(
        "the leading operator is killed, and a new stream is accepted",
        || operator::killed(world),
    );
    report.step(
        "a producer's pod is deleted without grace, and the next one goes on",
        || objects::producer(world),
    );
    report.step(
        "a class is deleted while a stream of it is used, and comes back",
        || objects::class(world),
    );
    report.step(
        "a quota is lowered below what is used: what runs goes on",
        || objects::quota_lowered(world),
    );
    report.step(
        "huge pages are used up, and a stream that wants some says by whom",
        || objects::huge_pages(world),
    );
    report.step(
        "the Node is deleted under a live driver, and frames go on",
        || cluster::node(world),
    );
    let wanted = report.step(
        "a pool of another size is asked for: it waits, and frames go on",
        || size::asked(world),
    );
    report.step("every frame was delivered or counted, to the last", || {
        end(world)
    });
    if let Some(wanted) = wanted {
        report.step(
            "the node is drained and its memory unmounted: it has the new size",
            || size::follows(world, wanted),
        );
    }
}

fn begin(world: &World) -> Result<(), String> {
    apply_manifest(world)?;
    let ready = "--for=condition=Ready";
    here(world, &["wait", ready, "pod", "--all", "--timeout=60s"])?;
    untouched(world, || Ok(()))
}

/// What the two say so far.
fn both(world: &World) -> Result<[Sight; 2], String> {
    Ok([FIRST.look(world)?, SECOND.look(world)?])
}

/// Does something that no pair may notice.
fn untouched(world: &World, act: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let before = both(world)?;
    act()?;
    FIRST.noticed_nothing(world, &before[0])?;
    SECOND.noticed_nothing(world, &before[1]).map(drop)
}

/// Does something after which both pairs go on in another epoch.
fn interrupted(
    world: &World,
    act: impl FnOnce() -> Result<(), String>,
) -> Result<[Sight; 2], String> {
    let before = both(world)?;
    act()?;
    let first = FIRST.resumed(world, &before[0])?;
    Ok([first, SECOND.resumed(world, &before[1])?])
}

/// The producers end and say how many frames they published; the consumers have them all.
fn end(world: &World) -> Result<(), String> {
    // The second's producer was replaced on the way; the first pair is the same since the beginning.
    signal(world, "TERM", "^/exchange produce (witness|second)$")?;
    let published = until(|| {
        let log = here(world, &["logs", "witness-producer"])?;
        let last = log.lines().last().unwrap_or_default();
        let number = last.strip_suffix(" frames were published");
        let number = number.and_then(|number| number.parse::<u64>().ok());
        number.ok_or_else(|| format!("the producer says last: {last}"))
    })?;
    let sight = until(|| {
        let sight = FIRST.look(world)?;
        match sight.next {
            next if next == published => Ok(sight),
            next => Err(format!(
                "{published} were published, and {next} would come next"
            )),
        }
    })?;
    let Sight {
        seen,
        lost,
        missing,
        between,
        ..
    } = sight;
    let before = published - seen - missing;
    println!(
        "witness: {published} published = {before} before it came + {seen} delivered + {lost} lost and counted + {between} between leases"
    );
    if missing == lost + between {
        Ok(())
    } else {
        Err(format!("{missing} are missing"))
    }
}

/// A stream of the namespace, in the default class.
fn stream(name: &str, slots: u32, stride: u32, placement: &str) -> Value {
    json!({
        "apiVersion": "tensorpool.io/v1alpha1",
        "kind": "TensorStream",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "placement": {"mode": placement},
            "layout": {"headerSlots": slots, "pools": [{"poolId": 1, "strideBytes": stride}]},
        },
    })
}

/// One value of an object.
fn field(world: &World, object: &[&str], path: &str) -> Result<String, String> {
    let output = format!("--output=jsonpath={path}");
    world.kubectl(&[&["get"], object, &[&output]].concat())
}

/// A pod that consumes a stream of the namespace.
fn pod(name: &str, account: &str, command: &[&str], stream: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10005, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "consumer",
                "image": concat!("tensorpool.io/examples:", env!("CARGO_PKG_VERSION")),
                "command": command,
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "stream", "mountPath": "/run/tensorpool", "readOnly": true}],
            }],
            "volumes": [{"name": "stream", "csi": {
                "driver": "csi.tensorpool.io", "readOnly": true,
                "volumeAttributes": {"stream": stream, "access": "consume"},
            }}],
        },
    })
}

/// `kubectl` in the namespace of these pods.
fn here(world: &World, words: &[&str]) -> Result<String, String> {
    world.kubectl(&[words, &["--namespace", NAMESPACE]].concat())
}

/// The manifest of the pairs, as far as it is not there.
fn apply_manifest(world: &World) -> Result<(), String> {
    let manifest = world.path("e2e/manifests/faults.yaml");
    let applied = world.kubectl(&["apply", "--filename", &manifest]);
    applied.map(drop)
}

/// The chart as it is installed, with something else in it. An operator that kubelet starts again later and
/// later, since it was killed and killed, is not waited for.
fn upgrade(world: &World, other: &[&str]) -> Result<(), String> {
    let (chart, values) = (
        world.path("helm/tensorpool"),
        world.path("e2e/manifests/values.yaml"),
    );
    let upgrade = ["upgrade", "tensorpool", &chart, "--values", &values];
    let how = ["--namespace", SYSTEM];
    world.helm(&[&upgrade[..], &how, other].concat()).map(drop)
}

/// Ends processes of the node at once, by what their command lines are.
fn kill(world: &World, command: &str) -> Result<(), String> {
    signal(world, "KILL", command)
}

fn signal(world: &World, signal: &str, command: &str) -> Result<(), String> {
    let signal = format!("--signal={signal}");
    let sent = world.inside("pkill", &[&signal, "--full", command]);
    sent.map(drop)
}
