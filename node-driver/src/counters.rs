//! What the wiring counts beside the core: transport, relay, files. Plain numbers of the duty cycle.

use std::collections::BTreeMap;

use tensorpool_driver_core::{StreamStatus, Way};
use tensorpool_wire::StreamId;

/// One of the two ways in. Bounded label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WayIn {
    /// Aeron.
    Aeron,
    /// The socket.
    Socket,
}

impl WayIn {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Aeron, Self::Socket];

    /// Bounded label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Aeron => "aeron",
            Self::Socket => "socket",
        }
    }
}

/// Frames that the consumers of one stream on one way missed, as they last reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportedDrops {
    /// Never seen.
    pub(crate) gap: u64,
    /// Overwritten while they were read, or before.
    pub(crate) late: u64,
}

impl ReportedDrops {
    /// Those of the consumers that hold a lease.
    pub(crate) fn of(stream: &StreamStatus, way: WayIn) -> Self {
        let mut drops = Self::default();
        for consumer in &stream.consumers {
            let is_this = match consumer.way {
                Way::Aeron => way == WayIn::Aeron,
                Way::Socket { .. } => way == WayIn::Socket,
            };
            if let Some(qos) = consumer.qos.filter(|_| is_this) {
                drops.gap = drops.gap.saturating_add(qos.drops_gap);
                drops.late = drops.late.saturating_add(qos.drops_late);
            }
        }
        drops
    }
}

/// Since the driver started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rounds of the duty cycle.
    pub cycles: u64,
    /// Those in which something happened.
    pub busy_cycles: u64,
    /// The longest round since the last snapshot, sleep not counted, in nanoseconds.
    pub longest_cycle_ns: u64,
    /// Messages that arrived.
    pub received: BTreeMap<WayIn, u64>,
    /// Messages that were sent or are kept to be sent.
    pub sent: BTreeMap<WayIn, u64>,
    /// Messages that could not be sent, by reason.
    pub unsent: BTreeMap<(WayIn, &'static str), u64>,
    /// Descriptors that the relay published, by stream.
    pub relayed: BTreeMap<StreamId, u64>,
    /// Frames of socket producers of which Aeron consumers got no descriptor, by stream and reason.
    pub relay_drops: BTreeMap<(StreamId, &'static str), u64>,
    /// Descriptors of Aeron producers that were read so that they see a subscriber.
    pub drained: u64,
    /// Connections to a media driver, the first included.
    pub media_driver_connects: u64,
    /// Media drivers that were lost, by reason.
    pub media_driver_losses: BTreeMap<&'static str, u64>,
    /// Epochs written to the journal.
    pub epochs_persisted: u64,
    /// Operations of the file worker that failed, by operation.
    pub file_failures: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Forgets what was counted for a stream that is gone, so that streams which come and go do not
    /// add up to ever more labels.
    pub(crate) fn forget(&mut self, stream: StreamId) {
        self.relayed.remove(&stream);
        self.relay_drops.retain(|(of, _), _| *of != stream);
    }

    /// Adds one to a labelled counter.
    pub fn bump<K: Ord>(counters: &mut BTreeMap<K, u64>, label: K) {
        Self::add(counters, label, 1);
    }

    /// Adds `count` to a labelled counter.
    pub fn add<K: Ord>(counters: &mut BTreeMap<K, u64>, label: K, count: u64) {
        let value = counters.entry(label).or_insert(0);
        *value = value.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_stream_go_with_it_and_others_stay() {
        let mut counters = Counters::default();
        for stream in [StreamId(1), StreamId(2)] {
            Counters::add(&mut counters.relayed, stream, 5);
            Counters::bump(&mut counters.relay_drops, (stream, "relay_lapped"));
        }
        counters.forget(StreamId(1));
        assert_eq!(counters.relayed, [(StreamId(2), 5)].into());
        assert_eq!(
            counters.relay_drops,
            [((StreamId(2), "relay_lapped"), 1)].into()
        );
    }
}
