//! Which epoch directories go, and when.

use tensorpool_wire::{Epoch, StreamId};

use crate::action::{Action, EpochKey, Note, RemoveReason};
use crate::deadline::Due;
use crate::driver::Driver;
use crate::epoch::{Keep, RecordState};
use crate::event::Owner;

impl Driver {
    /// Removes what may go of one stream, and comes back when more may.
    // spec: D-17-1, GC-1, GC-2
    pub(crate) fn collect(&mut self, id: StreamId, out: &mut Vec<Action>) {
        // A stream that was removed waits for its grace alone: nobody follows it to a next epoch.
        let is_departed = self.departed.contains_key(&id);
        if !self.config.gc.enabled && !is_departed {
            return;
        }
        if let Some(until) = self.in_grace(id) {
            self.look_again(id, until);
            return;
        }
        let stream = self.streams.get(&id);
        let current = stream
            .and_then(|stream| stream.current())
            .map(|current| current.epoch);
        let leased: Vec<Epoch> = stream
            .into_iter()
            .flat_map(|stream| stream.producer.iter().chain(stream.consumers.keys()))
            .filter_map(|lease| Some(self.leases.get(*lease)?.epoch))
            .collect();
        // Of a stream that is not served here nothing is kept.
        let others = match (stream, current) {
            (None, _) => 0,
            (Some(_), Some(_)) => self.config.gc.keep.saturating_sub(1),
            (Some(_), None) => self.config.gc.keep,
        };
        let keep = Keep {
            current,
            others,
            min_age_ns: if is_departed {
                0
            } else {
                self.config.gc.min_age_ns
            },
            leased: &leased,
        };
        let choice = self.epochs.choose(self.now, id, &keep);
        for epoch in choice.remove {
            let key = EpochKey { stream: id, epoch };
            self.remove(key, RemoveReason::Collected, out);
        }
        if let Some(at) = choice.look_again {
            self.look_again(id, at);
        }
        if let Some(stream) = self.streams.get(&id)
            && stream.dynamic
            && stream.is_idle()
        {
            let at = stream.idle_since.saturating_add(self.idle_ns());
            self.look_again(id, at);
        }
    }

    /// Until when nothing of a stream that was removed may go: its clients were told a moment ago.
    fn in_grace(&self, id: StreamId) -> Option<tensorpool_wire::MonoNanos> {
        let until = self.departed.get(&id)?.until;
        (until > self.now).then_some(until)
    }

    /// After this long without lease and attach a dynamic stream is forgotten: long enough for a
    /// client to come back within its lease and for its old epoch to be collected.
    fn idle_ns(&self) -> u64 {
        self.config
            .gc
            .min_age_ns
            .saturating_add(self.config.timing.lease_ns())
    }

    pub(crate) fn look_again(&mut self, id: StreamId, at: tensorpool_wire::MonoNanos) {
        let known = self.streams.get(&id).and_then(|stream| stream.collect_due);
        if known.is_some_and(|due| due <= at && due > self.now) {
            return;
        }
        if let Some(due) = known {
            self.deadlines.cancel(due, Due::Collect(id));
        }
        let at = at.max(self.now.saturating_add(1));
        self.deadlines.set(at, Due::Collect(id));
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.collect_due = Some(at);
        }
    }

    pub(crate) fn on_collect_due(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let idle_ns = self.idle_ns();
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.collect_due = None;
            let idle = self.now.saturating_since(stream.idle_since) >= idle_ns;
            if stream.dynamic && stream.is_idle() && idle && stream.making().is_none() {
                self.forget_stream(id, out);
            }
        }
        self.collect(id, out);
    }

    /// Drops a stream without leases; its epochs are those of nobody from now on.
    pub(crate) fn forget_stream(&mut self, id: StreamId, out: &mut Vec<Action>) {
        if let Some(stream) = self.streams.remove(&id) {
            out.push(Action::Note(Note::StreamGone { stream: id }));
            if let Some(due) = stream.announce_due {
                self.deadlines.cancel(due, Due::Announce(id));
            }
            if let Some(due) = stream.collect_due {
                self.deadlines.cancel(due, Due::Collect(id));
            }
        }
    }

    /// Looks at every stream that has a directory, known or not.
    pub(crate) fn collect_all(&mut self, out: &mut Vec<Action>) {
        let mut streams: Vec<StreamId> = self.epochs.iter().map(|(key, _)| key.stream).collect();
        streams.dedup();
        for stream in streams {
            self.collect(stream, out);
        }
    }

    /// Looks at the directories of streams that are not served here: drivers before this one left them,
    /// and nobody else ever will.
    pub(crate) fn collect_strays(&mut self, out: &mut Vec<Action>) {
        let mut strays: Vec<StreamId> = self.epochs.iter().map(|(key, _)| key.stream).collect();
        strays.dedup();
        strays.retain(|stream| !self.streams.contains_key(stream));
        for stream in strays {
            self.collect(stream, out);
        }
    }

    /// The epochs that may go when space is short: all but the announced ones and those being made,
    /// whatever their age and whoever holds a lease on them. Those of other live processes stay, and
    /// those of streams removed a moment ago.
    pub(crate) fn spare_epochs(&self) -> Vec<EpochKey> {
        self.epochs
            .iter()
            .filter(|(key, record)| {
                let stream = self.streams.get(&key.stream);
                let current = stream.and_then(|stream| stream.current());
                let making = stream.and_then(|stream| stream.making());
                record.state == RecordState::Live
                    && record.owner != Owner::Alive
                    && self.in_grace(key.stream).is_none()
                    && current.is_none_or(|current| current.epoch != key.epoch)
                    && making.is_none_or(|making| making.key != **key)
            })
            .map(|(key, _)| *key)
            .collect()
    }

    /// Bytes that lie beside `making` in epochs which are nobody's current one.
    pub(crate) fn held_bytes(&self, making: EpochKey) -> u64 {
        let is_current = |key: &EpochKey| {
            let stream = self.streams.get(&key.stream);
            let current = stream.and_then(|stream| stream.current());
            current.is_some_and(|current| current.epoch == key.epoch)
        };
        let base = self.epochs.get(making).map(|record| record.base);
        self.epochs
            .iter()
            .filter(|(key, record)| {
                **key != making && base.is_none_or(|base| base == record.base) && !is_current(key)
            })
            .filter(|(_, record)| record.state != RecordState::Making)
            .fold(0u64, |sum, (_, record)| sum.saturating_add(record.bytes))
    }
}
