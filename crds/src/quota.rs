//! `TensorQuota`: how much a namespace may use, modelled on `ResourceQuota`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantity;

/// The limits, and which streams they are for.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tensorpool.io",
    version = "v1alpha1",
    kind = "TensorQuota",
    namespaced,
    status = "TensorQuotaStatus",
    derive = "PartialEq",
    shortname = "tquota",
    category = "tensorpool",
    doc = "How much shared memory, and how many streams and clients, a namespace may have. What runs is never ended by a lower limit; new streams and clients wait until usage falls.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of a TensorQuota must not be longer than 63 characters"),
    printcolumn(name = "Streams", type_ = "string", json_path = ".status.used.streams", description = "Accepted streams"),
    printcolumn(name = "Max Streams", type_ = "string", json_path = ".spec.hard.streams", description = "Most streams"),
    printcolumn(name = "Bytes/Node", type_ = "string", json_path = ".status.used['requests.bytesPerNode']", description = "Declared memory of accepted streams"),
    printcolumn(name = "Max Bytes/Node", type_ = "string", json_path = ".spec.hard['requests.bytesPerNode']", description = "Most declared memory"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TensorQuotaSpec {
    /// The limits. One that is absent does not limit.
    pub hard: QuotaHard,
    /// Which streams of the namespace count. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_selector: Option<ScopeSelector>,
}

/// Limits of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaHard {
    /// Streams that are accepted, in all. Example: "10".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Quantity>,
    /// Declared memory of all accepted streams together, as if one node carried them all. Example: 8Gi.
    #[serde(
        default,
        rename = "requests.bytesPerNode",
        skip_serializing_if = "Option::is_none"
    )]
    pub requests_bytes_per_node: Option<Quantity>,
    /// Producers that are attached on one node. Example: "4".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producers_per_node: Option<Quantity>,
    /// Consumers that are attached on one node. Example: "64".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers_per_node: Option<Quantity>,
    /// Leases on one node: producers and consumers together. Example: "128".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases_per_node: Option<Quantity>,
}

/// Which streams count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScopeSelector {
    /// Every one of these must hold. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub match_expressions: Vec<ScopeRequirement>,
}

/// One requirement on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0")
        .message("values must not be empty with In and NotIn, and must be empty with Exists and DoesNotExist")
)]
pub struct ScopeRequirement {
    /// What is looked at: PriorityClass, the stream's priorityClassName.
    pub scope_name: ScopeName,
    /// In, NotIn: the name is, or is not, one of values. Exists, DoesNotExist: the stream names a
    /// priority class, or none.
    pub operator: ScopeOperator,
    /// Names of priority classes, for In and NotIn. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub values: Vec<String>,
}

/// What a requirement looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScopeName {
    /// The stream's priority class.
    PriorityClass,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScopeOperator {
    /// One of the values.
    In,
    /// None of the values.
    NotIn,
    /// Any.
    Exists,
    /// None.
    DoesNotExist,
}

impl ScopeSelector {
    /// Whether a stream that names `priority_class` counts.
    #[must_use]
    pub fn matches(&self, priority_class: Option<&str>) -> bool {
        self.match_expressions.iter().all(|requirement| {
            let ScopeName::PriorityClass = requirement.scope_name;
            let listed = priority_class
                .is_some_and(|name| requirement.values.iter().any(|value| value == name));
            match requirement.operator {
                ScopeOperator::In => listed,
                ScopeOperator::NotIn => !listed,
                ScopeOperator::Exists => priority_class.is_some(),
                ScopeOperator::DoesNotExist => priority_class.is_none(),
            }
        })
    }
}

/// Limits and usage. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TensorQuotaStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The limits in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<QuotaHard>,
    /// What is used. Numbers per node are those of the node with most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<QuotaUsed>,
}

/// Usage of one quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaUsed {
    /// Accepted streams.
    pub streams: Quantity,
    /// Declared memory of accepted streams together.
    #[serde(rename = "requests.bytesPerNode")]
    pub requests_bytes_per_node: Quantity,
    /// Attached producers on the node with most.
    pub producers_per_node: Quantity,
    /// Attached consumers on the node with most.
    pub consumers_per_node: Quantity,
    /// Leases on the node with most.
    pub leases_per_node: Quantity,
}
