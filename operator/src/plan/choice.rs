//! Which streams one node gets.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use tensorpool_crds::{MAX_NODE_STREAMS, NodeStream, StreamLimits};

use crate::plan::admission::{Accepted, Verdict, Verdicts};
use crate::plan::world::{Node, World};

/// What was chosen for one node.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    /// Its streams, highest priority first, then the oldest.
    pub(super) streams: Vec<NodeStream>,
    /// UIDs of the same streams.
    pub(super) chosen: Vec<&'a str>,
    /// Places in the order of seniority of those that were not chosen.
    pub(super) left_out: Vec<usize>,
}

/// A stream that wants a place on the node.
#[derive(Clone, Copy, Debug)]
enum Candidate<'w, 'a> {
    /// As it was accepted now.
    Accepted(&'w Accepted<'a>),
    /// As the node was told before.
    Told(&'a NodeStream),
}

impl<'a> Candidate<'_, 'a> {
    fn uid(&self) -> &'a str {
        match self {
            Self::Accepted(accepted) => accepted.stream.uid,
            Self::Told(entry) => &entry.uid,
        }
    }

    /// Highest priority first, then the oldest.
    fn rank(&self, world: &World<'_>) -> Rank {
        match self {
            Self::Accepted(it) => (Reverse(it.priority.value), it.stream.place),
            Self::Told(entry) => (Reverse(entry.priority), world.place(&entry.uid)),
        }
    }
}

type Rank = (Reverse<i32>, usize);

/// What lives on the node stays; then what it was told before, then the rest by priority and age, up to
/// the limit. A stream that cannot be read stays where it is.
pub(super) fn choose<'a>(
    world: &World<'a>,
    verdicts: &Verdicts<'a>,
    node: &Node<'a>,
    wanted: &[&Accepted<'a>],
) -> Choice<'a> {
    let living: BTreeSet<&str> = node.reports().iter().map(|it| it.uid.as_str()).collect();
    let told: &'a [NodeStream] = node.object.map_or(&[], |object| &object.spec.streams);
    let told_uids: BTreeSet<&str> = told.iter().map(|it| it.uid.as_str()).collect();
    let known: BTreeSet<&str> = match told {
        [] => BTreeSet::new(),
        _ => wanted.iter().map(|it| it.stream.uid).collect(),
    };
    let kept = told.iter().filter(|it| {
        let uid = it.uid.as_str();
        let lives = living.contains(uid) && may_stay(world, verdicts, uid);
        !known.contains(uid) && (lives || world.unreadable.streams.contains(uid))
    });
    let candidates = wanted.iter().map(|it| Candidate::Accepted(it));
    let candidates = candidates.chain(kept.map(Candidate::Told));
    let mut ordered: Vec<_> = candidates
        .map(|it| {
            let uid = it.uid();
            let rank = it.rank(world);
            ((!living.contains(uid), !told_uids.contains(uid), rank), it)
        })
        .collect();
    if ordered.len() > MAX_NODE_STREAMS {
        ordered.select_nth_unstable_by_key(MAX_NODE_STREAMS, |(place, _)| *place);
    }
    let left_out = ordered.split_off(ordered.len().min(MAX_NODE_STREAMS));
    ordered.sort_unstable_by_key(|((_, _, rank), _)| *rank);
    let entry_of = |uid: &str| told.iter().find(|it| it.uid == uid);
    let streams = ordered.iter().map(|(_, candidate)| match candidate {
        Candidate::Accepted(it) => entry(world, it, entry_of(it.stream.uid)),
        Candidate::Told(entry) => (*entry).clone(),
    });
    Choice {
        streams: streams.collect(),
        chosen: ordered.iter().map(|(_, it)| it.uid()).collect(),
        left_out: left_out.iter().map(|((_, _, rank), _)| rank.1).collect(),
    }
}

/// Whether a stream that lives on a node stays there although no node would get it now: its object is
/// there, and nobody deletes it.
fn may_stay(world: &World<'_>, verdicts: &Verdicts<'_>, uid: &str) -> bool {
    let stream = world.streams.get(uid);
    stream.is_some_and(|stream| {
        !stream.is_deleting() && matches!(verdicts.of(stream), Some(Verdict::Refused(_)))
    })
}

/// What the node is told. Of quotas that cannot be read it keeps those that it was told before.
fn entry(world: &World<'_>, accepted: &Accepted<'_>, told: Option<&NodeStream>) -> NodeStream {
    let stream = &accepted.stream;
    let spec = &stream.object.spec;
    let kept = told.into_iter().flat_map(|it| &it.quotas);
    let kept = kept.filter(|name| world.is_unreadable_quota(stream.namespace, name));
    let mut quotas: Vec<String> = accepted.quotas.iter().chain(kept).cloned().collect();
    quotas.sort_unstable();
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
        quotas,
    }
}
