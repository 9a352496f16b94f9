//! Where a stream's memory lies, who may attach, and how it is taken back.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which NUMA node the memory comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.policy == 'None' ? !has(self.node) : has(self.node)")
        .message("numa.node is required with policy Preferred or Bind, and must be absent with None")
)]
pub struct Numa {
    /// None: any NUMA node (default). Preferred: this one while it has free pages, then others. Bind:
    /// this one only; where it has too few free pages the stream waits and says so. The driver must be
    /// allowed to run on CPUs of the NUMA node. A machine without such a NUMA node does not carry the
    /// stream (reason Unsupported).
    #[serde(default)]
    pub policy: NumaPolicy,
    /// Number of the NUMA node, from 0 to 1023. Required unless policy is None. Example: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 0, max = 1023))]
    pub node: Option<u16>,
}

/// How strictly memory is bound to a NUMA node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NumaPolicy {
    /// Any node.
    #[default]
    None,
    /// The named node first.
    Preferred,
    /// The named node only.
    Bind,
}

/// On which nodes, and when, memory is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// OnDemand: a node takes the memory when the first pod there mounts the stream (default). Eager:
    /// every chosen node takes it at once, so that the first pod starts faster.
    #[serde(default)]
    pub mode: PlacementMode,
    /// Labels that a node must have, beside those of the class. Empty or absent: every node of the
    /// class. At most 16. Example: {"gpu": "a100"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,
}

/// When memory is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PlacementMode {
    /// With the first pod.
    #[default]
    OnDemand,
    /// At once.
    Eager,
}

/// How many producers may attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Producers {
    /// Producers per node: 1 (default), or 0 to admit no new one while the stream is drained. A stream
    /// on a node has one writer at most.
    #[serde(default = "one")]
    #[schemars(with = "i32", range(min = 0, max = 1))]
    pub max_per_node: u32,
}

impl Default for Producers {
    fn default() -> Self {
        Self {
            max_per_node: one(),
        }
    }
}

const fn one() -> u32 {
    1
}

/// How many consumers may attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Consumers {
    /// Consumers per node, from 0 to 1024, default 16. The next one is refused with this number in
    /// the message.
    #[serde(default = "sixteen")]
    #[schemars(with = "i32", range(min = 0, max = 1024))]
    pub max_per_node: u32,
}

impl Default for Consumers {
    fn default() -> Self {
        Self {
            max_per_node: sixteen(),
        }
    }
}

const fn sixteen() -> u32 {
    16
}

/// How memory is taken back when a stream is deleted or its memory replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Seconds between the notice to clients of a deleted stream and the removal of its files, from 0 to
    /// 3600, default 5.
    #[serde(default = "five")]
    #[schemars(with = "i32", range(min = 0, max = 3600))]
    pub grace_period_seconds: u32,
    /// Retain (default): memory that a client still maps stays until it unmaps. It counts against no
    /// quota; the node reports it as pinnedBytes. Force: after forceAfterSeconds the pages are freed
    /// under the client, whose next access raises SIGBUS. Clients of Tensorpool survive that and see the
    /// end of their lease.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// Seconds until Force frees the pages, from 0 to 86400, default 30: after the grace period of a
    /// deleted stream, or since memory that a newer epoch replaced was to be removed. Has no effect
    /// with Retain.
    #[serde(default = "thirty")]
    #[schemars(with = "i32", range(min = 0, max = 86400))]
    pub force_after_seconds: u32,
}

impl Default for Revocation {
    fn default() -> Self {
        Self {
            grace_period_seconds: five(),
            reclaim_policy: ReclaimPolicy::Retain,
            force_after_seconds: thirty(),
        }
    }
}

const fn five() -> u32 {
    5
}

const fn thirty() -> u32 {
    30
}

/// What happens to memory that clients still map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// It stays until they unmap it.
    #[default]
    Retain,
    /// It is freed under them.
    Force,
}
