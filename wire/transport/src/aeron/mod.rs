//! The only module that knows Aeron.
//!
//! What decides and parses is here without any feature: the head of `cnc.dat` ([`cnc`]), the
//! settings of a media driver ([`settings`]), the ports over any client ([`port`]), and who builds a
//! client anew after it died ([`reconnect`]). What needs a library is behind a feature: `rusteron`
//! (the C client), `media-driver` (the C media driver in this process), `aeron-rs` (a pure Rust
//! client, see its module for what it cannot hold).
//!
//! One Aeron directory is one trust domain: whoever can write it can crash its media driver and
//! every client. Survive and supervise; do not expect a boundary.

#[cfg(feature = "aeron-rs")]
pub mod aeron_rs;
#[cfg(any(feature = "rusteron", feature = "aeron-rs"))]
mod assembler;
pub mod channel;
pub mod cnc;
#[cfg(any(feature = "rusteron", feature = "aeron-rs"))]
mod connect;
#[cfg(feature = "rusteron")]
mod ffi;
#[cfg(any(feature = "rusteron", feature = "aeron-rs"))]
mod inbox;
#[cfg(feature = "media-driver")]
pub mod media_driver;
mod outbox;
pub mod port;
pub mod reconnect;
mod responses;
#[cfg(feature = "rusteron")]
pub mod rusteron;
pub mod settings;

pub use outbox::{OutboxCounts, OutboxLimits};
