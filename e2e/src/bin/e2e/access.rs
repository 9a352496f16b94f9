//! What a pod must not get, and what it must not be able to do with what it got.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::report::Report;
use crate::world::{World, until};

mod locked;
mod pairs;
mod revoked;

/// The namespace of these pods.
const STRANGERS: &str = "strangers";
/// It may read the quickstart's stream.
const GUEST: &str = "guest";

/// A pod that is refused.
struct Refused {
    name: &'static str,
    account: &'static str,
    read_only: bool,
    attributes: &'static [(&'static str, &'static str)],
    /// What `kubectl describe pod` says.
    words: &'static str,
}

const CONSUME: (&str, &str) = ("access", "consume");
const CAMERA: (&str, &str) = ("stream", "vision/camera");
const REFUSED: [Refused; 7] = [
    Refused {
        name: "without-role",
        account: "nobody",
        read_only: true,
        attributes: &[CAMERA, CONSUME],
        words: "code = PermissionDenied desc = service account strangers/nobody may not `consume` TensorStream vision/camera; allow it with: kubectl create role camera-consume -n vision --verb=consume --resource=tensorstreams.tensorpool.io --resource-name=camera && kubectl create rolebinding camera-consume-nobody -n vision --role=camera-consume --serviceaccount=strangers:nobody",
    },
    Refused {
        name: "with-another-verb",
        account: GUEST,
        read_only: true,
        attributes: &[CAMERA, ("access", "produce")],
        words: "service account strangers/guest may not `produce` TensorStream vision/camera",
    },
    Refused {
        name: "with-a-forged-name",
        account: "nobody",
        read_only: true,
        attributes: &[
            CAMERA,
            CONSUME,
            ("csi.storage.k8s.io/serviceAccount.name", GUEST),
            ("csi.storage.k8s.io/pod.namespace", "vision"),
        ],
        words: "service account strangers/nobody may not `consume` TensorStream vision/camera",
    },
    Refused {
        name: "not-read-only",
        account: GUEST,
        read_only: false,
        attributes: &[CAMERA, CONSUME],
        words: "code = InvalidArgument desc = the volume is not read-only: set `readOnly: true` beside `driver: csi.tensorpool.io`",
    },
    Refused {
        name: "with-an-unknown-key",
        account: GUEST,
        read_only: true,
        attributes: &[CAMERA, CONSUME, ("steam", "x")],
        words: "volumeAttributes has the unknown key \"steam\"; known are `stream`, `access` and `transport`",
    },
    Refused {
        name: "with-another-access",
        account: GUEST,
        read_only: true,
        attributes: &[CAMERA, ("access", "both")],
        words: "volumeAttributes.access is \"both\": set it to `produce` or to `consume`",
    },
    Refused {
        name: "with-an-unknown-stream",
        account: GUEST,
        read_only: true,
        attributes: &[("stream", "vision/absent"), CONSUME],
        words: "has no TensorStream vision/absent: if `kubectl get tensorstream -n vision absent` does not show it, create it",
    },
];

/// On the pods of the quickstart and some more.
pub(crate) fn run(world: &World, report: &mut Report) {
    let begun = report.step("pods of many users begin", || {
        pairs::begin(world)?;
        locked::begin(world)
    });
    report.step("pods that may not have a stream are told why", || {
        refused(world)
    });
    report.step(
        "a consumer's volume has its stream only, and root can write nothing there",
        || read_only(world),
    );
    report.step(
        "pods of two namespaces can write to nothing together",
        || apart(world),
    );
    report.step(
        "a RoleBinding goes: leases end in words, and new pods are refused",
        || revoked::ends_leases(world),
    );
    if begun.is_some() {
        report.step(
            "pods of root, of the driver's user and of a user namespace exchange frames",
            || pairs::exchange(world),
        );
        report.step(
            "a consumer that locks what it can open is in nobody's way",
            || locked::harms_nobody(world),
        );
    }
    report.step("what these pods had is gone with them", || gone(world));
}

fn refused(world: &World) -> Result<(), String> {
    let manifest = world.path("e2e/manifests/access.yaml");
    world.kubectl(&["apply", "--filename", &manifest])?;
    let guest = Refused {
        name: GUEST,
        account: GUEST,
        read_only: true,
        attributes: &[CAMERA, CONSUME],
        words: "",
    };
    let pods: Vec<Value> = REFUSED.iter().chain([&guest]).map(pod).collect();
    world.apply(&pods)?;
    until(|| {
        let said = world.kubectl(&["describe", "pods", "--namespace", STRANGERS])?;
        let of_pod = |name: &str| {
            let heading = format!("Name:             {name}\n");
            let from = said.find(&heading)?;
            let text = &said[from..];
            Some(&text[..text[1..].find("\nName: ").map_or(text.len(), |at| at + 1)])
        };
        let missing = REFUSED.iter().filter(|refused| {
            !of_pod(refused.name).is_some_and(|text| text.contains(refused.words))
        });
        let missing: Vec<_> = missing
            .map(|it| format!("{}: {}", it.name, it.words))
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("not said: {}\n{said}", missing.join("\n")))
        }
    })?;
    let running = ["get", "pods", "--namespace", STRANGERS, "--output=name"];
    let running =
        world.kubectl(&[&running[..], &["--field-selector=status.phase!=Pending"]].concat())?;
    match running.lines().find(|line| *line != "pod/guest") {
        Some(pod) => Err(format!("{pod} was refused and runs")),
        None => Ok(()),
    }
}

