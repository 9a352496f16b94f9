//! From the node's object to the policy that the driver follows.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tensorpool_crds::{
    NodePool, NodeQuota, NodeStream, NumaPolicy, PageSize, PlacementMode, ReclaimPolicy,
    Revocation, TensorPoolNodeSpec, Transport,
};
use tensorpool_driver_core::Numa;
use tensorpool_driver_core::config::{
    ClassSpec, PolicySpec, PoolSpec, Profile, QuotaSpec, StreamLimits, StreamSpec,
};
use tensorpool_wire::{PoolId, StreamId};

/// One second in nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;

/// What the node shall do, as far as the driver can do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// `spec.policyRevision`.
    pub revision: String,
    /// No new memory and no new attachments.
    pub cordoned: bool,
    /// The classes of the node, by name.
    pub classes: Vec<NodePool>,
    /// The streams that may be carried, by namespace and name.
    pub streams: Vec<ClusterStream>,
    /// The streams that cannot be carried, by namespace and name.
    pub refused: Vec<RefusedStream>,
    /// The same for the core.
    pub spec: PolicySpec,
}

/// What a policy is compiled for.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// NUMA nodes of this machine.
    pub numa_nodes: &'a [u16],
    /// Trust domain of the pods that may share the media driver's directory.
    pub aeron_domain: &'a str,
}

/// One stream that may be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStream {
    /// Namespace of the TensorStream.
    pub namespace: String,
    /// Name of the TensorStream.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its number in the protocol.
    pub stream_id: StreamId,
    /// Name of its class.
    pub class: String,
    /// Size of its pages: the base where its files lie.
    pub page_size: PageSize,
    /// How pods may attach, from its class: Aeron only where its domain is that of this node's media driver.
    pub transports: Vec<Transport>,
    /// The domain of its class, where that is why pods may not attach by Aeron here.
    pub other_domain: Option<String>,
    /// Bytes of its files, whole pages.
    pub bytes: u64,
}

impl ClusterStream {
    /// `namespace/name`, the name that discovery finds it by.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// One stream that cannot be carried. It does not stand in the others' way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedStream {
    /// Namespace of the TensorStream.
    pub namespace: String,
    /// Name of the TensorStream.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its number in the protocol.
    pub stream_id: u32,
    /// Why.
    pub flaw: Flaw,
}

/// Why a stream of a policy cannot be carried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// See message.
    #[error("the node has no class {0}")]
    NoSuchClass(String),
    /// See message.
    #[error("the stream wants pages of {wanted}, its class {class} has {has}")]
    PageSize {
        /// The class.
        class: String,
        /// Pages of the stream.
        wanted: &'static str,
        /// Pages of the class.
        has: &'static str,
    },
    /// See message.
    #[error("{0}")]
    Layout(String),
    /// See message.
    #[error("stream id {0} is not usable; take one from 1 to 4294967294")]
    StreamId(u32),
    /// See message.
    #[error("stream id {id} is that of {other}")]
    StreamIdTaken {
        /// The id.
        id: u32,
        /// Namespace and name of the stream that has it.
        other: String,
    },
    /// See message.
    #[error("the policy names the stream twice, with different UIDs")]
    Twice,
    /// See message.
    #[error("the policy names quota {0}, and does not say what it is")]
    NoSuchQuota(String),
    /// See message.
    #[error("{0}")]
    Unsupported(String),
    /// See message.
    #[error("the driver cannot read the stream; is the operator newer than the driver? ({0})")]
    Unreadable(String),
}

impl Flaw {
    /// Bounded label; the reason in status.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoSuchClass(_) => "NoSuchClass",
            Self::PageSize { .. } => "PageSizeMismatch",
            Self::Layout(_) => "LayoutInvalid",
            Self::StreamId(_) => "StreamIdInvalid",
            Self::StreamIdTaken { .. } => "StreamIdInUse",
            Self::Twice => "StreamTwice",
            Self::NoSuchQuota(_) => "NoSuchQuota",
            Self::Unsupported(_) => "Unsupported",
            Self::Unreadable(_) => "Unreadable",
        }
    }
}

