//! How Tensorpool messages travel.
//!
//! Two layers. [`pubsub`] is the lower one: publications and subscriptions of whole messages, as
//! Aeron has them; the descriptor stream uses it directly. [`port`] is the upper one: one end of a
//! control conversation, as the driver or a client sees it, whatever carries it. Inbound messages
//! carry their [`Origin`], outbound ones name their addressee. Nothing here knows what a message
//! means.
#![deny(unsafe_code)]

pub mod aeron;
#[cfg(feature = "bus")]
pub mod bus;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod port;
pub mod pubsub;
pub mod socket;

pub use tensorpool_wire::{ConnectionId, LogicalStream, Origin};
