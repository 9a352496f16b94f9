//! What must hold after every event, in debug builds and in simulation. A broken one is a bug of this
//! crate, so it panics and says which.
//!
//! [`Driver::check`] looks at the state, [`Audit`] at the actions over time.

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_wire::{Epoch, LeaseId, Message, ResponseCode, Role, ShmLeaseRevoked, StreamId};

use crate::action::{Action, EpochKey, Note};
use crate::driver::Driver;
use crate::epoch::RecordState;
use crate::event::{Event, OpId};
use crate::lease::LeaseRole;
use crate::provision::Effect;
use crate::stream::{Phase, Step};

/// Follows events and actions.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Effects under way.
    open: BTreeMap<OpId, (Effect, EpochKey)>,
    persisted: BTreeSet<EpochKey>,
    created: BTreeSet<EpochKey>,
    /// The announced epoch of each stream, until the end of its producer's lease ends it.
    current: BTreeMap<StreamId, Epoch>,
    /// The highest epoch that each stream ever had.
    highest: BTreeMap<StreamId, Epoch>,
    /// All epochs ever begun: unique over all streams.
    begun: BTreeSet<Epoch>,
    live: BTreeMap<LeaseId, (StreamId, Role)>,
    highest_lease: Option<LeaseId>,
}

impl Audit {
    pub(crate) fn see(&mut self, event: &Event<'_>) {
        match event {
            Event::EpochPersisted { op } => {
                let key = self.end(Effect::Persist, *op);
                self.persisted.extend(key);
            }
            Event::RegionsReady { op } => {
                let key = self.end(Effect::Create, *op);
                self.created.extend(key);
            }
            Event::EpochRemoved { op } => {
                if let Some(key) = self.end(Effect::Remove, *op) {
                    self.created.remove(&key);
                    self.persisted.remove(&key);
                }
            }
            Event::EpochPersistFailed { op, .. } => drop(self.end(Effect::Persist, *op)),
            Event::RegionsFailed { op, .. } => drop(self.end(Effect::Create, *op)),
            Event::EpochInUse { op } => drop(self.end(Effect::Remove, *op)),
            Event::EpochRemoveFailed { op, .. } => drop(self.end(Effect::Remove, *op)),
            Event::RegionPoisoned { stream, epoch, .. } => {
                if self.current.get(stream) == Some(epoch) {
                    self.current.remove(stream);
                }
            }
            Event::Tick
            | Event::Message { .. }
            | Event::ConnectionOpened { .. }
            | Event::ConnectionClosing { .. }
            | Event::ConnectionClosed { .. }
            | Event::AccessChanged { .. }
            | Event::OwnSessions(_)
            | Event::EpochsFound(_)
            | Event::AeronClients { .. }
            | Event::PolicyChanged(_)
            | Event::Shutdown(_) => {}
        }
    }

    fn end(&mut self, effect: Effect, op: OpId) -> Option<EpochKey> {
        let (_, key) = *self.open.get(&op).filter(|(asked, _)| *asked == effect)?;
        self.open.remove(&op);
        Some(key)
    }

    pub(crate) fn record(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Send { message, .. } => self.sent(message),
                Action::PersistEpoch { op, key } => {
                    self.open.insert(*op, (Effect::Persist, *key));
                    let highest = self.highest.insert(key.stream, key.epoch);
                    assert!(highest < Some(key.epoch), "epochs of {key:?} rise strictly");
                    assert!(self.begun.insert(key.epoch), "epoch of {key:?} is unique");
                }
                Action::CreateRegions { op, regions } => {
                    self.open.insert(*op, (Effect::Create, regions.key));
                }
                Action::RemoveEpoch { op, key, .. } => {
                    assert_ne!(
                        self.current.get(&key.stream),
                        Some(&key.epoch),
                        "a current path is never removed: {key:?}"
                    );
                    self.open.insert(*op, (Effect::Remove, *key));
                }
                // Comes with every announce, also where nobody is there to hear it.
                Action::RefreshActivity { key } => {
                    self.must_exist(*key);
                    self.current.insert(key.stream, key.epoch);
                }
                Action::StartRelay { key } => self.must_exist(*key),
                Action::Stop => self.live.clear(),
                Action::Note(Note::StreamGone { stream }) => {
                    self.current.remove(stream);
                }
                Action::MarkEpoch { .. }
                | Action::AnswerStatus { .. }
                | Action::StopRelay { .. }
                | Action::HoldDescriptors { .. }
                | Action::ReleaseDescriptors { .. }
                | Action::MarkAttached { .. }
                | Action::Disconnect { .. }
                | Action::Note(_) => {}
            }
        }
    }

    fn sent(&mut self, message: &Message) {
        match message {
            Message::ShmPoolAnnounce(announce) => {
                let key = EpochKey {
                    stream: announce.stream_id,
                    epoch: announce.epoch,
                };
                self.must_exist(key);
                let before = self.current.insert(key.stream, key.epoch);
                assert!(
                    before <= Some(key.epoch),
                    "announced epochs never fall: {key:?}"
                );
            }
            Message::ShmAttachResponse(response) if response.code == ResponseCode::Ok => {
                let (Some(lease), Some(stream), Some(epoch)) =
                    (response.lease_id, response.stream_id, response.epoch)
                else {
                    panic!("an OK answer has lease, stream and epoch");
                };
                self.must_exist(EpochKey { stream, epoch });
                if !self.live.contains_key(&lease) {
                    assert!(self.highest_lease < Some(lease), "lease id {lease} is new");
                    self.highest_lease = Some(lease);
                    // The role comes with the note that follows.
                    self.live.insert(lease, (stream, Role::Unknown(0)));
                }
            }
            Message::ShmLeaseRevoked(revoked) => self.revoked(revoked),
            Message::ShmAttachResponse(_)
            | Message::ShmAttachRequest(_)
            | Message::ShmDetachRequest(_)
            | Message::ShmDetachResponse(_)
            | Message::ShmLeaseKeepalive(_)
            | Message::ShmDriverShutdown(_)
            | Message::ShmDriverShutdownRequest(_)
            | Message::ConsumerHello(_)
            | Message::ConsumerConfig(_)
            | Message::FrameDescriptor(_)
            | Message::FrameProgress(_)
            | Message::QosConsumer(_)
            | Message::QosProducer(_)
            | Message::DataSourceAnnounce(_)
            | Message::DataSourceMeta(_)
            | Message::ControlResponse(_)
            | Message::MetaBlobAnnounce(_)
            | Message::MetaBlobChunk(_)
            | Message::MetaBlobComplete(_)
            | Message::DiscoveryRequest(_)
            | Message::DiscoveryResponse(_) => {}
        }
    }

    fn revoked(&mut self, revoked: &ShmLeaseRevoked) {
        let was_live = self.live.remove(&revoked.lease_id).is_some();
        let is_answer = revoked.error_message.starts_with("unknown lease");
        assert!(
            was_live != is_answer,
            "lease {} is revoked exactly once",
            revoked.lease_id
        );
        if was_live && revoked.role == Role::Producer {
            self.current.remove(&revoked.stream_id);
        }
    }

    /// Nobody hears of an epoch before its number is persisted and its files exist.
    fn must_exist(&self, key: EpochKey) {
        assert!(self.persisted.contains(&key), "{key:?} is persisted first");
        assert!(
            self.created.contains(&key),
            "the files of {key:?} exist first"
        );
    }
}

