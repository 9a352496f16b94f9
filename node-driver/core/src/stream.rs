//! One stream: its layout, the phase of its memory, and who holds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_wire::{
    ConnectionId, DataSourceAnnounce, DataSourceMeta, Epoch, LeaseId, MonoNanos,
};

use crate::action::{EpochCause, EpochKey, Numa};
use crate::config::{BaseId, StreamLimits};
use crate::epoch::Charge;
use crate::event::OpId;
use crate::layout::Uris;
use crate::lease::Asker;
use crate::policy::{Profile, StreamPolicy, full_name};
use crate::room::Claim;
use crate::status::StreamPhase;

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Configured name; empty for a dynamic stream.
    pub(crate) name: String,
    /// Its namespace in a cluster.
    pub(crate) namespace: String,
    /// Another one is another stream.
    pub(crate) uid: String,
    /// Where its files lie.
    pub(crate) place: Place,
    /// What its bytes and leases count against.
    pub(crate) charge: Arc<Charge>,
    pub(crate) priority: i32,
    pub(crate) limits: StreamLimits,
    /// How long its files stay after it was removed.
    pub(crate) grace_ns: u64,
    /// How much longer whoever has files of it keeps their memory; `None`: as long as it likes.
    pub(crate) force_after_ns: Option<u64>,
    pub(crate) tags: Vec<String>,
    pub(crate) data_source_id: Option<u64>,
    pub(crate) profile: Profile,
    /// Whether peers on Aeron may have it.
    pub(crate) on_aeron: bool,
    /// Which NUMA node its next epoch's memory comes from.
    pub(crate) numa: Option<Numa>,
    /// Brought into being by an attach, and forgotten when it has been idle.
    pub(crate) dynamic: bool,
    pub(crate) phase: Phase,
    pub(crate) producer: Option<LeaseId>,
    /// Their leases, each with its connection; `None` for one on Aeron.
    pub(crate) consumers: BTreeMap<LeaseId, Option<ConnectionId>>,
    /// Why the last attempt to make an epoch failed, until one succeeds.
    pub(crate) last_error: Option<Failure>,
    /// Memory that it could not get and still waits for.
    pub(crate) claim: Option<Claim>,
    /// Its entry in the queue of announces.
    pub(crate) announce_due: Option<MonoNanos>,
    /// Its entry in the queue of collections.
    pub(crate) collect_due: Option<MonoNanos>,
    /// Since when a dynamic stream has had neither lease nor attach.
    pub(crate) idle_since: MonoNanos,
    /// What its producer last said of itself; kept for consumers on sockets (X-2-56).
    pub(crate) metadata: Metadata,
    pub(crate) producer_qos: Option<ProducerQos>,
    pub(crate) progress: Window,
    /// A StartRelay is out.
    pub(crate) relayed: bool,
    /// A HoldDescriptors is out.
    pub(crate) held: bool,
}

/// A configured stream that is served no more, while epochs of it still lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departed {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Nothing of it is removed before.
    pub(crate) until: MonoNanos,
}

/// Where a stream's files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// There.
    On(BaseId),
    /// Its class wants a base of this name, and this driver has none.
    Nowhere(String),
}

/// Why an epoch could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Bounded label.
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

/// Where a stream's memory is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// No epoch, and none is wanted.
    Absent,
    /// An epoch is announced.
    Ready(Current),
    /// A new epoch is being made.
    Making {
        making: Making,
        /// The announced epoch, which holds until the new one is there. `None` if there is none, or if
        /// the end of its producer's lease ended it.
        previous: Option<Current>,
    },
    /// An epoch was due and could not be made; it is tried again at `retry_at`.
    Failed { retry_at: MonoNanos },
}

/// An announced epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) epoch: Epoch,
    pub(crate) base: BaseId,
    pub(crate) uris: Uris,
    pub(crate) announced_at: MonoNanos,
    /// A producer had or has a lease on it.
    pub(crate) produced: bool,
}

/// An epoch that is being made.
#[derive(Debug)]
pub(crate) struct Making {
    pub(crate) key: EpochKey,
    pub(crate) cause: EpochCause,
    pub(crate) persist: Step,
    pub(crate) create: Step,
    /// Whether the pass for lack of space has run.
    pub(crate) reclaimed: bool,
    /// When it counts as failed.
    pub(crate) due: MonoNanos,
    /// Attaches that are answered when it is done, oldest first.
    pub(crate) waiting: Vec<Asker>,
}

/// One of the two things that must be done before an epoch is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Asked(OpId),
    Done,
}

/// What a producer said of itself.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) announce: Option<DataSourceAnnounce>,
    pub(crate) meta: Option<DataSourceMeta>,
}

