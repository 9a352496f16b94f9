//! A changed policy: the difference is found here, so a policy may be handed over as often as one
//! likes.

use tensorpool_wire::{LeaseId, StreamId};

use crate::action::{Action, EpochCause, Note, RemoveReason};
use crate::driver::Driver;
use crate::grant::End;
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::stream::{Departed, Phase, Step, Stream};

impl Driver {
    /// Streams go first, so that their memory is there for those that come or change; of these the
    /// higher priority is served first.
    pub(crate) fn on_policy(&mut self, policy: Policy, out: &mut Vec<Action>) {
        let gone: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(id, stream)| !stream.dynamic && is_gone(**id, stream, &policy))
            .map(|(id, _)| *id)
            .collect();
        self.policy = policy;
        for id in &gone {
            self.remove_stream(*id, out);
        }
        let (added, relayouts) = self.follow_streams();
        let mut wanted = relayouts.clone();
        wanted.extend(self.eager_streams());
        wanted.sort_by_key(|id| {
            let priority = self.streams.get(id).map(|stream| stream.priority);
            (std::cmp::Reverse(priority), *id)
        });
        wanted.dedup();
        for id in &wanted {
            if relayouts.contains(id) {
                self.relayout(*id, out);
            }
            self.begin_eagerly(*id, out);
        }
        let all: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in all {
            self.trim(id, out);
        }
        self.collect_strays(out);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (removed, changed) = (count(gone.len()), count(relayouts.len()));
        if added + removed + changed > 0 {
            out.push(Action::Note(Note::PolicyApplied {
                added,
                removed,
                changed,
            }));
        }
    }

    /// Takes streams in and over. Returns how many are new, and which need other files.
    fn follow_streams(&mut self) -> (u32, Vec<StreamId>) {
        let (mut added, mut relayouts) = (0, Vec::new());
        let limit = usize::try_from(self.config.limits.streams).unwrap_or(usize::MAX);
        for (id, wanted) in self.policy.streams() {
            let place = self.policy.place(&self.config.identity, &wanted.spec.class);
            let full = self.streams.len() >= limit;
            match self.streams.get_mut(id) {
                Some(stream) => {
                    stream.follow(wanted);
                    // Another kind of reader needs files of another mode.
                    let on_aeron = wanted.spec.on_aeron;
                    let is_same = stream.profile == wanted.profile && stream.place == place;
                    if !is_same || stream.on_aeron != on_aeron {
                        stream.profile = wanted.profile.clone();
                        stream.on_aeron = on_aeron;
                        stream.place = place;
                        stream.claim = None;
                        relayouts.push(*id);
                    }
                }
                None if !full => {
                    self.departed.remove(id);
                    self.streams.insert(*id, Stream::configured(wanted, place));
                    added += 1;
                }
                None => {
                    self.counters
                        .drop(crate::counters::DropReason::UnknownStream, "policy");
                }
            }
            if let Some(stream) = self.streams.get(id) {
                self.epochs.charge(*id, &stream.charge);
            }
        }
        (added, relayouts)
    }

    /// The streams whose first epoch is wanted before anybody asks.
    fn eager_streams(&self) -> Vec<StreamId> {
        let spec = self.policy.spec();
        let eager = spec.streams.iter().filter(|it| it.eager && !spec.cordoned);
        eager.map(|stream| stream.stream_id).collect()
    }

    fn begin_eagerly(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let spec = self.policy.streams().get(&id).map(|wanted| &wanted.spec);
        let eager = spec.is_some_and(|spec| spec.eager) && !self.policy.spec().cordoned;
        let absent = self
            .streams
            .get(&id)
            .is_some_and(|stream| matches!(stream.phase, Phase::Absent));
        if eager && absent && self.life.is_running() {
            self.raise(id, EpochCause::Eager, Vec::new(), None, out);
        }
    }

    /// Ends everything of a stream that is served no more. Its epochs go when its grace is over: a client
    /// may still be opening files.
    fn remove_stream(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let leases: Vec<LeaseId> = stream
            .producer
            .iter()
            .chain(stream.consumers.keys())
            .copied()
            .collect();
        let until = self.now.saturating_add(stream.grace_ns);
        let force_after_ns = stream.force_after_ns;
        let departed = Departed {
            namespace: stream.namespace.clone(),
            name: stream.name.clone(),
            uid: stream.uid.clone(),
            until,
        };
        for lease in leases {
            self.invalidate(lease, End::revoked("stream was removed"), out);
        }
        self.abandon(id, &Refusal::StreamRemoved, out);
        self.forget_stream(id, out);
        if let Some(ns) = force_after_ns {
            self.mark_epochs(id, until.saturating_add(ns), out);
        }
        if !self.epochs.is_empty_of(id) {
            self.departed.insert(id, departed);
        }
        self.collect(id, out);
    }

    /// Another layout needs other files. The producer must map them anew, so its lease ends; consumers
    /// follow the announce.
    // spec: D-6-1, W-15.2-2
    fn relayout(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(producer) = stream.producer {
            self.end_lease(producer, End::revoked("layout changed"), out);
            return;
        }
        match std::mem::replace(&mut stream.phase, Phase::Absent) {
            Phase::Absent => {}
            Phase::Ready(current) => {
                let cause = EpochCause::LayoutChanged;
                self.raise(id, cause, Vec::new(), Some(current), out);
            }
            Phase::Failed { .. } => {
                self.raise(id, EpochCause::LayoutChanged, Vec::new(), None, out);
            }
            Phase::Making { making, previous } => {
                // What is being made has the old layout; whoever waits for it waits for the next.
                if making.create == Step::Done {
                    self.remove(making.key, RemoveReason::Abandoned, out);
                }
                let cause = EpochCause::LayoutChanged;
                self.raise(id, cause, making.waiting, previous, out);
            }
        }
    }

    /// Gives up what is being made and refuses whoever waits for it.
    fn abandon(&mut self, id: StreamId, refusal: &Refusal, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut stream.phase, Phase::Absent) {
            Phase::Making { making, .. } => {
                for asker in making.waiting {
                    self.refuse_waiting(&asker, refusal, out);
                }
                if making.create == Step::Done {
                    self.remove(making.key, RemoveReason::Abandoned, out);
                }
            }
            Phase::Ready(_) | Phase::Absent | Phase::Failed { .. } => {}
        }
    }
}

/// Whether the policy has no such stream, or another one under its id.
fn is_gone(id: StreamId, stream: &Stream, policy: &Policy) -> bool {
    policy
        .streams()
        .get(&id)
        .is_none_or(|wanted| wanted.spec.uid != stream.uid)
}
