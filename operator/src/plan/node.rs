//! One policy per node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tensorpool_crds::{
    LABEL_READY, MAX_NODE_STREAMS, NodeCondition, NodePool, NodeStream, Polarity, StreamLimits,
    TensorPoolNodeSpec, class_label,
};

use crate::DriverLife;
use crate::plan::NodePlan;
use crate::plan::admission::{Accepted, Verdict, Verdicts};
use crate::plan::class::ClassFacts;
use crate::plan::identity::fingerprint;
use crate::plan::quota;
use crate::plan::world::{Node, World};

/// All policies, and which streams did not fit where.
#[derive(Debug)]
pub(super) struct Policies<'a> {
    plans: BTreeMap<&'a str, NodePlan>,
    /// By UID of the stream: nodes that have it in their policy.
    programmed: BTreeMap<String, BTreeSet<&'a str>>,
    /// By UID of the stream: nodes that have no place for it.
    full: BTreeMap<String, BTreeSet<&'a str>>,
}

impl<'a> Policies<'a> {
    /// Nodes that have the stream in their policy, with its revision.
    pub(super) fn programmed(&self, uid: &str) -> impl Iterator<Item = (&'a str, &str)> {
        let nodes = self.programmed.get(uid).into_iter().flatten();
        nodes.filter_map(|node| {
            let plan = self.plans.get(node)?;
            Some((*node, plan.spec.policy_revision.as_str()))
        })
    }

    /// Nodes that match, but have no place.
    pub(super) fn full(&self, uid: &str) -> Vec<&'a str> {
        self.full.get(uid).into_iter().flatten().copied().collect()
    }

    pub(super) fn into_plans(self) -> BTreeMap<String, NodePlan> {
        let plans = self.plans.into_iter();
        plans.map(|(name, plan)| (name.to_owned(), plan)).collect()
    }
}

/// Compiles the policy of every node that belongs to a class or ever did.
pub(super) fn compile<'a>(world: &'a World<'a>, verdicts: &'a Verdicts<'a>) -> Policies<'a> {
    let mut by_class: BTreeMap<&str, Vec<&Accepted<'a>>> = BTreeMap::new();
    for accepted in verdicts.accepted() {
        by_class.entry(accepted.class).or_default().push(accepted);
    }
    let mut policies = Policies {
        plans: BTreeMap::new(),
        programmed: BTreeMap::new(),
        full: BTreeMap::new(),
    };
    for (name, node) in &world.nodes {
        let classes: Vec<_> = world
            .classes
            .values()
            .filter(|it| it.has_node(node))
            .collect();
        if classes.is_empty() && node.object.is_none() {
            continue;
        }
        let wanted = classes
            .iter()
            .flat_map(|it| by_class.get(it.name).into_iter().flatten());
        let wanted = wanted
            .filter(|it| node.has(&it.stream.object.spec.placement.node_selector))
            .map(|it| entry(it));
        let (streams, left_out) = choose(world, verdicts, node, wanted.collect());
        for uid in left_out {
            policies.full.entry(uid).or_default().insert(name);
        }
        for stream in &streams {
            policies
                .programmed
                .entry(stream.uid.clone())
                .or_default()
                .insert(name);
        }
        let pools = classes.iter().filter_map(|it| it.pool()).collect();
        let spec = policy(world, node, pools, streams);
        let plan = NodePlan {
            node_uid: node.facts.uid.clone(),
            labels: labels(node, &classes),
            spec,
        };
        policies.plans.insert(name, plan);
    }
    policies
}

/// Which streams the node gets: what lives there stays; then what it was told before, then the rest by
/// priority and age, up to the limit. Also the UIDs of those that found no place.
fn choose<'a>(
    world: &World<'a>,
    verdicts: &Verdicts<'a>,
    node: &Node<'a>,
    wanted: Vec<NodeStream>,
) -> (Vec<NodeStream>, Vec<String>) {
    let living: BTreeSet<&str> = node.reports().iter().map(|it| it.uid.as_str()).collect();
    let told: &[NodeStream] = node.object.map_or(&[], |object| &object.spec.streams);
    let told_uids: BTreeSet<&str> = told.iter().map(|it| it.uid.as_str()).collect();
    let mut streams = wanted;
    let known: BTreeSet<String> = streams.iter().map(|it| it.uid.clone()).collect();
    let kept = told
        .iter()
        .filter(|it| living.contains(it.uid.as_str()) && !known.contains(&it.uid));
    streams.extend(
        kept.filter(|it| may_stay(world, verdicts, &it.uid))
            .cloned(),
    );
    streams.sort_by_cached_key(|it| {
        let uid = it.uid.as_str();
        (
            !living.contains(uid),
            !told_uids.contains(uid),
            rank(world, it),
        )
    });
    let left_out = streams.split_off(streams.len().min(MAX_NODE_STREAMS));
    streams.sort_by_cached_key(|it| rank(world, it));
    (streams, left_out.into_iter().map(|it| it.uid).collect())
}

