//! Status of a `TensorStream`, written by the operator only.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, PreemptionPolicy, Quantity, StreamPhase};

/// Most endpoints in a stream's status; the counts cover all nodes.
pub const MAX_ENDPOINTS: usize = 16;

/// What has become of the stream. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TensorStreamStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of the stream in the protocol. It stays the same for the life of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 1, max = 4_294_967_294_u32))]
    pub stream_id: Option<u32>,
    /// Priority, as it was resolved when the stream was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<ResolvedPriority>,
    /// Memory on each node that carries the stream, headers and whole pages included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_node: Option<Quantity>,
    /// Nodes, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// Attached clients on all nodes, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<AttachmentCounts>,
    /// Where the stream lives, the first 16 nodes by name. TensorPoolNode objects have all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub endpoints: Vec<Endpoint>,
    /// Accepted: class, id, layout and quota allow the stream. Programmed: the nodes have been told.
    /// Ready: every node that shall carry the stream does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A priority that was looked up once and then stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedPriority {
    /// Name of the TensorPriorityClass that it came from. Absent: no class, priority 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// Whether the class was named by the stream, not taken as the global default.
    pub named: bool,
    /// The priority. The higher one gets memory first.
    pub value: i32,
    /// Whether the stream may take memory from lower ones.
    pub preemption_policy: PreemptionPolicy,
}

/// Nodes of one stream, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that may carry the stream: they match the selectors and have been told.
    #[schemars(with = "i32", range(min = 0))]
    pub eligible: u32,
    /// Nodes that shall carry the stream now: with placement Eager all eligible ones, with OnDemand
    /// those where a pod has asked for it.
    #[schemars(with = "i32", range(min = 0))]
    pub desired: u32,
    /// Nodes on which the stream is ready.
    #[schemars(with = "i32", range(min = 0))]
    pub ready: u32,
    /// Nodes on which the stream failed or was preempted.
    #[schemars(with = "i32", range(min = 0))]
    pub degraded: u32,
}

/// Attached clients of one stream, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentCounts {
    /// Producers on all nodes.
    #[schemars(with = "i64", range(min = 0))]
    pub producers: u32,
    /// Consumers on all nodes.
    #[schemars(with = "i64", range(min = 0))]
    pub consumers: u32,
}

/// The stream on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Name of the node.
    pub node: String,
    /// How far the stream is there.
    pub phase: StreamPhase,
    /// Incarnation of the memory there; every new one is larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub epoch: Option<u64>,
}
