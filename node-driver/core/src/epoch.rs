//! Epoch numbers, the ledger of epoch directories, and which of them may go.
//!
//! The ledger has one record per directory that may exist, from the moment its making is asked for
//! until its removal is reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_wire::{Epoch, MonoNanos, StreamId};

use crate::action::{EpochKey, Reclaim};
use crate::config::BaseId;
use crate::event::{ExistingEpoch, OpId, Owner};

/// What a stream's bytes count against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charge {
    /// Its class; empty for none.
    pub(crate) class: String,
    /// Names of its quotas.
    pub(crate) quotas: Vec<String>,
}

/// What is known of one epoch directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it lies.
    pub(crate) base: BaseId,
    /// As its stream's was, while there was one.
    pub(crate) charge: Arc<Charge>,
    pub(crate) bytes: u64,
    /// Last activity timestamp that was stored, as far as known.
    pub(crate) activity: MonoNanos,
    pub(crate) owner: Owner,
    /// When it was announced first, by this process.
    pub(crate) announced_at: Option<MonoNanos>,
    /// It is to go, and from then on its memory is taken from whoever still has it.
    pub(crate) free_at: Option<MonoNanos>,
    /// Somebody had it when it was to go.
    pub(crate) was_in_use: bool,
    pub(crate) state: RecordState,
}

/// Where a directory is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordState {
    /// Its files are being made.
    Making,
    /// It exists.
    Live,
    /// Its removal was asked for.
    Removing { op: OpId, reclaim: Reclaim },
    /// It is to go, and somebody has its files. It counts against nobody, like memory that was unlinked.
    InUse,
}

impl RecordState {
    /// Whether it counts against classes and quotas: what was to go counts no more.
    pub(crate) const fn counts(self) -> bool {
        match self {
            Self::Making | Self::Live => true,
            Self::Removing { .. } | Self::InUse => false,
        }
    }
}

/// All epochs of this driver.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    /// The highest epoch that this driver or its journal knows; 0 before the first.
    last: u64,
    ledger: BTreeMap<EpochKey, Record>,
}

/// How a stream's epochs stand, for [`Epochs::choose`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep<'a> {
    /// The announced epoch, if its announce still holds.
    pub(crate) current: Option<Epoch>,
    /// How many more of the newest stay.
    pub(crate) others: u32,
    pub(crate) min_age_ns: u64,
    /// Epochs in the attach answers of live leases.
    pub(crate) leased: &'a [Epoch],
}

/// What may go now, and when to look again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) remove: Vec<Epoch>,
    pub(crate) look_again: Option<MonoNanos>,
}

impl Epochs {
    pub(crate) fn new(last: Option<Epoch>, existing: &[ExistingEpoch]) -> Self {
        let mut epochs = Self {
            last: last.map_or(0, Epoch::get),
            ledger: BTreeMap::new(),
        };
        for found in existing {
            epochs.found(found);
        }
        epochs
    }

    /// Takes over what a scan found. Directories that this process knows keep their record.
    pub(crate) fn found(&mut self, found: &ExistingEpoch) {
        let key = EpochKey {
            stream: found.stream,
            epoch: found.epoch,
        };
        let record = self.ledger.entry(key).or_insert_with(|| Record {
            base: found.base,
            charge: Arc::default(),
            bytes: found.bytes,
            activity: found.activity,
            owner: found.owner,
            announced_at: None,
            free_at: found.free_at,
            was_in_use: false,
            state: RecordState::Live,
        });
        if record.announced_at.is_none() {
            record.owner = found.owner;
            record.activity = record.activity.max(found.activity);
        }
    }

    /// The next epoch of `stream`: above every epoch that this driver, its journal or a directory of
    /// the stream ever had, and at least the monotonic clock, so that peers that remember an epoch of
    /// another driver on this machine take it for newer. Unique over all streams.
    ///
    /// `None` when the numbers are used up.
    // spec: D-6-1, D-10-2, W-7.1-6
    pub(crate) fn allocate(&mut self, now: MonoNanos, stream: StreamId) -> Option<Epoch> {
        let highest = self
            .of_stream(stream)
            .next_back()
            .map_or(0, |(epoch, _)| epoch.get());
        let next = self.last.max(highest).checked_add(1)?.max(now.get());
        if next == u64::MAX {
            return None;
        }
        self.last = next;
        Some(Epoch(next))
    }

