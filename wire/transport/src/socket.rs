//! The socket: a driver's own way in, without Aeron (docs/extensions.md §2).
//!
//! [`SocketServer`] is the driver's end, [`SocketClient`] a client's. Packets, backlog and limits are
//! parts without I/O, so that the in-process bus runs the very same server over memory.

#[cfg(any(feature = "server", feature = "bus"))]
pub mod limits;
pub mod packet;

#[cfg(any(feature = "server", feature = "bus"))]
pub(crate) mod backlog;
mod client;
#[cfg(feature = "server")]
mod kernel;
#[cfg(feature = "server")]
mod listener;
#[cfg(feature = "server")]
mod server;
#[cfg(any(feature = "server", feature = "bus"))]
pub(crate) mod service;
#[cfg(any(feature = "server", feature = "bus"))]
pub(crate) mod sockets;
#[cfg(any(feature = "server", feature = "bus"))]
mod stats;

#[cfg(feature = "bus")]
pub(crate) use client::closed;
pub use client::{ConnectError, SocketClient};
#[cfg(any(feature = "server", feature = "bus"))]
pub use limits::{Limits, PacketClass};
#[cfg(feature = "server")]
pub use listener::ListenError;
#[cfg(feature = "server")]
pub use server::SocketServer;
#[cfg(any(feature = "server", feature = "bus"))]
pub use stats::Stats;

#[cfg(test)]
#[cfg(feature = "server")]
mod tests;
