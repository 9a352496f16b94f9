//! What the demo and the benchmark share: a node driver of their own, in a directory of its own.

pub mod driver;
