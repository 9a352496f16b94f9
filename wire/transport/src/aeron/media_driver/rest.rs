//! What the media driver's thread does between two rounds of work.
//!
//! The library's own backoff starts over whenever a round had work, and its timer tick counts as
//! work: at a tick every 10 ms it never gets far and wakes about two thousand times a second for
//! nothing. Here the tick alone does not count as traffic, naps are longer, and one always ends at
//! the tick.

use std::time::Duration;

/// Rounds without work that only yield.
const YIELDS: u32 = 30;
/// The first nap; each is twice as long as the one before.
const FIRST_NAP: Duration = Duration::from_micros(50);

/// What to do before the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: there was work, there may be more.
    GoOn,
    /// Let others run.
    Yield,
    /// Sleep for so long.
    Nap(Duration),
}

/// How long it has been quiet.
#[derive(Debug)]
pub(super) struct Rest {
    longest_nap: Duration,
    timer_interval: Duration,
    /// When the library looks at its timers next, on the caller's clock.
    tick_at: Duration,
    quiet_rounds: u32,
    nap: Duration,
}

impl Rest {
    pub(super) const fn new(longest_nap: Duration, timer_interval: Duration) -> Self {
        Self {
            longest_nap,
            timer_interval,
            tick_at: Duration::ZERO,
            quiet_rounds: 0,
            nap: FIRST_NAP,
        }
    }

    /// After a round with so much `work` that ended at `now`, the time since any fixed moment.
    pub(super) fn after(&mut self, work: i32, now: Duration) -> Step {
        if work > 0 {
            let is_tick = work == 1 && now >= self.tick_at;
            if is_tick {
                self.tick_at = now + self.timer_interval;
            } else {
                self.quiet_rounds = 0;
                self.nap = FIRST_NAP;
            }
            return Step::GoOn;
        }
        self.quiet_rounds = self.quiet_rounds.saturating_add(1);
        if self.quiet_rounds <= YIELDS {
            return Step::Yield;
        }
        let until_tick = self.tick_at.saturating_sub(now).max(FIRST_NAP);
        let nap = self.nap.min(until_tick);
        self.nap = (self.nap * 2).min(self.longest_nap);
        Step::Nap(nap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const INTERVAL: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(10);

    /// One round at a time, for so long: what a library with a timer and `traffic` would see.
    fn naps(
        rest: &mut Rest,
        now: &mut Duration,
        span: Duration,
        mut traffic: impl FnMut(Duration) -> i32,
    ) -> Vec<Duration> {
        let until = *now + span;
        let mut tick = *now;
        let mut naps = Vec::new();
        while *now < until {
            let mut work = traffic(*now);
            if *now > tick {
                tick = *now + INTERVAL;
                work += 1;
            }
            match rest.after(work, *now) {
                Step::GoOn | Step::Yield => *now += Duration::from_nanos(200),
                Step::Nap(nap) => {
                    naps.push(nap);
                    // The kernel is always a little late.
                    *now += nap + Duration::from_micros(60);
                }
            }
        }
        naps
    }

    #[test]
    fn a_quiet_media_driver_wakes_twice_a_tick_at_most() {
        let mut rest = Rest::new(LONGEST, INTERVAL);
        let mut now = MS;
        naps(&mut rest, &mut now, MS * 50, |_| 0);
        let quiet = naps(&mut rest, &mut now, MS * 1_000, |_| 0);
        assert!(quiet.len() <= 200, "{} naps in a second", quiet.len());
        assert!(quiet.iter().all(|nap| *nap <= LONGEST));
    }

    #[test]
    fn a_nap_ends_at_the_tick() {
        let mut rest = Rest::new(MS * 1_000, INTERVAL);
        let mut now = MS;
        let quiet = naps(&mut rest, &mut now, MS * 1_000, |_| 0);
        assert!(quiet.iter().all(|nap| *nap <= INTERVAL), "{quiet:?}");
    }

    #[test]
    fn traffic_keeps_naps_short_and_work_is_never_followed_by_one() {
        let mut rest = Rest::new(LONGEST, INTERVAL);
        let mut now = MS;
        naps(&mut rest, &mut now, MS * 50, |_| 0);
        let mut last = now;
        let busy = naps(&mut rest, &mut now, MS * 100, |now| {
            // Something every 100 µs.
            let due = now.saturating_sub(last) >= MS / 10;
            if due {
                last = now;
            }
            i32::from(due)
        });
        let longest = busy.iter().skip(1).max().copied().unwrap_or_default();
        assert!(longest <= MS / 5, "{longest:?}");
        assert_eq!(rest.after(3, now), Step::GoOn);
        assert_eq!(rest.after(0, now), Step::Yield);
    }
}
