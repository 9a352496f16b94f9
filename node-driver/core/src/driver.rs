//! The driver itself: its state, the dispatch of events, and time.
//!
//! The rules stand in the modules beside: `attach` (who gets in), `grant` (how a lease begins and
//! ends), `provision` (how an epoch is made), `collect` (which epochs go), `reclaim` (how they go),
//! `announce`, `shutdown`, `join` and `consumers` (what crosses between the ways in), `discovery`, `change` (policy),
//! `assigned` (who may do what on Aeron in a cluster).

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_wire::{
    ClientId, ConnectionId, DecodeError, DecodeErrorKind, LogicalStream, Message, MonoNanos,
    Origin, ShmAttachRequest, ShmDetachRequest, ShmDetachResponse, StreamId,
};

use crate::action::{Action, Note, To};
use crate::assigned::Assigned;
use crate::config::Config;
use crate::connection::Connections;
use crate::consumers::OwnRanges;
use crate::counters::{Counters, DropReason};
use crate::deadline::{Deadlines, Due};
use crate::epoch::Epochs;
use crate::event::{Event, Restored, ShutdownMode};
use crate::invariants::Audit;
use crate::keepalive::UnknownLeases;
use crate::lease::Leases;
use crate::node_id::NodeIds;
use crate::policy::Policy;
use crate::provision::Ops;
use crate::reclaim::Removal;
use crate::refusal::{Refusal, clip};
use crate::shutdown::Life;
use crate::status::StatusSnapshot;
use crate::stream::{Departed, Stream};

/// The driver.
#[derive(Debug)]
pub struct Driver {
    pub(crate) config: Config,
    pub(crate) policy: Policy,
    pub(crate) now: MonoNanos,
    pub(crate) last_tick: Option<MonoNanos>,
    pub(crate) life: Life,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) leases: Leases,
    /// Clients whose attach waits for files, and for which stream's.
    pub(crate) pending: BTreeMap<ClientId, StreamId>,
    pub(crate) connections: Connections,
    pub(crate) assigned: Assigned,
    pub(crate) epochs: Epochs,
    /// Streams that are served no more and still take memory.
    pub(crate) departed: BTreeMap<StreamId, Departed>,
    /// Streams with a claim on memory.
    pub(crate) claimants: BTreeSet<StreamId>,
    pub(crate) ops: Ops,
    pub(crate) deadlines: Deadlines,
    pub(crate) node_ids: NodeIds,
    pub(crate) own_ranges: OwnRanges,
    pub(crate) unknown_leases: UnknownLeases,
    pub(crate) own_sessions: BTreeSet<i32>,
    pub(crate) counters: Counters,
    audit: Audit,
}

