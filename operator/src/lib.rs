//! The operator: observe, plan, apply.
//!
//! [`plan()`] is the whole of what it decides: a pure function of what was observed, without clock,
//! network or randomness. The same observation gives the same plan, in whatever order it was read,
//! so two operators that overlap for a moment do the same things. [`changes()`] says which writes are
//! missing; [`run()`] holds the lease, keeps caches and makes them.

#![forbid(unsafe_code)]

mod caches;
mod changes;
mod election;
mod health;
mod heartbeat;
mod http;
mod leader;
mod metrics;
mod observed;
pub mod plan;
mod readable;
mod reconcile;
mod run;
mod stop;
mod write;

pub use changes::{Change, Labels, News, Part, Target, changes, own_labels};
pub use heartbeat::{DEAD, Heartbeats, SILENT};
pub use observed::{DriverLife, NodeFacts, Observed, Unreadable};
pub use plan::{ClassPlan, Finalizer, NodePlan, Plan, QuotaKey, StreamKey, StreamPlan, plan};
pub use reconcile::DefaultClass;
pub use run::{LEASE, RunError, Settings, run};
pub use stop::Stop;
