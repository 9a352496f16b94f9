//! `CLOCK_MONOTONIC`, the one clock of every time on the wire.

use rustix::time::{ClockId, clock_gettime};
use tensorpool_wire::MonoNanos;

const SECOND_NS: u64 = 1_000_000_000;

/// The time now.
#[must_use]
pub(crate) fn now() -> MonoNanos {
    let time = clock_gettime(ClockId::Monotonic);
    // Both are positive: the clock starts at boot.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    MonoNanos(seconds.saturating_mul(SECOND_NS).saturating_add(nanos))
}
