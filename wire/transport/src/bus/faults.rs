//! What may happen to messages on the bus, and the times of its media driver.

/// Faults, each with its own chance per message and receiver. None by default.
///
/// Loss, duplication and reordering apply to publications only: a socket loses nothing and keeps
/// order, so there only the delay applies. A real Aeron log loses nothing either while its receiver
/// keeps up; the bus is harsher, because a machine that survives this survives restarts and resting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Chance in a million that a receiver never sees the message.
    pub loss_ppm: u32,
    /// Chance in a million that a receiver sees it twice.
    pub duplicate_ppm: u32,
    /// Chance in a million that it does not wait for its predecessors: a later one can overtake it.
    pub reorder_ppm: u32,
    /// Chance in a million that an offer is answered by [`crate::pubsub::SendError::AdminAction`].
    pub admin_action_ppm: u32,
    /// Shortest time on the way, nanoseconds.
    pub delay_min_ns: u64,
    /// Longest time on the way, nanoseconds.
    pub delay_max_ns: u64,
}

/// Times of the bus's media driver, as the node driver configures the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A client that does not call `do_work` for so long is given up, nanoseconds.
    pub client_liveness_ns: u64,
    /// A client notices after so long that the media driver is gone, nanoseconds.
    pub driver_timeout_ns: u64,
    /// An untethered subscriber may be so long far behind before it rests, nanoseconds.
    pub untethered_window_ns: u64,
    /// So long it rests, nanoseconds.
    pub untethered_resting_ns: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            client_liveness_ns: 5_000_000_000,
            driver_timeout_ns: 2_000_000_000,
            untethered_window_ns: 200_000_000,
            untethered_resting_ns: 200_000_000,
        }
    }
}
