//! Whether there is room for another epoch: the size of its class, the bytes of its quotas, and who
//! comes first where memory is short.
//!
//! What is being removed counts no more: removals are done before whatever is made after them. An
//! announced epoch counts against its class until the next one of its stream has taken its place, for
//! both lie in memory; against a quota the two count once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tensorpool_wire::{Epoch, MonoNanos, StreamId};

use crate::action::{Action, EpochCause, EpochKey, Note, RemoveReason};
use crate::config::{BaseId, SECOND_NS};
use crate::driver::Driver;
use crate::epoch::Record;
use crate::lease::Asker;
use crate::quota::Resource;
use crate::refusal::Refusal;
use crate::stream::{Current, Phase};

/// So long a stream that got no memory comes before lower ones. Whoever was refused comes back within
/// three seconds, and renews it.
const CLAIM_NS: u64 = 10 * SECOND_NS;
/// Streams that a refusal names as holders of memory.
const HOLDERS_NAMED: usize = 3;

/// Memory that a stream could not get and waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) until: MonoNanos,
    pub(crate) bytes: u64,
    pub(crate) on: Shortage,
}

/// Of what there was too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Of the size of the stream's class.
    Class,
    /// Of pages of this base.
    Base(BaseId),
}

/// An epoch that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) key: EpochKey,
    pub(crate) base: BaseId,
    pub(crate) bytes: u64,
    /// The announced epoch that it takes the place of.
    pub(crate) replaced: Option<Epoch>,
}

impl Wanted {
    fn replaces(&self, key: &EpochKey) -> bool {
        key.stream == self.key.stream && self.replaced == Some(key.epoch)
    }
}

/// Why a class has no room, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassShort {
    pub(crate) class: String,
    pub(crate) needed: u64,
    pub(crate) page_bytes: u64,
    pub(crate) size: u64,
    pub(crate) used: u64,
    pub(crate) holders: Holders,
}

impl fmt::Display for ClassShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            class,
            needed,
            page_bytes,
            size,
            used,
            holders,
        } = self;
        let free = size.saturating_sub(*used);
        let pages = needed / page_bytes;
        write!(
            f,
            "class `{class}` has too little memory on this node: {needed} bytes ({pages} pages of {page_bytes}) needed, {free} of {size} bytes free{holders}"
        )
    }
}

/// Who holds most, and how many others there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    named: Vec<(String, u64)>,
    others: usize,
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "; held by";
        for (name, bytes) in &self.named {
            write!(f, "{before} {name} ({bytes})")?;
            before = ",";
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, " and {others} more"),
        }
    }
}

impl Driver {
    /// Makes room for an epoch, if need be by removing old ones.
    ///
    /// # Errors
    /// Why there is none, with what is needed, what there is, and who has it. Nothing was removed then.
    pub(crate) fn make_room(
        &mut self,
        wanted: &Wanted,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let Some(stream) = self.streams.get(&wanted.key.stream) else {
            return Ok(());
        };
        let (charge, priority) = (Arc::clone(&stream.charge), stream.priority);
        self.check_turn(wanted, priority)?;
        let mut victims = Vec::new();
        if let Some(class) = self.policy.spec().classes.get(&charge.class) {
            let size = class.size_bytes;
            let counts = |record: &Record| record.charge.class == charge.class;
            let fits = |limit| self.victims(wanted, limit, None, &counts);
            victims.extend(fits(size).ok_or_else(|| {
                Refusal::ClassFull(Box::new(ClassShort {
                    class: charge.class.clone(),
                    needed: wanted.bytes,
                    page_bytes: self.config.identity.base(wanted.base).page_size_bytes,
                    size,
                    used: self.counted(&counts),
                    holders: self.holders(&counts),
                }))
            })?);
            if let Some(first) = self.claims_above(priority, &charge.class) {
                let left = size.saturating_sub(first.bytes);
                victims = fits(left).ok_or_else(|| first.refusal(wanted, priority))?;
            }
        }
        for name in &charge.quotas {
            let limit = self.policy.spec().quotas.get(name).and_then(|it| it.bytes);
            let Some(limit) = limit else { continue };
            let counts = |record: &Record| record.charge.quotas.contains(name);
            let found = self.victims(wanted, limit, wanted.replaced, &counts);
            let found = found.ok_or_else(|| Refusal::Quota {
                quota: name.clone(),
                what: Resource::Bytes,
                limit,
                used: self.counted(&counts),
                asked: wanted.bytes,
            })?;
            victims.extend(found);
        }
        victims.sort_unstable();
        victims.dedup();
        if !victims.is_empty() {
            let short = "its class or a quota is used up".to_owned();
            self.remove_for_room(wanted.key, &victims, short, out);
        }
        Ok(())
    }

