//! The operator's own program against a real API server. The test plays the node drivers.

mod faults;
mod leading;
mod life;
mod process;
mod repair;
mod world;
