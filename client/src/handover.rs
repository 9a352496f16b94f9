//! How the conductor gives the data path its memory and takes it away.
//!
//! The data path asks by one relaxed load of private memory whether anything changed; only then does
//! it take the lock. The conductor ends the old mapping's life before it hands over the next state,
//! so a frame of the old one is never believed after the change (docs/extensions.md §2.10).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::AttachError;
use crate::lease::LeaseEnd;

/// The meeting point of one conductor and one data path.
#[derive(Debug)]
pub(crate) struct Handover<T> {
    generation: AtomicU64,
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    next: Next<T>,
    ended: Option<LeaseEnd>,
    /// Whether a mapping was ever handed over.
    was_mapped: bool,
    is_mapped: bool,
    detached: bool,
    failures: u64,
    failure: Option<Arc<AttachError>>,
}

#[derive(Debug)]
enum Next<T> {
    Keep,
    Unmap,
    Map(T),
}

/// What the data path has to do now.
#[derive(Debug)]
pub(crate) enum Change<T> {
    /// Go on: the wake was about something else.
    Nothing,
    /// Drop the mapping; another may follow.
    Unmap,
    /// The lease ended: drop the mapping and say so.
    Ended(LeaseEnd),
    /// Use this from now on.
    Map(T),
}

/// How an attachment stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether memory is mapped and in use.
    pub is_mapped: bool,
    /// Failed attempts to connect, attach or map since the attachment was made.
    pub failures: u64,
    /// The latest of them.
    pub last_failure: Option<Arc<AttachError>>,
}

impl<T> State<T> {
    fn replace(&mut self, next: Next<T>) -> Option<T> {
        match std::mem::replace(&mut self.next, next) {
            Next::Keep | Next::Unmap => None,
            Next::Map(never_taken) => Some(never_taken),
        }
    }
}

