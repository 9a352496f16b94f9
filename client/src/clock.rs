//! The two clocks of the client. Neither reading is a system call on the machines that this runs on.

use rustix::time::{ClockId, clock_gettime};
use tensorpool_wire::{MonoNanos, WallNanos};

/// `CLOCK_MONOTONIC`.
#[inline]
pub(crate) fn mono_now() -> MonoNanos {
    MonoNanos(nanos(ClockId::Monotonic))
}

/// `CLOCK_REALTIME`.
pub(crate) fn wall_now() -> WallNanos {
    WallNanos(nanos(ClockId::Realtime))
}

#[inline]
fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
