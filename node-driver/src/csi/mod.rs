//! The CSI driver `csi.tensorpool.io`: gives pods their views.
//!
//! It runs in a container of its own, privileged, without any way to the API server. It answers kubelet
//! (CSI Identity and Node, and kubelet's plugin registration), asks the driver next door what a volume
//! may show, and mounts that read-only. Whether a pod may have a volume is not decided here.

pub mod args;
mod authority;
mod calls;
mod collect;
mod driver;
mod identity;
mod mount;
pub mod mountinfo;
mod node;
mod place;
pub mod proto;
mod publish;
mod registration;
mod serve;
mod stats;
mod turns;

pub use serve::{CsiError, run};
