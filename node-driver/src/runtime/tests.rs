//! What can be seen of the duty cycle without running it.

use super::*;

#[test]
fn a_relay_keeps_every_sleep_at_a_hundred_microseconds() {
    // spec: X-2-63
    assert_eq!(longest_sleep_ns(true, false), 100_000);
    assert_eq!(longest_sleep_ns(true, true), 100_000);
    assert_eq!(longest_sleep_ns(false, false), 1_000_000);
}
