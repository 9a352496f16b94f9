//! What the operator decides. `build.rs` beside this file has builders for the nouns.

mod admission;
mod build;
mod deletion;
mod history;
mod nodes;
mod numbers;
mod quotas;
mod scale;
mod unreadable;
mod words;
mod writes;
