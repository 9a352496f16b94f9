//! Bytes and types of the Tensorpool protocol.
//!
//! This crate owns every byte that two processes exchange: the SBE messages of schemas 900, 901 and
//! 910, the superblock, the slot header and the embedded TensorHeader, the `shm:` URI grammar, and
//! newtypes for the ids in them. It refuses everything else: it opens no file, knows no socket and
//! reads no clock. No input makes it panic or allocate more than the input's own length warrants.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod id;
mod route;

pub use id::{
    ClientId, CorrelationId, Epoch, LeaseId, MonoNanos, NodeId, PoolId, Seq, StreamId, WallNanos,
};
pub use route::{ConnectionId, LogicalStream, Origin};
