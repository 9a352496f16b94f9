//! What the operator has seen, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tensorpool_crds::{
    TensorPoolClass, TensorPoolNode, TensorPriorityClass, TensorQuota, TensorStream,
};

/// Everything that a plan depends on. Lists may be in any order.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// All streams, those that are being deleted included.
    pub streams: Vec<Arc<TensorStream>>,
    /// All classes.
    pub classes: Vec<Arc<TensorPoolClass>>,
    /// All priority classes.
    pub priorities: Vec<Arc<TensorPriorityClass>>,
    /// All quotas.
    pub quotas: Vec<Arc<TensorQuota>>,
    /// All node objects of ours.
    pub pool_nodes: Vec<Arc<TensorPoolNode>>,
    /// All Nodes of the cluster.
    pub nodes: Vec<NodeFacts>,
    /// What is there besides, and cannot be read.
    pub unreadable: Unreadable,
}

/// Objects that are there, but say something that this version does not know: whoever wrote them had
/// other definitions. They are not taken for deleted: what nodes have of them stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// UIDs of streams.
    pub streams: BTreeSet<String>,
    /// Namespace and name of quotas.
    pub quotas: BTreeSet<(String, String)>,
    /// Names of node objects of ours.
    pub pool_nodes: BTreeSet<String>,
}

/// What matters of a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its UID; another Node of the same name is another one.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What is known of the driver there.
    pub driver: DriverLife,
}

/// What is known of a node's driver. Whoever observes decides this by the driver's Lease and a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverLife {
    /// None was ever seen there.
    Never,
    /// It renews its Lease.
    Alive,
    /// It has missed its Lease, but not for long.
    Silent,
    /// It has been silent for ten minutes or more, or its Node is gone: nobody waits for it.
    Dead,
}

impl DriverLife {
    /// Whether an answer is worth waiting for.
    #[must_use]
    pub const fn is_expected_back(self) -> bool {
        matches!(self, Self::Alive | Self::Silent)
    }
}
