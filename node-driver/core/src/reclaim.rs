//! How epochs go, and what becomes of memory that somebody still has then.
//!
//! By default files are unlinked, and the kernel keeps their memory for whoever has them mapped. A stream
//! may want it back: then files that somebody has stay, out of sight, and are looked at once in an
//! announce period. Whoever has them after the stream's time loses their pages.

use tensorpool_wire::{MonoNanos, StreamId};

use crate::action::{Action, EpochKey, Note, Reclaim, RemoveReason};
use crate::counters::bump;
use crate::deadline::Due;
use crate::driver::Driver;
use crate::epoch::RecordState;
use crate::event::OpId;
use crate::policy::full_name;
use crate::provision::Effect;

/// How the removal of an epoch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is gone.
    Gone,
    /// Somebody has its files.
    InUse,
    /// It still lies there; why.
    Failed(String),
}

impl Driver {
    /// Asks for the removal of a directory.
    pub(crate) fn remove(&mut self, key: EpochKey, why: RemoveReason, out: &mut Vec<Action>) {
        let stream = self.streams.get(&key.stream);
        let force_after_ns = stream.and_then(|stream| stream.force_after_ns);
        // Without a record nobody knows where it lies; a scan finds it again.
        let Some(record) = self.epochs.get_mut(key) else {
            return;
        };
        // What was never announced nobody has.
        if why != RemoveReason::Abandoned && record.free_at.is_none() {
            record.free_at = force_after_ns.map(|ns| self.now.saturating_add(ns));
        }
        let reclaim = match record.free_at {
            None => Reclaim::Unlink,
            Some(_) => Reclaim::IfUnused,
        };
        bump(&mut self.counters.epochs_removed, why.label());
        self.ask_removal(key, reclaim, why, out);
    }

    fn ask_removal(
        &mut self,
        key: EpochKey,
        reclaim: Reclaim,
        why: RemoveReason,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.epochs.get_mut(key) else {
            return;
        };
        let op = self.ops.begin(Effect::Remove, key);
        record.state = RecordState::Removing { op, reclaim };
        let base = record.base;
        out.push(Action::RemoveEpoch {
            op,
            key,
            base,
            directory: self.config.identity.epoch_dir(base, key.stream, key.epoch),
            reclaim,
            why,
        });
    }

    pub(crate) fn on_removed(&mut self, op: OpId, result: Removal, out: &mut Vec<Action>) {
        let Some(key) = self.ops.end(Effect::Remove, op) else {
            return;
        };
        let Some(record) = self.epochs.get_mut(key) else {
            return;
        };
        let reclaim = match record.state {
            RecordState::Removing { op: asked, reclaim } if asked == op => reclaim,
            RecordState::Removing { .. }
            | RecordState::Making
            | RecordState::Live
            | RecordState::InUse => return,
        };
        match result {
            Removal::Gone => self.on_gone(key, reclaim, out),
            Removal::InUse => self.on_in_use(key, out),
            Removal::Failed(error) => {
                // It still lies there. What somebody had is tried again by itself, all else with the next
                // collection of its stream.
                let at = self
                    .now
                    .saturating_add(self.config.timing.announce_period_ns);
                if reclaim == Reclaim::Empty {
                    record.state = RecordState::InUse;
                    self.deadlines.set(at, Due::InUse(key));
                } else {
                    record.state = RecordState::Live;
                    self.look_again(key.stream, at);
                }
                out.push(Action::Note(Note::RemoveFailed { key, error }));
            }
        }
    }

    fn on_gone(&mut self, key: EpochKey, reclaim: Reclaim, out: &mut Vec<Action>) {
        let bytes = self.epochs.get(key).map_or(0, |record| record.bytes);
        if reclaim == Reclaim::Empty {
            self.counters.forced_bytes = self.counters.forced_bytes.saturating_add(bytes);
            let name = self.name_of(key.stream);
            out.push(Action::Note(Note::MemoryForced { key, name, bytes }));
        }
        self.epochs.forget(key);
        if self.epochs.is_empty_of(key.stream) {
            self.departed.remove(&key.stream);
        }
    }

    /// Somebody has the files: they stay, and it is known on disk until when.
    fn on_in_use(&mut self, key: EpochKey, out: &mut Vec<Action>) {
        let name = self.name_of(key.stream);
        let Some(record) = self.epochs.get_mut(key) else {
            return;
        };
        record.state = RecordState::InUse;
        let (base, bytes) = (record.base, record.bytes);
        let free_at = record.free_at.unwrap_or(self.now);
        let is_news = !std::mem::replace(&mut record.was_in_use, true);
        let next = self
            .now
            .saturating_add(self.config.timing.announce_period_ns);
        self.deadlines.set(next.min(free_at), Due::InUse(key));
        if is_news {
            out.push(Action::MarkEpoch { key, base, free_at });
            let left_ns = free_at.saturating_since(self.now);
            out.push(Action::Note(Note::MemoryInUse {
                key,
                name,
                bytes,
                left_ns,
            }));
        }
    }

    /// Looks whether it is free by now; where its time is over it is taken.
    pub(crate) fn on_in_use_due(&mut self, key: EpochKey, out: &mut Vec<Action>) {
        let Some(record) = self.epochs.get(key) else {
            return;
        };
        if record.state != RecordState::InUse {
            return;
        }
        match record.free_at {
            None => self.ask_removal(key, Reclaim::Unlink, RemoveReason::Collected, out),
            Some(at) if at > self.now => {
                self.ask_removal(key, Reclaim::IfUnused, RemoveReason::Collected, out);
            }
            Some(_) => {
                let why = RemoveReason::Forced;
                bump(&mut self.counters.epochs_removed, why.label());
                self.ask_removal(key, Reclaim::Empty, why, out);
            }
        }
    }

    /// A stream that wants its memory back left the policy: a driver that starts before all of it is
    /// given back knows from the mark.
    pub(crate) fn mark_epochs(
        &mut self,
        stream: StreamId,
        free_at: MonoNanos,
        out: &mut Vec<Action>,
    ) {
        let live: Vec<EpochKey> = self
            .epochs
            .of_stream(stream)
            .filter(|(_, record)| record.state == RecordState::Live)
            .map(|(epoch, _)| EpochKey { stream, epoch })
            .collect();
        for key in live {
            if let Some(record) = self.epochs.get_mut(key) {
                record.free_at = Some(free_at);
                let base = record.base;
                out.push(Action::MarkEpoch { key, base, free_at });
            }
        }
    }

    /// `namespace/name` of a stream that is served or was a moment ago; empty for any other.
    pub(crate) fn name_of(&self, id: StreamId) -> String {
        let served = self.streams.get(&id).map(|it| it.full_name());
        let departed = self.departed.get(&id);
        let departed = departed.map(|it| full_name(&it.namespace, &it.name));
        served.or(departed).unwrap_or_default()
    }
}
