//! `TensorPoolNode`: one node's policy, compiled by the operator.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::placement::{Numa, PlacementMode, Revocation};
use crate::{PageSize, PreemptionPolicy, StreamLayout, TensorPoolNodeStatus, Transport};

/// Most streams on one node. The next one is `Programmed=False, NodeStreamLimit`.
pub const MAX_NODE_STREAMS: usize = 256;

/// What the node shall do. Written by the operator, except for cordoned.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tensorpool.io",
    version = "v1alpha1",
    kind = "TensorPoolNode",
    status = "TensorPoolNodeStatus",
    derive = "PartialEq",
    shortname = "tpn",
    category = "tensorpool",
    doc = "One node with shared memory: what its driver shall do (spec, from the operator) and which streams live there (status, from that node's driver). It has the name of the Node. Nobody needs to write it by hand, except to cordon the node.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the driver serves pods"
    ),
    printcolumn(
        name = "Cordoned",
        type_ = "boolean",
        json_path = ".spec.cordoned",
        description = "Whether new memory is refused"
    ),
    printcolumn(
        name = "Streams",
        type_ = "integer",
        json_path = ".status.streamCount",
        description = "Streams that have memory there"
    ),
    printcolumn(
        name = "Attached",
        type_ = "integer",
        json_path = ".status.attachments",
        description = "Attached producers and consumers"
    ),
    printcolumn(
        name = "Applied",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"PolicyApplied\")].status",
        description = "Whether the driver follows the current policy"
    ),
    printcolumn(
        name = "Driver",
        type_ = "string",
        json_path = ".status.driver.version",
        priority = 1,
        description = "Version of the driver"
    ),
    printcolumn(
        name = "Policy",
        type_ = "string",
        json_path = ".spec.policyRevision",
        priority = 1,
        description = "Revision of the policy"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1,
        description = "Why the node is ready or is not"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TensorPoolNodeSpec {
    /// true: no memory is taken for streams that are not there yet, and no new pod attaches; what is
    /// attached goes on. Set by a person; the operator never touches it. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// The classes of this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub pools: Vec<NodePool>,
    /// The streams that the node may carry, highest priority first, at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub streams: Vec<NodeStream>,
    /// Limits of namespaces that the driver enforces when a client attaches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub quotas: Vec<NodeQuota>,
    /// Fingerprint of pools, streams and quotas. The driver repeats the one that it follows in
    /// status.observedPolicyRevision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub policy_revision: String,
}

/// One class on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePool {
    /// Name of the TensorPoolClass.
    pub class_name: String,
    /// Size of memory pages.
    pub page_size: PageSize,
    /// Memory of the class on this node in bytes, whole pages.
    #[schemars(with = "i64", range(min = 0))]
    pub size_bytes: u64,
    /// Whether the memory is set aside when the driver starts.
    #[serde(default)]
    pub guarantee: bool,
    /// How pods may attach.
    #[serde(default)]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub transports: Vec<Transport>,
    /// Trust domain of Aeron pods.
    pub domain: String,
    /// SELinux context of the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub se_linux_context: Option<String>,
}

/// One stream that the node may carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStream {
    /// Namespace of the TensorStream.
    pub namespace: String,
    /// Name of the TensorStream.
    pub name: String,
    /// UID of the TensorStream: another object of the same name is another stream.
    pub uid: String,
    /// Number of the stream in the protocol.
    #[schemars(with = "i64", range(min = 1, max = 4_294_967_294_u32))]
    pub stream_id: u32,
    /// Name of the TensorPoolClass.
    pub class_name: String,
    /// How the memory is divided.
    pub layout: StreamLayout,
    /// Size of memory pages.
    pub page_size: PageSize,
    /// Memory of the stream on this node in bytes, headers and whole pages included.
    #[schemars(with = "i64", range(min = 0))]
    pub bytes: u64,
    /// Which NUMA node the memory comes from.
    #[serde(default)]
    pub numa: Numa,
    /// When memory is taken.
    #[serde(default)]
    pub mode: PlacementMode,
    /// Priority. The higher one gets memory first.
    pub priority: i32,
    /// Whether the stream may take memory from lower ones.
    pub preemption_policy: PreemptionPolicy,
    /// How many clients may attach.
    pub limits: StreamLimits,
    /// How memory is taken back.
    #[serde(default)]
    pub revocation: Revocation,
    /// Names of the quotas of the stream's namespace that it counts against.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub quotas: Vec<String>,
}

/// How many clients may attach to a stream on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamLimits {
    /// Producers.
    #[schemars(with = "i32", range(min = 0))]
    pub producers: u32,
    /// Consumers.
    #[schemars(with = "i32", range(min = 0))]
    pub consumers: u32,
}

/// One quota, as the driver enforces it on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeQuota {
    /// Namespace of the TensorQuota.
    pub namespace: String,
    /// Name of the TensorQuota. Streams that count against it name it.
    pub name: String,
    /// The limits.
    pub hard: NodeQuotaHard,
}

/// Limits of one quota on one node. An absent one is no limit.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct NodeQuotaHard {
    /// Bytes of memory, that of earlier epochs which a client still maps included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub bytes: Option<u64>,
    /// Attached producers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub producers: Option<u64>,
    /// Attached consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub consumers: Option<u64>,
    /// Leases: producers and consumers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub leases: Option<u64>,
}
