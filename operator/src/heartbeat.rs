//! Which drivers live, by their Leases and this process's own clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::DriverLife;

/// After this without renewal a driver is silent.
pub const SILENT: Duration = Duration::from_secs(120);
/// After this without renewal a driver is dead, and nobody waits for it.
pub const DEAD: Duration = Duration::from_secs(600);

/// When each driver's Lease was last seen to change. Clocks of nodes are not looked at.
#[derive(Debug, Default)]
pub struct Heartbeats {
    seen: BTreeMap<String, (String, Instant)>,
}

impl Heartbeats {
    /// Takes note of all Leases, by node, with something that changes at each renewal. Drivers whose
    /// Lease is gone keep the time at which it was last seen.
    pub fn see(&mut self, leases: impl IntoIterator<Item = (String, String)>, now: Instant) {
        for (node, renewal) in leases {
            match self.seen.get(&node) {
                Some((known, _)) if *known == renewal => {}
                Some(_) | None => {
                    self.seen.insert(node, (renewal, now));
                }
            }
        }
    }

    /// What is known of the driver of `node`. `has_status`: it once wrote a status.
    #[must_use]
    pub fn life(&mut self, node: &str, has_status: bool, now: Instant) -> DriverLife {
        if has_status && !self.seen.contains_key(node) {
            // Its time begins when this process first hears of it.
            self.seen.insert(node.to_owned(), (String::new(), now));
        }
        let Some((_, since)) = self.seen.get(node) else {
            return DriverLife::Never;
        };
        let age = now.duration_since(*since);
        if age < SILENT {
            DriverLife::Alive
        } else if age < DEAD {
            DriverLife::Silent
        } else {
            DriverLife::Dead
        }
    }

    /// When some life changes next, without any news.
    #[must_use]
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let steps = self
            .seen
            .values()
            .flat_map(|(_, since)| [*since + SILENT, *since + DEAD]);
        steps.filter(|at| *at > now).min()
    }

    /// Forgets nodes that are gone.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.seen.retain(|node, _| is_there(node));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{DEAD, Heartbeats, SILENT};
    use crate::DriverLife;

    fn lease(renewal: u32) -> [(String, String); 1] {
        [("n1".to_owned(), renewal.to_string())]
    }

    #[test]
    fn a_driver_lives_while_its_lease_changes() {
        let start = Instant::now();
        let mut heartbeats = Heartbeats::default();
        assert_eq!(heartbeats.life("n1", false, start), DriverLife::Never);
        for minute in 0..60 {
            let now = start + Duration::from_secs(u64::from(minute) * 60);
            heartbeats.see(lease(minute), now);
            assert_eq!(heartbeats.life("n1", true, now), DriverLife::Alive);
        }
    }

    #[test]
    fn a_driver_that_stands_still_is_silent_then_dead_then_alive_again() {
        let start = Instant::now();
        let mut heartbeats = Heartbeats::default();
        heartbeats.see(lease(1), start);
        assert_eq!(heartbeats.next_change(start), Some(start + SILENT));
        heartbeats.see(lease(1), start + SILENT);
        assert_eq!(
            heartbeats.life("n1", true, start + SILENT),
            DriverLife::Silent
        );
        assert_eq!(heartbeats.life("n1", true, start + DEAD), DriverLife::Dead);
        heartbeats.see(lease(2), start + DEAD);
        assert_eq!(heartbeats.life("n1", true, start + DEAD), DriverLife::Alive);
    }

    #[test]
    fn a_driver_without_a_lease_has_its_ten_minutes_from_when_it_is_first_heard_of() {
        let start = Instant::now();
        let mut heartbeats = Heartbeats::default();
        assert_eq!(heartbeats.life("n1", true, start), DriverLife::Alive);
        assert_eq!(heartbeats.life("n1", true, start + DEAD), DriverLife::Dead);
        heartbeats.keep(|_| false);
        assert_eq!(heartbeats.life("n1", false, start), DriverLife::Never);
    }
}
