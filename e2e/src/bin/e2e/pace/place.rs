//! Where the two pairs are, and what they stand on.

use std::process::{Child, Command, Stdio};

use tensorpool_e2e::machine::Machine;
use tensorpool_e2e::peer::Peer;

use super::pair::Pair;
use crate::world::World;

/// The namespace of the pods.
const NAMESPACE: &str = "pace";
/// What each side of both pairs is called.
const SIDES: [&str; 2] = ["ask", "answer"];
/// Of the stand-alone driver, as `pace.toml` has it. It lies in the cluster's own /run and goes with it.
const DIRECTORY: &str = "/run/pace";

/// The stand-alone driver, ended when dropped.
struct NodeDriver(Child);

impl Drop for NodeDriver {
    fn drop(&mut self) {
        // What it was started by goes; the driver itself is told so, by `setpriv`.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            eprintln!("the stand-alone driver could not be ended: {error}");
        }
    }
}

/// Starts both pairs, the processes of the node first.
pub(crate) fn with_both_pairs(
    world: &World,
    machine: &Machine,
    then: impl FnOnce(&mut [Pair; 2]) -> Result<(), String>,
) -> Result<(), String> {
    let cores = [machine.here, machine.there];
    let manifest = std::fs::read_to_string(world.path("e2e/manifests/pace.yaml"));
    let manifest = manifest.map_err(|error| format!("no manifest: {error}"))?;
    let manifest = manifest
        .replace("CORE-OF-ASK", &cores[0].to_string())
        .replace("CORE-OF-ANSWER", &cores[1].to_string());
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(file.path(), manifest).map_err(|error| error.to_string())?;
    let path = file.path().display().to_string();
    // Of a run before, on a cluster that was kept.
    let former = [
        "delete",
        "namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--timeout=60s",
    ];
    world.kubectl(&former)?;
    world.kubectl(&["apply", "--filename", &path])?;
    let _driver = node_driver(world)?;
    let on_node = |place: usize| {
        let mut command = world.command("env");
        command.arg(format!("TENSORPOOL_SOCKET={DIRECTORY}/driver.sock"));
        command.arg(format!("TENSORPOOL_ALLOWED_BASE_DIRS={DIRECTORY}/shm"));
        command.arg(world.program("pace"));
        command.args([SIDES[place], &cores[place].to_string()]);
        Peer::start(&format!("node's {}", SIDES[place]), &mut command)
    };
    let node = Pair {
        name: "processes of the node",
        ask: on_node(0)?,
        answer: on_node(1)?,
        left: 0,
    };
    let ready = ["wait", "--for=condition=Ready", "pods", "--all"];
    world.kubectl(&[&ready[..], &["--namespace", NAMESPACE, "--timeout=60s"]].concat())?;
    let in_pod = |place: usize| {
        let mut kubectl = world.command("kubectl");
        kubectl.args(["attach", "--quiet", "--stdin", "--namespace", NAMESPACE]);
        kubectl.arg(SIDES[place]);
        Peer::start(&format!("pod {}", SIDES[place]), &mut kubectl)
    };
    let pods = Pair {
        name: "pods",
        ask: in_pod(0)?,
        answer: in_pod(1)?,
        left: 0,
    };
    then(&mut [node, pods])
}

/// A driver on huge pages of its own, with its socket there.
fn node_driver(world: &World) -> Result<NodeDriver, String> {
    let prepare = format!(
        "mkdir --parents {DIRECTORY}/shm {DIRECTORY}/state \
         && mount -t hugetlbfs -o pagesize=2M,size=88M pace {DIRECTORY}/shm"
    );
    world.inside("sh", &["-c", &prepare])?;
    let mut command: Command = world.command("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    command.arg(world.program("tensorpool-node-driver"));
    command.args(["--config", &world.path("e2e/manifests/pace.toml")]);
    let child = command.stdin(Stdio::null()).spawn();
    let driver = NodeDriver(
        child.map_err(|error| format!("no stand-alone driver could be started: {error}"))?,
    );
    let there = format!("until test -S {DIRECTORY}/driver.sock; do sleep 0.1; done");
    world.inside("timeout", &["20", "sh", "-c", &there])?;
    Ok(driver)
}

/// What the kernel says of the four processes. Fails where one has a pool that is not of huge pages.
pub(crate) fn of_huge_pages(world: &World) -> Result<(), String> {
    let script = "for p in /proc/[0-9]*; do \
         [ \"$(cat $p/comm 2>/dev/null)\" = pace ] || continue; \
         tr '\\0' ' ' < $p/cmdline; \
         awk '/[.]pool$/ {pool=1} \
              /^KernelPageSize:/ && pool {printf \" %s%s\", $2, $3; pool=0}' $p/smaps; \
         awk '/^Seccomp:|^Speculation_Store/ {$1=$1; printf \", %s\", $0}' $p/status; \
         echo; done";
    let said = world.inside("sh", &["-c", script])?;
    print!("{said}");
    let is_huge = |line: &str| line.matches(" 2048kB").count() == 3 && !line.contains(" 4kB");
    if said.lines().count() == 4 && said.lines().all(is_huge) {
        Ok(())
    } else {
        Err("four processes should have three pools each, of pages of 2048 kB".to_owned())
    }
}

/// The pods go, and what the stand-alone driver had.
pub(crate) fn clear(world: &World) -> Result<(), String> {
    world.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    let unmount = format!("umount --lazy {DIRECTORY}/shm; rm --recursive --force {DIRECTORY}");
    world.inside("sh", &["-c", &unmount]).map(drop)
}
