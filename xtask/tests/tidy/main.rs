//! Lints the repository itself: what a compiler does not see and a reviewer forgets.

mod edges;
mod prose;
mod size;
mod sources;
mod tree;
