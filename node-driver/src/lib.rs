//! The node driver: everything around the decisions of `tensorpool-driver-core`.
//!
//! It reads the configuration, makes and removes region files, keeps the journal of epochs, polls
//! both ways in, and performs what the core decides. It decides nothing itself.
#![forbid(unsafe_code)]

#[cfg_attr(not(feature = "aeron"), path = "aeron_off.rs")]
mod aeron;
pub mod args;
mod ask;
mod clock;
pub mod commands;
pub mod config;
mod core_config;
mod counters;
mod files;
mod health;
mod http;
pub mod journal;
mod lock;
mod log_filter;
mod metrics;
mod perform;
#[cfg(feature = "aeron")]
mod relay;
mod runtime;
mod scan;
mod serve;
mod signals;
pub mod status;
mod supervise;
pub mod telemetry;
