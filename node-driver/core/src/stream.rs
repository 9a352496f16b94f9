//! One stream: its layout, the phase of its memory, and who holds it.

use std::collections::BTreeMap;

use tensorpool_wire::{
    ConnectionId, DataSourceAnnounce, DataSourceMeta, Epoch, LeaseId, MonoNanos,
};

use crate::action::{EpochCause, EpochKey};
use crate::event::OpId;
use crate::layout::Uris;
use crate::lease::Asker;
use crate::policy::{Profile, StreamPolicy};
use crate::status::StreamPhase;

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Configured name; empty for a dynamic stream.
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) data_source_id: Option<u64>,
    pub(crate) profile: Profile,
    /// Brought into being by an attach, and forgotten when it has been idle.
    pub(crate) dynamic: bool,
    pub(crate) phase: Phase,
    pub(crate) producer: Option<LeaseId>,
    /// Their leases, each with its connection; `None` for one on Aeron.
    pub(crate) consumers: BTreeMap<LeaseId, Option<ConnectionId>>,
    /// Why the last attempt to make an epoch failed, until one succeeds.
    pub(crate) last_error: Option<String>,
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
    pub(crate) uris: Uris,
    pub(crate) announced_at: MonoNanos,
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
    pub(crate) fn configured(policy: &StreamPolicy) -> Self {
        Self {
            name: policy.name.clone(),
            tags: policy.tags.clone(),
            data_source_id: policy.data_source_id,
            ..Self::bare(policy.profile.clone(), false)
        }
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
            tags: Vec::new(),
            data_source_id: None,
            profile,
            dynamic,
            phase: Phase::Absent,
            producer: None,
            consumers: BTreeMap::new(),
            last_error: None,
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
