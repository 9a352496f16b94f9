//! The node driver: everything around the decisions of `tensorpool-driver-core`.
//!
//! It reads the configuration, makes and removes region files, keeps the journal of epochs, polls
//! both ways in, and performs what the core decides. It decides nothing itself.
#![forbid(unsafe_code)]

pub mod args;
pub mod commands;
pub mod config;
pub mod journal;
pub mod lock;
pub mod signals;
pub mod telemetry;
