//! From what lives on the node to the status of the node's object. Pure: the same facts in any order
//! make the same status.

mod conditions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use tensorpool_crds::{
    AeronEndpoint, Condition, DriverIdentity, NumaReport, PageSize, PoolReport, StreamPhase,
    StreamReport, TensorPoolNodeStatus, Time, Transport, deduplicate, same_but_times, settle,
};
use tensorpool_driver_core::{DepartedStatus, StreamPhase as CorePhase, StreamStatus, Way};
use tensorpool_shm::NodePages;

use super::capacity::Capacity;
use super::follow::Following;
use super::huge_pages::HugePages;
use super::mounts::MountFacts;
use super::policy::{ClusterPolicy, RefusedStream};
use crate::control::{AttachmentId, Snapshot};

/// Longest reason of a stream in the API.
const MAX_REASON_BYTES: usize = 64;
/// Longest message of a stream in the API.
const MAX_MESSAGE_BYTES: usize = 512;
/// Longest URI in the API. A base directory that makes longer ones is not reported.
const MAX_URI_BYTES: usize = 512;
/// Most NUMA nodes of a class in the API.
const MAX_NUMA_NODES: usize = 64;
/// Longest name of a pod.
const MAX_POD_BYTES: usize = 253;

/// What others on the node know and the status tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// How it stands with kubelet; none where this driver serves no volumes.
    pub csi: Option<CsiState>,
    /// Name of the pod of each attachment.
    pub pods: BTreeMap<AttachmentId, String>,
}

/// How it stands with kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsiState {
    /// Kubelet has not registered the driver yet, or has forgotten it.
    NotRegistered,
    /// It has, and the CSIDriver object is as it should be.
    Registered,
    /// The CSIDriver object is missing.
    DriverMissing,
    /// The CSIDriver object would let pods forge who they are; the text says how.
    DriverInsecure(String),
}

/// Everything that a status is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who writes.
    pub driver: &'a DriverIdentity,
    /// Where Aeron clients find the driver, if they do.
    pub aeron: Option<&'a AeronEndpoint>,
    /// How it stands with the policy.
    pub following: &'a Following,
    /// The driver at one instant.
    pub snapshot: &'a Snapshot,
    /// What others know.
    pub surroundings: &'a Surroundings,
    /// What the kernel has.
    pub huge_pages: &'a [HugePages],
    /// The same by NUMA node, on machines with several.
    pub numa_pages: &'a [NodePages],
    /// What kubelet takes it to have, where that is known.
    pub counted: Option<&'a Capacity>,
    /// How the memory is mounted.
    pub mounts: &'a [MountFacts],
    /// The conditions that stand there, for their times.
    pub before: &'a [Condition],
}

/// The status. `now` is the time of conditions that changed.
#[must_use]
pub fn status_of(facts: &Facts<'_>, now: &Time) -> TensorPoolNodeStatus {
    let policy = facts.following.policy.as_deref();
    let carried = facts.snapshot.status.streams.iter();
    let carried = carried.filter_map(|stream| report(facts, stream));
    let departed = facts.snapshot.status.departed.iter();
    let departed = departed
        .filter(|it| !it.namespace.is_empty())
        .map(departing);
    let refused = policy.into_iter().flat_map(|policy| &policy.refused);
    let refused = refused.filter_map(refusal);
    let published = deduplicate(carried.chain(departed).chain(refused).collect());
    let streams = published.streams;
    let attached = streams.iter().fold(0_u32, |sum, stream| {
        sum.saturating_add(stream.producers)
            .saturating_add(stream.consumers)
    });
    let drafts = conditions::drafts(facts, published.dropped);
    TensorPoolNodeStatus {
        observed_policy_revision: policy
            .map(|policy| policy.revision.clone())
            .filter(|revision| !revision.is_empty()),
        driver: Some(facts.driver.clone()),
        aeron: facts
            .aeron
            .filter(|_| policy.is_some_and(allows_aeron))
            .cloned(),
        pools: pools(facts, policy),
        stream_count: number(streams.iter().filter(|stream| stream.bytes > 0).count()),
        attachments: attached,
        streams,
        conditions: settle(facts.before, drafts, facts.following.generation, now),
    }
}

