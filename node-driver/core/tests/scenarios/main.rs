//! The driver's behaviour as its peers see it: one event in, the ordered list of actions out.

mod assigned;
mod attach;
mod bounds;
mod cluster;
mod collection;
mod config;
mod consumers;
mod discovery;
mod epochs;
mod joins;
mod leases;
mod policy;
mod rig;
mod shutdown;
mod streams;
