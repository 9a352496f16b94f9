//! Status of a `TensorPoolNode`: discovery. Written by that node's driver only.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, PageSize};

/// What is on the node. Written by that node's driver when something changes, at most once a second.
/// Rates, times and counters are metrics, not status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TensorPoolNodeStatus {
    /// The spec.policyRevision that the driver follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub observed_policy_revision: Option<String>,
    /// Who writes this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverIdentity>,
    /// Where Aeron clients find the driver. Absent where no class of the node allows Aeron.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aeron: Option<AeronEndpoint>,
    /// Memory by class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub pools: Vec<PoolReport>,
    /// Streams in status.streams that have memory.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub stream_count: u32,
    /// Attached producers and consumers of all streams.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub attachments: u32,
    /// The streams that the driver knows of, by namespace and name. A stream that nobody has asked for
    /// yet is absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub streams: Vec<StreamReport>,
    /// Ready, CSIRegistered, CSIDriverMisconfigured, AeronHealthy, HugepagesAvailable,
    /// HugepagesStale, PoolResizePending, PolicyApplied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriverIdentity {
    /// Version of the driver.
    #[schemars(length(max = 64))]
    pub version: String,
    /// Name of its pod.
    #[schemars(length(max = 253))]
    pub pod_name: String,
    /// Changes with every start of the driver.
    #[schemars(with = "i64", range(min = 0))]
    pub boot_epoch: u64,
}

/// Where Aeron clients find the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AeronEndpoint {
    /// Directory of the media driver on the node.
    #[schemars(length(max = 512))]
    pub dir: String,
    /// Channel of control messages.
    #[schemars(length(max = 512))]
    pub control_channel: String,
    /// Stream id of control messages.
    pub control_stream_id: i32,
}

/// Memory of one class on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolReport {
    /// Name of the TensorPoolClass.
    pub class_name: String,
    /// Size of memory pages.
    pub page_size: PageSize,
    /// Memory of the class in bytes.
    #[schemars(with = "i64", range(min = 0))]
    pub capacity_bytes: u64,
    /// Bytes in files of current epochs.
    #[schemars(with = "i64", range(min = 0))]
    pub allocated_bytes: u64,
    /// Bytes that were to be removed and that a client still maps. They count against no class and no
    /// quota.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub pinned_bytes: u64,
    /// Huge pages of this size by NUMA node, whoever has them. Empty on machines with one, and for
    /// ordinary pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub numa: Vec<NumaReport>,
}

/// Huge pages on one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NumaReport {
    /// Number of the NUMA node.
    #[schemars(with = "i32", range(min = 0))]
    pub node: u16,
    /// Bytes in such pages there.
    #[schemars(with = "i64", range(min = 0))]
    pub capacity_bytes: u64,
    /// Of these, bytes in pages that nobody has.
    #[schemars(with = "i64", range(min = 0))]
    pub free_bytes: u64,
}

/// One stream on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamReport {
    /// Namespace of the TensorStream.
    pub namespace: String,
    /// Name of the TensorStream.
    pub name: String,
    /// UID of the TensorStream.
    pub uid: String,
    /// Number of the stream in the protocol.
    #[schemars(with = "i64", range(min = 1, max = 4_294_967_294_u32))]
    pub stream_id: u32,
    /// Incarnation of the memory; every new one is larger. Absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub epoch: Option<u64>,
    /// Version of the memory layout in the protocol.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub layout_version: u32,
    /// How far the stream is.
    pub phase: StreamPhase,
    /// Why, in one word, where the phase is not Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// Bytes of its files.
    #[schemars(with = "i64", range(min = 0))]
    pub bytes: u64,
    /// Where the header ring is on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub header_uri: Option<String>,
    /// Where the pools are on the node, by poolId.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub pool_uris: Vec<String>,
    /// Name of the pod that produces. Absent: nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub producer_pod: Option<String>,
    /// Attached producers: 0 or 1.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub producers: u32,
    /// Attached consumers.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub consumers: u32,
}

/// How far a stream is on a node.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum StreamPhase {
    /// Memory is there, clients can attach.
    Ready,
    /// Memory is being made, or waits for free memory.
    Pending,
    /// Memory was taken for a stream of higher priority.
    Preempted,
    /// Memory could not be made; reason and message say why.
    Failed,
}
