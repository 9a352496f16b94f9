//! What `build.rs` makes of the protocols in `proto/`.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::or_fun_call,
    clippy::use_self,
    reason = "generated"
)]

/// The Container Storage Interface.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// How a plugin makes itself known to kubelet.
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}
