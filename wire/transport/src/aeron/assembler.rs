//! Puts fragmented messages together, per session, with checked lengths.
//!
//! Input is what the Aeron library hands out, already copied into memory of our own. Whatever the
//! flags and lengths say, the result is a whole message, nothing, or a counted drop.

use std::collections::HashMap;

/// First fragment of a message.
pub(super) const FLAG_BEGIN: u8 = 0x80;
/// Last fragment of a message.
pub(super) const FLAG_END: u8 = 0x40;

/// Messages that were begun and not ended, at most this many at once. One per session with a
/// fragmented message under way; more is a peer that makes up sessions.
const SESSIONS_MAX: usize = 1024;

/// Longest message that is put together, in bytes: what Aeron itself allows at its largest.
pub(super) const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Reassembles the messages of one subscription.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    begun: HashMap<i32, Vec<u8>>,
    /// Kept to be filled again: the last message handed out.
    whole: Vec<u8>,
    dropped: u64,
}

impl Assembler {
    /// Takes one fragment; gives back the message that it completes.
    pub(super) fn push<'a>(
        &'a mut self,
        session: i32,
        flags: u8,
        bytes: &'a [u8],
    ) -> Option<&'a [u8]> {
        let begin = flags & FLAG_BEGIN != 0;
        let end = flags & FLAG_END != 0;
        if begin && end {
            if !self.begun.is_empty() {
                self.forget(session);
            }
            return Some(bytes);
        }
        if begin {
            self.begin(session, bytes);
            return None;
        }
        let Some(message) = self.begun.get_mut(&session) else {
            self.dropped += 1;
            return None;
        };
        if message.len() + bytes.len() > MESSAGE_MAX {
            self.forget(session);
            return None;
        }
        message.extend_from_slice(bytes);
        if !end {
            return None;
        }
        self.whole = self.begun.remove(&session)?;
        Some(&self.whole)
    }

    /// Drops what a session has begun: it is gone or has started over.
    pub(super) fn forget(&mut self, session: i32) {
        if self.begun.remove(&session).is_some() {
            self.dropped += 1;
        }
    }

    /// Messages dropped since the beginning: a fragment without its beginning, one without its end,
    /// or too many or too long.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn begin(&mut self, session: i32, bytes: &[u8]) {
        self.forget(session);
        if self.begun.len() >= SESSIONS_MAX {
            self.dropped += 1;
            return;
        }
        let mut message = std::mem::take(&mut self.whole);
        message.clear();
        message.extend_from_slice(bytes);
        self.begun.insert(session, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfragmented_message_passes_through() {
        let mut assembler = Assembler::default();
        let whole = assembler.push(1, FLAG_BEGIN | FLAG_END, b"abc");
        assert_eq!(whole, Some(&b"abc"[..]));
        assert_eq!(assembler.dropped(), 0);
    }

    #[test]
    fn fragments_of_two_sessions_do_not_mix() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push(1, FLAG_BEGIN, b"a"), None);
        assert_eq!(assembler.push(2, FLAG_BEGIN, b"x"), None);
        assert_eq!(assembler.push(1, 0, b"b"), None);
        assert_eq!(assembler.push(2, FLAG_END, b"y"), Some(&b"xy"[..]));
        assert_eq!(assembler.push(1, FLAG_END, b"c"), Some(&b"abc"[..]));
        assert_eq!(assembler.dropped(), 0);
    }

    #[test]
    fn an_end_without_a_beginning_is_dropped_and_counted() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push(1, FLAG_END, b"c"), None);
        assert_eq!(assembler.push(1, 0, b"c"), None);
        assert_eq!(assembler.dropped(), 2);
    }

    #[test]
    fn a_second_beginning_drops_the_first() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push(1, FLAG_BEGIN, b"a"), None);
        assert_eq!(assembler.push(1, FLAG_BEGIN, b"b"), None);
        assert_eq!(assembler.push(1, FLAG_END, b"c"), Some(&b"bc"[..]));
        assert_eq!(assembler.dropped(), 1);
    }

    #[test]
    fn a_session_that_ends_takes_its_half_message_with_it() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push(1, FLAG_BEGIN, b"a"), None);
        assembler.forget(1);
        assert_eq!(assembler.push(1, FLAG_END, b"c"), None);
        assert_eq!(assembler.dropped(), 2);
    }

    #[test]
    fn a_message_of_the_longest_length_passes_and_one_byte_more_does_not() {
        for (extra, passes) in [(0, true), (1, false)] {
            let mut assembler = Assembler::default();
            let half = vec![7; MESSAGE_MAX / 2];
            assert_eq!(assembler.push(1, FLAG_BEGIN, &half), None);
            let rest = vec![7; MESSAGE_MAX / 2 + extra];
            assert_eq!(assembler.push(1, FLAG_END, &rest).is_some(), passes);
            assert_eq!(assembler.dropped(), u64::from(!passes));
        }
    }

    #[test]
    fn half_messages_of_made_up_sessions_are_bounded() {
        let mut assembler = Assembler::default();
        for session in 0..1025 {
            assert_eq!(assembler.push(session, FLAG_BEGIN, b"a"), None);
        }
        assert_eq!(assembler.dropped(), 1);
        assert_eq!(assembler.begun.len(), SESSIONS_MAX);
    }
}