/// Makes `Ready` say that the driver has ended; false if it says so already.
pub(super) fn shut_down(status: &mut TensorPoolNodeStatus, now: &Time) -> bool {
    let draft = conditions::shutting_down();
    let ready = status.conditions.iter_mut();
    let Some(ready) = ready.into_iter().find(|it| it.type_ == draft.kind) else {
        return false;
    };
    if ready.reason == draft.reason {
        return false;
    }
    let before = std::slice::from_ref(ready);
    let settled = settle(before, vec![draft], ready.observed_generation, now);
    settled.into_iter().for_each(|settled| *ready = settled);
    true
}

/// Whether two statuses say the same, times of conditions apart.
#[must_use]
pub fn same(left: &TensorPoolNodeStatus, right: &TensorPoolNodeStatus) -> bool {
    let without = |status: &TensorPoolNodeStatus| TensorPoolNodeStatus {
        conditions: Vec::new(),
        ..status.clone()
    };
    same_but_times(&left.conditions, &right.conditions) && without(left) == without(right)
}

/// Whether some class is in huge pages.
pub(super) fn wants_huge_pages(policy: &ClusterPolicy) -> bool {
    let mut classes = policy.classes.iter();
    classes.any(|class| class.page_size != PageSize::Base)
}

fn allows_aeron(policy: &ClusterPolicy) -> bool {
    let mut transports = policy.classes.iter().flat_map(|class| &class.transports);
    transports.any(|transport| *transport == Transport::Aeron)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// One stream; `None` while nobody has asked for it.
fn report(facts: &Facts<'_>, stream: &StreamStatus) -> Option<StreamReport> {
    if stream.dynamic || stream.namespace.is_empty() {
        return None;
    }
    let (phase, reason, message) = phase(stream)?;
    let uri = |uri: &String| uri.len() <= MAX_URI_BYTES && !uri.is_empty();
    let uris = Some(&stream.uris).filter(|uris| uri(&uris.header) && uris.pools.iter().all(uri));
    Some(StreamReport {
        namespace: stream.namespace.clone(),
        name: stream.name.clone(),
        uid: stream.uid.clone(),
        stream_id: stream.stream_id.get(),
        epoch: stream.epoch.map(|epoch| epoch.get()),
        layout_version: stream.layout_version,
        phase,
        reason: reason.map(|reason| clip(reason, MAX_REASON_BYTES)),
        message: message.map(|message| clip(&message, MAX_MESSAGE_BYTES)),
        bytes: stream
            .memory
            .iter()
            .fold(0, |sum, epoch| sum.saturating_add(epoch.bytes)),
        header_uri: uris.map(|uris| uris.header.clone()),
        pool_uris: uris.map(|uris| uris.pools.clone()).unwrap_or_default(),
        producer_pod: pod(facts, stream),
        producers: number(stream.producer.iter().count()),
        consumers: number(stream.consumers.len()),
    })
}

type Phase = (StreamPhase, Option<&'static str>, Option<String>);

fn phase(stream: &StreamStatus) -> Option<Phase> {
    let because = |phase| {
        let reason = stream.error_reason.unwrap_or("Unknown");
        Some((phase, Some(reason), stream.error.clone()))
    };
    if stream.epoch.is_some() {
        // Also while the next epoch is made, or could not be.
        return Some((StreamPhase::Ready, None, None));
    }
    match stream.phase {
        CorePhase::Ready => Some((StreamPhase::Ready, None, None)),
        CorePhase::Provisioning => {
            let message = Some("the memory is being made".to_owned());
            Some((StreamPhase::Pending, Some("Making"), message))
        }
        CorePhase::Failed if stream.waits_for_memory => because(StreamPhase::Pending),
        CorePhase::Failed => because(StreamPhase::Failed),
        CorePhase::Absent if stream.waits_for_memory => because(StreamPhase::Pending),
        // Earlier epochs lie there, and whoever attaches gets the next one.
        CorePhase::Absent if !stream.memory.is_empty() => Some((StreamPhase::Ready, None, None)),
        CorePhase::Absent => None,
    }
}

fn pod(facts: &Facts<'_>, stream: &StreamStatus) -> Option<String> {
    match stream.producer.as_ref()?.way {
        Way::Aeron => None,
        Way::Socket { connection, .. } => {
            let attachment = facts.snapshot.attachments.get(&connection)?;
            let pod = facts.surroundings.pods.get(attachment)?;
            Some(clip(pod, MAX_POD_BYTES))
        }
    }
}

/// A stream that left the policy: it waits for its memory to be given back, and the operator with it.
fn departing(departed: &DepartedStatus) -> StreamReport {
    StreamReport {
        reason: Some("Removing".to_owned()),
        message: Some(match departed.in_use_bytes {
            0 => "the stream is gone and its memory is being given back".to_owned(),
            bytes => format!(
                "the stream is gone; clients that did not let go have {bytes} bytes of it, until they do or its revocation.forceAfterSeconds are over"
            ),
        }),
        bytes: departed.bytes,
        ..without_memory(
            (&departed.namespace, &departed.name, &departed.uid),
            departed.stream_id.get(),
            StreamPhase::Pending,
        )
    }
}

/// A stream that cannot be carried; one without a valid number cannot be reported by itself.
fn refusal(refused: &RefusedStream) -> Option<StreamReport> {
    if refused.stream_id == 0 || refused.stream_id == u32::MAX {
        return None;
    }
    Some(StreamReport {
        reason: Some(refused.flaw.reason().to_owned()),
        message: Some(clip(&refused.flaw.to_string(), MAX_MESSAGE_BYTES)),
        ..without_memory(
            (&refused.namespace, &refused.name, &refused.uid),
            refused.stream_id,
            StreamPhase::Failed,
        )
    })
}

fn without_memory(
    (namespace, name, uid): (&str, &str, &str),
    stream_id: u32,
    phase: StreamPhase,
) -> StreamReport {
    StreamReport {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        stream_id,
        epoch: None,
        layout_version: 0,
        phase,
        reason: None,
        message: None,
        bytes: 0,
        header_uri: None,
        pool_uris: Vec::new(),
        producer_pod: None,
        producers: 0,
        consumers: 0,
    }
}

/// The classes by name. Removed files that clients still map are counted per mount; where several
/// classes share one, the first of them has the number.
fn pools(facts: &Facts<'_>, policy: Option<&ClusterPolicy>) -> Vec<PoolReport> {
    let snapshot = facts.snapshot;
    let mut pinned: BTreeMap<&str, u64> = snapshot
        .bases
        .iter()
        .map(|base| (base.name.as_str(), base.pinned_bytes))
        .collect();
    let classes = policy.into_iter().flat_map(|policy| &policy.classes);
    classes
        .map(|class| {
            let page = class.page_size.name();
            let base = snapshot.bases.iter().find(|base| base.name == page);
            let used = snapshot.status.classes.iter();
            let used = used.clone().find(|it| it.name == class.class_name);
            PoolReport {
                class_name: class.class_name.clone(),
                page_size: class.page_size,
                capacity_bytes: base.map_or(0, |base| match base.total_bytes {
                    0 => class.size_bytes,
                    total => class.size_bytes.min(total),
                }),
                allocated_bytes: used.map_or(0, |used| used.current_bytes),
                pinned_bytes: pinned.remove(page).unwrap_or(0),
                numa: by_node(facts.numa_pages, class.page_size),
            }
        })
        .collect()
}

/// The huge pages of this size on each NUMA node. Ordinary pages are not told: how many are free changes
/// with every breath of the machine.
fn by_node(all: &[NodePages], page_size: PageSize) -> Vec<NumaReport> {
    let of_this_size = all
        .iter()
        .filter(|pages| page_size != PageSize::Base && pages.page_bytes == page_size.bytes());
    let reports = of_this_size.map(|pages| NumaReport {
        node: pages.node,
        capacity_bytes: pages.total.saturating_mul(pages.page_bytes),
        free_bytes: pages.free.saturating_mul(pages.page_bytes),
    });
    reports.take(MAX_NUMA_NODES).collect()
}

/// Cuts a text between characters.
fn clip(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}
