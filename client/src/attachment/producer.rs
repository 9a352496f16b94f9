//! What a producer's attachment does beside frames: activity, QoS, metadata, and who listens.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tensorpool_shm::Activity;
use tensorpool_wire::{
    Bool, ClientId, ConsumerHello, DataSourceAnnounce, DataSourceMeta, Epoch, LogicalStream,
    Message, MonoNanos, QosProducer, Seq, StreamId,
};

use super::Now;
use super::streams::{OwnStreams, To};
use crate::error::AttachError;
use crate::handover::Handover;
use crate::lease::{Grant, LeaseEnd};
use crate::link::{Link, StreamKey};
use crate::mapping::{Life, MapRules, RegionError, Target, Writable};
use crate::outlet::{Audience, Outlet, OutletChange};
use crate::producer::ProducerShared;
use crate::progress::Hints;

/// Cadence of activity, QoS and metadata.
// spec: W-15.11-1
const PERIOD_NS: u64 = 1_000_000_000;
/// A consumer that was not heard of for this long is gone.
// spec: W-5-3
const STALE_NS: u64 = 5 * PERIOD_NS;
/// Consumers that are kept track of. More still get frames; their hints do not count.
const MAX_LISTENERS: usize = 1_024;

/// The producer's duty.
#[derive(Debug)]
pub(crate) struct ProducerDuty {
    handover: Arc<Handover<Writable>>,
    shared: Arc<ProducerShared>,
    name: String,
    active: Option<Active>,
    listeners: BTreeMap<ClientId, Listener>,
    /// The version of the description that was sent last.
    told_version: u32,
    streams: OwnStreams,
    /// Whether this producer is the authority that assigns per-consumer streams.
    assigns_streams: bool,
    /// When a publication of descriptors that was refused is asked for again.
    open_at: Option<MonoNanos>,
}

#[derive(Debug)]
struct Active {
    stream: StreamId,
    client: ClientId,
    epoch: Epoch,
    life: Arc<Life>,
    activity: Activity,
    due: MonoNanos,
}

/// A consumer that said hello.
#[derive(Clone, Copy, Debug)]
struct Listener {
    heard: MonoNanos,
    progress: Option<Hints>,
    max_rate_hz: u32,
}

impl ProducerDuty {
    pub(crate) fn new(
        handover: Arc<Handover<Writable>>,
        shared: Arc<ProducerShared>,
        key: &StreamKey,
        assigns_streams: bool,
    ) -> Self {
        let name = match key {
            StreamKey::Name(name) => name.clone(),
            StreamKey::Id(_) => String::new(),
        };
        Self {
            handover,
            shared,
            name,
            active: None,
            listeners: BTreeMap::new(),
            told_version: 0,
            streams: OwnStreams::default(),
            assigns_streams,
            open_at: None,
        }
    }

    pub(super) fn map(
        &mut self,
        now: Now,
        grant: &Grant,
        rules: &MapRules,
        files: Vec<OwnedFd>,
    ) -> Result<(), RegionError> {
        let writable = Target::of_grant(grant).map_to_write(rules, files)?;
        writable.life.set_deadline(grant.expires_at);
        let active = Active {
            stream: grant.stream,
            client: grant.client,
            epoch: grant.epoch,
            life: Arc::clone(&writable.life),
            activity: writable.regions.activity(),
            // Everything periodic is due at once, so that peers learn of the new epoch.
            due: now.mono,
        };
        // A driver that was lost and came back: the old memory goes in the same step.
        self.end_life(LeaseEnd::Replaced);
        self.shared.poisoned.store(false, Ordering::Relaxed);
        self.active = Some(active);
        self.told_version = 0;
        drop(self.handover.map(writable));
        Ok(())
    }

    pub(super) fn stop(&mut self, end: LeaseEnd) {
        self.end_life(end.clone());
        drop(self.handover.end(end));
    }

    pub(super) fn detached(&self) {
        self.handover.detached();
    }

    pub(super) fn fail(&self, error: AttachError) {
        self.handover.fail(error);
    }

    pub(super) fn amend(&self, error: AttachError) {
        self.handover.amend(error);
    }

    /// Opens the stream's descriptors.
    // spec: X-2-77
    pub(super) fn on_link_up(&mut self, now: Now, link: &mut Link) {
        self.open_at = None;
        let (channel, stream) = link.descriptor_endpoint();
        match link.publication(&channel, stream) {
            Some(Ok(publication)) => {
                let outlet = Outlet::new(Audience::All, publication, 0);
                self.shared.outlets.post(OutletChange::Open(outlet));
                self.handover.nudge();
            }
            // Frames are committed all the same; whoever looks at the ring sees them. Whoever waits for
            // descriptors gets them once the media driver has memory for the publication.
            Some(Err(dead)) => {
                self.open_at = Some(now.mono.saturating_add(PERIOD_NS));
                self.fail(AttachError::Lost {
                    text: dead.to_string(),
                });
            }
            None => {}
        }
    }

    pub(super) fn on_link_down(&mut self) {
        self.open_at = None;
        self.listeners.clear();
        self.streams.clear();
        self.shared.progress.set(None);
        self.shared.outlets.post(OutletChange::CloseAll);
        self.handover.nudge();
    }

