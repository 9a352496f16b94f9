//! How an epoch is made: number into the journal, files onto the mount, and only then the answers and
//! the announce.
//!
//! The number is persisted and the files are made side by side; both must be done before anybody
//! hears of the epoch. A result that comes when its epoch was given up is undone.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_wire::StreamId;

use crate::action::{Action, EpochCause, EpochKey, Note, RegionSet, RemoveReason};
use crate::counters::bump;
use crate::deadline::Due;
use crate::driver::Driver;
use crate::epoch::RecordState;
use crate::event::{OpId, RegionsError};
use crate::lease::{Asker, LeaseRole};
use crate::refusal::Refusal;
use crate::room::{Shortage, Wanted};
use crate::stream::{Current, Failure, Making, Phase, Place, Step};

/// What can be asked for and fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Persist,
    Create,
    Remove,
}

/// Effects that were asked for and not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    last: u64,
    open: BTreeMap<OpId, (Effect, EpochKey)>,
}

impl Ops {
    pub(crate) fn begin(&mut self, effect: Effect, key: EpochKey) -> OpId {
        self.last += 1;
        let op = OpId(self.last);
        self.open.insert(op, (effect, key));
        op
    }

    /// Takes an effect's result, once. The result of another kind of effect is none.
    pub(crate) fn end(&mut self, effect: Effect, op: OpId) -> Option<EpochKey> {
        let (_, key) = *self.open.get(&op).filter(|(asked, _)| *asked == effect)?;
        self.open.remove(&op);
        Some(key)
    }

    pub(crate) fn is_open(&self, op: OpId) -> bool {
        self.open.contains_key(&op)
    }
}

impl Driver {
    /// Begins a new epoch of a stream whose phase was taken out (`Absent` stands in for it).
    ///
    /// `previous` is the announced epoch if it holds until the new one is there.
    // spec: D-3-1, D-6-1, W-15.14-1
    pub(crate) fn raise(
        &mut self,
        id: StreamId,
        cause: EpochCause,
        waiting: Vec<Asker>,
        previous: Option<Current>,
        out: &mut Vec<Action>,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(epoch) = self.epochs.allocate(self.now, id) else {
            let key = EpochKey {
                stream: id,
                epoch: self.epochs.last(),
            };
            let text =
                "the epoch numbers are used up: remove the epoch directory with the highest number";
            let refusal = Refusal::CreateFailed(text.to_owned());
            self.fail(key, cause, waiting, previous, &refusal, out);
            return;
        };
        let key = EpochKey { stream: id, epoch };
        let base = match &stream.place {
            Place::On(base) => *base,
            Place::Nowhere(name) => {
                let refusal = Refusal::NoBase(name.clone());
                self.fail(key, cause, waiting, previous, &refusal, out);
                return;
            }
        };
        let regions = self.config.identity.region_set(base, key, stream);
        let charge = Arc::clone(&stream.charge);
        let wanted = Wanted {
            key,
            base,
            bytes: regions.bytes,
            replaced: previous.as_ref().map(|current| current.epoch),
        };
        if let Err(refusal) = self.make_room(&wanted, out) {
            self.no_room(&wanted, &refusal);
            self.fail(key, cause, waiting, previous, &refusal, out);
            return;
        }
        self.epochs
            .begin(key, base, regions.bytes, charge, self.now);
        self.await_files(key, cause, waiting, previous, regions, out);
    }

    fn await_files(
        &mut self,
        key: EpochKey,
        cause: EpochCause,
        waiting: Vec<Asker>,
        previous: Option<Current>,
        regions: RegionSet,
        out: &mut Vec<Action>,
    ) {
        let id = key.stream;
        let due = self.now.saturating_add(self.config.timing.op_timeout_ns);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let persist = self.ops.begin(Effect::Persist, key);
        let create = self.ops.begin(Effect::Create, key);
        stream.phase = Phase::Making {
            making: Making {
                key,
                cause,
                persist: Step::Asked(persist),
                create: Step::Asked(create),
                reclaimed: false,
                due,
                waiting,
            },
            previous,
        };
        self.deadlines.set(due, Due::Making(id));
        out.push(Action::PersistEpoch { op: persist, key });
        out.push(Action::CreateRegions {
            op: create,
            regions,
        });
    }

    pub(crate) fn on_persisted(
        &mut self,
        op: OpId,
        result: Result<(), String>,
        out: &mut Vec<Action>,
    ) {
        let Some(key) = self.ops.end(Effect::Persist, op) else {
            return;
        };
        // A number that reached the journal for an epoch that was given up is merely never used.
        let making = self.making_of(key);
        let Some(making) = making.filter(|making| making.persist == Step::Asked(op)) else {
            return;
        };
        match result {
            Ok(()) => {
                making.persist = Step::Done;
                self.announce_if_made(key, out);
            }
            Err(error) => {
                let text = format!("the epoch journal could not be written: {error}");
                self.give_up(key, &Refusal::CreateFailed(text), out);
            }
        }
    }

