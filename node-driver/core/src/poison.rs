//! What a producer did to its own files, and what becomes of the epoch.

use tensorpool_wire::{Epoch, StreamId};

use crate::action::{Action, EpochCause, EpochKey, Note};
use crate::driver::Driver;
use crate::event::Damage;
use crate::grant::End;
use crate::stream::Phase;

impl Driver {
    /// A region of an epoch is not what was made.
    // spec: X-1-30
    pub(crate) fn on_poisoned(
        &mut self,
        id: StreamId,
        epoch: Epoch,
        damage: Damage,
        out: &mut Vec<Action>,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream
            .current()
            .is_none_or(|current| current.epoch != epoch)
        {
            return;
        }
        out.push(Action::Note(Note::Poisoned {
            key: EpochKey { stream: id, epoch },
            damage,
        }));
        if let Some(producer) = stream.producer {
            self.end_lease(producer, End::revoked(damage.text()), out);
            return;
        }
        match std::mem::replace(&mut stream.phase, Phase::Absent) {
            Phase::Making { making, .. } => {
                stream.phase = Phase::Making {
                    making,
                    previous: None,
                };
            }
            Phase::Ready(_) | Phase::Absent | Phase::Failed { .. } => {
                self.raise(id, EpochCause::Poisoned, Vec::new(), None, out);
            }
        }
    }
}