impl ClusterPolicy {
    /// The stream of this name.
    #[must_use]
    pub fn stream(&self, namespace: &str, name: &str) -> Option<&ClusterStream> {
        let key = (namespace, name);
        let found = self
            .streams
            .binary_search_by(|it| (it.namespace.as_str(), it.name.as_str()).cmp(&key));
        found.ok().map(|index| &self.streams[index])
    }

    /// Why the stream of this name cannot be carried.
    #[must_use]
    pub fn refusal(&self, namespace: &str, name: &str) -> Option<&RefusedStream> {
        self.refused
            .iter()
            .find(|it| it.namespace == namespace && it.name == name)
    }
}

/// Compiles the spec. The order of its lists does not matter. A stream that cannot be carried is named
/// with the reason, and does not stop the others.
#[must_use]
pub fn policy_of(spec: &TensorPoolNodeSpec, here: &Here<'_>) -> ClusterPolicy {
    let mut classes = spec.pools.clone();
    classes.sort_by(|a, b| {
        (&a.class_name, a.page_size, a.size_bytes).cmp(&(&b.class_name, b.page_size, b.size_bytes))
    });
    classes.dedup_by(|a, b| a.class_name == b.class_name);
    let mut quotas = spec.quotas.clone();
    quotas.sort();
    let mut accepted = Accepted {
        classes: &classes,
        here,
        names: BTreeSet::new(),
        ids: BTreeMap::new(),
        spec: PolicySpec {
            aeron_clients_assigned: true,
            classes: classes.iter().map(class).collect(),
            quotas: quotas.iter().map(quota).collect(),
            cordoned: spec.cordoned == Some(true),
            ..PolicySpec::default()
        },
    };
    // Of two that exclude each other the higher priority wins, then the name, then the UID.
    let mut given: Vec<&NodeStream> = spec.streams.iter().collect();
    given.sort_by_key(|it| {
        (
            Reverse(it.priority),
            &it.namespace,
            &it.name,
            &it.uid,
            it.stream_id,
        )
    });
    let mut streams = Vec::new();
    let mut refused = Vec::new();
    for stream in given {
        match accepted.add(stream) {
            Ok(carried) => streams.push(carried),
            Err(flaw) => refused.push(RefusedStream {
                namespace: stream.namespace.clone(),
                name: stream.name.clone(),
                uid: stream.uid.clone(),
                stream_id: stream.stream_id,
                flaw,
            }),
        }
    }
    streams.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    refused.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    let policy = accepted.spec;
    ClusterPolicy {
        revision: spec.policy_revision.clone(),
        cordoned: spec.cordoned == Some(true),
        classes,
        streams,
        refused,
        spec: policy,
    }
}

fn class(pool: &NodePool) -> (String, ClassSpec) {
    let class = ClassSpec {
        base: pool.page_size.name().to_owned(),
        size_bytes: pool.size_bytes,
    };
    (pool.class_name.clone(), class)
}

fn quota(quota: &NodeQuota) -> (String, QuotaSpec) {
    let limits = QuotaSpec {
        bytes: quota.hard.bytes,
        producers: quota.hard.producers,
        consumers: quota.hard.consumers,
        leases: quota.hard.leases,
    };
    (format!("{}/{}", quota.namespace, quota.name), limits)
}

/// The streams that were found possible so far.
struct Accepted<'a> {
    classes: &'a [NodePool],
    here: &'a Here<'a>,
    names: BTreeSet<(String, String)>,
    ids: BTreeMap<u32, String>,
    spec: PolicySpec,
}

