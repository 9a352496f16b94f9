//! What the demo, the benchmark and the end-to-end run share: a node driver of their own, in a directory of
//! its own, and how latencies are measured on two cores.
#![cfg(feature = "machine")]

pub mod cache_line;
pub mod distance;
pub mod driver;
pub mod latency;
pub mod machine;
pub mod peer;
