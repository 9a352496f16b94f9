//! What a consumer's attachment does beside frames: which epoch is mapped, hello, QoS, metadata.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tensorpool_shm::{DropCounter, Start as CursorStart};
use tensorpool_wire::{
    Bool, ClientId, ConsumerConfig, Epoch, FrameProgress, LogicalStream, Message, MonoNanos,
    QosConsumer, QosProducer, Seq, ShmPoolAnnounce, StreamId,
};

use super::Now;
use super::hearing::ConsumerStreams;
use super::wishes::ConsumerWishes;
use crate::consumer::{ConsumerShared, Source, committed};
use crate::error::AttachError;
use crate::handover::Handover;
use crate::lease::{Grant, LeaseEnd};
use crate::link::Link;
use crate::mapping::{MapRules, Mapped, RegionError, Target};
use crate::watch::{EpochWatch, Overdue, Verdict};

/// Cadence of hello and QoS.
// spec: W-10.4.1-1 W-15.11-1
const PERIOD_NS: u64 = 1_000_000_000;
/// How long a lease lasts of which the driver does not say it: three intervals of a second (D-4.4-1).
const GRANTED_NS: u64 = 3_000_000_000;

/// The consumer's duty.
#[derive(Debug)]
pub(crate) struct ConsumerDuty {
    handover: Arc<Handover<Arc<Mapped>>>,
    shared: Arc<ConsumerShared>,
    wishes: ConsumerWishes,
    watch: EpochWatch,
    /// While a lease is held.
    held: Option<Held>,
    mapped: Option<Arc<Mapped>>,
    /// An epoch that the application never looked at, and how many frames it had.
    skipped: Option<(Epoch, u64)>,
    /// Whether anything was ever mapped: the first epoch starts where the application wants.
    has_started: bool,
    regress: Regress,
    /// Sent elsewhere by ConsumerConfig.
    is_off: bool,
    aeron: ConsumerStreams,
    /// When descriptors that were refused are asked for again.
    listen_at: Option<MonoNanos>,
}

#[derive(Debug)]
struct Held {
    stream: StreamId,
    client: ClientId,
    rules: MapRules,
    target: Target,
    granted_ns: u64,
    due: MonoNanos,
}

/// How often in a row the producer was seen behind this consumer, in one epoch.
// spec: X-1-20
#[derive(Clone, Copy, Debug, Default)]
struct Regress {
    /// `next` of this consumer when the QosProducer before arrived.
    next_before: Option<u64>,
    times: u32,
}

impl ConsumerDuty {
    pub(crate) fn new(
        handover: Arc<Handover<Arc<Mapped>>>,
        shared: Arc<ConsumerShared>,
        wishes: ConsumerWishes,
    ) -> Self {
        let watch = EpochWatch::new(StreamId(0), wishes.announce_period_ns, MonoNanos(0));
        Self {
            handover,
            shared,
            wishes,
            watch,
            held: None,
            mapped: None,
            skipped: None,
            has_started: false,
            regress: Regress::default(),
            is_off: false,
            aeron: ConsumerStreams::new(),
            listen_at: None,
        }
    }

    pub(super) fn on_link_up(&mut self, now: Now, stream: StreamId, link: &mut Link) {
        // spec: W-10.1.1-2: announces are heard from here on.
        self.watch = EpochWatch::new(stream, self.wishes.announce_period_ns, now.mono);
        self.listen(now, link);
    }

    /// Nothing of the way may be kept: its media driver's memory is missing to the next one as long as
    /// anybody has it.
    // spec: X-2-77
    pub(super) fn on_link_down(&mut self) {
        self.aeron = ConsumerStreams::new();
        self.listen_at = None;
        self.tell_source(Source::Gone);
    }

    fn listen(&mut self, now: Now, link: &mut Link) {
        // spec: X-2-77
        self.listen_at = None;
        match self.aeron.subscribe(link, self.wishes.notify) {
            Ok(source) => self.tell_source(source),
            Err(dead) => {
                self.listen_at = Some(now.mono.saturating_add(PERIOD_NS));
                self.fail(AttachError::Lost {
                    text: dead.to_string(),
                });
            }
        }
    }

    fn tell_source(&self, source: Source) {
        self.shared.descriptors.post(source);
        self.handover.nudge();
    }

    pub(super) fn map(
        &mut self,
        now: Now,
        grant: &Grant,
        rules: &MapRules,
    ) -> Result<(), RegionError> {
        let target = Target::of_grant(grant);
        let granted_ns = grant
            .expires_at
            .map_or(GRANTED_NS, |at| at.saturating_since(now.mono));
        let mapped = target.map_to_read(rules, self.first_start(), granted_ns)?;
        mapped.life.set_deadline(grant.expires_at);
        self.install(mapped);
        self.held = Some(Held {
            stream: grant.stream,
            client: grant.client,
            rules: rules.clone(),
            target,
            granted_ns,
            due: now.mono,
        });
        self.is_off = false;
        if grant.stream != self.watch.stream() {
            // The driver chose the stream (B-14).
            self.watch = EpochWatch::new(grant.stream, self.wishes.announce_period_ns, now.mono);
        }
        self.watch.on_attached(now.mono, grant.epoch);
        Ok(())
    }

