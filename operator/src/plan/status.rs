//! What became of streams and classes, in words.

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_crds::{
    AcceptedReason, AttachmentCounts, ClassReason, Draft, Endpoint, FINALIZER, MAX_ENDPOINTS,
    MAX_NODE_STREAMS, NodeCounts, PlacementMode, Polarity, ProgrammedReason, Quantity, ReadyReason,
    StreamCondition, StreamPhase, StreamReport,
};

use crate::DriverLife;
use crate::plan::admission::{Verdict, Verdicts};
use crate::plan::node::Policies;
use crate::plan::teardown::holders;
use crate::plan::world::{Stream, World};
use crate::plan::{ClassPlan, Finalizer, StreamKey, StreamPlan};

/// Most nodes that a message names.
const MAX_NAMES: usize = 3;

/// What one node says of a stream.
#[derive(Clone, Copy, Debug)]
struct Presence<'a> {
    node: &'a str,
    driver: DriverLife,
    report: &'a StreamReport,
}

impl Presence<'_> {
    fn is_ready(&self) -> bool {
        self.driver.is_expected_back() && self.report.phase == StreamPhase::Ready
    }

    /// A driver that is gone for long cannot have the stream ready.
    fn is_degraded(&self) -> bool {
        !self.driver.is_expected_back()
            || matches!(
                self.report.phase,
                StreamPhase::Preempted | StreamPhase::Failed
            )
    }

    /// It waits, most often for memory, and has said for what.
    const fn waits_in_words(&self) -> bool {
        matches!(self.report.phase, StreamPhase::Pending) && self.report.message.is_some()
    }

    fn words(&self) -> String {
        if !self.driver.is_expected_back() {
            return format!("{}: the driver does not answer", self.node);
        }
        let why = self
            .report
            .message
            .as_deref()
            .or(self.report.reason.as_deref());
        let why = why.unwrap_or("no reason was given");
        format!("{}: {why}", self.node)
    }
}

pub(super) fn of_streams<'a>(
    world: &'a World<'a>,
    verdicts: &Verdicts<'a>,
    policies: &Policies<'a>,
) -> BTreeMap<StreamKey, StreamPlan> {
    let mut presences: BTreeMap<&str, Vec<Presence<'a>>> = BTreeMap::new();
    for (name, node) in &world.nodes {
        for report in node.reports() {
            presences
                .entry(report.uid.as_str())
                .or_default()
                .push(Presence {
                    node: name,
                    driver: node.facts.driver,
                    report,
                });
        }
    }
    let streams = world.order.iter().filter_map(|stream| {
        let verdict = verdicts.of(stream)?;
        let here = presences.get(stream.uid).map_or(&[][..], Vec::as_slice);
        let key = (stream.namespace.to_owned(), stream.name.to_owned());
        Some((key, of_stream(world, stream, verdict, policies, here)))
    });
    streams.collect()
}

fn of_stream<'a>(
    world: &World<'a>,
    stream: &Stream<'a>,
    verdict: &Verdict<'a>,
    policies: &Policies<'a>,
    presences: &[Presence<'_>],
) -> StreamPlan {
    let holders = if stream.is_deleting() {
        holders(world, stream)
    } else {
        Vec::new()
    };
    let programmed: Vec<_> = policies.programmed(stream.uid).collect();
    // A node that was told to let the stream go does not count, though it may still report it.
    let eligible: BTreeSet<&str> = programmed.iter().map(|(node, _)| *node).collect();
    let here = presences.iter().filter(|it| eligible.contains(it.node));
    let here: Vec<Presence<'_>> = here.copied().collect();
    let nodes = count(stream, eligible.len(), &here);
    let sum = |number: fn(&StreamReport) -> u32| {
        presences
            .iter()
            .fold(0_u32, |sum, it| sum.saturating_add(number(it.report)))
    };
    let (stream_id, priority, bytes) = match verdict {
        Verdict::Accepted(it) => (Some(it.id), Some(it.priority.clone()), Some(it.bytes)),
        Verdict::Refused(it) => {
            let status = stream.object.status.as_ref();
            (it.id, status.and_then(|it| it.priority.clone()), it.bytes)
        }
    };
    let conditions = vec![
        accepted(verdict),
        if stream.is_deleting() {
            deleting(
                StreamCondition::Programmed,
                ProgrammedReason::Deleting.as_str(),
                &holders,
            )
        } else {
            programmed_condition(world, verdict, policies, stream, &programmed)
        },
        if stream.is_deleting() {
            deleting(
                StreamCondition::Ready,
                ReadyReason::Deleting.as_str(),
                &holders,
            )
        } else {
            ready(verdict, stream, nodes, &here)
        },
    ];
    StreamPlan {
        uid: stream.uid.to_owned(),
        finalizer: finalizer(stream, &holders),
        observed_generation: stream.object.metadata.generation,
        stream_id,
        priority,
        bytes_per_node: bytes.map(Quantity::from_bytes),
        nodes,
        attachments: AttachmentCounts {
            producers: sum(|report| report.producers),
            consumers: sum(|report| report.consumers),
        },
        endpoints: endpoints(presences),
        conditions,
    }
}