impl Driver {
    /// Checks every invariant of the state.
    ///
    /// # Panics
    /// If one is broken: a bug of this crate.
    pub fn check(&self) {
        self.leases.check();
        self.own_ranges
            .check(self.leases.iter().map(|lease| lease.own));
        self.check_leases();
        self.check_streams();
        self.check_connections();
        assert!(
            self.leases.len() + self.pending.len()
                <= usize::try_from(self.config.limits.leases).unwrap_or(usize::MAX),
            "leases are bounded"
        );
    }

    fn check_leases(&self) {
        let mut nodes = BTreeSet::new();
        for lease in self.leases.iter() {
            let id = lease.id;
            let stream = self.streams.get(&lease.stream);
            let stream = stream.unwrap_or_else(|| panic!("lease {id} has a stream"));
            let is_member = match lease.asker.role {
                LeaseRole::Producer => stream.producer == Some(id),
                LeaseRole::Consumer => stream.consumers.get(&id) == Some(&lease.asker.connection()),
            };
            assert!(is_member, "its stream knows lease {id}");
            assert!(
                !self.pending.contains_key(&lease.asker.client),
                "the client of lease {id} does not wait as well"
            );
            if let Some(node) = lease.asker.node {
                assert!(nodes.insert(node), "node {node} has one lease");
            }
        }
    }

    fn check_streams(&self) {
        let mut members = 0;
        let mut waiting = 0;
        for (id, stream) in &self.streams {
            members += stream.consumers.len() + usize::from(stream.producer.is_some());
            waiting += stream.waiting().len();
            let producers = stream.waiting().iter();
            let producers = producers.filter(|asker| asker.role == LeaseRole::Producer);
            assert!(
                producers.count() + usize::from(stream.producer.is_some()) <= 1,
                "stream {id} has at most one producer, granted or waiting"
            );
            match &stream.phase {
                Phase::Ready(current) => {
                    let key = EpochKey {
                        stream: *id,
                        epoch: current.epoch,
                    };
                    let record = self.epochs.get(key);
                    assert!(
                        record.is_some_and(|record| record.state == RecordState::Live),
                        "{key:?} is announced and exists"
                    );
                    assert!(stream.announce_due.is_some(), "{key:?} will be announced");
                }
                Phase::Making { making, .. } => {
                    assert!(
                        stream.producer.is_none(),
                        "stream {id} is made anew for nobody"
                    );
                    for step in [making.persist, making.create] {
                        if let Step::Asked(op) = step {
                            assert!(self.ops.is_open(op), "{op:?} has a result to come");
                        }
                    }
                }
                Phase::Absent | Phase::Failed { .. } => {
                    assert!(
                        stream.producer.is_none(),
                        "stream {id} has nothing to write to"
                    );
                }
            }
        }
        assert_eq!(members, self.leases.len(), "every lease is in one stream");
        assert_eq!(
            waiting,
            self.pending.len(),
            "every waiting attach is indexed"
        );
    }

    fn check_connections(&self) {
        for (id, connection) in self.connections.iter() {
            for lease in &connection.leases {
                let lease = self.leases.get(*lease);
                assert!(
                    lease.is_some_and(|lease| lease.asker.connection() == Some(*id)),
                    "a connection holds its own leases"
                );
            }
            for client in &connection.pending {
                assert!(self.pending.contains_key(client), "{client} waits");
            }
        }
    }
}