    pub(super) fn stop(&mut self, end: LeaseEnd) {
        self.end_life();
        self.held = None;
        self.watch.on_unmapped();
        let untaken = self.handover.end(end);
        self.skip(untaken);
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

    pub(super) fn set_deadline(&self, deadline: Option<MonoNanos>) {
        if let Some(mapped) = &self.mapped {
            mapped.life.set_deadline(deadline);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<MonoNanos> {
        self.held.as_ref().map(|held| held.due)
    }

    pub(super) fn on_message(&mut self, now: Now, message: &Message, link: &mut Link) {
        let Some(held) = &self.held else { return };
        let stream = held.stream;
        match message {
            Message::ShmPoolAnnounce(announce) => self.on_announce(now, announce),
            // spec: D-4.9-7 W-15.21-2
            Message::ShmLeaseRevoked(revoked) if self.watch.on_revoked(now.mono, revoked) => {
                self.unmap();
            }
            Message::DataSourceAnnounce(announce) if announce.stream_id == stream => {
                self.shared.metadata.on_announce(announce);
            }
            Message::DataSourceMeta(meta) if meta.stream_id == stream => {
                self.shared.metadata.on_meta(meta);
            }
            Message::QosProducer(qos) if qos.stream_id == stream => {
                self.on_producer_qos(now, qos, link);
            }
            Message::FrameProgress(progress) => self.on_progress(progress),
            Message::ConsumerConfig(config)
                if config.stream_id == stream && config.consumer_id == held.client =>
            {
                self.on_config(config, link);
            }
            // Everything else is for the lease machine or for other peers.
            _ => {}
        }
    }

    fn on_progress(&mut self, progress: &FrameProgress) {
        let is_mapped = self.mapped.as_ref().is_some_and(|mapped| {
            let layout = mapped.regions.layout();
            (layout.stream_id(), layout.epoch()) == (progress.stream_id, progress.epoch)
        });
        if self.wishes.progress && is_mapped {
            self.shared.progress.hear(progress);
        }
    }

    // spec: W-10.1.1-1 W-15.1-1 W-15.1-2
    fn on_announce(&mut self, now: Now, announce: &ShmPoolAnnounce) {
        match self.watch.on_announce(now.mono, now.wall, announce) {
            Verdict::Ignore(_) => {}
            Verdict::Recheck => {
                // spec: W-15.14-3 W-15.14-4
                if self
                    .mapped
                    .as_ref()
                    .is_some_and(|mapped| mapped.regions.recheck().is_err())
                {
                    self.unmap();
                    self.watch.on_unmapped();
                }
            }
            Verdict::CheckRegression => {
                if !self.is_active(now) {
                    self.unmap();
                    self.watch.on_regression(now.mono);
                }
            }
            Verdict::Remap if self.is_off => {}
            Verdict::Remap => self.remap(Target::of_announce(announce), CursorStart::First),
        }
    }

    // spec: W-10.1.1-5 W-15.2-1 W-15.18-1 X-1-19
    fn remap(&mut self, target: Target, start: CursorStart) {
        self.unmap();
        self.watch.on_unmapped();
        let Some(held) = &mut self.held else { return };
        let start = if self.has_started {
            start
        } else {
            self.wishes.start.cursor()
        };
        match target.map_to_read(&held.rules, start, held.granted_ns) {
            Ok(mapped) => {
                let epoch = target.epoch;
                held.target = target;
                self.install(mapped);
                self.watch.on_mapped(epoch);
            }
            // spec: W-15.22-6 W-15.13-1: unmapped until an announce names regions that will do.
            Err(source) => {
                let stream = held.stream.to_string();
                self.handover.fail(AttachError::Regions { stream, source });
            }
        }
    }

    // spec: X-1-20
    fn on_producer_qos(&mut self, now: Now, qos: &QosProducer, link: &mut Link) {
        let is_mapped = self
            .mapped
            .as_ref()
            .is_some_and(|mapped| mapped.regions.layout().epoch() == qos.epoch);
        if !is_mapped {
            return;
        }
        let next = self.shared.counters.seen.load(Ordering::Relaxed);
        if self.aeron.is_deaf(now, next, qos.current_seq) {
            self.listen(now, link);
        }
        let is_behind = self
            .regress
            .next_before
            .is_some_and(|before| qos.current_seq.get() < before);
        self.regress.times = if is_behind { self.regress.times + 1 } else { 0 };
        self.regress.next_before = Some(next);
        if self.regress.times >= 2 {
            let target = self.held.as_ref().map(|held| held.target.clone());
            if let Some(target) = target {
                self.remap(target, CursorStart::Newest);
            }
        }
    }

    // spec: W-10.1.3-1 W-10.1.3-2
    fn on_config(&mut self, config: &ConsumerConfig, link: &mut Link) {
        if let Some(source) = self.aeron.obey(config, link, self.wishes.notify) {
            self.tell_source(source);
        }
        match config.use_shm {
            Bool::False if !self.is_off => {
                self.is_off = true;
                self.unmap();
                self.watch.on_unmapped();
                let uri = config.payload_fallback_uri.clone();
                self.handover.fail(AttachError::Fallback { uri });
            }
            Bool::True if self.is_off => {
                self.is_off = false;
                let target = self.held.as_ref().map(|held| held.target.clone());
                if let Some(target) = target {
                    self.remap(target, CursorStart::First);
                }
            }
            Bool::False | Bool::True | Bool::Unknown(_) => {}
        }
    }

    pub(super) fn tick(&mut self, now: Now, link: &mut Link) {
        if self.listen_at.is_some_and(|at| now.mono >= at) {
            self.listen(now, link);
        }
        let mut heard = Vec::new();
        self.aeron.drain(&mut heard);
        for progress in heard {
            self.on_progress(&progress);
        }
        // spec: X-1-30
        if self
            .mapped
            .as_ref()
            .is_some_and(|mapped| mapped.regions.is_poisoned())
        {
            self.unmap();
            self.watch.on_unmapped();
        }
        match self.watch.on_tick(now.mono) {
            // It was unmapped when the producer was revoked.
            Some(Overdue::NoNewEpoch) | None => {}
            // spec: W-15.1-3 W-15.14-6 D-10-1
            Some(Overdue::NoAnnounce) if !self.is_active(now) => {
                self.unmap();
                self.watch.on_unmapped();
            }
            Some(Overdue::NoAnnounce) => {}
        }
        if self.held.as_ref().is_some_and(|held| now.mono >= held.due) {
            self.tell(now, link);
        }
    }

    // spec: W-10.4.1-1 W-10.1.2-2 W-11-2
    fn tell(&mut self, now: Now, link: &mut Link) {
        let Some(held) = &mut self.held else { return };
        held.due = now.mono.saturating_add(PERIOD_NS);
        let hello = self
            .wishes
            .hello(held.stream, held.client, link.has_descriptors());
        let stats = self.shared.counters.snapshot(0);
        let qos = QosConsumer {
            stream_id: held.stream,
            consumer_id: held.client,
            epoch: held.target.epoch,
            last_seq_seen: Seq(self
                .shared
                .counters
                .seen
                .load(Ordering::Relaxed)
                .saturating_sub(1)),
            drops_gap: stats.counted(DropCounter::Gap),
            drops_late: stats.counted(DropCounter::Late),
            mode: hello.mode,
        };
        // Both are repeated each second, so a lost one is no loss.
        link.tell(LogicalStream::Control, hello);
        link.tell(LogicalStream::Qos, qos);
    }

    const fn first_start(&self) -> CursorStart {
        if self.has_started {
            CursorStart::First
        } else {
            self.wishes.start.cursor()
        }
    }

    fn install(&mut self, mapped: Mapped) {
        self.end_life();
        let mapped = Arc::new(mapped);
        self.has_started = true;
        self.regress = Regress::default();
        self.shared.counters.seen.store(0, Ordering::Relaxed);
        self.mapped = Some(Arc::clone(&mapped));
        let epoch = mapped.regions.layout().epoch();
        let untaken = self.handover.map(mapped);
        self.skip(untaken);
        if let Some((skipped, lost)) = self.skipped.take()
            && skipped != epoch
        {
            self.shared.counters.lose_end(lost);
        }
    }

    fn unmap(&mut self) {
        if self.mapped.is_some() {
            self.end_life();
            let untaken = self.handover.unmap();
            self.skip(untaken);
        }
    }

    /// An epoch that was over before the application asked for a frame: all of it is lost, unless the
    /// same is mapped again.
    fn skip(&mut self, untaken: Option<Arc<Mapped>>) {
        if let Some(untaken) = untaken {
            let from = untaken.first.next().get();
            let lost = committed(&untaken).saturating_sub(from);
            self.skipped = Some((untaken.regions.layout().epoch(), lost));
        }
    }

    fn end_life(&mut self) {
        if let Some(mapped) = self.mapped.take() {
            mapped.life.end();
        }
        self.shared.progress.clear();
    }

    fn is_active(&self, now: Now) -> bool {
        self.mapped.as_ref().is_some_and(|mapped| {
            now.mono.saturating_since(mapped.regions.activity()) <= self.watch.fresh_ns()
        })
    }
}
