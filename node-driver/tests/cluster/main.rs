//! The node driver's own program, and the policies that guard its identity, against a real API server.
#![cfg(feature = "kubernetes")]

mod access;
mod away;
mod damaged;
mod faults;
mod following;
mod identity;
mod many;
mod node;
mod objects;
mod reclaim;
#[path = "../support/mod.rs"]
mod support;
mod witness;
mod world;