    pub(crate) fn last(&self) -> Epoch {
        Epoch(self.last)
    }

    pub(crate) fn begin(
        &mut self,
        key: EpochKey,
        base: BaseId,
        bytes: u64,
        charge: Arc<Charge>,
        now: MonoNanos,
    ) {
        let record = Record {
            base,
            charge,
            bytes,
            activity: now,
            owner: Owner::Mine,
            announced_at: None,
            free_at: None,
            was_in_use: false,
            state: RecordState::Making,
        };
        self.ledger.insert(key, record);
    }

    /// Whether nothing of `stream` lies anywhere.
    pub(crate) fn is_empty_of(&self, stream: StreamId) -> bool {
        self.of_stream(stream).next().is_none()
    }

    /// From now on everything of `stream` counts against `charge`.
    pub(crate) fn charge(&mut self, stream: StreamId, charge: &Arc<Charge>) {
        for (_, record) in self.ledger.range_mut(keys_of(stream)) {
            record.charge = Arc::clone(charge);
        }
    }

    pub(crate) fn get_mut(&mut self, key: EpochKey) -> Option<&mut Record> {
        self.ledger.get_mut(&key)
    }

    pub(crate) fn get(&self, key: EpochKey) -> Option<&Record> {
        self.ledger.get(&key)
    }

    pub(crate) fn forget(&mut self, key: EpochKey) {
        self.ledger.remove(&key);
    }

    /// The records of one stream, oldest first.
    pub(crate) fn of_stream(
        &self,
        stream: StreamId,
    ) -> impl DoubleEndedIterator<Item = (Epoch, &Record)> {
        self.ledger
            .range(keys_of(stream))
            .map(|(key, record)| (key.epoch, record))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&EpochKey, &Record)> {
        self.ledger.iter()
    }

    /// Which epochs of a stream may go.
    // spec: GC-1, W-15.21a-15
    pub(crate) fn choose(&self, now: MonoNanos, stream: StreamId, keep: &Keep<'_>) -> Choice {
        // A lease refers to the epoch of its attach answer, and moves to a newer one once that has
        // been announced for the minimum age: its client has followed by then.
        let floor = self
            .of_stream(stream)
            .filter_map(|(epoch, record)| {
                let at = record.announced_at?;
                (at.saturating_add(keep.min_age_ns) <= now).then_some(epoch)
            })
            .next_back();
        let mut choice = Choice::default();
        let mut others = keep.others;
        for (epoch, record) in self.of_stream(stream).rev() {
            if record.state != RecordState::Live || keep.current == Some(epoch) {
                continue;
            }
            // What was to go before this process came is kept for nobody.
            if others > 0 && record.free_at.is_none() {
                others -= 1;
                continue;
            }
            let old_at = record.activity.saturating_add(keep.min_age_ns);
            if old_at > now {
                choice.look_again = Some(choice.look_again.map_or(old_at, |at| at.min(old_at)));
                continue;
            }
            let pinned = floor.is_none_or(|floor| epoch >= floor)
                && keep
                    .leased
                    .iter()
                    .any(|leased| *leased == epoch || (floor == Some(epoch) && *leased < epoch));
            let removable = match record.owner {
                Owner::Mine | Owner::Dead => !pinned,
                Owner::Alive => false,
            };
            if removable {
                choice.remove.push(epoch);
            } else if pinned {
                let at = now.saturating_add(keep.min_age_ns);
                choice.look_again = Some(choice.look_again.map_or(at, |other| other.min(at)));
            }
        }
        choice
    }
}

/// All keys of one stream.
const fn keys_of(stream: StreamId) -> std::ops::RangeInclusive<EpochKey> {
    let first = EpochKey {
        stream,
        epoch: Epoch(0),
    };
    let last = EpochKey {
        stream,
        epoch: Epoch(u64::MAX),
    };
    first..=last
}

#[cfg(test)]
mod tests;
