//! The `csi` subcommand as kubelet sees it: the real binary, real sockets, real mounts.
//!
//! The test is kubelet (`kubelet`) and stands in for the driver next door (`driver`), with real views
//! of real regions. What mounts something runs in a mount namespace of its own, as root.

mod aeron;
mod driver;
mod inside;
mod kubelet;
mod mounts;
mod node;
mod registration;
mod restarts;
mod sanity;
#[path = "../support/mod.rs"]
mod support;
