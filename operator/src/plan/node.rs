//! One policy per node.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tensorpool_crds::{
    LABEL_READY, NodeCondition, NodePool, NodeQuota, NodeStream, Polarity, TensorPoolNodeSpec,
    class_label,
};

use crate::DriverLife;
use crate::plan::NodePlan;
use crate::plan::admission::{Accepted, Verdicts};
use crate::plan::choice::{Choice, choose};
use crate::plan::class::ClassFacts;
use crate::plan::identity::fingerprint;
use crate::plan::quota;
use crate::plan::world::{Node, Stream, World};

/// All policies, and which streams did not fit where.
#[derive(Debug)]
pub(super) struct Policies<'a> {
    plans: BTreeMap<&'a str, NodePlan>,
    /// By UID of the stream: nodes that have it in their policy, in order.
    programmed: HashMap<&'a str, Vec<&'a str>>,
    /// By the stream's place in the order of seniority: nodes that have none for it, in order.
    full: Vec<Vec<&'a str>>,
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
    pub(super) fn full(&self, stream: &Stream<'_>) -> &[&'a str] {
        self.full.get(stream.place).map_or(&[], Vec::as_slice)
    }

    pub(super) fn into_plans(self) -> BTreeMap<String, NodePlan> {
        let plans = self.plans.into_iter();
        plans.map(|(name, plan)| (name.to_owned(), plan)).collect()
    }
}

/// Compiles the policy of every node that belongs to a class or ever did. A node whose object cannot be
/// read goes on with what it has.
pub(super) fn compile<'a>(world: &'a World<'a>, verdicts: &'a Verdicts<'a>) -> Policies<'a> {
    let mut by_class: BTreeMap<&str, Vec<&Accepted<'a>>> = BTreeMap::new();
    for accepted in verdicts.accepted() {
        by_class.entry(accepted.class).or_default().push(accepted);
    }
    let mut policies = Policies {
        plans: BTreeMap::new(),
        programmed: HashMap::new(),
        full: vec![Vec::new(); world.order.len()],
    };
    for (name, node) in &world.nodes {
        let classes: Vec<_> = world
            .classes
            .values()
            .filter(|it| it.has_node(node))
            .collect();
        let is_unreadable = world.unreadable.pool_nodes.contains(*name);
        if is_unreadable || (classes.is_empty() && node.object.is_none()) {
            continue;
        }
        let wanted = classes
            .iter()
            .flat_map(|it| by_class.get(it.name).into_iter().flatten());
        let wanted = wanted.filter(|it| node.has(&it.stream.object.spec.placement.node_selector));
        let wanted: Vec<_> = wanted.copied().collect();
        let Choice {
            streams,
            chosen,
            left_out,
        } = choose(world, verdicts, node, &wanted);
        for place in left_out {
            // One whose object cannot be read is nowhere in the order.
            if let Some(full) = policies.full.get_mut(place) {
                full.push(name);
            }
        }
        for uid in chosen {
            policies.programmed.entry(uid).or_default().push(name);
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
    let told: &[NodeQuota] = node.object.map_or(&[], |object| &object.spec.quotas);
    let quota_of = |(namespace, name): (&str, &str)| {
        let told = || {
            let is_it = |it: &&NodeQuota| it.namespace == namespace && it.name == name;
            told.iter().find(is_it).cloned()
        };
        if world.is_unreadable_quota(namespace, name) {
            told()
        } else {
            quota::for_node(world, namespace, name)
        }
    };
    let quotas = named.into_iter().filter_map(quota_of).collect();
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
