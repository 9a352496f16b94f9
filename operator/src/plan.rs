//! From what was observed to what shall be: the policy compiler.
//!
//! In this order: classes are read, priorities resolved, numbers and quotas settled
//! (`plan/admission.rs`), one policy per node compiled (`plan/node.rs`), and what became of each
//! object put in words (`plan/status.rs`, `plan/teardown.rs`). Nothing here knows the time; whoever
//! applies the plan gives conditions theirs.
//!
//! What it guarantees, each shown in `operator/tests/plan`:
//! - the order of the observation does not matter, and a plan that was applied plans itself again;
//! - a number belongs to one stream, for the life of the object, and is not given to another one while
//!   any node still reports it;
//! - what runs is not ended by a lower quota, by a class that went, by a stream of higher priority, or
//!   by an object that this version cannot read;
//! - every refusal says what stood in the way, in words.

use std::collections::BTreeMap;

use tensorpool_crds::{
    AttachmentCounts, Draft, Endpoint, NodeCounts, Quantity, ResolvedPriority, TensorPoolNodeSpec,
    TensorQuotaStatus,
};

use crate::Observed;

mod admission;
mod choice;
mod class;
mod identity;
mod node;
mod numbers;
mod priority;
mod quota;
mod status;
mod teardown;
mod world;

use world::World;

/// Namespace and name of a stream.
pub type StreamKey = (String, String);

/// Namespace and name of a quota.
pub type QuotaKey = (String, String);

/// What shall be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By namespace and name.
    pub streams: BTreeMap<StreamKey, StreamPlan>,
    /// By name of the Node.
    pub nodes: BTreeMap<String, NodePlan>,
    /// By name.
    pub classes: BTreeMap<String, ClassPlan>,
    /// By namespace and name.
    pub quotas: BTreeMap<QuotaKey, TensorQuotaStatus>,
}

/// What shall be said and done about one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamPlan {
    /// Of which object, since its name may be used again.
    pub uid: String,
    /// What to do with the finalizer.
    pub finalizer: Finalizer,
    /// The generation that was looked at.
    pub observed_generation: Option<i64>,
    /// Number of the stream, once it has one.
    pub stream_id: Option<u32>,
    /// Its priority, once it was accepted.
    pub priority: Option<ResolvedPriority>,
    /// Its memory per node, where layout and class allow to tell.
    pub bytes_per_node: Option<Quantity>,
    /// Nodes, counted.
    pub nodes: NodeCounts,
    /// Attached clients, counted.
    pub attachments: AttachmentCounts,
    /// Where it lives, the first few by name.
    pub endpoints: Vec<Endpoint>,
    /// `Accepted`, `Programmed`, `Ready`, in this order.
    pub conditions: Vec<Draft>,
}

/// What to do with a stream's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finalizer {
    /// Put it on before the stream is told to any node.
    Add,
    /// It is as it should be.
    Keep,
    /// No node holds the stream any more.
    Remove,
}

/// What shall be on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePlan {
    /// UID of the Node, which owns the object.
    pub node_uid: String,
    /// The policy. `cordoned` is absent: that field belongs to people.
    pub spec: TensorPoolNodeSpec,
    /// Labels on the Node; those of ours that are absent here go.
    pub labels: BTreeMap<String, String>,
}

/// What shall be said about one class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassPlan {
    /// The generation that was looked at.
    pub observed_generation: Option<i64>,
    /// Nodes of the class.
    pub nodes: u32,
    /// Accepted streams of the class.
    pub streams: u32,
    /// `Ready`.
    pub conditions: Vec<Draft>,
}

/// Compiles everything.
#[must_use]
pub fn plan(observed: &Observed) -> Plan {
    let world = World::of(observed);
    let verdicts = admission::admit(&world);
    let nodes = node::compile(&world, &verdicts);
    Plan {
        streams: status::of_streams(&world, &verdicts, &nodes),
        classes: status::of_classes(&world, &verdicts),
        quotas: quota::usage(&world, &verdicts),
        nodes: nodes.into_plans(),
    }
}
