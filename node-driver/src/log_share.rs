//! What clients cause, in the log: each counts in the metrics, and a crowd of them has a few lines a second.
//!
//! A pod that connects or attaches as fast as it can would otherwise write the node's logs full, and the
//! lines about everybody else out of them.

use std::collections::BTreeMap;

use tensorpool_wire::{MonoNanos, StreamId};

/// In which lines are counted, in nanoseconds.
const PERIOD_NS: u64 = 1_000_000_000;

/// Whom a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// Whoever connects through a socket file.
    Attachment(u32),
    /// Whoever attaches to a stream.
    Stream(StreamId),
}

/// What was said about whom.
#[derive(Debug, Default)]
pub(crate) struct LogShare {
    said: BTreeMap<(About, &'static str), Said>,
}

#[derive(Debug)]
struct Said {
    began: MonoNanos,
    lines: u32,
    unsaid: u64,
}

impl LogShare {
    /// Whether a line may be said, of which there may be so many within a second; if so, how many were
    /// not said before it.
    pub(crate) fn take(
        &mut self,
        now: MonoNanos,
        about: About,
        what: &'static str,
        lines_per_second: u32,
    ) -> Option<u64> {
        let said = self.said.entry((about, what)).or_insert(Said {
            began: now,
            lines: 0,
            unsaid: 0,
        });
        if now.saturating_since(said.began) >= PERIOD_NS {
            (said.began, said.lines) = (now, 0);
        }
        if said.lines >= lines_per_second {
            said.unsaid += 1;
            return None;
        }
        said.lines += 1;
        Some(std::mem::take(&mut said.unsaid))
    }

    /// It is gone, and with it what was said about it.
    pub(crate) fn forget(&mut self, gone: About) {
        self.said.retain(|(about, _), _| *about != gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const ONE: About = About::Attachment(1);

    fn take(share: &mut LogShare, at_ms: u64, about: About) -> Option<u64> {
        share.take(MonoNanos(at_ms * MS), about, "garbage", 2)
    }

    #[test]
    fn of_a_crowd_so_many_a_second_are_said_with_how_many_were_not() {
        let mut share = LogShare::default();
        assert_eq!(take(&mut share, 5_000, ONE), Some(0));
        assert_eq!(take(&mut share, 5_000, ONE), Some(0));
        for at in 5_000..5_999 {
            assert_eq!(take(&mut share, at, ONE), None);
        }
        assert_eq!(take(&mut share, 6_000, ONE), Some(999));
        assert_eq!(take(&mut share, 6_999, ONE), Some(0));
        assert_eq!(take(&mut share, 6_999, ONE), None);
    }

    #[test]
    fn each_has_a_share_of_its_own_for_each_thing() {
        let mut share = LogShare::default();
        for _ in 0..3 {
            take(&mut share, 1, ONE);
        }
        assert_eq!(take(&mut share, 1, ONE), None);
        assert_eq!(take(&mut share, 1, About::Attachment(2)), Some(0));
        assert_eq!(take(&mut share, 1, About::Stream(StreamId(1))), Some(0));
        assert_eq!(share.take(MonoNanos(MS), ONE, "flood", 2), Some(0));
        share.forget(ONE);
        assert_eq!(take(&mut share, 1, ONE), Some(0));
    }
}
