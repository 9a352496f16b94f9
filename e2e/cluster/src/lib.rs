//! A real Kubernetes on one machine, for tests.
//!
//! Nothing is imitated: etcd, the API server, the controllers, kubelet, containerd and runc are
//! built from pinned Go modules ([`Binaries`]) and run as they run elsewhere.
//!
//! - [`ControlPlane`]: etcd and an API server, for tests of schemas, admission, RBAC and
//!   controllers. Needs no root, takes about two seconds, is gone when dropped; any number run
//!   side by side. [`FaultProxy`] stands in front of one and fails as a test says.
//! - [`Cluster`]: the whole, with a node that runs pods, in namespaces of its own. Needs root.
//!
//! `docs/cluster.md` says how a person uses both.

pub use binaries::{Binaries, BuildError, Program};
pub use certificate::CertificateError;
pub use chart::{ChartError, rendered_chart};
pub use cluster::{Cluster, ClusterError, Options};
pub use control_plane::{ControlPlane, StartError};
pub use debian::{DebianError, unpacked as unpack_debian_package};
pub use fault_proxy::{Asked, Caller, Fate, FaultProxy};
pub use go::GoError;
pub use images::StaticImage;
pub use page_pool::HugepageError;
pub use process::ProcessError;
pub use progress::Progress;
pub use runtime::{Runtime, fetch_packages};
pub use token::TokenError;

pub mod inside;

mod api_server;
mod binaries;
mod certificate;
mod cgroups;
mod chart;
mod cluster;
mod components;
mod control_plane;
mod debian;
mod fault_proxy;
mod go;
mod images;
mod init;
mod kubeconfig;
mod mounts;
mod page_pool;
mod probe;
mod process;
mod progress;
mod runtime;
mod state;
mod token;