impl Driver {
    /// A driver on a machine where none ran before.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::restore(config, &Restored::default())
    }

    /// A driver that knows what its predecessors left behind. It never goes on with their epochs; the
    /// first [`Event::Tick`] starts it.
    // spec: D-14-1, D-10-2, X-2-27
    #[must_use]
    pub fn restore(config: Config, restored: &Restored) -> Self {
        let policy = config.policy.clone();
        let identity = &config.identity;
        let streams: BTreeMap<StreamId, Stream> = policy
            .streams()
            .iter()
            .map(|(id, stream)| {
                let place = policy.place(identity, &stream.spec.class);
                (*id, Stream::configured(stream, place))
            })
            .collect();
        let mut epochs = Epochs::new(restored.last_epoch, &restored.existing);
        for (id, stream) in &streams {
            epochs.charge(*id, &stream.charge);
        }
        Self {
            now: MonoNanos(0),
            last_tick: None,
            life: Life::Running,
            streams,
            leases: Leases::new(config.first_lease_id),
            pending: BTreeMap::new(),
            connections: Connections::default(),
            assigned: Assigned::default(),
            epochs,
            departed: BTreeMap::new(),
            claimants: BTreeSet::new(),
            ops: Ops::default(),
            deadlines: Deadlines::default(),
            node_ids: NodeIds::new(config.limits.node_ids, config.timing.node_id_cooldown_ns),
            own_ranges: OwnRanges::default(),
            unknown_leases: UnknownLeases::new(config.limits.unknown_leases),
            own_sessions: BTreeSet::new(),
            counters: Counters::default(),
            audit: Audit::default(),
            policy,
            config,
        }
    }

    /// Takes one event at the time of the cycle and appends what is to be done, in order.
    ///
    /// `now` is CLOCK_MONOTONIC, read once per cycle. A time before an earlier one counts as that one.
    pub fn handle(&mut self, now: MonoNanos, event: Event<'_>, out: &mut Vec<Action>) {
        let start = out.len();
        if now < self.now {
            self.counters.clock_regressions += 1;
        }
        self.now = now.max(self.now);
        if cfg!(debug_assertions) {
            self.audit.see(&event);
        }
        if self.life.is_stopped() {
            self.counters.drop(DropReason::Stopped, "event");
            return;
        }
        self.dispatch(event, out);
        if cfg!(debug_assertions) {
            self.audit.record(out.get(start..).unwrap_or_default());
            self.check();
        }
    }

    /// When the next [`Event::Tick`] is due at the latest. Earlier ones are harmless. `None` once the
    /// driver has stopped.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonoNanos> {
        if self.life.is_stopped() {
            return None;
        }
        // A longer silence would look like a stall.
        let rhythm = self.last_tick.map_or(self.now, |at| {
            at.saturating_add(self.config.timing.keepalive_interval_ns / 2)
        });
        Some(self.deadlines.first().map_or(rhythm, |at| at.min(rhythm)))
    }

    /// Everything, for `status` and metrics.
    #[must_use]
    pub fn status(&self) -> StatusSnapshot {
        self.snapshot(None)
    }

    /// Live leases.
    #[must_use]
    pub fn lease_count(&self) -> u32 {
        u32::try_from(self.leases.len()).unwrap_or(u32::MAX)
    }

    /// What one connection may see (X-2-51). Nothing for one that is not known.
    #[must_use]
    pub fn status_for(&self, connection: ConnectionId) -> StatusSnapshot {
        self.snapshot(Some(connection))
    }

    fn dispatch(&mut self, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::Tick => self.on_tick(out),
            Event::Message {
                origin,
                stream,
                bytes,
            } => self.on_bytes(origin, stream, bytes, out),
            Event::ConnectionOpened {
                connection,
                access,
                pid,
                uid: _,
            } => self.on_opened(connection, access, pid, out),
            Event::ConnectionClosing { connection, text } => {
                self.on_closing(connection, &text, out);
            }
            Event::ConnectionClosed { connection } => self.on_closed(connection, out),
            Event::OwnSessions(sessions) => self.own_sessions = sessions.into_iter().collect(),
            Event::EpochPersisted { op } => self.on_persisted(op, Ok(()), out),
            Event::EpochPersistFailed { op, error } => self.on_persisted(op, Err(error), out),
            Event::RegionsReady { op } => self.on_created(op, Ok(()), out),
            Event::RegionsFailed { op, error } => self.on_created(op, Err(error), out),
            Event::EpochRemoved { op } => self.on_removed(op, Removal::Gone, out),
            Event::EpochInUse { op } => self.on_removed(op, Removal::InUse, out),
            Event::EpochRemoveFailed { op, error } => {
                self.on_removed(op, Removal::Failed(error), out);
            }
            Event::EpochsFound(found) => {
                for epoch in &found {
                    self.epochs.found(epoch);
                    if let Some(stream) = self.streams.get(&epoch.stream) {
                        self.epochs.charge(epoch.stream, &stream.charge);
                    }
                }
                self.collect_all(out);
            }
            Event::RegionPoisoned {
                stream,
                epoch,
                damage,
            } => self.on_poisoned(stream, epoch, damage, out),
            Event::AccessChanged {
                connection,
                access,
                text,
            } => self.on_access(connection, access, &text, out),
            Event::AeronClients {
                clients,
                access,
                text,
            } => self.on_aeron_clients(clients, access, &text, out),
            Event::PolicyChanged(policy) => self.on_policy(*policy, out),
            Event::Shutdown(mode) => match mode {
                ShutdownMode::Drain => self.on_drain(out),
                ShutdownMode::Handover => self.hand_over(out),
            },
        }
    }

    /// All inputs are empty: first time that was lost is given back, then what is due happens.
    fn on_tick(&mut self, out: &mut Vec<Action>) {
        match self.last_tick.replace(self.now) {
            None => self.on_start(out),
            Some(last) => {
                let gap_ns = self.now.saturating_since(last);
                if gap_ns > self.config.timing.keepalive_interval_ns {
                    self.leases.extend_all(gap_ns);
                    self.counters.stalls += 1;
                    self.counters.stalled_ns = self.counters.stalled_ns.saturating_add(gap_ns);
                    out.push(Action::Note(Note::Stalled { gap_ns }));
                }
            }
        }
        self.drop_stale_claims();
        while let Some(due) = self.deadlines.pop(self.now) {
            match due {
                Due::Lease(lease) => self.on_lease_due(lease, out),
                Due::Consumer(lease) => self.on_consumer_due(lease),
                Due::Announce(stream) => self.on_announce_due(stream, out),
                Due::Making(stream) => self.on_making_due(stream, out),
                Due::Retry(stream) => self.on_retry_due(stream, out),
                Due::Collect(stream) => self.on_collect_due(stream, out),
                Due::InUse(key) => self.on_in_use_due(key, out),
                Due::Stop => self.stop(out),
            }
        }
    }

    fn on_start(&mut self, out: &mut Vec<Action>) {
        if self.config.gc.on_startup {
            self.collect_all(out);
        }
    }

    fn on_bytes(
        &mut self,
        origin: Origin,
        stream: LogicalStream,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) {
        if let Some(reason) = self.unheard(origin, bytes) {
            self.counters.drop(reason, "any");
            return;
        }
        if stream == LogicalStream::Status {
            self.on_status_request(origin, bytes, out);
            return;
        }
        match Message::decode(bytes) {
            Ok(message) => self.on_message(origin, stream, message, out),
            Err(error) => {
                self.answer_unreadable(origin, &error, out);
                self.counters.drop(DropReason::Undecodable, error.message);
            }
        }
    }

    /// Why nothing from this origin, or nothing of this length, is read at all.
    fn unheard(&self, origin: Origin, bytes: &[u8]) -> Option<DropReason> {
        match origin {
            // spec: X-2-54
            Origin::Aeron { session } if self.own_sessions.contains(&session) => {
                return Some(DropReason::OwnSession);
            }
            Origin::Aeron { .. } => {}
            Origin::Socket { connection } => match self.connections.get(connection) {
                Some(connection) if !connection.closing => {}
                Some(_) | None => return Some(DropReason::UnknownConnection),
            },
        }
        let limit = usize::try_from(self.config.limits.message_bytes).unwrap_or(usize::MAX);
        (bytes.len() > limit).then_some(DropReason::TooLong)
    }

    /// The correlation id stands first in every version of a request, so even one that cannot be read
    /// is answered.
    // spec: D-4.4a-2, D-4.6-1
    fn answer_unreadable(&mut self, origin: Origin, error: &DecodeError, out: &mut Vec<Action>) {
        let Some(correlation_id) = error.correlation_id() else {
            return;
        };
        let refusal = match error.kind {
            DecodeErrorKind::UnsupportedVersion { .. } => Refusal::SchemaVersion,
            DecodeErrorKind::TooShort { .. }
            | DecodeErrorKind::UnknownSchema { .. }
            | DecodeErrorKind::UnknownTemplate { .. }
            | DecodeErrorKind::BlockLength { .. }
            | DecodeErrorKind::GroupTooLong { .. }
            | DecodeErrorKind::VarDataTooLong { .. }
            | DecodeErrorKind::NotUtf8
            | DecodeErrorKind::TrailingBytes { .. } => Refusal::Malformed(error.to_string()),
        };
        if error.message == ShmAttachRequest::NAME {
            self.refuse(origin, correlation_id, &refusal, out);
        } else if error.message == ShmDetachRequest::NAME {
            let response = ShmDetachResponse {
                correlation_id,
                code: refusal.code(),
                error_message: clip(refusal.to_string()),
            };
            send(out, To::Origin(origin), LogicalStream::Control, response);
        }
    }

    fn on_message(
        &mut self,
        origin: Origin,
        stream: LogicalStream,
        message: Message,
        out: &mut Vec<Action>,
    ) {
        let name = message.name();
        // On Aeron all streams may share one log (W-15.11-2); a socket names the stream itself.
        if matches!(origin, Origin::Socket { .. }) && stream != home_stream(&message) {
            self.counters.drop(DropReason::WrongStream, name);
            return;
        }
        let result = match message {
            Message::ShmAttachRequest(request) => self.on_attach(origin, &request, out),
            Message::ShmDetachRequest(request) => self.on_detach(origin, &request, out),
            Message::ShmLeaseKeepalive(keepalive) => self.on_keepalive(origin, &keepalive, out),
            Message::ShmDriverShutdownRequest(request) => self.on_shutdown_request(request, out),
            Message::DiscoveryRequest(request) => self.on_discovery(origin, request, out),
            Message::ConsumerHello(hello) => self.on_hello(origin, hello, out),
            Message::QosConsumer(qos) => self.on_qos_consumer(origin, qos, out),
            Message::QosProducer(qos) => self.on_qos_producer(origin, qos, out),
            Message::DataSourceAnnounce(announce) => {
                self.on_data_source_announce(origin, announce, out)
            }
            Message::DataSourceMeta(meta) => self.on_data_source_meta(origin, meta, out),
            Message::FrameProgress(progress) => self.on_progress(origin, progress, out),
            Message::MetaBlobAnnounce(blob) => {
                self.on_meta_blob(origin, blob.stream_id, blob.into(), out)
            }
            Message::MetaBlobChunk(blob) => {
                self.on_meta_blob(origin, blob.stream_id, blob.into(), out)
            }
            Message::MetaBlobComplete(blob) => {
                self.on_meta_blob(origin, blob.stream_id, blob.into(), out)
            }
            // B-10: our own and other drivers' messages are on the stream as well. C-1: producers of
            // other implementations announce although they have a driver.
            Message::ShmAttachResponse(_)
            | Message::ShmDetachResponse(_)
            | Message::ShmDriverShutdown(_)
            | Message::ShmLeaseRevoked(_)
            | Message::ShmPoolAnnounce(_)
            | Message::ConsumerConfig(_)
            | Message::DiscoveryResponse(_) => Err(DropReason::DriverMessage),
            Message::FrameDescriptor(_) | Message::ControlResponse(_) => {
                Err(DropReason::NotForwarded)
            }
        };
        if let Err(reason) = result {
            self.counters.drop(reason, name);
        }
    }
}

