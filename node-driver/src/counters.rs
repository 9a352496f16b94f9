//! What the wiring counts beside the core: transport, relay, files. Plain numbers of the duty cycle.

use std::collections::BTreeMap;

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
