//! A node driver in cluster mode: the real program, with a directory of memory of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tensorpool_cluster::FaultProxy;
use tensorpool_node_driver::attachments::protocol::VERSION;

use crate::support::raw::Raw;
use crate::support::{Driver, Mount, in_memory};
use crate::world::{NAMESPACE, World, eventually};

/// One driver and the machine that it thinks to be on.
pub(crate) struct Node<'a> {
    world: &'a World,
    name: &'static str,
    directory: TempDir,
    memory: TempDir,
    kubeconfig: PathBuf,
    keepalive_ms: u64,
}

impl<'a> Node<'a> {
    /// Nothing runs yet. The driver gets a token that is bound to its pod on this node.
    pub(crate) fn new(world: &'a World, name: &'static str) -> Self {
        Self::with(world, name, world.kubeconfig(Some(name)))
    }

    /// One that reaches the API server through a proxy.
    pub(crate) fn behind(world: &'a World, name: &'static str, proxy: &FaultProxy) -> Self {
        Self::with(
            world,
            name,
            world.kubeconfig_at(Some(name), &proxy.server()),
        )
    }

    fn with(world: &'a World, name: &'static str, kubeconfig: PathBuf) -> Self {
        let node = Self {
            world,
            name,
            directory: in_memory(),
            memory: in_memory(),
            kubeconfig,
            keepalive_ms: 60_000,
        };
        fs::create_dir(node.memory.path().join("4Ki")).expect("it is new");
        fs::write(node.config(), node.toml()).expect("the directory is ours");
        node
    }

    /// Leases live by this rhythm.
    pub(crate) fn keepalive(mut self, milliseconds: u64) -> Self {
        self.keepalive_ms = milliseconds;
        fs::write(self.config(), self.toml()).expect("the directory is ours");
        self
    }

    /// Huge pages for classes of `2Mi`, where the machine has so many; for as long as the mount is held.
    pub(crate) fn huge_pages(&self, pages: u64) -> Option<Mount> {
        let directory = self.memory.path().join("2Mi");
        fs::create_dir(&directory).expect("it is new");
        Mount::hugetlbfs_at(&directory, pages)
    }

    /// With the driver's token.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("driver.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("driver.sock")
    }

    fn toml(&self) -> String {
        format!(
            r#"
[driver]
media_driver = "off"
state_dir = "{state}"

[shm]
base_dir = "{memory}"

[kubernetes]
node = "{node}"
namespace = "{NAMESPACE}"
pod_name = "driver-{node}"
internal_socket = "{internal}"

[policies]
lease_keepalive_interval_ms = {keepalive}
shutdown_timeout_ms = 5000

[socket]
path = "{socket}"

[http]
listen = "127.0.0.1:0"

[log]
format = "json"
filter = "tensorpool_node_driver=debug,info"
"#,
            state = self.directory.path().join("state").display(),
            memory = self.memory.path().display(),
            keepalive = self.keepalive_ms,
            node = self.name,
            internal = self.directory.path().join("internal.sock").display(),
            socket = self.socket().display(),
        )
    }

    /// Starts the driver and waits until it serves.
    pub(crate) fn start(&self) -> Driver {
        let set = |command: &mut Command| self.set(command);
        Driver::start_with(&self.config(), set, "the first policy has come")
    }

    /// Starts the driver and waits for nothing.
    pub(crate) fn spawn(&self) -> Driver {
        Driver::spawn_with(&self.config(), |command| self.set(command))
    }

    fn set(&self, command: &mut Command) {
        command.env("KUBECONFIG", &self.kubeconfig);
    }

    /// Says what the `csi` container says once kubelet has registered it.
    pub(crate) fn kubelet_registers(&self) {
        let socket = self.directory.path().join("internal.sock");
        let mut driver = eventually("the driver listens for csi", || {
            UnixStream::connect(&socket).map_err(|error| error.to_string())
        });
        let probe = json!({"version": VERSION, "ask": "probe", "registered": true});
        writeln!(driver, "{probe}").expect("the driver reads");
        let mut answer = String::new();
        BufReader::new(driver)
            .read_line(&mut answer)
            .expect("the driver answers");
        assert!(answer.contains(self.name), "{answer}");
    }

    /// A client on the driver's socket.
    pub(crate) fn client(&self) -> Raw {
        Raw::socket(&self.socket())
    }

    /// The node's object as it is.
    pub(crate) fn object(&self) -> Value {
        let text = self.world.kubectl(&["get", "tpn", self.name, "-o", "json"]);
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// The status once `is` holds.
    pub(crate) fn status(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let status = self.object()["status"].clone();
            if is(&status) {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    /// The status once the driver follows this revision.
    pub(crate) fn follows(&self, revision: &str) -> Value {
        self.status(&format!("revision {revision} is followed"), |status| {
            status["observedPolicyRevision"] == revision
        })
    }
}

/// A condition of a status; null if it is not there.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|it| it["type"] == kind);
    found.unwrap_or(&Value::Null)
}

/// A stream of a status; null if it is not there.
pub(crate) fn stream<'a>(status: &'a Value, name: &str) -> &'a Value {
    let streams = status["streams"].as_array();
    let found = streams.into_iter().flatten().find(|it| it["name"] == name);
    found.unwrap_or(&Value::Null)
}
