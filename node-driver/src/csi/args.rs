//! The command line of `csi`.

use std::path::PathBuf;

use clap::Args;

use crate::args::LoggingArgs;

/// `csi`.
#[derive(Clone, Debug, Args)]
#[command(long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub struct CsiArgs {
    /// Kubelet's directory, mounted at the same path with Bidirectional propagation
    #[arg(
        long,
        value_name = "DIR",
        env = "KUBELET_DIR",
        default_value = "/var/lib/kubelet"
    )]
    pub kubelet_dir: PathBuf,
    /// Where the memory of streams is mounted: one directory for each page size
    #[arg(
        long,
        value_name = "DIR",
        env = "TENSORPOOL_SHM_DIR",
        default_value = "/run/tensorpool/shm"
    )]
    pub shm_dir: PathBuf,
    /// Where the directory of the media driver is mounted, which pods on Aeron share
    #[arg(
        long,
        value_name = "DIR",
        env = "TENSORPOOL_AERON_MOUNT",
        default_value = "/run/tensorpool/aeron"
    )]
    pub aeron_dir: PathBuf,
    /// The driver's socket, in a directory that only this container and the driver's have
    #[arg(
        long,
        value_name = "PATH",
        env = "KUBERNETES_INTERNAL_SOCKET",
        default_value = "/internal/driver.sock"
    )]
    pub internal_socket: PathBuf,
    /// What it says.
    #[command(flatten)]
    pub logging: LoggingArgs,
}

const LONG_ABOUT: &str = "Serves kubelet as the CSI driver csi.tensorpool.io: asks the driver whether a pod may have a volume, and mounts it read-only.

It runs as root in a privileged container next to the driver, without access to the API server. It registers with kubelet as soon as the driver answers; while the driver does not, volumes are answered with UNAVAILABLE, and kubelet tries again.";

const AFTER_HELP: &str = "What it makes below kubelet's directory:
  plugins/csi.tensorpool.io/csi.sock             kubelet's questions about volumes
  plugins_registry/csi.tensorpool.io-reg.sock    registration, once the driver answers

Kubelet dials these paths itself, and a socket's path has at most 107 bytes: kubelet's directory may have 63.

Exit codes: 0 ended by SIGTERM or SIGINT; 1 failed; 2 the command line is not valid.";
