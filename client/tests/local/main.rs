//! Producers and consumers over the socket and real shared memory, against a scripted driver.
// In a test a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod account;
#[cfg(feature = "async")]
mod executor;
mod lease;
#[cfg(feature = "aeron-tests")]
mod media_driver;
mod memory;
mod peer;
mod process;
mod stream;
