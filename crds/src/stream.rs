//! `TensorStream`: what users apply.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::placement::{Consumers, Numa, Placement, Producers, Revocation};
use crate::{StreamLayout, StreamPageSize, TensorStreamStatus};

/// Class of a stream that names none.
pub const DEFAULT_CLASS: &str = "default";

/// What the stream shall be. Its memory layout, class, page size and, once given, its id cannot change:
/// for another one, create another stream.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tensorpool.io",
    version = "v1alpha1",
    kind = "TensorStream",
    namespaced,
    status = "TensorStreamStatus",
    derive = "PartialEq",
    shortname = "tstream",
    category = "tensorpool",
    doc = "A stream of tensors that pods on one node exchange through shared memory. Every node that carries the stream has its own memory for it; tensors do not travel between nodes.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of a TensorStream must not be longer than 63 characters"),
    validation = Rule::new("!has(self.spec.streamId) || !has(self.status) || !has(self.status.streamId) || self.spec.streamId == self.status.streamId").message("streamId must be the number that the stream already has, status.streamId"),
    selectable = ".spec.className",
    selectable = ".spec.priorityClassName",
    selectable = ".status.streamId",
    printcolumn(name = "ID", type_ = "integer", json_path = ".status.streamId", description = "Number of the stream in the protocol"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.className", description = "TensorPoolClass that the memory comes from"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".status.priority.value", description = "Resolved priority; the higher one gets memory first"),
    printcolumn(name = "Bytes/Node", type_ = "string", json_path = ".status.bytesPerNode", description = "Memory on each node that carries the stream"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.nodes.ready", description = "Nodes on which the stream is ready"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.nodes.desired", description = "Nodes that shall carry the stream now"),
    printcolumn(name = "Consumers", type_ = "integer", json_path = ".status.attachments.consumers", description = "Consumers on all nodes"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why the stream is ready or is not"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1, description = "The same in words"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.streamId) || has(self.streamId)").message("streamId cannot be removed once it is set"),
    validation = Rule::new("!has(oldSelf.streamId) || !has(self.streamId) || self.streamId == oldSelf.streamId").message("streamId cannot change; create another stream")
)]
#[serde(rename_all = "camelCase")]
pub struct TensorStreamSpec {
    /// Number of the stream in the protocol, from 1 to 4294967294, unique in the cluster. Absent: one
    /// is chosen from the class's range and shown in status.streamId. Cannot change once it is set.
    /// Example: 10001.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 1, max = 4_294_967_294_u32))]
    pub stream_id: Option<u32>,
    /// Name of the TensorPoolClass that the memory comes from. Default: "default". Cannot change.
    #[serde(default = "default_class")]
    #[schemars(length(min = 1, max = 50))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("className cannot change; create another stream"))]
    pub class_name: String,
    /// How the memory is divided. Cannot change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("layout cannot change; create another stream"))]
    pub layout: StreamLayout,
    /// Size of memory pages. Auto (default): that of the class. Another value is a demand: the stream
    /// is accepted only if its class has pages of that size. Cannot change.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("pageSize cannot change; create another stream"))]
    pub page_size: StreamPageSize,
    /// Which NUMA node of a machine the memory comes from. A change takes effect when the memory is
    /// next taken.
    #[serde(default)]
    pub numa: Numa,
    /// On which nodes, and when, memory is taken.
    #[serde(default)]
    pub placement: Placement,
    /// Name of the TensorPriorityClass. Absent: the one marked globalDefault, else priority 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// How many producers may attach.
    #[serde(default)]
    pub producers: Producers,
    /// How many consumers may attach.
    #[serde(default)]
    pub consumers: Consumers,
    /// How memory is taken back when the stream is deleted or replaced.
    #[serde(default)]
    pub revocation: Revocation,
}

impl TensorStreamSpec {
    /// A stream of the default class with this layout and every default.
    #[must_use]
    pub fn new(layout: StreamLayout) -> Self {
        Self {
            stream_id: None,
            class_name: default_class(),
            layout,
            page_size: StreamPageSize::Auto,
            numa: Numa::default(),
            placement: Placement::default(),
            priority_class_name: None,
            producers: Producers::default(),
            consumers: Consumers::default(),
            revocation: Revocation::default(),
        }
    }
}

fn default_class() -> String {
    DEFAULT_CLASS.to_owned()
}
