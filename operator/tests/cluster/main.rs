//! The operator's own program against a real API server. The test plays the node drivers.

mod broken;
mod faults;
mod injected;
mod leading;
mod life;
mod process;
mod repair;
mod world;
