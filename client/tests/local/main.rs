//! Producers and consumers over the socket and real shared memory, against a scripted driver.
// In a test a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod account;
#[cfg(feature = "aeron-tests")]
mod aeron;
#[cfg(feature = "async")]
mod executor;
mod lease;
mod memory;
mod peer;
mod process;
mod stream;
