//! When the next write may go out: not more than one a second, and fewer while they fail.

use std::time::{Duration, Instant};

/// Least time between two writes of a status.
pub const COALESCE: Duration = Duration::from_secs(1);
/// Longest pause after failures.
pub const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The pace of one writer.
#[derive(Debug, Default)]
pub struct Pace {
    not_before: Option<Instant>,
    failures: u32,
    /// The server wished for the pause.
    is_wished: bool,
}

impl Pace {
    /// When the next write may begin; `None`: at any time.
    #[must_use]
    pub const fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// A write that began at `began` was taken.
    pub fn wrote(&mut self, began: Instant) {
        *self = Self {
            not_before: Some(began + COALESCE),
            ..Self::default()
        };
    }

    /// A write failed at `now`. The pause doubles with each failure in a row, is never shorter than
    /// the server wishes, and `share` (0 to 255 of 255) of half of it is left out, so that the
    /// drivers of many nodes do not all come back at one time.
    pub fn failed(&mut self, now: Instant, wish: Option<Duration>, share: u8) {
        let doubled = COALESCE * 2_u32.saturating_pow(self.failures.min(8));
        let pause = doubled.min(MAX_PAUSE);
        let pause = pause - pause / 2 * u32::from(share) / 255;
        self.is_wished = wish.is_some();
        // A server that wishes for an hour is not believed.
        let wish = wish.unwrap_or_default().min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause.max(wish).max(COALESCE / 2));
    }

    /// The server said something at `now`: what is left of a pause after failures is a second at most,
    /// unless the server wished for it.
    pub fn heard(&mut self, now: Instant) {
        if self.failures > 0 && !self.is_wished {
            self.not_before = self.not_before.map(|at| at.min(now + COALESCE));
        }
    }

    /// Failures since the last success.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lies_between_the_beginnings_of_two_writes() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.not_before(), None);
        pace.wrote(now);
        assert_eq!(pace.not_before(), Some(now + COALESCE));
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_end_with_the_first_success() {
        let now = Instant::now();
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pace.failed(now, None, 0);
            let until = pace.not_before().expect("it waits");
            pauses.push(until.duration_since(now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        pace.wrote(now);
        pace.failed(now, None, 0);
        assert_eq!(pace.not_before(), Some(now + COALESCE));
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it_within_reason() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.failed(now, Some(Duration::from_secs(7)), 0);
        assert_eq!(pace.not_before(), Some(now + Duration::from_secs(7)));
        pace.failed(now, Some(Duration::from_secs(3_600)), 0);
        assert_eq!(pace.not_before(), Some(now + MAX_PAUSE));
    }

    #[test]
    fn a_server_that_is_heard_again_ends_a_pause_but_not_one_that_it_wished_for() {
        let now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..6 {
            pace.failed(now, None, 0);
        }
        let later = now + Duration::from_secs(3);
        pace.heard(later);
        assert_eq!(pace.not_before(), Some(later + COALESCE));
        pace.heard(later + COALESCE / 2);
        assert_eq!(pace.not_before(), Some(later + COALESCE), "no later");
        pace.failed(now, Some(Duration::from_secs(20)), 0);
        pace.heard(later);
        assert_eq!(pace.not_before(), Some(now + MAX_PAUSE));
        pace.wrote(now);
        pace.heard(later);
        assert_eq!(pace.not_before(), Some(now + COALESCE));
    }

    #[test]
    fn drivers_come_back_at_different_times_but_none_at_once() {
        let now = Instant::now();
        let pause = |share| {
            let mut pace = Pace::default();
            for _ in 0..6 {
                pace.failed(now, None, share);
            }
            let until = pace.not_before().expect("it waits");
            until.duration_since(now)
        };
        assert_eq!(pause(0), MAX_PAUSE);
        assert_eq!(pause(255), MAX_PAUSE / 2);
        assert!(pause(100) < MAX_PAUSE && pause(100) > MAX_PAUSE / 2);
    }
}
