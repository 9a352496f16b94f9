//! One operation on a volume at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::attachments::volume::VolumeId;

/// The volumes on which something is being done.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    taken: Arc<Mutex<BTreeSet<VolumeId>>>,
    given_back: Arc<Notify>,
}

/// The right to do something with a volume; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    volume: VolumeId,
}

impl Turns {
    /// The turn of this volume, unless somebody has it.
    pub(super) fn take(&self, volume: &VolumeId) -> Option<Turn> {
        let taken = self.with(|taken| taken.insert(volume.clone()));
        taken.then(|| Turn {
            turns: self.clone(),
            volume: volume.clone(),
        })
    }

    /// Returns when nobody has a turn.
    pub(super) async fn idle(&self) {
        loop {
            let given_back = self.given_back.notified();
            if self.with(|taken| taken.is_empty()) {
                return;
            }
            given_back.await;
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeSet<VolumeId>) -> T) -> T {
        // Every change of the set is one step, so a panic elsewhere leaves it whole.
        change(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.with(|taken| taken.remove(&self.volume));
        self.turns.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_one_turn_at_a_time() {
        let turns = Turns::default();
        let volume = |name| VolumeId::new(name).unwrap();
        let turn = turns.take(&volume("a")).unwrap();
        assert!(turns.take(&volume("a")).is_none());
        assert!(turns.take(&volume("b")).is_some());
        drop(turn);
        assert!(turns.take(&volume("a")).is_some());
    }
}