fn finalizer(stream: &Stream<'_>, holders: &[&str]) -> Finalizer {
    let finalizers = stream.object.metadata.finalizers.iter().flatten();
    let is_there = finalizers.into_iter().any(|it| it == FINALIZER);
    match (stream.is_deleting(), is_there) {
        (false, false) => Finalizer::Add,
        (true, true) if holders.is_empty() => Finalizer::Remove,
        (false | true, true) | (true, false) => Finalizer::Keep,
    }
}

fn count(stream: &Stream<'_>, eligible: usize, here: &[Presence<'_>]) -> NodeCounts {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let desired = match stream.object.spec.placement.mode {
        PlacementMode::Eager => eligible,
        PlacementMode::OnDemand => here.len(),
    };
    NodeCounts {
        eligible: number(eligible),
        desired: number(desired),
        ready: number(here.iter().filter(|it| it.is_ready()).count()),
        degraded: number(here.iter().filter(|it| it.is_degraded()).count()),
    }
}

fn endpoints(presences: &[Presence<'_>]) -> Vec<Endpoint> {
    let alive = presences.iter().filter(|it| it.driver.is_expected_back());
    let endpoints = alive.map(|it| Endpoint {
        node: it.node.to_owned(),
        phase: it.report.phase,
        epoch: it.report.epoch,
    });
    endpoints.take(MAX_ENDPOINTS).collect()
}

fn draft(kind: StreamCondition, holds: bool, reason: &'static str, message: String) -> Draft {
    Draft {
        kind: kind.as_str(),
        status: Polarity::from(holds),
        reason,
        message,
    }
}

fn deleting(kind: StreamCondition, reason: &'static str, holders: &[&str]) -> Draft {
    let message = if holders.is_empty() {
        "the stream is gone from every node".to_owned()
    } else {
        format!("waits until the stream is gone from {}", names(holders))
    };
    draft(kind, false, reason, message)
}

fn accepted(verdict: &Verdict<'_>) -> Draft {
    match verdict {
        Verdict::Accepted(it) => draft(
            StreamCondition::Accepted,
            true,
            AcceptedReason::Accepted.as_str(),
            format!(
                "stream id {}, {} per node",
                it.id,
                Quantity::from_bytes(it.bytes)
            ),
        ),
        Verdict::Refused(it) => draft(
            StreamCondition::Accepted,
            false,
            it.reason.as_str(),
            it.message.clone(),
        ),
    }
}

fn programmed_condition(
    world: &World<'_>,
    verdict: &Verdict<'_>,
    policies: &Policies<'_>,
    stream: &Stream<'_>,
    programmed: &[(&str, &str)],
) -> Draft {
    let say = |holds, reason: ProgrammedReason, message| {
        draft(StreamCondition::Programmed, holds, reason.as_str(), message)
    };
    if let Verdict::Refused(_) = verdict {
        let message = if programmed.is_empty() {
            "the stream is not accepted".to_owned()
        } else {
            let nodes: Vec<&str> = programmed.iter().map(|(node, _)| *node).collect();
            format!(
                "the stream is not accepted; it goes on where it lives: {}",
                names(&nodes)
            )
        };
        return say(false, ProgrammedReason::NotAccepted, message);
    }
    let full = policies.full(stream);
    if !full.is_empty() {
        let message = format!(
            "{} already carry {MAX_NODE_STREAMS} streams, the most that a node can",
            names(full)
        );
        return say(false, ProgrammedReason::NodeStreamLimit, message);
    }
    if programmed.is_empty() {
        let message = format!(
            "no node has the labels that TensorPoolClass `{}` and placement.nodeSelector ask for",
            stream.object.spec.class_name
        );
        return say(false, ProgrammedReason::NoMatchingNode, message);
    }
    let lagging: Vec<&str> = programmed
        .iter()
        .filter(|(name, revision)| {
            let node = world.nodes.get(name);
            node.is_some_and(|node| {
                node.facts.driver == DriverLife::Alive && !node.follows(revision)
            })
        })
        .map(|(name, _)| *name)
        .collect();
    if lagging.is_empty() {
        let message = format!("{} nodes have been told", programmed.len());
        return say(true, ProgrammedReason::Programmed, message);
    }
    let message = format!("{} have been told and do not follow yet", names(&lagging));
    say(false, ProgrammedReason::NodesPending, message)
}

fn ready(
    verdict: &Verdict<'_>,
    stream: &Stream<'_>,
    nodes: NodeCounts,
    presences: &[Presence<'_>],
) -> Draft {
    let say = |holds, reason: ReadyReason, message| {
        draft(StreamCondition::Ready, holds, reason.as_str(), message)
    };
    if let Verdict::Refused(refused) = verdict {
        let message = format!("the stream is not accepted: {}", refused.message);
        return say(false, ReadyReason::NotAccepted, message);
    }
    if nodes.eligible == 0 {
        return say(
            false,
            ReadyReason::NotProgrammed,
            "no node carries the stream".to_owned(),
        );
    }
    if nodes.degraded > 0 {
        let degraded = presences.iter().filter(|it| it.is_degraded());
        let degraded: Vec<String> = degraded.map(Presence::words).collect();
        let degraded: Vec<&str> = degraded.iter().map(String::as_str).collect();
        return say(false, ReadyReason::NodesDegraded, names(&degraded));
    }
    if nodes.desired == 0 && stream.object.spec.placement.mode == PlacementMode::OnDemand {
        let message = "the memory will be made when the first pod mounts the stream".to_owned();
        return say(true, ReadyReason::OnDemand, message);
    }
    if nodes.ready == nodes.desired {
        return say(
            true,
            ReadyReason::Ready,
            format!("ready on {} nodes", nodes.ready),
        );
    }
    let mut message = format!("ready on {} of {} nodes", nodes.ready, nodes.desired);
    let waiting = presences.iter().filter(|it| it.waits_in_words());
    let waiting: Vec<String> = waiting.map(Presence::words).collect();
    if !waiting.is_empty() {
        let waiting: Vec<&str> = waiting.iter().map(String::as_str).collect();
        message = format!("{message}; {}", names(&waiting));
    }
    say(false, ReadyReason::NodesPending, message)
}

/// The first few, and how many more.
fn names(all: &[&str]) -> String {
    let named = all
        .iter()
        .take(MAX_NAMES)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    let more = all.len().saturating_sub(MAX_NAMES);
    if more == 0 {
        named
    } else {
        format!("{named} and {more} more")
    }
}

pub(super) fn of_classes<'a>(
    world: &World<'a>,
    verdicts: &Verdicts<'a>,
) -> BTreeMap<String, ClassPlan> {
    let mut streams: BTreeMap<&str, u32> = BTreeMap::new();
    for accepted in verdicts.accepted() {
        *streams.entry(accepted.class).or_default() += 1;
    }
    let classes = world.classes.values().map(|class| {
        let nodes = world
            .nodes
            .values()
            .filter(|node| class.has_node(node))
            .count();
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let (holds, reason, message) = match &class.size_bytes {
            Err(error) => (false, ClassReason::SizeInvalid, error.clone()),
            Ok(_) if nodes == 0 => {
                let message = "no node has the labels of nodeSelector".to_owned();
                (false, ClassReason::NoMatchingNode, message)
            }
            Ok(size) => {
                let message = format!("{nodes} nodes offer {} each", Quantity::from_bytes(*size));
                (true, ClassReason::Ready, message)
            }
        };
        let plan = ClassPlan {
            observed_generation: class.object.metadata.generation,
            nodes,
            streams: streams.get(class.name).copied().unwrap_or(0),
            conditions: vec![draft(
                StreamCondition::Ready,
                holds,
                reason.as_str(),
                message,
            )],
        };
        (class.name.to_owned(), plan)
    });
    classes.collect()
}