/// Whether a stream that lives on a node stays there although no node would get it now: its object is
/// there, and nobody deletes it.
fn may_stay(world: &World<'_>, verdicts: &Verdicts<'_>, uid: &str) -> bool {
    let stream = world.streams.get(uid);
    stream.is_some_and(|stream| {
        !stream.is_deleting() && matches!(verdicts.of(stream), Some(Verdict::Refused(_)))
    })
}

/// Highest priority first, then the oldest.
fn rank(world: &World<'_>, stream: &NodeStream) -> (Reverse<i32>, usize) {
    (Reverse(stream.priority), world.place(&stream.uid))
}

fn entry(accepted: &Accepted<'_>) -> NodeStream {
    let stream = &accepted.stream;
    let spec = &stream.object.spec;
    NodeStream {
        namespace: stream.namespace.to_owned(),
        name: stream.name.to_owned(),
        uid: stream.uid.to_owned(),
        stream_id: accepted.id,
        class_name: accepted.class.to_owned(),
        layout: {
            let mut layout = spec.layout.clone();
            layout.pools.sort_unstable();
            layout
        },
        page_size: accepted.page_size,
        bytes: accepted.bytes,
        numa: spec.numa.clone(),
        mode: spec.placement.mode,
        priority: accepted.priority.value,
        preemption_policy: accepted.priority.preemption_policy,
        limits: StreamLimits {
            producers: spec.producers.max_per_node,
            consumers: spec.consumers.max_per_node,
        },
        revocation: spec.revocation,
        quotas: accepted.quotas.clone(),
    }
}

/// Pools that a stream still lives in stay as they were told, though their class is gone.
fn policy(
    world: &World<'_>,
    node: &Node<'_>,
    mut pools: Vec<NodePool>,
    streams: Vec<NodeStream>,
) -> TensorPoolNodeSpec {
    let used: BTreeSet<&str> = streams.iter().map(|it| it.class_name.as_str()).collect();
    let told: &[NodePool] = node.object.map_or(&[], |object| &object.spec.pools);
    let there: BTreeSet<String> = pools.iter().map(|it| it.class_name.clone()).collect();
    let kept = told
        .iter()
        .filter(|it| used.contains(it.class_name.as_str()) && !there.contains(&it.class_name));
    pools.extend(kept.cloned());
    pools.sort_by(|left, right| left.class_name.cmp(&right.class_name));
    let named: BTreeSet<(&str, &str)> = streams
        .iter()
        .flat_map(|it| {
            it.quotas
                .iter()
                .map(|name| (it.namespace.as_str(), name.as_str()))
        })
        .collect();
    let quotas = named
        .into_iter()
        .filter_map(|(namespace, name)| quota::for_node(world, namespace, name))
        .collect();
    let mut spec = TensorPoolNodeSpec {
        cordoned: None,
        pools,
        streams,
        quotas,
        policy_revision: String::new(),
    };
    spec.policy_revision = fingerprint(&spec);
    spec
}

/// Labels for schedulers: only what works there now.
fn labels(node: &Node<'_>, classes: &[&ClassFacts<'_>]) -> BTreeMap<String, String> {
    let yes = || "true".to_owned();
    let status = node.object.and_then(|object| object.status.as_ref());
    let ready = status.is_some_and(|status| {
        status.conditions.iter().any(|condition| {
            condition.type_ == NodeCondition::Ready.as_str()
                && condition.status == Polarity::True.as_str()
        })
    });
    if !ready || node.facts.driver != DriverLife::Alive {
        return BTreeMap::new();
    }
    let pools = status.into_iter().flat_map(|status| &status.pools);
    let usable = pools
        .filter(|pool| {
            pool.capacity_bytes > 0 && classes.iter().any(|it| it.name == pool.class_name)
        })
        .map(|pool| (class_label(&pool.class_name), yes()));
    usable.chain([(LABEL_READY.to_owned(), yes())]).collect()
}
