//! Producers and consumers over the socket and real shared memory, against a scripted driver.

mod lease;
mod memory;
mod peer;
mod process;
mod stream;
