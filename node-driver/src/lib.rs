//! The node driver: everything around the decisions of `tensorpool-driver-core`.
//!
//! It reads the configuration, makes and removes region files, keeps the journal of epochs, polls
//! both ways in, and performs what the core decides. It decides nothing itself.
#![cfg_attr(not(feature = "kubernetes"), forbid(unsafe_code))]
#![cfg_attr(feature = "kubernetes", deny(unsafe_code))]

#[cfg_attr(not(feature = "aeron"), path = "aeron_off.rs")]
mod aeron;
pub mod args;
mod ask;
pub mod attachments;
mod clock;
#[cfg(feature = "kubernetes")]
pub mod cluster;
pub mod commands;
pub mod config;
pub mod control;
mod core_config;
mod counters;
#[cfg(feature = "kubernetes")]
pub mod csi;
mod files;
mod health;
mod http;
pub mod journal;
mod lock;
mod log_filter;
mod log_share;
#[cfg(feature = "aeron")]
mod media_driver;
mod metrics;
#[cfg(feature = "kubernetes")]
pub mod mount;
mod notes;
mod perform;
#[cfg(feature = "aeron")]
mod relay;
pub mod requests;
mod runtime;
mod scan;
pub mod sealed;
mod serve;
mod signals;
pub mod status;
mod stores;
mod supervise;
pub mod telemetry;
