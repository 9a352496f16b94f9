//! The observation, sorted: everything else reads from here, so nothing can depend on the order in
//! which objects arrived.

use std::collections::BTreeMap;

use kube::ResourceExt;
use tensorpool_crds::{
    Condition, NodeStream, Polarity, StreamCondition, StreamReport, TensorPoolNode, TensorStream,
    Time,
};

use crate::plan::class::ClassFacts;
use crate::plan::priority::Priorities;
use crate::plan::quota::QuotaFacts;
use crate::{DriverLife, NodeFacts, Observed, Unreadable};

/// Label of Nodes that run something other than Linux.
const OS: &str = "kubernetes.io/os";

/// Older before newer, then by namespace, name and UID: the order in which streams are served.
type Seniority<'a> = (Option<Time>, &'a str, &'a str, &'a str);

/// What nodes have of a stream: they report it, or were told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) id: u32,
    pub(super) bytes: u64,
    /// Some node reports it, so it has memory or is about to.
    pub(super) lives: bool,
}

/// One stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
    /// How many streams are older.
    pub(super) place: usize,
    pub(super) object: &'a TensorStream,
}

impl<'a> Stream<'a> {
    fn of(object: &'a TensorStream) -> Option<Self> {
        Some(Self {
            place: 0,
            namespace: object.metadata.namespace.as_deref()?,
            name: object.metadata.name.as_deref()?,
            uid: object.metadata.uid.as_deref()?,
            object,
        })
    }

    fn seniority(&self) -> Seniority<'a> {
        let created = self.object.metadata.creation_timestamp.clone();
        (created, self.namespace, self.name, self.uid)
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Whether an earlier plan accepted it.
    pub(super) fn was_accepted(&self) -> bool {
        self.conditions().iter().any(|condition| {
            condition.type_ == StreamCondition::Accepted.as_str()
                && condition.status == Polarity::True.as_str()
        })
    }

    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn conditions(&self) -> &'a [Condition] {
        let status = self.object.status.as_ref();
        status.map_or(&[], |status| &status.conditions)
    }
}

/// One node: the Node, and our object for it, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a> {
    pub(super) facts: &'a NodeFacts,
    pub(super) object: Option<&'a TensorPoolNode>,
}

impl<'a> Node<'a> {
    pub(super) fn reports(&self) -> &'a [StreamReport] {
        self.object.map_or(&[], reports)
    }

    /// Whether the node's driver has said that it follows the policy that its object holds.
    pub(super) fn follows(&self, revision: &str) -> bool {
        let status = self.object.and_then(|object| object.status.as_ref());
        status.is_some_and(|it| it.observed_policy_revision.as_deref() == Some(revision))
    }

    /// Whether the node has every one of these labels.
    pub(super) fn has(&self, selector: &BTreeMap<String, String>) -> bool {
        selector
            .iter()
            .all(|(name, value)| self.facts.labels.get(name) == Some(value))
    }
}

/// Everything, sorted.
#[derive(Debug)]
pub(super) struct World<'a> {
    /// By UID.
    pub(super) streams: BTreeMap<&'a str, Stream<'a>>,
    /// By seniority.
    pub(super) order: Vec<Stream<'a>>,
    /// By name.
    pub(super) classes: BTreeMap<&'a str, ClassFacts<'a>>,
    pub(super) priorities: Priorities<'a>,
    /// By namespace and name.
    pub(super) quotas: BTreeMap<(&'a str, &'a str), QuotaFacts<'a>>,
    /// Linux nodes, by name.
    pub(super) nodes: BTreeMap<&'a str, Node<'a>>,
    /// All node objects of ours by name, those whose Node is gone included.
    pub(super) pool_nodes: BTreeMap<&'a str, &'a TensorPoolNode>,
    pub(super) unreadable: &'a Unreadable,
    /// By UID.
    held: BTreeMap<&'a str, Held>,
}