    /// Removes old epochs so that `key` can be made.
    pub(crate) fn remove_for_room(
        &mut self,
        key: EpochKey,
        victims: &[EpochKey],
        error: String,
        out: &mut Vec<Action>,
    ) {
        let bytes = victims.iter().fold(0u64, |sum, victim| {
            let bytes = self.epochs.get(*victim).map_or(0, |record| record.bytes);
            sum.saturating_add(bytes)
        });
        for victim in victims {
            self.remove(*victim, RemoveReason::NoSpace, out);
        }
        self.counters.space_reclaims += 1;
        out.push(Action::Note(Note::SpaceReclaimed {
            key,
            removed: u32::try_from(victims.len()).unwrap_or(u32::MAX),
            bytes,
            error,
        }));
    }

    /// The old epochs whose removal makes `wanted` fit into `limit`, its own stream's first, then the
    /// oldest; no more than needed. `None` if all of them are not enough.
    fn victims(
        &self,
        wanted: &Wanted,
        limit: u64,
        exempt: Option<Epoch>,
        counts: &dyn Fn(&Record) -> bool,
    ) -> Option<Vec<EpochKey>> {
        let exempt = exempt.and_then(|epoch| {
            let stream = wanted.key.stream;
            let record = self.epochs.get(EpochKey { stream, epoch });
            record.filter(|record| counts(record))
        });
        let used = self.counted(counts);
        let used = used.saturating_sub(exempt.map_or(0, |record| record.bytes));
        let over = used.saturating_add(wanted.bytes).saturating_sub(limit);
        let own = wanted.key.stream;
        self.old_epochs(over, own, &|key, record| {
            counts(record) && !wanted.replaces(key)
        })
    }

    /// Old epochs of `over` bytes at least, those of `own` first, then the oldest.
    fn old_epochs(
        &self,
        mut over: u64,
        own: StreamId,
        counts: &dyn Fn(&EpochKey, &Record) -> bool,
    ) -> Option<Vec<EpochKey>> {
        let mut found = Vec::new();
        if over == 0 {
            return Some(found);
        }
        let mut spare = self.spare_epochs();
        spare.retain(|key| {
            let record = self.epochs.get(*key);
            record.is_some_and(|record| counts(key, record))
        });
        spare.sort_by_key(|key| (key.stream != own, key.epoch));
        for key in spare {
            let bytes = self.epochs.get(key).map_or(0, |record| record.bytes);
            found.push(key);
            over = over.saturating_sub(bytes);
            if over == 0 {
                return Some(found);
            }
        }
        None
    }

    /// Bytes of the epochs that count, without those that are being removed or kept from removal by
    /// whoever has them.
    pub(crate) fn counted(&self, counts: &dyn Fn(&Record) -> bool) -> u64 {
        self.epochs
            .iter()
            .filter(|(_, record)| record.state.counts())
            .filter(|(_, record)| counts(record))
            .fold(0u64, |sum, (_, record)| sum.saturating_add(record.bytes))
    }

    /// The streams that hold most of what counts.
    pub(crate) fn holders(&self, counts: &dyn Fn(&Record) -> bool) -> Holders {
        let mut by_stream: BTreeMap<StreamId, u64> = BTreeMap::new();
        for (key, record) in self.epochs.iter() {
            if counts(record) {
                let sum = by_stream.entry(key.stream).or_default();
                *sum = sum.saturating_add(record.bytes);
            }
        }
        let mut holders: Vec<(StreamId, u64)> = by_stream.into_iter().collect();
        holders.sort_by_key(|(stream, bytes)| (std::cmp::Reverse(*bytes), *stream));
        let others = holders.len().saturating_sub(HOLDERS_NAMED);
        holders.truncate(HOLDERS_NAMED);
        let named = holders.into_iter().map(|(id, bytes)| {
            let name = match self.name_of(id) {
                name if name.is_empty() => format!("stream {id}"),
                name => name,
            };
            (name, bytes)
        });
        Holders {
            named: named.collect(),
            others,
        }
    }