    pub(super) fn set_deadline(&self, deadline: Option<MonoNanos>) {
        if let Some(active) = &self.active {
            active.life.set_deadline(deadline);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<MonoNanos> {
        self.active.as_ref().map(|active| active.due)
    }

    pub(super) fn on_message(&mut self, now: Now, message: &Message, link: &mut Link) {
        let Some(active) = &self.active else { return };
        match message {
            Message::ConsumerHello(hello) if hello.stream_id == active.stream => {
                self.on_hello(now, hello, link);
            }
            // spec: W-5-1: an authority's assignment, for one of our consumers.
            Message::ConsumerConfig(config) if config.stream_id == active.stream => {
                let max_rate_hz = self
                    .listeners
                    .get(&config.consumer_id)
                    .map_or(0, |one| one.max_rate_hz);
                let to = To {
                    handover: &self.handover,
                    shared: &self.shared,
                    max_rate_hz,
                };
                self.streams.assign(config, link, to);
            }
            // spec: W-5-3: either message keeps it alive.
            Message::QosConsumer(qos) if qos.stream_id == active.stream => {
                if let Some(listener) = self.listeners.get_mut(&qos.consumer_id) {
                    listener.heard = now.mono;
                }
            }
            // Everything else is for the lease machine or for other peers.
            _ => {}
        }
    }

    // spec: W-10.2.2-6 W-10.2.2-7
    fn on_hello(&mut self, now: Now, hello: &ConsumerHello, link: &mut Link) {
        let is_new = !self.listeners.contains_key(&hello.consumer_id);
        if is_new && self.listeners.len() >= MAX_LISTENERS {
            return;
        }
        let progress = match hello.supports_progress {
            Bool::True => {
                let wide = Hints {
                    interval_ns: u64::MAX,
                    bytes_delta: u64::MAX,
                };
                Some(wide.merge(hello.progress_interval_us, hello.progress_bytes_delta))
            }
            Bool::False | Bool::Unknown(_) => None,
        };
        let max_rate_hz = hello.max_rate_hz;
        let listener = Listener {
            heard: now.mono,
            progress,
            max_rate_hz,
        };
        self.listeners.insert(hello.consumer_id, listener);
        if self.assigns_streams {
            let to = To {
                handover: &self.handover,
                shared: &self.shared,
                max_rate_hz,
            };
            self.streams.answer(hello, link, to);
        }
        self.combine_hints();
    }

    fn combine_hints(&self) {
        let hints = self
            .listeners
            .values()
            .filter_map(|listener| listener.progress);
        self.shared.progress.set(hints.reduce(|a, b| Hints {
            interval_ns: a.interval_ns.min(b.interval_ns),
            bytes_delta: a.bytes_delta.min(b.bytes_delta),
        }));
    }

    pub(super) fn tick(&mut self, now: Now, link: &mut Link) -> Option<LeaseEnd> {
        // spec: X-1-30: the data path met memory that lost its pages.
        if self.active.is_some() && self.shared.poisoned.swap(false, Ordering::Relaxed) {
            return Some(LeaseEnd::Unusable);
        }
        if self.open_at.is_some_and(|at| now.mono >= at) {
            self.on_link_up(now, link);
        }
        while let Some(progress) = self.shared.progress.next() {
            // Loss is allowed: the commit decides.
            self.streams.tell(&progress, &self.shared.counters.messages);
            link.tell(LogicalStream::Control, progress);
        }
        let is_due = self
            .active
            .as_ref()
            .is_some_and(|active| now.mono >= active.due);
        let is_changed = self.shared.metadata.version() != self.told_version;
        if is_due || (self.active.is_some() && is_changed) {
            self.tell(now, link);
        }
        None
    }

    // spec: W-15.11-1 W-10.3.1-1 W-10.3.2-2 W-7.1-4 D-3-2 W-10.1-6 W-10.1.1-6
    fn tell(&mut self, now: Now, link: &mut Link) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.due = now.mono.saturating_add(PERIOD_NS);
        active.activity.refresh(now.mono);
        let metadata = self.shared.metadata.get();
        let announce = DataSourceAnnounce {
            stream_id: active.stream,
            producer_id: active.client,
            epoch: active.epoch,
            meta_version: metadata.version,
            name: if metadata.name.is_empty() {
                self.name.clone()
            } else {
                metadata.name.clone()
            },
            summary: metadata.summary.clone(),
        };
        let meta = DataSourceMeta {
            stream_id: active.stream,
            meta_version: metadata.version,
            timestamp_ns: now.mono,
            attributes: metadata.attributes.clone(),
        };
        let qos = QosProducer {
            stream_id: active.stream,
            producer_id: active.client,
            epoch: active.epoch,
            current_seq: Seq(self.shared.counters.next.load(Ordering::Relaxed)),
            watermark: None,
        };
        // All three are repeated each second, so a lost one is no loss.
        link.tell(LogicalStream::Metadata, announce);
        if metadata.version != 0 {
            link.tell(LogicalStream::Metadata, meta);
        }
        link.tell(LogicalStream::Qos, qos);
        self.told_version = metadata.version;
        self.forget_stale(now);
        self.combine_hints();
    }

    fn forget_stale(&mut self, now: Now) {
        let (handover, shared, streams) = (&self.handover, &self.shared, &mut self.streams);
        self.listeners.retain(|id, listener| {
            let is_here = now.mono.saturating_since(listener.heard) <= STALE_NS;
            if !is_here {
                streams.close(
                    *id,
                    To {
                        handover,
                        shared,
                        max_rate_hz: 0,
                    },
                );
            }
            is_here
        });
    }

    fn end_life(&mut self, why: LeaseEnd) {
        if let Some(active) = self.active.take() {
            active.life.end_because(why);
        }
    }
}
