//! The operator: observe, plan, apply.
//!
//! [`plan`] is the whole of what it decides: a pure function of what was observed, without clock,
//! network or randomness. The same observation gives the same plan, in whatever order it was read,
//! so two operators that overlap for a moment do the same things.

#![forbid(unsafe_code)]

mod observed;
pub mod plan;

pub use observed::{DriverLife, NodeFacts, Observed};
pub use plan::{ClassPlan, Finalizer, NodePlan, Plan, QuotaKey, StreamKey, StreamPlan, plan};