    /// A stream got no memory: for a while it comes before lower ones.
    pub(crate) fn claim(&mut self, id: StreamId, bytes: u64, on: Shortage) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let until = self.now.saturating_add(CLAIM_NS);
            stream.claim = Some(Claim { until, bytes, on });
            self.claimants.insert(id);
        }
    }

    /// Where pages themselves are short, nobody knows how many are free: who waits for them with a
    /// higher priority comes first in any case.
    fn check_turn(&self, wanted: &Wanted, priority: i32) -> Result<(), Refusal> {
        let first = self.first_above(priority, |_, claim| claim.on == Shortage::Base(wanted.base));
        match first {
            Some(first) => Err(first.refusal(wanted, priority)),
            None => Ok(()),
        }
    }

    fn claims_above(&self, priority: i32, class: &str) -> Option<First> {
        self.first_above(priority, |of, claim| {
            claim.on == Shortage::Class && of.charge.class == class
        })
    }

    /// The highest of those that wait with a higher priority, and the bytes of all of them.
    fn first_above(
        &self,
        priority: i32,
        concerns: impl Fn(&crate::stream::Stream, &Claim) -> bool,
    ) -> Option<First> {
        let mut first: Option<First> = None;
        for id in &self.claimants {
            let Some(stream) = self.streams.get(id) else {
                continue;
            };
            let claim = stream.claim.filter(|claim| claim.until > self.now);
            let Some(claim) = claim.filter(|claim| concerns(stream, claim)) else {
                continue;
            };
            if stream.priority <= priority {
                continue;
            }
            let before = first.take();
            let bytes = before.as_ref().map_or(0, |before| before.bytes);
            let mut now = before
                .filter(|before| before.priority >= stream.priority)
                .unwrap_or_else(|| First {
                    name: stream.full_name(),
                    priority: stream.priority,
                    waits_for: claim.bytes,
                    bytes: 0,
                });
            now.bytes = bytes.saturating_add(claim.bytes);
            first = Some(now);
        }
        first
    }

    /// Where there is no room for another epoch, a producer that attaches gets the announced one, if no
    /// producer ever had that: it is as empty as a new one would be. Otherwise a stream that takes more
    /// than half of its class could be produced once and never again. Gives back what it did not use.
    // spec: X-2-72
    pub(crate) fn give_announced(
        &mut self,
        key: EpochKey,
        cause: EpochCause,
        waiting: Vec<Asker>,
        previous: Option<Current>,
        why: &Refusal,
        out: &mut Vec<Action>,
    ) -> Option<(Vec<Asker>, Option<Current>)> {
        let Some(stream) = self.streams.get_mut(&key.stream) else {
            return Some((waiting, previous));
        };
        let is_short = stream.claim.is_some() || matches!(why, Refusal::Quota { .. });
        let in_class = !stream.charge.class.is_empty();
        let attaches = cause == EpochCause::ProducerAttached;
        match previous {
            Some(current) if is_short && in_class && attaches && !current.produced => {
                stream.phase = Phase::Ready(current);
                stream.claim = None;
                for asker in waiting {
                    self.grant(key.stream, asker, out);
                }
                self.announce_new(key.stream, out);
                None
            }
            previous => Some((waiting, previous)),
        }
    }

    /// Forgets claims that nobody renewed.
    pub(crate) fn drop_stale_claims(&mut self) {
        let (now, streams) = (self.now, &mut self.streams);
        self.claimants.retain(|id| {
            let Some(stream) = streams.get_mut(id) else {
                return false;
            };
            stream.claim = stream.claim.filter(|claim| claim.until > now);
            stream.claim.is_some()
        });
    }

    /// Where more lies than class and quotas of a stream allow, because another epoch was replaced or a
    /// limit lowered, old epochs go at once.
    pub(crate) fn trim(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let charge = Arc::clone(&stream.charge);
        if let Some(class) = self.policy.spec().classes.get(&charge.class) {
            let size = class.size_bytes;
            self.trim_to(id, size, &|record| record.charge.class == charge.class, out);
        }
        for name in &charge.quotas {
            let limit = self.policy.spec().quotas.get(name).and_then(|it| it.bytes);
            if let Some(limit) = limit {
                self.trim_to(id, limit, &|it| it.charge.quotas.contains(name), out);
            }
        }
    }

    fn trim_to(
        &mut self,
        own: StreamId,
        limit: u64,
        counts: &dyn Fn(&Record) -> bool,
        out: &mut Vec<Action>,
    ) {
        loop {
            let over = self.counted(counts).saturating_sub(limit);
            // One after the other: all there are may be too few, and then they go all the same.
            let oldest = self.old_epochs(over.min(1), own, &|_, record| counts(record));
            let Some(key) = oldest.and_then(|found| found.first().copied()) else {
                return;
            };
            self.remove(key, RemoveReason::NoSpace, out);
        }
    }
}

/// Who comes first.
#[derive(Clone, Debug)]
struct First {
    name: String,
    priority: i32,
    waits_for: u64,
    /// Of all that come first.
    bytes: u64,
}

impl First {
    fn refusal(&self, wanted: &Wanted, priority: i32) -> Refusal {
        Refusal::MemoryClaimed {
            needed: wanted.bytes,
            priority,
            first: self.name.clone(),
            first_priority: self.priority,
            first_bytes: self.waits_for,
        }
    }
}