/// The last QosProducer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerQos {
    pub(crate) at: MonoNanos,
    pub(crate) current_seq: u64,
}

/// Counts messages within one second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    start: MonoNanos,
    count: u32,
}

impl Window {
    const NEW: Self = Self {
        start: MonoNanos(0),
        count: 0,
    };

    /// Whether one more fits into the present second.
    pub(crate) fn admit(&mut self, now: MonoNanos, limit: u32) -> bool {
        if now.saturating_since(self.start) >= crate::config::SECOND_NS {
            *self = Self {
                start: now,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }
}

impl Stream {
    pub(crate) fn configured(policy: &StreamPolicy, place: Place) -> Self {
        let mut stream = Self::bare(policy.profile.clone(), false);
        stream.place = place;
        stream.on_aeron = policy.spec.on_aeron;
        stream.uid.clone_from(&policy.spec.uid);
        stream.follow(policy);
        stream
    }

    /// Takes over what changes nothing for whoever is attached.
    pub(crate) fn follow(&mut self, policy: &StreamPolicy) {
        let spec = &policy.spec;
        self.name.clone_from(&spec.name);
        self.namespace.clone_from(&spec.namespace);
        self.tags.clone_from(&spec.tags);
        self.data_source_id = spec.data_source_id;
        self.priority = spec.priority;
        self.limits = spec.limits;
        self.grace_ns = spec.grace_ns;
        self.force_after_ns = spec.force_after_ns;
        self.dynamic = false;
        if self.numa != spec.numa {
            self.numa = spec.numa;
            self.claim = None;
        }
        if self.charge.class != spec.class || self.charge.quotas != spec.quotas {
            self.charge = Arc::new(Charge {
                class: spec.class.clone(),
                quotas: spec.quotas.clone(),
            });
            self.claim = None;
        }
    }

    /// `namespace/name`, the name alone without a namespace, empty for a dynamic stream.
    pub(crate) fn full_name(&self) -> String {
        full_name(&self.namespace, &self.name)
    }

    pub(crate) fn dynamic(profile: Profile, now: MonoNanos) -> Self {
        Self {
            idle_since: now,
            ..Self::bare(profile, true)
        }
    }

    fn bare(profile: Profile, dynamic: bool) -> Self {
        Self {
            name: String::new(),
            namespace: String::new(),
            uid: String::new(),
            place: Place::On(BaseId::default()),
            charge: Arc::default(),
            priority: 0,
            limits: StreamLimits::default(),
            grace_ns: 0,
            force_after_ns: None,
            tags: Vec::new(),
            data_source_id: None,
            profile,
            on_aeron: true,
            numa: None,
            dynamic,
            phase: Phase::Absent,
            producer: None,
            consumers: BTreeMap::new(),
            last_error: None,
            claim: None,
            announce_due: None,
            collect_due: None,
            idle_since: MonoNanos(0),
            metadata: Metadata::default(),
            producer_qos: None,
            progress: Window::NEW,
            relayed: false,
            held: false,
        }
    }

    /// The announced epoch, if its announce holds.
    pub(crate) const fn current(&self) -> Option<&Current> {
        match &self.phase {
            Phase::Ready(current) => Some(current),
            Phase::Making { previous, .. } => previous.as_ref(),
            Phase::Absent | Phase::Failed { .. } => None,
        }
    }

    /// From now on a producer has it.
    pub(crate) const fn mark_produced(&mut self) {
        if let Phase::Ready(current) = &mut self.phase {
            current.produced = true;
        }
    }

    pub(crate) const fn making(&self) -> Option<&Making> {
        match &self.phase {
            Phase::Making { making, .. } => Some(making),
            Phase::Absent | Phase::Ready(_) | Phase::Failed { .. } => None,
        }
    }

    pub(crate) const fn making_mut(&mut self) -> Option<&mut Making> {
        match &mut self.phase {
            Phase::Making { making, .. } => Some(making),
            Phase::Absent | Phase::Ready(_) | Phase::Failed { .. } => None,
        }
    }

    pub(crate) fn waiting(&self) -> &[Asker] {
        self.making().map_or(&[], |making| &making.waiting)
    }

    pub(crate) const fn status_phase(&self) -> StreamPhase {
        match self.phase {
            Phase::Absent => StreamPhase::Absent,
            Phase::Ready(_) => StreamPhase::Ready,
            Phase::Making { .. } => StreamPhase::Provisioning,
            Phase::Failed { .. } => StreamPhase::Failed,
        }
    }

    /// Neither lease nor attach under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.producer.is_none() && self.consumers.is_empty() && self.waiting().is_empty()
    }
}
