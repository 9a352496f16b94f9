//! What must be true in every world, judged from outside: by what the driver does, over all of its
//! incarnations.

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_driver_core::{Action, EpochKey, Note};
use tensorpool_wire::{
    Epoch, LeaseId, LogicalStream, Message, ResponseCode, Role, ShmAttachResponse, StreamId,
};

/// A lease as the messages show it.
#[derive(Clone, Copy, Debug)]
struct Granted {
    stream: StreamId,
    epoch: Epoch,
    producer: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// Of the present incarnation.
    live: BTreeMap<LeaseId, Granted>,
    /// Ever granted, by any incarnation.
    leases: BTreeSet<LeaseId>,
    /// The announced epoch of each stream, while nothing ended it.
    current: BTreeMap<StreamId, Epoch>,
    /// The highest epoch ever announced of each stream, and by which incarnation.
    announced: BTreeMap<StreamId, (Epoch, u64)>,
    /// Which stream each epoch belongs to.
    owners: BTreeMap<Epoch, StreamId>,
    incarnation: u64,
    /// Who may lose a lease by what the driver is being told.
    touch: Touch,
    pub(crate) leases_lost: u64,
    pub(crate) internal_errors: u64,
}

/// Whose leases an event may end.
#[derive(Clone, Debug, Default)]
pub(crate) enum Touch {
    #[default]
    Anything,
    Nobody,
    Stream(StreamId),
    Leases(BTreeSet<LeaseId>),
}

/// What lies on the disk, for the oracle.
pub(crate) struct Disk<'a> {
    pub(crate) journal: Option<Epoch>,
    pub(crate) complete: &'a dyn Fn(EpochKey) -> bool,
}

impl Oracle {
    /// The driver is gone, and with it every lease it granted.
    pub(crate) fn driver_gone(&mut self) {
        self.live.clear();
        self.current.clear();
        self.incarnation += 1;
    }

    pub(crate) fn poisoned(&mut self, key: EpochKey) {
        if self.current.get(&key.stream) == Some(&key.epoch) {
            self.current.remove(&key.stream);
        }
    }

    pub(crate) fn current(&self, stream: StreamId) -> Option<Epoch> {
        self.current.get(&stream).copied()
    }

    pub(crate) fn see(&mut self, action: &Action, disk: &Disk<'_>) {
        match action {
            Action::Send {
                stream, message, ..
            } => self.see_message(*stream, message, disk),
            Action::RemoveEpoch { key, .. } => {
                // spec: GC-1
                assert_ne!(
                    self.current.get(&key.stream),
                    Some(&key.epoch),
                    "{key:?} is removed while it is current"
                );
            }
            Action::Note(Note::StreamGone { stream }) => {
                self.current.remove(stream);
            }
            Action::PersistEpoch { key, .. } => {
                let owner = self.owners.insert(key.epoch, key.stream);
                assert_eq!(owner, None, "epoch {} is used twice", key.epoch);
                let before = self.announced.get(&key.stream).map(|(epoch, _)| *epoch);
                assert!(before < Some(key.epoch), "{key:?} is not above {before:?}");
            }
            Action::StopRelay { .. }
            | Action::StartRelay { .. }
            | Action::CreateRegions { .. }
            | Action::MarkEpoch { .. }
            | Action::RefreshActivity { .. }
            | Action::AnswerStatus { .. }
            | Action::HoldDescriptors { .. }
            | Action::ReleaseDescriptors { .. }
            | Action::MarkAttached { .. }
            | Action::Disconnect { .. }
            | Action::Note(_)
            | Action::Stop => {}
        }
    }

