//! An API server with our definitions, the node driver's rights, and Nodes with one driver pod each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tensorpool_cluster::{Caller, ControlPlane, FaultProxy, rendered_chart};

/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Where the release is installed.
pub(crate) const NAMESPACE: &str = "tensorpool-system";
/// The node driver's service account.
pub(crate) const ACCOUNT: &str = "tensorpool-node-driver";

/// What a driver may do, and how kubelet treats its volumes.
const OF_THE_CHART: [&str; 4] = [
    "templates/node-driver-rbac.yaml",
    "templates/node-driver-writes-own-status.yaml",
    "templates/node-driver-renews-own-lease.yaml",
    "templates/csidriver.yaml",
];

/// The names of the two nodes.
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];

pub(crate) struct World {
    pub(crate) control_plane: ControlPlane,
    files: TempDir,
}

impl World {
    /// With [`NODES`], a driver pod `driver-<node>` on each, and `TensorPoolNode` objects without spec.
    pub(crate) fn start() -> Self {
        let world = Self {
            control_plane: ControlPlane::start().expect("a control plane starts"),
            files: TempDir::new().expect("a directory"),
        };
        let here = env!("CARGO_MANIFEST_DIR");
        let crds = format!("{here}/../helm/tensorpool-crds/templates");
        world.kubectl(&["apply", "--server-side", "-f", &crds]);
        world.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=60s",
        ]);
        world.kubectl(&["create", "namespace", NAMESPACE]);
        world.kubectl(&["create", "namespace", "vision"]);
        let chart = format!("{here}/../helm/tensorpool");
        let objects = rendered_chart(Path::new(&chart), NAMESPACE, &OF_THE_CHART);
        world.apply("chart.yaml", &objects.expect("the chart is good"));
        for node in NODES {
            world.add_node(node);
        }
        world
    }

    fn add_node(&self, node: &str) {
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}},
            {
                "apiVersion": "tensorpool.io/v1alpha1", "kind": "TensorPoolNode",
                "metadata": {"name": node}, "spec": {},
            },
            {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("driver-{node}"), "namespace": NAMESPACE},
                "spec": {
                    "nodeName": node, "serviceAccountName": ACCOUNT,
                    "containers": [{"name": "driver", "image": "none"}],
                },
            },
        ]});
        self.apply(&format!("{node}.json"), &objects.to_string());
    }

    /// Applies a text as administrator.
    pub(crate) fn apply(&self, name: &str, text: &str) {
        let file = self.write(name, text);
        let file = file.to_str().expect("a path of ours");
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file]);
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.files.path().join(name);
        fs::write(&file, text).expect("the directory is ours");
        file
    }

    /// As administrator; must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        said(self.control_plane.kubectl().args(arguments))
    }

    /// A kubeconfig with a token of the node driver's service account, as kubelet asks for it for the
    /// driver pod of `node`; without a node it is bound to nothing. The token lies in a file of its
    /// own beside it, and is read again as it changes.
    pub(crate) fn kubeconfig(&self, node: Option<&str>) -> PathBuf {
        self.kubeconfig_at(node, self.control_plane.server())
    }

    /// The same, leading to another server.
    pub(crate) fn kubeconfig_at(&self, node: Option<&str>, server: &str) -> PathBuf {
        let name = node.unwrap_or("unbound");
        let token = self.write(&format!("{name}.token"), &self.token(node));
        let authority = self.write("authority.pem", self.control_plane.authority_pem());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {
                "server": server, "certificate-authority": authority,
            }}],
            "users": [{"name": "it", "user": {"tokenFile": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        self.write(&format!("{name}.kubeconfig"), &config.to_string())
    }

    /// In front of the API server; clients speak with their own tokens.
    pub(crate) fn proxy(&self) -> FaultProxy {
        let proxy = FaultProxy::start(&self.control_plane, Caller::Token);
        proxy.expect("a proxy starts")
    }

    /// A fresh token.
    pub(crate) fn token(&self, node: Option<&str>) -> String {
        let pod = node.map(|node| format!("driver-{node}"));
        let mut arguments = vec!["create", "token", ACCOUNT, "-n", NAMESPACE];
        if let Some(pod) = &pod {
            arguments.extend(["--bound-object-kind", "Pod", "--bound-object-name", pod]);
        }
        self.kubectl(&arguments).trim().to_owned()
    }

    /// Everything that node drivers asked, as the API server answered it.
    pub(crate) fn driver_requests(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.control_plane.audit_log()).expect("there is a log");
        let driver = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let requests: Vec<Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|it: &Value| it["user"]["username"] == driver.as_str())
            .collect();
        assert!(!requests.is_empty(), "the audit log shows what drivers ask");
        requests
    }

    /// Milliseconds from each write of a status to the next.
    pub(crate) fn gaps_between_status_writes(&self) -> Vec<i64> {
        let requests = self.driver_requests();
        let writes = requests.iter().filter(|it| {
            it["objectRef"]["subresource"] == "status" && it["responseStatus"]["code"] == 200
        });
        let mut times: Vec<i64> = writes
            .filter_map(|it| it["requestReceivedTimestamp"].as_str())
            .map(|at| at.parse::<Timestamp>().expect("it is a time"))
            .map(Timestamp::as_millisecond)
            .collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Stops the API server as a lost network does: connections stay, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
        // A signal sent is not yet taken: on a busy machine threads that wait for a core may still
        // have it when the next request comes, and answer that.
        let threads = format!("/proc/{}/task", self.api_server());
        eventually("every thread of the API server stands still", || {
            let threads = fs::read_dir(&threads).map_err(|error| error.to_string())?;
            let running = threads.flatten().find_map(|thread| {
                // One that ended meanwhile does nothing any more.
                let status = fs::read_to_string(thread.path().join("status")).ok()?;
                let state = status.lines().find(|line| line.starts_with("State:"))?;
                (!state.contains("stopped")).then(|| state.to_owned())
            });
            running.map_or(Ok(()), Err)
        });
    }

    /// It answers again.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        said(Command::new("kill").args([signal, &self.api_server().to_string()]));
    }

    fn api_server(&self) -> u32 {
        let directory = self.control_plane.audit_log();
        let directory = directory.parent().expect("it lies in a directory");
        api_server_in(directory)
    }

    pub(crate) fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        let mut command = self.control_plane.kubectl_as(kubeconfig);
        command.args(arguments).output().expect("kubectl starts")
    }
}

