//! Producers and consumers of Tensorpool streams.
//!
//! A producer writes tensors into shared memory that the driver owns; consumers read them in place.
//! This crate owns the lease (attach, keepalive, reattach), the mapping of one epoch's regions, and the
//! producer and consumer calls on it. It refuses to create, truncate or remove memory, and to guess
//! paths: both are the driver's (D-2.2-1, D-2.3-1).
#![forbid(unsafe_code)]

mod find;
pub mod lease;
mod watch;
