//! What clients did wrong, in the log: each counts in the metrics, a crowd of them is one line a second.
//!
//! A pod that connects as fast as it can would otherwise write the node's logs full, and the lines of
//! everybody else out of them.

use std::collections::BTreeMap;

use tensorpool_wire::MonoNanos;

/// Nanoseconds between two lines about one socket file for one reason.
const PERIOD_NS: u64 = 1_000_000_000;

/// What was said about whom.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    said: BTreeMap<(u32, &'static str), Said>,
}

#[derive(Debug)]
struct Said {
    at: MonoNanos,
    unsaid: u64,
}

impl Complaints {
    /// How many like it were not said since the last line, if this one is to be said.
    pub(super) fn say(
        &mut self,
        now: MonoNanos,
        attachment: u32,
        reason: &'static str,
    ) -> Option<u64> {
        let Some(said) = self.said.get_mut(&(attachment, reason)) else {
            let said = Said { at: now, unsaid: 0 };
            self.said.insert((attachment, reason), said);
            return Some(0);
        };
        if now.saturating_since(said.at) < PERIOD_NS {
            said.unsaid += 1;
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.unsaid))
    }

    /// The socket file is gone.
    pub(super) fn forget(&mut self, attachment: u32) {
        self.said.retain(|(of, _), _| *of != attachment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn say(complaints: &mut Complaints, at_ms: u64, attachment: u32) -> Option<u64> {
        complaints.say(MonoNanos(at_ms * MS), attachment, "garbage")
    }

    #[test]
    fn of_a_crowd_one_a_second_is_said_with_how_many_were_not() {
        let mut complaints = Complaints::default();
        assert_eq!(say(&mut complaints, 5_000, 1), Some(0));
        for at in 5_000..5_999 {
            assert_eq!(say(&mut complaints, at, 1), None);
        }
        assert_eq!(say(&mut complaints, 6_000, 1), Some(999));
        assert_eq!(say(&mut complaints, 7_000, 1), Some(0));
    }

    #[test]
    fn each_socket_file_and_each_reason_is_said_by_itself() {
        let mut complaints = Complaints::default();
        assert_eq!(say(&mut complaints, 1, 1), Some(0));
        assert_eq!(say(&mut complaints, 1, 2), Some(0));
        assert_eq!(complaints.say(MonoNanos(MS), 1, "flood"), Some(0));
        assert_eq!(say(&mut complaints, 1, 1), None);
        complaints.forget(1);
        assert_eq!(say(&mut complaints, 1, 1), Some(0));
        assert_eq!(say(&mut complaints, 1, 2), None);
    }
}
