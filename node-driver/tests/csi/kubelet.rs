//! Kubelet, as far as a CSI driver meets it: its directories, its calls, and the `csi` process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tensorpool_node_driver::csi::proto::csi::identity_client::IdentityClient;
use tensorpool_node_driver::csi::proto::csi::node_client::NodeClient;
use tensorpool_node_driver::csi::proto::csi::volume_capability::{AccessType, MountVolume};
use tensorpool_node_driver::csi::proto::csi::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
};
use tensorpool_node_driver::csi::proto::pluginregistration::registration_client::RegistrationClient;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::support::wait_until;

/// Kubelet's directory and what else the container of `csi` sees.
pub(crate) struct Kubelet {
    dir: TempDir,
    runtime: Runtime,
}

impl Kubelet {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("k").tempdir_in("/tmp");
        let kubelet = Self {
            dir: dir.expect("a temporary directory"),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        };
        for directory in [kubelet.root(), kubelet.shm_dir()] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        kubelet
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("kubelet")
    }

    /// What stands for `/run/tensorpool` here.
    pub(crate) fn node_dir(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    pub(crate) fn shm_dir(&self) -> PathBuf {
        self.node_dir().join("shm")
    }

    pub(crate) fn internal_socket(&self) -> PathBuf {
        self.dir.path().join("driver.sock")
    }

    pub(crate) fn plugin_socket(&self) -> PathBuf {
        self.root().join("plugins/csi.tensorpool.io/csi.sock")
    }

    pub(crate) fn registration_socket(&self) -> PathBuf {
        self.root()
            .join("plugins_registry/csi.tensorpool.io-reg.sock")
    }

    /// Where the volume of a pod is mounted.
    pub(crate) fn target(&self, pod: &str) -> PathBuf {
        self.root()
            .join("pods")
            .join(pod)
            .join("volumes/kubernetes.io~csi/tensors/mount")
    }

    /// What kubelet writes before it publishes a volume.
    pub(crate) fn note(&self, pod: &str, volume: &str) {
        let directory = self.target(pod);
        let directory = directory.parent().expect("a mount has a parent");
        std::fs::create_dir_all(directory).expect("a directory");
        let data = format!(r#"{{"driverName":"csi.tensorpool.io","volumeHandle":"{volume}"}}"#);
        std::fs::write(directory.join("vol_data.json"), data).expect("a file");
    }

    /// Starts `csi` and waits until it answers.
    pub(crate) fn start_csi(&self) -> Csi {
        // A socket of one that was killed is still there.
        let _old = std::fs::remove_file(self.plugin_socket());
        let csi = self.spawn_csi();
        wait_until("csi.sock", || {
            let found = self.plugin_socket().exists();
            found.then_some(()).ok_or_else(|| "no socket".to_owned())
        });
        csi
    }

    pub(crate) fn spawn_csi(&self) -> Csi {
        let child = Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
            .arg("csi")
            .arg("--kubelet-dir")
            .arg(self.root())
            .arg("--shm-dir")
            .arg(self.shm_dir())
            .arg("--aeron-dir")
            .arg(self.node_dir().join("aeron"))
            .arg("--internal-socket")
            .arg(self.internal_socket())
            .stdin(Stdio::null())
            .spawn();
        Csi(child.expect("the binary starts"))
    }

    pub(crate) fn await_registration_socket(&self) {
        wait_until("the registration socket", || {
            let found = self.registration_socket().exists();
            found.then_some(()).ok_or_else(|| "no socket".to_owned())
        });
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(dial(&self.plugin_socket()).await)
    }

    pub(crate) async fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(dial(&self.plugin_socket()).await)
    }

    pub(crate) async fn registration(&self) -> RegistrationClient<Channel> {
        RegistrationClient::new(dial(&self.registration_socket()).await)
    }

    /// Publishes a volume with `transport: aeron` as kubelet does, and returns its answer.
    pub(crate) fn publish_on_aeron(
        &self,
        pod: &str,
        volume: &str,
        access: &str,
    ) -> Result<(), Status> {
        self.note(pod, volume);
        let mut request = self.request(pod, volume);
        request.readonly = access != "produce";
        for (key, value) in [("transport", "aeron"), ("access", access)] {
            request
                .volume_context
                .insert(key.to_owned(), value.to_owned());
        }
        self.block_on(async { self.node().await.node_publish_volume(request).await })?;
        Ok(())
    }

    /// Publishes a volume as kubelet does, and returns its answer.
    pub(crate) fn publish(&self, pod: &str, volume: &str) -> Result<(), Status> {
        self.note(pod, volume);
        let request = self.request(pod, volume);
        self.block_on(async { self.node().await.node_publish_volume(request).await })?;
        Ok(())
    }

    pub(crate) fn request(&self, pod: &str, volume: &str) -> NodePublishVolumeRequest {
        request(&self.target(pod), volume)
    }

    pub(crate) fn unpublish(&self, pod: &str, volume: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: self.target(pod).display().to_string(),
        };
        self.block_on(async { self.node().await.node_unpublish_volume(request).await })?;
        Ok(())
    }
}

fn request(target: &Path, volume: &str) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: volume.to_owned(),
        target_path: target.display().to_string(),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            ..VolumeCapability::default()
        }),
        readonly: true,
        volume_context: [("stream", "camera"), ("access", "consume")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..NodePublishVolumeRequest::default()
    }
}

/// Publishes `csi-1` from another thread, which has a runtime of its own.
pub(crate) fn publish_from_elsewhere(target: PathBuf, socket: PathBuf) -> Result<(), Status> {
    elsewhere(async move {
        let mut node = NodeClient::new(dial(&socket).await);
        node.node_publish_volume(request(&target, "csi-1")).await?;
        Ok(())
    })
}

/// Unpublishes `csi-1` from another thread, which has a runtime of its own.
pub(crate) fn unpublish_from_elsewhere(target: PathBuf, socket: PathBuf) -> Result<(), Status> {
    elsewhere(async move {
        let mut node = NodeClient::new(dial(&socket).await);
        let request = NodeUnpublishVolumeRequest {
            volume_id: "csi-1".to_owned(),
            target_path: target.display().to_string(),
        };
        node.node_unpublish_volume(request).await?;
        Ok(())
    })
}

fn elsewhere<T>(call: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(call)
}

async fn dial(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
    let channel = endpoint.expect("a path is an endpoint").connect().await;
    channel.expect("somebody listens")
}

/// The `csi` process; killed when dropped.
pub(crate) struct Csi(Child);

impl Csi {
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }

    pub(crate) fn terminate(mut self) -> ExitStatus {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has an id"), Signal::TERM).expect("it runs");
        self.0.wait().expect("it ends")
    }
}

impl Drop for Csi {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}