impl Accepted<'_> {
    fn add(&mut self, stream: &NodeStream) -> Result<ClusterStream, Flaw> {
        let class = self.class(stream)?;
        // Whoever shares a media driver's directory can write to all of it.
        let is_ours = class.domain == self.here.aeron_domain;
        let mut transports = class.transports.clone();
        transports.retain(|transport| *transport != Transport::Aeron || is_ours);
        let other_domain =
            (transports.len() < class.transports.len()).then(|| class.domain.clone());
        let carried = ClusterStream {
            namespace: stream.namespace.clone(),
            name: stream.name.clone(),
            uid: stream.uid.clone(),
            stream_id: StreamId(stream.stream_id),
            class: stream.class_name.clone(),
            page_size: stream.page_size,
            transports,
            other_domain,
            bytes: stream.layout.bytes(stream.page_size),
        };
        if let Some(flaw) = stream.layout.flaw() {
            return Err(Flaw::Layout(flaw));
        }
        if stream.stream_id == 0 || stream.stream_id == u32::MAX {
            return Err(Flaw::StreamId(stream.stream_id));
        }
        let numa = numa(stream, self.here.numa_nodes)?;
        let quotas = stream.quotas.iter();
        let quotas = quotas.map(|quota| format!("{}/{quota}", stream.namespace));
        let quotas: Vec<String> = quotas.collect();
        if let Some(missing) = quotas.iter().find(|it| !self.spec.quotas.contains_key(*it)) {
            return Err(Flaw::NoSuchQuota(missing.clone()));
        }
        if let Some(other) = self.ids.get(&stream.stream_id) {
            return Err(Flaw::StreamIdTaken {
                id: stream.stream_id,
                other: other.clone(),
            });
        }
        let key = (stream.namespace.clone(), stream.name.clone());
        if !self.names.insert(key) {
            return Err(Flaw::Twice);
        }
        let full_name = carried.full_name();
        self.ids.insert(stream.stream_id, full_name.clone());
        self.spec
            .profiles
            .insert(full_name.clone(), profile(stream));
        self.spec.streams.push(StreamSpec {
            name: stream.name.clone(),
            namespace: stream.namespace.clone(),
            uid: stream.uid.clone(),
            stream_id: StreamId(stream.stream_id),
            profile: full_name,
            class: stream.class_name.clone(),
            priority: stream.priority,
            limits: StreamLimits {
                producers: Some(stream.limits.producers),
                consumers: Some(stream.limits.consumers),
            },
            quotas,
            eager: stream.mode == PlacementMode::Eager,
            on_aeron: carried.transports.contains(&Transport::Aeron),
            grace_ns: u64::from(stream.revocation.grace_period_seconds) * SECOND_NS,
            force_after_ns: force_after_ns(&stream.revocation),
            numa,
            ..StreamSpec::default()
        });
        Ok(carried)
    }

    fn class(&self, stream: &NodeStream) -> Result<&NodePool, Flaw> {
        let named = |class: &&NodePool| class.class_name == stream.class_name;
        let class = self.classes.iter().find(named);
        let class = class.ok_or_else(|| Flaw::NoSuchClass(stream.class_name.clone()))?;
        if stream.page_size == class.page_size {
            return Ok(class);
        }
        Err(Flaw::PageSize {
            class: class.class_name.clone(),
            wanted: stream.page_size.name(),
            has: class.page_size.name(),
        })
    }
}

/// How long clients that do not let go keep memory that was to go; `None`: for as long as they like.
fn force_after_ns(revocation: &Revocation) -> Option<u64> {
    match revocation.reclaim_policy {
        ReclaimPolicy::Retain => None,
        ReclaimPolicy::Force => Some(u64::from(revocation.force_after_seconds) * SECOND_NS),
    }
}

/// The NUMA node that the stream names; none on machines with one, where all memory is.
fn numa(stream: &NodeStream, nodes: &[u16]) -> Result<Option<Numa>, Flaw> {
    let Some(node) = stream.numa.node else {
        return Ok(None);
    };
    let numa = match stream.numa.policy {
        NumaPolicy::None => return Ok(None),
        NumaPolicy::Preferred => Numa::Preferred(node),
        NumaPolicy::Bind => Numa::Bind(node),
    };
    if !nodes.contains(&node) {
        let those: Vec<String> = nodes.iter().map(u16::to_string).collect();
        return Err(Flaw::Unsupported(format!(
            "numa.node {node} is not a NUMA node of this machine, which has memory on {}",
            those.join(", ")
        )));
    }
    Ok((nodes.len() > 1).then_some(numa))
}

fn profile(stream: &NodeStream) -> Profile {
    let pools = stream.layout.pools.iter().map(|pool| PoolSpec {
        pool_id: PoolId(pool.pool_id),
        stride_bytes: pool.stride_bytes,
    });
    Profile {
        header_nslots: stream.layout.header_slots,
        pools: pools.collect(),
    }
}