    pub(crate) fn on_created(
        &mut self,
        op: OpId,
        result: Result<(), RegionsError>,
        out: &mut Vec<Action>,
    ) {
        let Some(key) = self.ops.end(Effect::Create, op) else {
            return;
        };
        if result.is_ok()
            && let Some(record) = self.epochs.get_mut(key)
        {
            record.state = RecordState::Live;
            record.activity = self.now;
        }
        let making = self.making_of(key);
        let making = making.filter(|making| making.create == Step::Asked(op));
        match (making, result) {
            (Some(making), Ok(())) => {
                making.create = Step::Done;
                self.announce_if_made(key, out);
            }
            (Some(making), Err(error)) => {
                let first = !std::mem::replace(&mut making.reclaimed, true);
                let no_space = matches!(error, RegionsError::NoSpace { .. });
                if !(first && no_space && self.reclaim(key, &error, out)) {
                    let text = self.creation_text(key, &error);
                    let record = self.epochs.get(key).filter(|_| no_space);
                    if let Some((base, bytes)) = record.map(|record| (record.base, record.bytes)) {
                        self.claim(key.stream, bytes, Shortage::Base(base));
                    }
                    self.epochs.forget(key);
                    self.give_up(key, &Refusal::CreateFailed(text), out);
                }
            }
            (None, Ok(())) => self.remove(key, RemoveReason::Abandoned, out),
            (None, Err(_)) => {
                self.epochs.forget(key);
                if self.epochs.is_empty_of(key.stream) {
                    self.departed.remove(&key.stream);
                }
            }
        }
    }

    /// One pass for lack of space: everything on this base goes but the newest epoch of each stream,
    /// then the files are tried once more. `false` if there was nothing to remove, and for an epoch
    /// that is in no record: nobody knows on which base it lacks space.
    // spec: GC-2
    fn reclaim(&mut self, key: EpochKey, error: &RegionsError, out: &mut Vec<Action>) -> bool {
        let Some(base) = self.epochs.get(key).map(|record| record.base) else {
            return false;
        };
        let mut victims = self.spare_epochs();
        victims.retain(|victim| {
            let record = self.epochs.get(*victim);
            record.is_some_and(|record| record.base == base)
        });
        if victims.is_empty() {
            return false;
        }
        self.remove_for_room(key, &victims, error.to_string(), out);
        let op = self.ops.begin(Effect::Create, key);
        let due = self.now.saturating_add(self.config.timing.op_timeout_ns);
        self.deadlines.set(due, Due::Making(key.stream));
        if let Some(making) = self.making_of(key) {
            making.create = Step::Asked(op);
            making.due = due;
        }
        let Some(stream) = self.streams.get(&key.stream) else {
            return true;
        };
        let regions = self.config.identity.region_set(base, key, stream);
        out.push(Action::CreateRegions { op, regions });
        true
    }

    /// What failed, with what is held by epochs that are not current: the number that tells an
    /// operator whether more memory or more patience is needed.
    fn creation_text(&self, key: EpochKey, error: &RegionsError) -> String {
        match error {
            RegionsError::NoSpace { .. } => {
                let held = self.held_bytes(key);
                let text = format!("{error}, {held} bytes held by old epochs");
                self.with_holders(key, text)
            }
            RegionsError::NoHugepages(_) | RegionsError::Other(_) => error.to_string(),
        }
    }

    /// In a cluster the mount serves many: says which one is short and who has most of it.
    fn with_holders(&self, key: EpochKey, text: String) -> String {
        let Some(record) = self.epochs.get(key) else {
            return text;
        };
        if record.charge.class.is_empty() {
            return text;
        }
        let base = record.base;
        // What is being made holds nothing yet.
        let holders = self.holders(&|it| it.base == base && it.state != RecordState::Making);
        let name = &self.config.identity.base(base).name;
        format!(
            "pages of {name} for class `{}` are used up: {text}{holders}",
            record.charge.class
        )
    }

    /// A stream was refused memory of its class, or had to let others go first: from now on it comes
    /// before lower ones itself.
    fn no_room(&mut self, wanted: &Wanted, refusal: &Refusal) {
        if matches!(
            refusal,
            Refusal::ClassFull(_) | Refusal::MemoryClaimed { .. }
        ) {
            self.claim(wanted.key.stream, wanted.bytes, Shortage::Class);
        }
    }

