//! `TensorPoolClass`: which memory there is, on which nodes.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, PageSize, Quantity};

/// Which memory the class offers, on which nodes.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tensorpool.io",
    version = "v1alpha1",
    kind = "TensorPoolClass",
    plural = "tensorpoolclasses",
    status = "TensorPoolClassStatus",
    derive = "PartialEq",
    shortname = "tpc",
    category = "tensorpool",
    doc = "A kind of shared memory that nodes offer to streams: page size, size per node, and on which nodes.",
    validation = Rule::new("self.metadata.name.size() <= 50 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("the name of a TensorPoolClass must be at most 50 lower-case letters, digits and dashes, since it becomes part of a node label"),
    printcolumn(name = "Page", type_ = "string", json_path = ".spec.pageSize", description = "Size of memory pages"),
    printcolumn(name = "Size/Node", type_ = "string", json_path = ".spec.sizePerNode", description = "Memory on each node"),
    printcolumn(name = "Transports", type_ = "string", json_path = ".spec.transports", description = "How pods may attach"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes", description = "Nodes of the class"),
    printcolumn(name = "Streams", type_ = "integer", json_path = ".status.streams", description = "Accepted streams of the class"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether streams of the class are accepted"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TensorPoolClassSpec {
    /// Labels that a node must have to belong to the class. Empty or absent: every node with a node
    /// driver. At most 16. Example: {"node.kubernetes.io/instance-type": "gpu-large"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,
    /// Size of memory pages: 2Mi or 1Gi for huge pages, 4Ki for ordinary memory where a node has no
    /// huge pages. Cannot change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("pageSize cannot change; create another class"))]
    pub page_size: PageSize,
    /// Memory that each node of the class offers, from 1Mi to 1Pi, rounded down to whole pages. It
    /// must not exceed the huge pages that the node driver was installed with. A change takes effect
    /// on a node when it has been drained. Example: 8Gi.
    #[x_kube(
        validation = Rule::new("quantity(string(self)).compareTo(quantity('1Mi')) >= 0 && quantity(string(self)).compareTo(quantity('1Pi')) <= 0")
            .message("sizePerNode must be from 1Mi to 1Pi")
    )]
    pub size_per_node: Quantity,
    /// true: the node sets the memory aside when the driver starts, so that nobody else can take it.
    /// The node profiles of the driver's installation do so for a pool with the same word; a node
    /// whose pool is without it says so (PoolResizePending). false (default): memory is taken stream by
    /// stream and may be used up by others. Has no effect for pages of 4Ki.
    #[serde(default)]
    pub guarantee: bool,
    /// Numbers that are given to streams without a streamId. Default: 20000 to 29999.
    #[serde(default)]
    pub stream_id_range: StreamIdRange,
    /// How pods may attach. Socket (always): over a socket of their own, sharing nothing writable.
    /// Aeron: also as peers of the protocol, sharing a writable directory with every other such pod
    /// of the same domain, which then trust each other. Default: Socket only.
    #[serde(default = "socket_only")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = Rule::new("'Socket' in self").message("transports must contain Socket"))]
    pub transports: Vec<Transport>,
    /// SELinux context that the memory shall have where SELinux is active. The node profiles of the
    /// driver's installation mount it so; a node where it differs says so (PoolResizePending). Absent:
    /// whatever the node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[a-zA-Z0-9_]+:[a-zA-Z0-9_]+:[a-zA-Z0-9_]+(:[a-zA-Z0-9_:.,-]+)?$")
    )]
    pub se_linux_context: Option<String>,
    /// Name of the trust domain: Aeron pods of classes with the same domain share one directory.
    /// Default: "default". Cannot change.
    #[serde(default = "default_domain")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("domain cannot change; create another class"))]
    pub domain: String,
}

/// Numbers from `from` to `to`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.from <= self.to").message("from must not be greater than to")
)]
pub struct StreamIdRange {
    /// First number, from 1 to 4294967294.
    #[schemars(with = "i64", range(min = 1, max = 4_294_967_294_u32))]
    pub from: u32,
    /// Last number, from 1 to 4294967294.
    #[schemars(with = "i64", range(min = 1, max = 4_294_967_294_u32))]
    pub to: u32,
}

impl Default for StreamIdRange {
    fn default() -> Self {
        Self {
            from: 20_000,
            to: 29_999,
        }
    }
}

/// A way to attach.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Transport {
    /// A socket of the pod's own.
    Socket,
    /// The shared directory of the media driver.
    Aeron,
}

fn socket_only() -> Vec<Transport> {
    vec![Transport::Socket]
}

fn default_domain() -> String {
    "default".to_owned()
}

impl TensorPoolClassSpec {
    /// A class of these pages and this size, with every default.
    #[must_use]
    pub fn new(page_size: PageSize, size_per_node: Quantity) -> Self {
        Self {
            node_selector: BTreeMap::new(),
            page_size,
            size_per_node,
            guarantee: false,
            stream_id_range: StreamIdRange::default(),
            transports: socket_only(),
            se_linux_context: None,
            domain: default_domain(),
        }
    }
}

/// How the class is used. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TensorPoolClassStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that belong to the class.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub nodes: u32,
    /// Accepted streams of the class.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub streams: u32,
    /// Ready: streams of the class are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
