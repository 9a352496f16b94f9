//! One node: its memory, the driver and `csi` on it, and kubelet in front of them.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tonic::Status;

use crate::kubelet::{Csi, Kubelet};
use crate::names_in;
use crate::objects;
use crate::support::Driver;
use crate::world::{NAMESPACE, World};

const NODE: &str = "n1";

/// A volume as a pod's author and kubelet write it.
#[derive(Clone)]
pub(crate) struct Wanted {
    attributes: Vec<(String, String)>,
    read_only: bool,
}

impl Wanted {
    pub(crate) fn consume(stream: &str) -> Self {
        Self::of(stream, "consume", "viewer")
    }

    pub(crate) fn produce(stream: &str) -> Self {
        Self::of(stream, "produce", "sensor")
    }

    fn of(stream: &str, access: &str, account: &str) -> Self {
        let attributes = [
            ("stream", stream),
            ("access", access),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", account),
            ("csi.storage.k8s.io/pod.namespace", "vision"),
            ("csi.storage.k8s.io/pod.uid", "uid-of-the-pod"),
            ("csi.storage.k8s.io/serviceAccount.name", account),
        ];
        let owned = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            attributes: owned.into(),
            read_only: true,
        }
    }

    /// Without `readOnly: true`.
    pub(crate) fn writable(mut self) -> Self {
        self.read_only = false;
        self
    }

    /// With one attribute more, or another value of it.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.attributes.retain(|(known, _)| known != key);
        self.attributes.push((key.to_owned(), value.to_owned()));
        self
    }
}

pub(crate) struct Rig<'a> {
    pub(crate) world: &'a World,
    pub(crate) kubelet: Kubelet,
    kubeconfig: PathBuf,
    driver: RefCell<Option<Driver>>,
    transports: Transports,
    _csi: Csi,
}

/// How pods may attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transports {
    Socket,
    SocketAndAeron,
}

impl<'a> Rig<'a> {
    /// A node with memory, a policy of two streams, the driver and `csi`, registered.
    pub(crate) fn start(world: &'a World) -> Self {
        Self::start_with(world, Transports::Socket)
    }

    /// The same with a class that allows these.
    pub(crate) fn start_with(world: &'a World, transports: Transports) -> Self {
        let streams = [
            objects::stream("camera", 10_000),
            objects::stream("lidar", 10_001),
        ];
        let mut node = objects::node(NODE, "1", &streams);
        if transports == Transports::SocketAndAeron {
            node["spec"]["pools"][0]["transports"] = serde_json::json!(["Socket", "Aeron"]);
        }
        world.apply("node.json", &node.to_string());
        let kubelet = Kubelet::new();
        let mounted = Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
            .args(["mount", "--pool=4Ki=64Mi", "--aeron=512Mi"])
            .args(["--uid=0", "--gid=0"])
            .arg("--base-dir")
            .arg(kubelet.node_dir())
            .status()
            .expect("the binary runs");
        assert!(mounted.success());
        let rig = Self {
            world,
            kubeconfig: world.kubeconfig(Some(NODE)),
            driver: RefCell::default(),
            transports,
            _csi: kubelet.start_csi(),
            kubelet,
        };
        rig.start_driver();
        rig
    }

    pub(crate) fn start_driver(&self) {
        let config = self.kubelet.dir().join("driver.toml");
        std::fs::write(&config, self.toml()).expect("the directory is ours");
        let set = |command: &mut Command| {
            command.env("KUBECONFIG", &self.kubeconfig);
        };
        let driver = Driver::start_with(&config, set, "the first policy has come");
        self.driver.replace(Some(driver));
        self.kubelet.await_registration_socket();
    }

    pub(crate) fn kill_driver(&self) {
        if let Some(driver) = self.driver.take() {
            driver.signal(Signal::KILL);
            drop(driver);
        }
    }

    /// What a driver that was just started says to a new volume.
    pub(crate) fn fresh_driver_refuses(&self, pod: &str, wanted: &Wanted) -> Status {
        self.kill_driver();
        self.start_driver();
        self.publish(pod, wanted).expect_err("it is refused")
    }

