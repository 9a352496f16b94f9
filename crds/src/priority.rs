//! `TensorPriorityClass`: who goes first when memory is short, modelled on `PriorityClass`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Fields at the top level of the object, as in `PriorityClass`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tensorpool.io",
    version = "v1alpha1",
    kind = "TensorPriorityClass",
    plural = "tensorpriorityclasses",
    no_spec,
    derive = "PartialEq",
    shortname = "tprio",
    category = "tensorpool",
    doc = "A named priority of streams. When a node is short of memory, the stream of higher priority gets it first. A stream keeps the priority that it was accepted with.",
    printcolumn(
        name = "Value",
        type_ = "integer",
        json_path = ".value",
        description = "The priority"
    ),
    printcolumn(
        name = "Global Default",
        type_ = "boolean",
        json_path = ".globalDefault",
        description = "Whether streams without a class get it"
    ),
    printcolumn(
        name = "Preemption",
        type_ = "string",
        json_path = ".preemptionPolicy",
        description = "Whether it may take memory from lower ones"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Description",
        type_ = "string",
        json_path = ".description",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TensorPriorityClassFields {
    /// The priority, from -1000000000 to 1000000000. The higher one goes first. Cannot change.
    /// Example: 100000.
    #[schemars(range(min = -1_000_000_000, max = 1_000_000_000))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("value cannot change; create another priority class"))]
    pub value: i32,
    /// true: streams that name no class get this one. Of several, the one with the smallest value
    /// counts. Default: false.
    #[serde(default)]
    pub global_default: bool,
    /// PreemptLowerPriority (default): a stream may take the memory of lower ones. Never: it waits
    /// until there is free memory, ahead of lower ones. Cannot change.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("preemptionPolicy cannot change; create another priority class"))]
    pub preemption_policy: PreemptionPolicy,
    /// What the class is for, in words, at most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub description: String,
}

/// Whether a stream may take memory from streams of lower priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PreemptionPolicy {
    /// It may.
    #[default]
    PreemptLowerPriority,
    /// It waits.
    Never,
}