    fn see_message(&mut self, stream: LogicalStream, message: &Message, disk: &Disk<'_>) {
        match message {
            Message::ShmAttachResponse(response) => self.see_answer(response, disk),
            Message::ShmPoolAnnounce(announce) => {
                assert_eq!(stream, LogicalStream::Announce);
                let key = EpochKey {
                    stream: announce.stream_id,
                    epoch: announce.epoch,
                };
                self.must_exist(key, disk);
                let last = self
                    .announced
                    .insert(key.stream, (key.epoch, self.incarnation));
                if let Some((epoch, incarnation)) = last {
                    // spec: D-6-1, D-10-2
                    let rises = key.epoch > epoch
                        || (key.epoch == epoch && incarnation == self.incarnation);
                    assert!(rises, "{key:?} is announced after {epoch}");
                }
                self.current.insert(key.stream, key.epoch);
                // spec: D-4.9-13
                let overtaken = self.live.values().find(|lease| {
                    lease.producer && lease.stream == key.stream && lease.epoch < key.epoch
                });
                assert!(
                    overtaken.is_none(),
                    "{key:?} is announced before {overtaken:?} is revoked"
                );
            }
            Message::ShmLeaseRevoked(revoked) => {
                if revoked.error_message.starts_with("unknown lease") {
                    assert!(!self.live.contains_key(&revoked.lease_id));
                    return;
                }
                let touched = match &self.touch {
                    Touch::Anything => true,
                    Touch::Nobody => false,
                    Touch::Stream(stream) => *stream == revoked.stream_id,
                    Touch::Leases(leases) => leases.contains(&revoked.lease_id),
                };
                assert!(touched, "{revoked:?} is not affected by {:?}", self.touch);
                let lease = self.live.remove(&revoked.lease_id);
                // spec: D-4.9-14
                assert!(
                    lease.is_some(),
                    "lease {} is revoked twice",
                    revoked.lease_id
                );
                self.leases_lost += 1;
                if revoked.role == Role::Producer {
                    self.current.remove(&revoked.stream_id);
                }
            }
            _ => {}
        }
    }

    fn see_answer(&mut self, response: &ShmAttachResponse, disk: &Disk<'_>) {
        if response.code == ResponseCode::InternalError {
            self.internal_errors += 1;
        }
        if response.code != ResponseCode::Ok {
            return;
        }
        let (Some(id), Some(stream), Some(epoch)) =
            (response.lease_id, response.stream_id, response.epoch)
        else {
            panic!("an OK answer is complete");
        };
        self.must_exist(EpochKey { stream, epoch }, disk);
        if let Some(lease) = self.live.get_mut(&id) {
            // A retry.
            assert_eq!(lease.stream, stream);
            lease.epoch = epoch;
            return;
        }
        // spec: D-4.8-4
        assert!(self.leases.insert(id), "lease id {id} is used again");
        let granted = Granted {
            stream,
            epoch,
            producer: false,
        };
        self.live.insert(id, granted);
    }

    /// The role is not in the answer; the world knows who asked.
    pub(crate) fn granted_to_producer(&mut self, id: LeaseId) {
        let Some(lease) = self.live.get_mut(&id) else {
            return;
        };
        lease.producer = true;
        let stream = lease.stream;
        let producers = self
            .live
            .values()
            .filter(|lease| lease.producer && lease.stream == stream);
        // spec: D-5-1
        assert_eq!(producers.count(), 1, "stream {stream} has two producers");
    }

    /// spec: W-15.14-1
    fn must_exist(&self, key: EpochKey, disk: &Disk<'_>) {
        assert!(
            (disk.complete)(key),
            "{key:?} is told of before its files exist"
        );
        assert!(
            disk.journal >= Some(key.epoch),
            "{key:?} is told of before the journal has it"
        );
    }

    pub(crate) fn may_touch(&mut self, touch: Touch) {
        self.touch = touch;
    }

    /// Producers and consumers with a lease.
    pub(crate) fn live_by_role(&self) -> (u64, u64) {
        let producers = self.live.values().filter(|lease| lease.producer).count();
        let consumers = self.live.len() - producers;
        let count = |n: usize| u64::try_from(n).expect("few leases");
        (count(producers), count(consumers))
    }

    pub(crate) fn live_leases(&self) -> usize {
        self.live.len()
    }
}
