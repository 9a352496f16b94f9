//! What became of messages beside frames: hello, QoS, metadata, progress, lease.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tensorpool_transport::pubsub::SendError;

reasons! {
    /// Why a message was not sent. Hello, QoS and metadata are repeated each second, an attach twice a
    /// second; progress is not repeated.
    Unsent {
        /// Nobody listens, or there is no way to a driver now.
        NotConnected = "not_connected",
        /// The receiver is too far behind.
        BackPressured = "back_pressured",
        /// Longer than this way can carry.
        TooLong = "too_long",
        /// The way is closed, or being closed.
        Closed = "closed",
    }
}

impl From<&SendError> for Unsent {
    fn from(error: &SendError) -> Self {
        match error {
            SendError::NotConnected => Self::NotConnected,
            SendError::BackPressured | SendError::AdminAction => Self::BackPressured,
            SendError::TooLong { .. } => Self::TooLong,
            SendError::Overflow { .. } | SendError::Closed(_) => Self::Closed,
        }
    }
}

/// The counters of one attachment. Written by its conductor.
#[derive(Debug)]
pub(crate) struct MessageCounters {
    unsent: [AtomicU64; Unsent::ALL.len()],
    undecodable: AtomicU64,
}

impl MessageCounters {
    pub(crate) const fn new() -> Self {
        Self {
            unsent: [const { AtomicU64::new(0) }; Unsent::ALL.len()],
            undecodable: AtomicU64::new(0),
        }
    }

    /// Counts a message that could not be sent.
    pub(crate) fn count<T>(&self, sent: &Result<T, SendError>) {
        if let Err(error) = sent
            && let Some(counter) = self.unsent.get(Unsent::from(error).index())
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a message that could not be understood.
    // spec: D-4.4a-1 D-4.4a-3
    pub(crate) fn count_undecodable(&self) {
        self.undecodable.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> MessageStats {
        let mut unsent = [0; Unsent::ALL.len()];
        for (to, from) in unsent.iter_mut().zip(&self.unsent) {
            *to = from.load(Ordering::Relaxed);
        }
        MessageStats {
            unsent,
            undecodable: self.undecodable.load(Ordering::Relaxed),
        }
    }
}

/// Messages of one attachment that were not sent or not understood. Its `Debug` names what occurred.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageStats {
    unsent: [u64; Unsent::ALL.len()],
    /// Messages that came and could not be understood; they changed nothing.
    pub undecodable: u64,
}

impl MessageStats {
    /// Messages that were not sent for this reason.
    #[must_use]
    pub fn unsent(&self, reason: Unsent) -> u64 {
        self.unsent.get(reason.index()).copied().unwrap_or_default()
    }
}

impl fmt::Debug for MessageStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_map();
        for reason in Unsent::ALL.iter().filter(|it| self.unsent(**it) > 0) {
            shown.entry(&reason.label(), &self.unsent(*reason));
        }
        if self.undecodable > 0 {
            shown.entry(&"undecodable", &self.undecodable);
        }
        shown.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_is_counted_by_its_reason() {
        let counters = MessageCounters::new();
        counters.count(&Ok(()));
        counters.count::<()>(&Err(SendError::AdminAction));
        counters.count::<()>(&Err(SendError::BackPressured));
        counters.count::<()>(&Err(SendError::TooLong { len: 9, max: 8 }));
        counters.count_undecodable();
        let shown = format!("{:?}", counters.snapshot());
        assert_eq!(
            shown,
            r#"{"back_pressured": 2, "too_long": 1, "undecodable": 1}"#
        );
    }
}