    /// The volume of a pod, as kubelet asks for it. While the driver starts kubelet asks again.
    pub(crate) fn publish(&self, pod: &str, wanted: &Wanted) -> Result<(), Status> {
        crate::world::eventually("the driver's answer", || {
            match self.ask_to_publish(pod, wanted, pod) {
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    Err(status.message().to_owned())
                }
                answer => Ok(answer),
            }
        })
    }

    /// The volume of one pod at the place of another.
    pub(crate) fn ask_to_publish(
        &self,
        place: &str,
        wanted: &Wanted,
        volume: &str,
    ) -> Result<(), Status> {
        self.kubelet.note(place, &volume_of(volume));
        let mut request = self.kubelet.request(place, &volume_of(volume));
        request.readonly = wanted.read_only;
        request.volume_context = wanted.attributes.iter().cloned().collect();
        let kubelet = &self.kubelet;
        kubelet.block_on(async { kubelet.node().await.node_publish_volume(request).await })?;
        Ok(())
    }

    pub(crate) fn unpublish(&self, pod: &str) -> Result<(), Status> {
        self.kubelet.unpublish(pod, &volume_of(pod))
    }

    /// The socket in a pod's volume.
    pub(crate) fn socket(&self, pod: &str) -> PathBuf {
        self.kubelet.target(pod).join("driver.sock")
    }

    /// The epochs of `camera` that a pod sees.
    pub(crate) fn epochs_in(&self, pod: &str) -> Vec<String> {
        names_in(
            &self
                .kubelet
                .target(pod)
                .join("tensorpool-k8s/default/10000"),
        )
    }

    pub(crate) fn views(&self) -> Vec<String> {
        names_in(&self.kubelet.shm_dir().join("4Ki/views"))
    }

    pub(crate) fn records(&self) -> Vec<String> {
        names_in(&self.state_dir().join("attachments"))
            .into_iter()
            .filter(|name| !name.ends_with(".damaged"))
            .collect()
    }

    pub(crate) fn damage_record(&self, pod: &str) {
        let file = format!("attachments/{}.attachment", volume_of(pod));
        let file = self.state_dir().join(file);
        let mut bytes = std::fs::read(&file).expect("there is a record");
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        std::fs::write(&file, bytes).expect("it is ours");
    }

    /// Lets a service account of `vision` use the streams there.
    pub(crate) fn allow(&self, account: &str, verb: &str) {
        let name = format!("{account}-{verb}");
        let kubectl = |arguments: &[&str]| self.world.kubectl(arguments);
        let (verbs, resources) = (
            format!("--verb={verb}"),
            "--resource=tensorstreams.tensorpool.io",
        );
        kubectl(&["create", "role", &name, "-n", "vision", &verbs, resources]);
        let (role, whom) = (
            format!("--role={name}"),
            format!("--serviceaccount=vision:{account}"),
        );
        kubectl(&["create", "rolebinding", &name, "-n", "vision", &role, &whom]);
    }

    pub(crate) fn forbid(&self, account: &str, verb: &str) {
        let name = format!("{account}-{verb}");
        let kinds = "rolebinding,role";
        let done = self
            .world
            .kubectl(&["delete", kinds, &name, "-n", "vision"]);
        assert!(done.contains("deleted"), "{done}");
    }

    fn state_dir(&self) -> PathBuf {
        self.kubelet.node_dir().join("state")
    }

    /// The media driver's directory.
    pub(crate) fn aeron_dir(&self) -> PathBuf {
        self.kubelet.node_dir().join("aeron/media")
    }

    fn toml(&self) -> String {
        let aeron = match self.transports {
            Transports::Socket => "media_driver = \"off\"".to_owned(),
            Transports::SocketAndAeron => format!(
                "media_driver = \"external\"\naeron_dir = \"{}\"\nannounce_stream_id = 1001",
                self.aeron_dir().display()
            ),
        };
        format!(
            r#"
[driver]
{aeron}
state_dir = "{state}"

[shm]
base_dir = "{memory}"

[kubernetes]
node = "{NODE}"
namespace = "{NAMESPACE}"
pod_name = "driver-{NODE}"
internal_socket = "{internal}"

[http]
listen = "127.0.0.1:0"

[log]
format = "json"
filter = "tensorpool_node_driver=debug,info"
"#,
            state = self.state_dir().display(),
            memory = self.kubelet.shm_dir().display(),
            internal = self.kubelet.internal_socket().display(),
        )
    }
}

fn volume_of(pod: &str) -> String {
    format!("csi-{pod}")
}
