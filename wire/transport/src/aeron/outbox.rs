//! Messages that a publication did not take yet, in order and bounded.
//!
//! Control messages are offered, never claimed, so that they may be longer than one fragment, and
//! are kept until the publication takes them (ambiguities of the protocol: a lost answer is not
//! asked for again by every client). What nobody listens to is kept for a while and then dropped.

use std::collections::VecDeque;

use tensorpool_wire::MonoNanos;

use crate::port::Coalesce;
use crate::pubsub::{Publication, SendError};

/// Bounds of one outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Most messages waiting.
    pub messages: usize,
    /// Most bytes waiting.
    pub bytes: usize,
    /// How long a message waits for a first listener, in nanoseconds. 0: not at all.
    pub unheard_nanos: u64,
}

impl Default for OutboxLimits {
    /// 1,024 messages, 4 MiB, 5 s: as long as a client waits for an answer to its attach.
    fn default() -> Self {
        Self {
            messages: 1024,
            bytes: 4 * 1024 * 1024,
            unheard_nanos: 5_000_000_000,
        }
    }
}

/// What became of messages that were not sent at once, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Kept to be sent later.
    pub kept: u64,
    /// Replaced by a newer one of the same key.
    pub coalesced: u64,
    /// Dropped since nobody listened for too long.
    pub unheard: u64,
    /// Refused since the outbox was full.
    pub overflowed: u64,
    /// Refused at once since the publication cannot take them (closed, too long).
    pub failed: u64,
    /// Dropped while they waited, since the publication cannot take them or never opened.
    pub lost: u64,
}

impl OutboxCounts {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            kept: self.kept + other.kept,
            coalesced: self.coalesced + other.coalesced,
            unheard: self.unheard + other.unheard,
            overflowed: self.overflowed + other.overflowed,
            failed: self.failed + other.failed,
            lost: self.lost + other.lost,
        }
    }
}

/// The waiting messages of one publication.
#[derive(Debug)]
pub(super) struct Outbox {
    limits: OutboxLimits,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    blocked: bool,
    counts: OutboxCounts,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    coalesce: Coalesce,
    /// Set when it was first seen with nobody listening.
    unheard_since: Option<MonoNanos>,
}

impl Outbox {
    pub(super) fn new(limits: OutboxLimits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            bytes: 0,
            blocked: false,
            counts: OutboxCounts::default(),
        }
    }

    pub(super) const fn counts(&self) -> OutboxCounts {
        self.counts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether messages wait although somebody listens.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked && !self.waiting.is_empty()
    }

    /// Sends at once if nothing waits and `hold` does not ask to wait, keeps the message otherwise.
    ///
    /// # Errors
    /// [`SendError`] when it was neither sent nor kept.
    pub(super) fn send(
        &mut self,
        publication: &mut impl Publication,
        bytes: &[u8],
        coalesce: Coalesce,
        hold: bool,
    ) -> Result<(), SendError> {
        if self.waiting.is_empty() && !hold {
            match offer(publication, bytes) {
                Ok(()) => return Ok(()),
                Err(SendError::NotConnected) if !self.keeps_unheard(coalesce) => {
                    return Err(SendError::NotConnected);
                }
                Err(error) if error.is_retryable() => {
                    self.blocked = error != SendError::NotConnected;
                }
                Err(error) => {
                    self.counts.failed += 1;
                    return Err(error);
                }
            }
        } else if bytes.len() > publication.max_message_len() {
            self.counts.failed += 1;
            return Err(SendError::TooLong {
                len: bytes.len(),
                max: publication.max_message_len(),
            });
        }
        self.keep(bytes, coalesce)
    }

    /// Keeps a message for a publication that is not open yet and will take at most `len_max` bytes.
    ///
    /// # Errors
    /// [`SendError`] when it was not kept.
    pub(super) fn keep_for_later(&mut self, bytes: &[u8], len_max: usize) -> Result<(), SendError> {
        if bytes.len() > len_max {
            self.counts.failed += 1;
            return Err(SendError::TooLong {
                len: bytes.len(),
                max: len_max,
            });
        }
        self.keep(bytes, Coalesce::Never)
    }

    /// Drops what waits: its publication will not be there.
    pub(super) fn give_up(&mut self) {
        while !self.waiting.is_empty() {
            self.counts.lost += 1;
            self.drop_first();
        }
    }

    /// Sends what waits, in order, as far as the publication takes it. Returns how many were sent.
    pub(super) fn flush(&mut self, publication: &mut impl Publication, now: MonoNanos) -> usize {
        let mut sent = 0;
        while let Some(first) = self.waiting.front() {
            match offer(publication, &first.bytes) {
                Ok(()) => {
                    sent += 1;
                    self.blocked = false;
                    self.drop_first();
                }
                Err(SendError::NotConnected) => {
                    self.blocked = false;
                    self.drop_unheard(now);
                    break;
                }
                Err(error) if error.is_retryable() => {
                    self.blocked = true;
                    break;
                }
                Err(_) => {
                    self.counts.lost += 1;
                    self.drop_first();
                }
            }
        }
        sent
    }

    const fn keeps_unheard(&self, coalesce: Coalesce) -> bool {
        // State that is repeated anyway is not worth keeping for nobody.
        matches!(coalesce, Coalesce::Never) && self.limits.unheard_nanos > 0
    }

    fn keep(&mut self, bytes: &[u8], coalesce: Coalesce) -> Result<(), SendError> {
        if let Coalesce::Latest(_) = coalesce
            && let Some(older) = self.waiting.iter_mut().find(|w| w.coalesce == coalesce)
        {
            self.bytes = self.bytes - older.bytes.len() + bytes.len();
            older.bytes.clear();
            older.bytes.extend_from_slice(bytes);
            self.counts.coalesced += 1;
            return Ok(());
        }
        let full = self.waiting.len() >= self.limits.messages
            || self.bytes + bytes.len() > self.limits.bytes;
        if full {
            self.counts.overflowed += 1;
            return Err(SendError::Overflow {
                limit: self.limits.bytes,
            });
        }
        self.bytes += bytes.len();
        self.counts.kept += 1;
        self.waiting.push_back(Waiting {
            bytes: bytes.to_vec(),
            coalesce,
            unheard_since: None,
        });
        Ok(())
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.waiting.pop_front() {
            self.bytes -= first.bytes.len();
        }
    }

    fn drop_unheard(&mut self, now: MonoNanos) {
        for waiting in &mut self.waiting {
            waiting.unheard_since.get_or_insert(now);
        }
        while self.waiting.front().is_some_and(|first| {
            first
                .unheard_since
                .is_some_and(|since| now.saturating_since(since) >= self.limits.unheard_nanos)
        }) {
            self.counts.unheard += 1;
            self.drop_first();
        }
    }
}

/// Offers once more where the log was only rotating.
fn offer(publication: &mut impl Publication, bytes: &[u8]) -> Result<(), SendError> {
    match publication.offer(bytes) {
        Err(SendError::AdminAction) => publication.offer(bytes),
        other => other,
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