/// The logical stream that a message belongs on.
// spec: D-4.5-1, X-2-3
const fn home_stream(message: &Message) -> LogicalStream {
    match message {
        Message::ShmAttachRequest(_)
        | Message::ShmAttachResponse(_)
        | Message::ShmDetachRequest(_)
        | Message::ShmDetachResponse(_)
        | Message::ShmLeaseKeepalive(_)
        | Message::ShmDriverShutdown(_)
        | Message::ShmLeaseRevoked(_)
        | Message::ShmDriverShutdownRequest(_)
        | Message::ConsumerHello(_)
        | Message::ConsumerConfig(_)
        | Message::ControlResponse(_)
        | Message::FrameProgress(_)
        | Message::FrameDescriptor(_) => LogicalStream::Control,
        Message::ShmPoolAnnounce(_) => LogicalStream::Announce,
        Message::QosConsumer(_) | Message::QosProducer(_) => LogicalStream::Qos,
        Message::DataSourceAnnounce(_)
        | Message::DataSourceMeta(_)
        | Message::MetaBlobAnnounce(_)
        | Message::MetaBlobChunk(_)
        | Message::MetaBlobComplete(_) => LogicalStream::Metadata,
        Message::DiscoveryRequest(_) | Message::DiscoveryResponse(_) => LogicalStream::Discovery,
    }
}

/// Appends a message without regions.
pub(crate) fn send(
    out: &mut Vec<Action>,
    to: To,
    stream: LogicalStream,
    message: impl Into<Message>,
) {
    out.push(Action::Send {
        to,
        stream,
        message: message.into(),
        regions: None,
    });
}