impl<T> Handover<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            generation: AtomicU64::new(0),
            state: Mutex::new(State {
                next: Next::Keep,
                ended: None,
                was_mapped: false,
                is_mapped: false,
                detached: false,
                failures: 0,
                failure: None,
            }),
            changed: Condvar::new(),
        })
    }

    /// Whether anything changed since that state was seen.
    #[cfg(feature = "async")]
    pub(crate) fn has_changed_since(&self, seen: u64) -> bool {
        self.generation.load(Ordering::Relaxed) != seen
    }

    /// Conductor: use this mapping from now on. Returns the one before, if it was never taken.
    pub(crate) fn map(&self, mapped: T) -> Option<T> {
        self.change(|state| {
            state.was_mapped = true;
            state.is_mapped = true;
            state.replace(Next::Map(mapped))
        })
    }

    /// Conductor: the mapping is over, another may follow. Returns it, if it was never taken.
    pub(crate) fn unmap(&self) -> Option<T> {
        self.change(|state| {
            state.is_mapped = false;
            state.replace(Next::Unmap)
        })
    }

    /// Conductor: the lease is over. Returns its mapping, if that was never taken.
    pub(crate) fn end(&self, end: LeaseEnd) -> Option<T> {
        self.change(|state| {
            state.is_mapped = false;
            state.ended = Some(end);
            state.replace(Next::Unmap)
        })
    }

    /// Conductor: something else that the data path should look at.
    pub(crate) fn nudge(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Conductor: an attempt failed.
    pub(crate) fn fail(&self, failure: AttachError) {
        let mut state = self.lock();
        state.failures += 1;
        state.failure = Some(Arc::new(failure));
        self.changed.notify_all();
    }

    /// Conductor: more is known about the attempt that failed last.
    pub(crate) fn amend(&self, failure: AttachError) {
        self.lock().failure = Some(Arc::new(failure));
        self.changed.notify_all();
    }

    /// Conductor: nothing will be handed over any more.
    pub(crate) fn detached(&self) {
        self.lock().detached = true;
        self.changed.notify_all();
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.lock();
        Status {
            is_mapped: state.is_mapped,
            failures: state.failures,
            last_failure: state.failure.clone(),
        }
    }

    /// Waits until `ready` has an answer or the time is over.
    pub(crate) fn wait_for<R>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut(&Status, bool) -> Option<R>,
    ) -> Option<R> {
        let started = std::time::Instant::now();
        let mut state = self.lock();
        loop {
            let status = Status {
                is_mapped: state.is_mapped,
                failures: state.failures,
                last_failure: state.failure.clone(),
            };
            if let Some(answer) = ready(&status, state.detached) {
                return Some(answer);
            }
            let left = timeout.checked_sub(started.elapsed())?;
            // A timeout of "for ever" must not overflow the clock.
            let left = left.min(Duration::from_secs(3_600));
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let result = change(&mut self.lock());
        // The data path's relaxed load only asks whether to take the lock, which orders the rest.
        self.generation.fetch_add(1, Ordering::Release);
        self.changed.notify_all();
        result
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code of the application runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The data path's end of a handover.
#[derive(Debug)]
pub(crate) struct Seat<T> {
    pub(crate) handover: Arc<Handover<T>>,
    seen: u64,
}

impl<T> Seat<T> {
    pub(crate) const fn new(handover: Arc<Handover<T>>) -> Self {
        Self { handover, seen: 0 }
    }

    /// The state that this end has seen, for somebody who waits in its place.
    #[cfg(feature = "async")]
    pub(crate) const fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether [`Seat::take`] has something to say: one relaxed load of private memory.
    // spec: X-2-65
    #[inline]
    pub(crate) fn has_change(&self) -> bool {
        self.handover.generation.load(Ordering::Relaxed) != self.seen
    }

    /// What to do now. An end is told before the mapping that followed it.
    pub(crate) fn take(&mut self) -> Change<T> {
        let mut state = self.handover.lock();
        if let Some(end) = state.ended.take() {
            if matches!(state.next, Next::Unmap) {
                state.next = Next::Keep;
                self.seen = self.handover.generation.load(Ordering::Relaxed);
            }
            return Change::Ended(end);
        }
        self.seen = self.handover.generation.load(Ordering::Relaxed);
        match std::mem::replace(&mut state.next, Next::Keep) {
            Next::Keep => Change::Nothing,
            Next::Unmap => Change::Unmap,
            Next::Map(mapped) => Change::Map(mapped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: X-2-65 X-2-66
    #[test]
    fn an_end_is_told_before_the_mapping_that_followed_it() {
        let handover = Handover::new();
        let mut seat = Seat::new(Arc::clone(&handover));
        assert!(!seat.has_change());
        handover.map(1);
        assert!(seat.has_change());
        assert!(matches!(seat.take(), Change::Map(1)));
        assert!(!seat.has_change());
        handover.end(LeaseEnd::DriverLost);
        handover.map(2);
        assert!(matches!(seat.take(), Change::Ended(LeaseEnd::DriverLost)));
        assert!(seat.has_change(), "the mapping is still to come");
        assert!(matches!(seat.take(), Change::Map(2)));
        assert!(!seat.has_change());
    }

    #[test]
    fn a_mapping_that_was_never_taken_is_replaced_by_the_next() {
        let handover = Handover::new();
        let mut seat = Seat::new(Arc::clone(&handover));
        assert_eq!(handover.map(1), None);
        assert_eq!(handover.unmap(), Some(1), "it was never taken");
        assert_eq!(handover.map(2), None);
        assert!(matches!(seat.take(), Change::Map(2)));
        handover.unmap();
        assert!(matches!(seat.take(), Change::Unmap));
        handover.nudge();
        assert!(seat.has_change());
        assert!(matches!(seat.take(), Change::Nothing));
    }

    #[test]
    fn waiting_ends_with_the_time() {
        let handover = Handover::<()>::new();
        assert_eq!(handover.wait_for(Duration::ZERO, |_, _| None::<()>), None);
        handover.map(());
        let mapped = handover.wait_for(Duration::MAX, |status, _| status.is_mapped.then_some(()));
        assert_eq!(mapped, Some(()));
    }
}
