//! Where a producer's data path sends descriptors: publications that the conductor opened.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tensorpool_transport::pubsub::{Publication, SendError};
use tensorpool_wire::{ClientId, FrameDescriptor, MonoNanos};

use crate::stats::{ProducerCounters, ProducerDrop};

/// Whom an outlet serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Everybody on the stream's shared descriptors.
    All,
    /// One consumer that asked for its own (W-5-1).
    One(ClientId),
}

/// One publication of descriptors.
pub(crate) struct Outlet {
    pub(crate) audience: Audience,
    pub(crate) publication: Box<dyn Publication + Send>,
    /// Nanoseconds between two descriptors at least; 0: no cap (W-5-4).
    pub(crate) min_gap_ns: u64,
    last: Option<MonoNanos>,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet")
            .field("audience", &self.audience)
            .field("min_gap_ns", &self.min_gap_ns)
            .finish_non_exhaustive()
    }
}

impl Outlet {
    pub(crate) fn new(
        audience: Audience,
        publication: Box<dyn Publication + Send>,
        max_rate_hz: u32,
    ) -> Self {
        let min_gap_ns = 1_000_000_000_u64
            .checked_div(u64::from(max_rate_hz))
            .unwrap_or(0);
        Self {
            audience,
            publication,
            min_gap_ns,
            last: None,
        }
    }

    /// Offers a descriptor once. A refusal costs the descriptor, never the frame and never time.
    // spec: W-10.2.1-1 W-5-4
    pub(crate) fn offer(
        &mut self,
        now: MonoNanos,
        descriptor: &FrameDescriptor,
        counters: &ProducerCounters,
    ) {
        if self.min_gap_ns > 0
            && self
                .last
                .is_some_and(|last| now.saturating_since(last) < self.min_gap_ns)
        {
            return;
        }
        let bytes = descriptor.encode_array();
        let mut sent = self.publication.offer(&bytes);
        if sent == Err(SendError::AdminAction) {
            // The log is rotating: the one refusal that an immediate second attempt overcomes.
            sent = self.publication.offer(&bytes);
        }
        match sent {
            Ok(()) => self.last = Some(now),
            Err(SendError::NotConnected) => match self.audience {
                Audience::All => counters.count(ProducerDrop::DescriptorNotConnected),
                Audience::One(_) => {}
            },
            Err(SendError::BackPressured | SendError::AdminAction) => {
                counters.count(ProducerDrop::DescriptorBackpressure);
            }
            Err(SendError::TooLong { .. } | SendError::Overflow { .. } | SendError::Closed(_)) => {
                counters.count(ProducerDrop::DescriptorFailed);
            }
        }
    }
}

/// A change of a producer's outlets, from the conductor.
#[derive(Debug)]
pub(crate) enum OutletChange {
    /// Use this one, in place of an older one of the same audience.
    Open(Outlet),
    /// Close that one.
    Close(Audience),
    /// Close all: the way to the media driver is gone.
    CloseAll,
}

/// Changes on their way to the data path.
#[derive(Debug, Default)]
pub(crate) struct OutletMail(Mutex<Vec<OutletChange>>);

impl OutletMail {
    pub(crate) fn post(&self, change: OutletChange) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(change);
    }

    /// Applies what has come.
    pub(crate) fn apply(&self, outlets: &mut Vec<Outlet>) {
        // Outside the lock: closing takes its time, and the conductor does not wait for it.
        let mail = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for change in mail {
            match change {
                OutletChange::Open(outlet) => {
                    outlets.retain(|old| old.audience != outlet.audience);
                    outlets.push(outlet);
                }
                OutletChange::Close(audience) => outlets.retain(|old| old.audience != audience),
                OutletChange::CloseAll => outlets.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// While it is closed, the conductor posts another one.
    struct Old(Arc<OutletMail>);

    struct New;

    impl Drop for Old {
        fn drop(&mut self) {
            let outlet = Outlet::new(Audience::All, Box::new(New), 0);
            self.0.post(OutletChange::Open(outlet));
        }
    }

    impl Publication for Old {
        fn offer(&mut self, _: &[u8]) -> Result<(), SendError> {
            Err(SendError::NotConnected)
        }

        fn is_connected(&self) -> bool {
            false
        }

        fn max_message_len(&self) -> usize {
            0
        }

        fn session(&self) -> i32 {
            1
        }
    }

    impl Publication for New {
        fn offer(&mut self, _: &[u8]) -> Result<(), SendError> {
            Ok(())
        }

        fn is_connected(&self) -> bool {
            true
        }

        fn max_message_len(&self) -> usize {
            64
        }

        fn session(&self) -> i32 {
            2
        }
    }

    // spec: X-2-77
    #[test]
    fn the_conductor_does_not_wait_for_an_outlet_that_is_closed() {
        let mail = Arc::new(OutletMail::default());
        let old = Outlet::new(Audience::All, Box::new(Old(Arc::clone(&mail))), 0);
        let mut outlets = vec![old];
        mail.post(OutletChange::CloseAll);
        mail.apply(&mut outlets);
        assert!(outlets.is_empty(), "what came meanwhile is the next change");
        mail.apply(&mut outlets);
        let sessions: Vec<_> = outlets.iter().map(|it| it.publication.session()).collect();
        assert_eq!(sessions, [2]);
    }
}