/// The API server frozen by a test that failed could not be ended by a signal that it may handle.
impl Drop for World {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// The process that has files of this directory on its command line.
fn api_server_in(directory: &Path) -> u32 {
    let directory = directory.to_str().expect("a path of ours");
    let processes = fs::read_dir("/proc").expect("there are processes");
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut servers = pids.filter(|pid| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = command.split('\0').next().unwrap_or_default();
        program.ends_with("kube-apiserver") && command.contains(directory)
    });
    servers.next().expect("the API server runs")
}

/// Standard output of a command that must succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Waits until a path in the Lease of n1's driver has this value.
pub(crate) fn the_lease_says(world: &World, path: &str, wanted: &str) {
    let output = format!("--output=jsonpath={path}");
    let lease = ["get", "lease", "--namespace", NAMESPACE];
    eventually("the Lease that goes with the object", || {
        let mut kubectl = world.control_plane.kubectl();
        kubectl.args(lease).args(["tensorpool-node-n1", &output]);
        match kubectl.output() {
            Ok(output) if wanted == String::from_utf8_lossy(&output.stdout) => Ok(()),
            other => Err(format!("{other:?}, wanted {wanted}")),
        }
    });
}

/// Returns what `look` finds as soon as it finds something; its `Err` says what was seen last.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(LIMIT, what, look)
}

/// The same for what takes its time.
pub(crate) fn eventually_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: {seen}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}