impl<'a> World<'a> {
    pub(super) fn of(observed: &'a Observed) -> Self {
        let streams = observed.streams.iter().filter_map(|it| Stream::of(it));
        let mut order: Vec<_> = streams.collect();
        order.sort_by_cached_key(|it| it.seniority());
        // Of one UID there is one object.
        order.dedup_by_key(|it| it.uid);
        for (place, stream) in order.iter_mut().enumerate() {
            stream.place = place;
        }
        let pool_nodes = observed.pool_nodes.iter().filter_map(|it| {
            let name = it.metadata.name.as_deref()?;
            Some((name, it.as_ref()))
        });
        let pool_nodes: BTreeMap<_, _> = pool_nodes.collect();
        let linux = observed
            .nodes
            .iter()
            .filter(|it| it.labels.get(OS).is_none_or(|os| os == "linux"));
        let nodes = linux.map(|facts| {
            let name = facts.name.as_str();
            let object = pool_nodes.get(name).copied();
            (name, Node { facts, object })
        });
        Self {
            nodes: nodes.collect(),
            streams: order.iter().map(|it| (it.uid, *it)).collect(),
            order,
            held: held(&pool_nodes),
            classes: ClassFacts::all(&observed.classes),
            priorities: Priorities::of(&observed.priorities),
            quotas: QuotaFacts::all(&observed.quotas),
            unreadable: &observed.unreadable,
            pool_nodes,
        }
    }

    /// What nodes have of a stream.
    pub(super) fn held(&self, stream: &Stream<'_>) -> Option<Held> {
        self.held.get(stream.uid).copied()
    }

    /// How many streams are older; those whose object is gone come last.
    pub(super) fn place(&self, uid: &str) -> usize {
        self.streams.get(uid).map_or(usize::MAX, |it| it.place)
    }

    /// Whether there is a quota of this name that cannot be read.
    pub(super) fn is_unreadable_quota(&self, namespace: &str, name: &str) -> bool {
        let mut quotas = self.unreadable.quotas.iter();
        quotas.any(|it| it.0 == namespace && it.1 == name)
    }

    /// Streams that cannot be read, as nodes were told of them: each once, the largest of several.
    pub(super) fn unreadable_streams(&self) -> impl Iterator<Item = &'a NodeStream> {
        let mut told: BTreeMap<&str, &NodeStream> = BTreeMap::new();
        for entry in self.pool_nodes.values().flat_map(|it| &it.spec.streams) {
            if self.unreadable.streams.contains(&entry.uid) {
                let largest = told.entry(entry.uid.as_str()).or_insert(entry);
                if entry.bytes > largest.bytes {
                    *largest = entry;
                }
            }
        }
        told.into_values()
    }

    /// The number that the stream was given: its status has it, or, where that was lost, its nodes.
    pub(super) fn given_id(&self, stream: &Stream<'_>) -> Option<u32> {
        let status = stream.object.status.as_ref();
        let told = status.and_then(|status| status.stream_id);
        told.or_else(|| self.held(stream).map(|held| held.id))
    }

    /// Whether the stream has its place already: an earlier plan accepted it, or it lives somewhere.
    pub(super) fn has_place(&self, stream: &Stream<'_>) -> bool {
        stream.was_accepted() || self.held(stream).is_some_and(|held| held.lives)
    }

    /// What is known of the driver of a node object; without a Node there is nobody to wait for.
    pub(super) fn driver_of(&self, pool_node: &str) -> DriverLife {
        let node = self.nodes.get(pool_node);
        node.map_or(DriverLife::Dead, |node| node.facts.driver)
    }
}

fn held<'a>(pool_nodes: &BTreeMap<&'a str, &'a TensorPoolNode>) -> BTreeMap<&'a str, Held> {
    let mut held: BTreeMap<&'a str, Held> = BTreeMap::new();
    for object in pool_nodes.values() {
        let told = object.spec.streams.iter();
        let told = told.map(|it| (it.uid.as_str(), it.stream_id, it.bytes, false));
        let reported = reports(object).iter();
        let reported = reported.map(|it| (it.uid.as_str(), it.stream_id, it.bytes, true));
        for (uid, id, bytes, lives) in told.chain(reported) {
            let entry = held.entry(uid).or_insert(Held { id, bytes, lives });
            // A report outweighs what was told; of several, the smallest number is as good as any.
            entry.id = if lives == entry.lives {
                entry.id.min(id)
            } else if lives {
                id
            } else {
                entry.id
            };
            entry.bytes = entry.bytes.max(bytes);
            entry.lives |= lives;
        }
    }
    held
}

/// The streams that a node object reports.
pub(super) fn reports(object: &TensorPoolNode) -> &[StreamReport] {
    let status = object.status.as_ref();
    status.map_or(&[], |status| &status.streams)
}

/// Name of an object that has one.
pub(super) fn name_of<K: ResourceExt>(object: &K) -> Option<&str> {
    object.meta().name.as_deref()
}
