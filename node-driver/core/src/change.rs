//! A changed policy: the difference is found here, so a policy may be handed over as often as one
//! likes.

use tensorpool_wire::{LeaseId, StreamId};

use crate::action::{Action, EpochCause, Note, RemoveReason};
use crate::driver::Driver;
use crate::grant::End;
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::stream::{Phase, Step, Stream};

impl Driver {
    pub(crate) fn on_policy(&mut self, policy: Policy, out: &mut Vec<Action>) {
        let (mut added, mut removed, mut changed) = (0u32, 0u32, 0u32);
        let gone: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(id, stream)| !stream.dynamic && !policy.streams().contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.remove_stream(id, out);
            removed += 1;
        }
        let limit = usize::try_from(self.config.limits.streams).unwrap_or(usize::MAX);
        for (id, wanted) in policy.streams() {
            let full = self.streams.len() >= limit;
            match self.streams.get_mut(id) {
                Some(stream) => {
                    stream.name.clone_from(&wanted.name);
                    stream.tags.clone_from(&wanted.tags);
                    stream.data_source_id = wanted.data_source_id;
                    stream.dynamic = false;
                    if stream.profile != wanted.profile {
                        stream.profile = wanted.profile.clone();
                        self.relayout(*id, out);
                        changed += 1;
                    }
                }
                None if !full => {
                    self.streams.insert(*id, Stream::configured(wanted));
                    added += 1;
                }
                None => {
                    self.counters
                        .drop(crate::counters::DropReason::UnknownStream, "policy");
                }
            }
        }
        self.policy = policy;
        if added + removed + changed > 0 {
            out.push(Action::Note(Note::PolicyApplied {
                added,
                removed,
                changed,
            }));
        }
    }

    /// Ends everything of a stream that is served no more. Its epochs are collected when they are old
    /// enough: a client may still be opening files.
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
        for lease in leases {
            self.invalidate(lease, End::revoked("stream was removed"), out);
        }
        self.abandon(id, &Refusal::StreamRemoved, out);
        self.forget_stream(id, out);
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
