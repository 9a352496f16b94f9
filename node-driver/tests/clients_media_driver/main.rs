//! Producers and consumers of the client crate on both ways in at once, through the failures of what
//! they stand on. Whatever happens, each frame is delivered or counted under one reason.
#![cfg(feature = "aeron")]

#[path = "../support/mod.rs"]
mod support;

mod failures;
mod hugepages;
mod identity;
mod memory;
mod stopped;
mod world;

/// Not a test of anything: what [`ExternalMediaDriver`] runs in its child process.
#[test]
fn child_process_media_driver() {
    support::media::serve();
}
