//! Who leads: the decision, without I/O.
//!
//! A holder that has not renewed for the whole duration, *as seen by this process's own clock*, has lost
//! its lease; clocks of different machines are never compared. The duration is 15 s, a leader gives up
//! after 10 s without a renewal, and everybody looks every 2 s.

use std::time::{Duration, Instant};

/// How long a lease holds without renewal.
pub(crate) const DURATION: Duration = Duration::from_secs(15);
/// How long a leader goes on without a renewal that succeeded. Shorter than [`DURATION`], so it stops
/// before another one begins.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(10);
/// How often the lease is looked at, or renewed.
pub(crate) const PERIOD: Duration = Duration::from_secs(2);

/// The lease object as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Who holds it; nobody after a release.
    pub(crate) holder: Option<String>,
    /// Changes with every write.
    pub(crate) version: String,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Write the lease, on the condition that nobody else did meanwhile.
    Take,
    /// Look again later.
    Wait,
}

/// What one candidate has seen.
#[derive(Debug)]
pub(crate) struct Election {
    me: String,
    seen: Option<(Record, Instant)>,
}

impl Election {
    pub(crate) const fn new(me: String) -> Self {
        Self { me, seen: None }
    }

    /// Decides on what was read; `None`: there is no lease yet.
    pub(crate) fn look(&mut self, record: Option<Record>, now: Instant) -> Turn {
        let Some(record) = record else {
            return Turn::Take;
        };
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            Some(_) | None => now,
        };
        let is_free = record
            .holder
            .as_deref()
            .is_none_or(|it| it.is_empty() || it == self.me);
        self.seen = Some((record, since));
        if is_free || now.duration_since(since) >= DURATION {
            Turn::Take
        } else {
            Turn::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{DURATION, Election, Record, Turn};

    fn record(holder: &str, version: u32) -> Option<Record> {
        Some(Record {
            holder: Some(holder.to_owned()),
            version: version.to_string(),
        })
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        let now = Instant::now();
        let mut me = Election::new("me".to_owned());
        assert_eq!(me.look(None, now), Turn::Take);
        assert_eq!(me.look(record("", 1), now), Turn::Take);
        assert_eq!(me.look(record("me", 2), now), Turn::Take);
    }

    #[test]
    fn a_holder_that_renews_is_left_alone_however_long() {
        let start = Instant::now();
        let mut me = Election::new("me".to_owned());
        for second in 0..100 {
            let now = start + Duration::from_secs(u64::from(second));
            assert_eq!(me.look(record("other", second), now), Turn::Wait);
        }
    }

    #[test]
    fn a_holder_that_stands_still_is_replaced_after_the_whole_duration() {
        let start = Instant::now();
        let mut me = Election::new("me".to_owned());
        assert_eq!(me.look(record("other", 1), start), Turn::Wait);
        let just_before = start + DURATION - Duration::from_millis(1);
        assert_eq!(me.look(record("other", 1), just_before), Turn::Wait);
        assert_eq!(me.look(record("other", 1), start + DURATION), Turn::Take);
    }
}
