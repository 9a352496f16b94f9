//! Which containerd and runc a cluster runs pods with.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::binaries::{Binaries, Program};
use crate::cluster::ClusterError;
use crate::debian::{self, DebianError};
use crate::progress::Progress;

/// A generation of container runtimes. They differ in what a pod sees: only the current ones turn
/// a read-only mount of a volume into a writable one when the pod does not ask for `readOnly`, and
/// only they have user namespaces.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// containerd 2.1 and runc 1.3.
    #[default]
    Current,
    /// Those of the machine's release of Debian: containerd 1.6 and runc 1.1 in Debian 12.
    Debian,
}

/// The programs of one runtime.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct RuntimePrograms {
    /// containerd.
    pub(crate) containerd: PathBuf,
    /// Its process beside each pod, found through `PATH` by this name.
    pub(crate) shim: PathBuf,
    /// Its client.
    pub(crate) ctr: PathBuf,
    /// runc.
    pub(crate) runc: PathBuf,
}

/// Fetches the packages that clusters need, so that no later start has to.
///
/// # Errors
/// When one of them cannot be had: no whole cluster can be started then.
pub fn fetch_packages(progress: &Progress) -> Result<(), DebianError> {
    for package in ["containernetworking-plugins", "containerd", "runc"] {
        debian::unpacked(package, progress)?;
    }
    Ok(())
}

impl RuntimePrograms {
    /// Builds or fetches them.
    pub(crate) fn ensure(
        runtime: Runtime,
        binaries: &mut Binaries,
        progress: &Progress,
    ) -> Result<Self, ClusterError> {
        match runtime {
            Runtime::Current => Ok(Self {
                containerd: binaries.ensure(Program::Containerd, progress)?,
                shim: binaries.ensure(Program::ContainerdShim, progress)?,
                ctr: binaries.ensure(Program::Ctr, progress)?,
                runc: binaries.ensure(Program::Runc, progress)?,
            }),
            Runtime::Debian => {
                let containerd = debian::unpacked("containerd", progress)?.join("usr/bin");
                let runc = debian::unpacked("runc", progress)?;
                Ok(Self {
                    containerd: containerd.join("containerd"),
                    shim: containerd.join("containerd-shim-runc-v2"),
                    ctr: containerd.join("ctr"),
                    runc: runc.join("usr/sbin/runc"),
                })
            }
        }
    }
}

/// containerd's configuration, in the version that both generations read.
pub(crate) fn containerd_config(
    root: &Path,
    runc: &Path,
    cni_plugins: &Path,
    pause_image: &str,
) -> String {
    let (root, runc, cni_plugins) = (root.display(), runc.display(), cni_plugins.display());
    format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause_image}"
# Where this may not be lowered (no CAP_SYS_RESOURCE), no pod would start.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_plugins}"
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#
    )
}
