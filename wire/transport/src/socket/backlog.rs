//! What waits for a connection whose peer does not read fast enough (docs/extensions.md §2.6).
//!
//! Order is kept. A newer message of the same kind goes to the end and its predecessor out: put in the
//! predecessor's place it could overtake a revoke that was sent between the two.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use tensorpool_wire::LogicalStream;

use super::packet::PREFIX_LEN;
use crate::port::Coalesce;

/// A message that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) stream: LogicalStream,
    pub(crate) coalesce: Coalesce,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Waiting {
    fn cost(&self) -> usize {
        PREFIX_LEN + self.bytes.len()
    }
}

/// What had to go so that a message could be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// An older message of the same kind was replaced.
    pub(crate) replaced: bool,
    /// So many other coalescing messages gave way.
    pub(crate) evicted: u64,
}

/// The message has no room even after everything that may give way has gone. It was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// Bytes that wait, prefixes included.
    pub(crate) waiting: usize,
    /// So many coalescing messages gave way all the same.
    pub(crate) evicted: u64,
}

/// Messages in the order in which they will be sent.
#[derive(Debug)]
pub(crate) struct Backlog {
    queue: VecDeque<Waiting>,
    bytes: usize,
    limit: usize,
}

impl Backlog {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Keeps `message` behind all others.
    // spec: X-2-30, X-2-31
    pub(crate) fn push(&mut self, message: Waiting) -> Result<Kept, Full> {
        let mut kept = Kept::default();
        if let Coalesce::Latest(_) = message.coalesce {
            let same = |w: &Waiting| w.stream == message.stream && w.coalesce == message.coalesce;
            kept.replaced = self.remove_first(same);
        }
        while self.bytes + message.cost() > self.limit {
            if !self.remove_first(|w| w.coalesce != Coalesce::Never) {
                return Err(Full {
                    waiting: self.bytes,
                    evicted: kept.evicted,
                });
            }
            kept.evicted += 1;
        }
        self.bytes += message.cost();
        self.queue.push_back(message);
        Ok(kept)
    }

    /// The message to be sent next.
    pub(crate) fn front(&self) -> Option<&Waiting> {
        self.queue.front()
    }

    /// Takes the message away that [`Backlog::front`] showed: it was sent.
    pub(crate) fn pop(&mut self) {
        if let Some(sent) = self.queue.pop_front() {
            self.bytes -= sent.cost();
        }
    }

    /// Drops everything and says how many messages that were.
    pub(crate) fn clear(&mut self) -> u64 {
        let dropped = u64::try_from(self.queue.len()).unwrap_or(u64::MAX);
        self.queue.clear();
        self.bytes = 0;
        dropped
    }

    fn remove_first(&mut self, wanted: impl Fn(&Waiting) -> bool) -> bool {
        let Some(at) = self.queue.iter().position(wanted) else {
            return false;
        };
        if let Some(gone) = self.queue.remove(at) {
            self.bytes -= gone.cost();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(coalesce: Coalesce, bytes: &[u8]) -> Waiting {
        Waiting {
            stream: LogicalStream::Announce,
            coalesce,
            bytes: bytes.to_vec(),
            fds: Vec::new(),
        }
    }

    fn drain(backlog: &mut Backlog) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(next) = backlog.front() {
            all.push(next.bytes.clone());
            backlog.pop();
        }
        assert_eq!(backlog.bytes, 0);
        all
    }

    // spec: X-2-31
    #[test]
    fn a_newer_announce_replaces_the_older_one_and_stays_behind_the_revoke_between() {
        let mut backlog = Backlog::new(1_000);
        backlog
            .push(message(Coalesce::Latest(7), b"announce, epoch 1"))
            .unwrap();
        backlog.push(message(Coalesce::Never, b"revoke")).unwrap();
        backlog
            .push(message(Coalesce::Latest(8), b"other stream"))
            .unwrap();
        let kept = backlog
            .push(message(Coalesce::Latest(7), b"announce, epoch 2"))
            .unwrap();
        assert_eq!(
            kept,
            Kept {
                replaced: true,
                evicted: 0
            }
        );
        let expected: [&[u8]; 3] = [b"revoke", b"other stream", b"announce, epoch 2"];
        assert_eq!(drain(&mut backlog), expected);
    }

    // spec: X-2-30
    #[test]
    fn it_holds_its_limit_prefixes_included_and_not_one_byte_more() {
        let mut backlog = Backlog::new(100);
        backlog.push(message(Coalesce::Never, &[1; 42])).unwrap();
        backlog.push(message(Coalesce::Never, &[2; 42])).unwrap();
        let full = backlog.push(message(Coalesce::Never, &[])).unwrap_err();
        assert_eq!(
            full,
            Full {
                waiting: 100,
                evicted: 0
            }
        );
        assert_eq!(drain(&mut backlog).len(), 2);
    }

    // spec: X-2-31
    #[test]
    fn announces_give_way_to_answers_oldest_first() {
        let mut backlog = Backlog::new(100);
        backlog
            .push(message(Coalesce::Latest(1), &[1; 42]))
            .unwrap();
        backlog
            .push(message(Coalesce::Latest(2), &[2; 20]))
            .unwrap();
        let kept = backlog.push(message(Coalesce::Never, &[3; 42])).unwrap();
        assert_eq!(
            kept,
            Kept {
                replaced: false,
                evicted: 1
            }
        );
        assert_eq!(drain(&mut backlog), [vec![2; 20], vec![3; 42]]);
    }

    #[test]
    fn the_same_key_on_another_stream_is_another_message() {
        let mut backlog = Backlog::new(1_000);
        backlog
            .push(message(Coalesce::Latest(1), b"announce"))
            .unwrap();
        let qos = Waiting {
            stream: LogicalStream::Qos,
            ..message(Coalesce::Latest(1), b"qos")
        };
        assert_eq!(backlog.push(qos).unwrap(), Kept::default());
        assert_eq!(drain(&mut backlog).len(), 2);
    }

    #[test]
    fn a_coalescing_message_that_finds_no_room_is_refused_without_cutting_anything_off() {
        let mut backlog = Backlog::new(50);
        backlog.push(message(Coalesce::Never, &[1; 42])).unwrap();
        assert_eq!(
            backlog.push(message(Coalesce::Latest(1), b"x")),
            Err(Full {
                waiting: 50,
                evicted: 0
            })
        );
        assert_eq!(drain(&mut backlog), [vec![1; 42]]);
    }
}
