//! What the server counts.

use std::collections::BTreeMap;

use crate::port::CloseReason;

/// Counters since the server was made, for metrics. Every drop is in one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that opened.
    pub opened: u64,
    /// Connections that were closed at once because of a limit.
    pub refused: u64,
    /// Connections that ended, by reason, in the order of [`CloseReason::ALL`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Garbage packets by [`super::packet::PacketError::reason`].
    pub garbage: BTreeMap<&'static str, u64>,
    /// Waiting announces, QoS and metadata that a newer one replaced.
    pub replaced: u64,
    /// Waiting announces, QoS and metadata that gave way to other messages.
    pub evicted: u64,
    /// Messages that were dropped when their connection was cut off or ended.
    pub unsent: u64,
}

impl Stats {
    pub(crate) fn count_closed(&mut self, why: CloseReason) {
        let places = self.closed.iter_mut().zip(CloseReason::ALL);
        places
            .filter(|(_, reason)| *reason == why)
            .for_each(|(count, _)| *count += 1);
    }
}
