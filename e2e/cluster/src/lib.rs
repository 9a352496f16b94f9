//! A real Kubernetes on one machine, for tests.
//!
//! Nothing is imitated: etcd, the API server, the controllers, kubelet, containerd and runc are
//! built from pinned Go modules ([`Binaries`]) and run as they run elsewhere.
//!
//! - [`ControlPlane`]: etcd and an API server, for tests of schemas, admission, RBAC and
//!   controllers. Needs no root, takes about two seconds, is gone when dropped; any number run
//!   side by side.
//! - The whole cluster, with a node that runs pods, lives in namespaces of its own and needs root.
//!
//! `docs/cluster.md` says how a person uses both.

pub use binaries::{Binaries, BuildError, Program};
pub use certificate::CertificateError;
pub use control_plane::{ControlPlane, StartError};
pub use go::GoError;
pub use process::ProcessError;
pub use progress::Progress;

mod api_server;
mod binaries;
mod certificate;
mod control_plane;
mod go;
mod kubeconfig;
mod probe;
mod process;
mod progress;