fn pod(it: &Refused) -> Value {
    let attributes: serde_json::Map<String, Value> = it
        .attributes
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": it.name, "namespace": STRANGERS},
        "spec": {
            "serviceAccountName": it.account,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "consumer",
                "image": concat!("tensorpool.io/examples:", env!("CARGO_PKG_VERSION")),
                "command": ["/consumer", "vision/camera"],
                "env": [{"name": "TENSORPOOL_VOLUME", "value": "/camera"}],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "stream", "mountPath": "/camera", "readOnly": it.read_only}],
            }],
            "volumes": [{"name": "stream", "csi": {
                "driver": "csi.tensorpool.io", "readOnly": it.read_only, "volumeAttributes": attributes,
            }}],
        },
    })
}

/// The volume of the guest, as its process has it: `/proc/PID/root` leads through the container's own mounts.
const OF_GUEST: &str = "pid=$(pgrep --full '^/consumer vision/camera$'); root=/proc/$pid/root; region=$(find $root/camera -name '*.pool' | head -n 1); test -n \"$region\" || exit 1";

/// What nobody may do there, each one command that must fail with EROFS.
const WRITES: [&str; 8] = [
    "dd if=/dev/zero of=$region bs=1 count=1 conv=notrunc",
    "truncate --size=0 $region",
    "chmod 0666 $region",
    "chown 10001 $region",
    "mv $region $region.moved",
    "ln $region $region.linked",
    "rm --force $region",
    "mkdir $root/camera/new",
];

fn read_only(world: &World) -> Result<(), String> {
    let guest = [
        "wait",
        "--for=condition=Ready",
        "pod/guest",
        "--timeout=60s",
    ];
    world.kubectl(&[&guest[..], &["--namespace", STRANGERS]].concat())?;
    for write in WRITES {
        let script = format!("{OF_GUEST}; LC_ALL=C {write} 2>&1 && echo it was allowed || true");
        let said = world.inside("sh", &["-c", &script])?;
        if !said.contains("Read-only file system") || said.contains("it was allowed") {
            return Err(format!("{write}: {said}"));
        }
    }
    // A descriptor that may read, opened again.
    let again = format!(
        "{OF_GUEST}; exec 5<$region; LC_ALL=C sh -c 'echo >/proc/self/fd/5' 2>&1 && echo it was allowed || true"
    );
    let said = world.inside("sh", &["-c", &again])?;
    if !said.contains("Read-only file system") {
        return Err(format!(
            "a descriptor could be opened again for writing: {said}"
        ));
    }
    let files = format!("{OF_GUEST}; cd $root/camera && find . ! -type d | sort");
    let files = world.inside("sh", &["-c", &files])?;
    print!("{files}");
    // base/namespace/number/epoch/file
    let id = ["get", "tensorstream", "camera", "--namespace", "vision"];
    let id = world.kubectl(&[&id[..], &["--output=jsonpath={.status.streamId}"]].concat())?;
    let is_ours = |file: &&str| {
        *file == "./driver.sock" || file.split('/').nth(3).is_some_and(|number| number == id)
    };
    match files.lines().find(|file| !is_ours(file)) {
        Some(file) => Err(format!("{file} is none of stream {id}")),
        None => Ok(()),
    }
}

/// Device and inode of what a process can reach on filesystems of its own: all of it, or what it may write.
fn reachable(world: &World, process: &str, test: &str) -> Result<BTreeSet<String>, String> {
    // Mounts of the kernel's own interfaces are of the pod's namespaces, and compared by themselves.
    let script = format!(
        "pid=$(pgrep --full '{process}'); root=/proc/$pid/root; \
         awk '{{ for (i = 7; $i != \"-\"; i++); print $5, $(i + 1) }}' /proc/$pid/mountinfo | while read -r at kind; do \
         case $kind in proc|sysfs|cgroup|cgroup2|devpts|mqueue) find $root$at -maxdepth 0 {test} -printf '%D:%i\\n';; \
         *) find $root$at -xdev {test} -printf '%D:%i\\n';; esac; done"
    );
    let said = world.inside("sh", &["-c", &script])?;
    Ok(said.lines().map(ToOwned::to_owned).collect())
}

fn apart(world: &World) -> Result<(), String> {
    let (ours, theirs) = ("^/consumer camera$", "^/consumer vision/camera$");
    let both = |test: &str| -> Result<BTreeSet<String>, String> {
        let here = reachable(world, ours, test)?;
        let there = reachable(world, theirs, test)?;
        println!("{} and {} files", here.len(), there.len());
        if here.is_empty() || there.is_empty() {
            return Err("a pod that can reach nothing was not looked at".to_owned());
        }
        Ok(here.intersection(&there).cloned().collect())
    };
    if both("")?.is_empty() {
        return Err("two pods with one stream have its files in common".to_owned());
    }
    let shared = both("-writable")?;
    if shared.is_empty() {
        Ok(())
    } else {
        Err(format!("both can write to {shared:?}"))
    }
}

fn gone(world: &World) -> Result<(), String> {
    let all = ["delete", "pods", "--all", "--now", "--namespace", STRANGERS];
    world.kubectl(&all)?;
    world.kubectl(&["delete", "namespace", STRANGERS, "--wait=false"])?;
    pairs::end(world)?;
    let left = "grep --files-with-matches strangers -r /run/tensorpool/state/attachments || true";
    let left = world.inside("sh", &["-c", left])?;
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("left: {left}"))
    }
}