    pub(crate) fn on_making_due(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let making = self.streams.get(&id).and_then(|stream| stream.making());
        let Some(making) = making.filter(|making| making.due <= self.now) else {
            return;
        };
        let seconds = self.config.timing.op_timeout_ns / crate::config::SECOND_NS;
        let text = format!("no result within {seconds} s");
        self.give_up(making.key, &Refusal::CreateFailed(text), out);
    }

    pub(crate) fn on_retry_due(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if matches!(stream.phase, Phase::Failed { retry_at } if retry_at <= self.now) {
            stream.phase = Phase::Absent;
            self.raise(id, EpochCause::Retry, Vec::new(), None, out);
        }
    }

    /// An epoch cannot be made: its files go, whoever waits is told.
    pub(crate) fn give_up(&mut self, key: EpochKey, why: &Refusal, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&key.stream) else {
            return;
        };
        let Phase::Making { making, previous } =
            std::mem::replace(&mut stream.phase, Phase::Absent)
        else {
            return;
        };
        if making.create == Step::Done {
            self.remove(key, RemoveReason::Abandoned, out);
        }
        self.fail(key, making.cause, making.waiting, previous, why, out);
    }

    /// Where a stream goes on when its new epoch failed: with the announced one if that still holds,
    /// with another attempt if somebody depends on it, else with nothing.
    fn fail(
        &mut self,
        key: EpochKey,
        cause: EpochCause,
        waiting: Vec<Asker>,
        previous: Option<Current>,
        why: &Refusal,
        out: &mut Vec<Action>,
    ) {
        let Some((waiting, previous)) =
            self.give_announced(key, cause, waiting, previous, why, out)
        else {
            return;
        };
        let text = why.cause();
        let retry_at = self
            .now
            .saturating_add(self.config.timing.announce_period_ns);
        let Some(stream) = self.streams.get_mut(&key.stream) else {
            return;
        };
        let failure = Failure {
            reason: why.label(),
            text: text.clone(),
        };
        // A stream that waits for memory fails the same way each period: that is no news.
        let is_news = stream.last_error.as_ref() != Some(&failure);
        stream.last_error = Some(failure);
        let wanted = match cause {
            EpochCause::FirstConsumer | EpochCause::ProducerAttached => {
                !stream.consumers.is_empty()
            }
            EpochCause::Eager
            | EpochCause::ProducerEnded
            | EpochCause::LayoutChanged
            | EpochCause::Poisoned
            | EpochCause::Retry => true,
        };
        let holds = previous.is_some();
        stream.phase = match previous {
            Some(current) => Phase::Ready(current),
            None if wanted => {
                self.deadlines.set(retry_at, Due::Retry(key.stream));
                Phase::Failed { retry_at }
            }
            None => Phase::Absent,
        };
        self.counters.epochs_failed += 1;
        if is_news {
            out.push(Action::Note(Note::EpochFailed { key, text }));
        }
        for asker in waiting {
            if holds && asker.role == LeaseRole::Consumer {
                self.grant(key.stream, asker, out);
            } else {
                self.refuse_waiting(&asker, why, out);
            }
        }
    }

    /// Announces an epoch whose number is persisted and whose files exist.
    // spec: W-15.14-1, D-6-1, D-8-1
    fn announce_if_made(&mut self, key: EpochKey, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&key.stream) else {
            return;
        };
        let made = stream
            .making()
            .is_some_and(|making| making.persist == Step::Done && making.create == Step::Done);
        if !made {
            return;
        }
        // Without a record nobody knows where its files are; it is given up when it is due.
        let Some(base) = self.epochs.get(key).map(|record| record.base) else {
            return;
        };
        let current = Current {
            epoch: key.epoch,
            base,
            uris: self.config.identity.uris(base, key, &stream.profile),
            announced_at: self.now,
            produced: false,
        };
        let Phase::Making { making, .. } =
            std::mem::replace(&mut stream.phase, Phase::Ready(current))
        else {
            return;
        };
        stream.last_error = None;
        stream.claim = None;
        if let Some(record) = self.epochs.get_mut(key) {
            record.announced_at = Some(self.now);
        }
        bump(&mut self.counters.epochs, making.cause.label());
        for asker in making.waiting {
            self.grant(key.stream, asker, out);
        }
        self.announce_new(key.stream, out);
        out.push(Action::Note(Note::EpochAnnounced {
            key,
            cause: making.cause,
        }));
        self.collect(key.stream, out);
        self.trim(key.stream, out);
    }

    fn making_of(&mut self, key: EpochKey) -> Option<&mut Making> {
        self.streams
            .get_mut(&key.stream)?
            .making_mut()
            .filter(|making| making.key == key)
    }
}
