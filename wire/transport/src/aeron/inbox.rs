//! Fragments copied out of shared memory and not handed on yet.
//!
//! A library's callback only copies. What is done with the fragments happens after the library has
//! returned, so that no code of a caller runs inside it.

/// Bytes in front of every fragment in a term.
pub(super) const FRAME_HEADER_LEN: usize = 32;
/// Longest fragment in bytes: the largest MTU that Aeron takes, less its header.
pub(super) const FRAGMENT_MAX: usize = 65_504 - FRAME_HEADER_LEN;

/// What a fragment's header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) session: i32,
    pub(super) flags: u8,
    start: usize,
    end: usize,
}

/// The fragments of one poll.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    fragments: Vec<Fragment>,
    next: usize,
    refused: u64,
}

impl Inbox {
    /// The next fragment and its bytes. It counts as handed on from now on.
    pub(super) fn take(&mut self) -> Option<(Fragment, &[u8])> {
        let fragment = *self.fragments.get(self.next)?;
        self.next += 1;
        Some((fragment, &self.bytes[fragment.start..fragment.end]))
    }

    /// Whether everything was handed on.
    pub(super) const fn is_empty(&self) -> bool {
        self.next >= self.fragments.len()
    }

    /// Fragments not copied since their length cannot be true.
    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }

    /// Forgets everything but the count.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.fragments.clear();
        self.next = 0;
    }

    /// Counts a fragment whose length cannot be true.
    pub(super) const fn refuse(&mut self) {
        self.refused += 1;
    }

    /// Where the bytes of the next fragment are appended.
    pub(super) const fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes the bytes from `start` on a fragment.
    pub(super) fn close_fragment(&mut self, session: i32, flags: u8, start: usize) {
        let end = self.bytes.len();
        self.fragments.push(Fragment {
            session,
            flags,
            start: start.min(end),
            end,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_come_out_in_order_and_once() {
        let mut inbox = Inbox::default();
        for (session, body) in [(1, &b"one"[..]), (2, b""), (1, b"three")] {
            let start = inbox.bytes_mut().len();
            inbox.bytes_mut().extend_from_slice(body);
            inbox.close_fragment(session, 0xc0, start);
        }
        let mut all = Vec::new();
        while let Some((fragment, bytes)) = inbox.take() {
            all.push((fragment.session, bytes.to_vec()));
        }
        assert_eq!(
            all,
            [
                (1, b"one".to_vec()),
                (2, Vec::new()),
                (1, b"three".to_vec())
            ]
        );
        assert!(inbox.is_empty());
        inbox.clear();
        assert_eq!(inbox.take(), None);
    }
}
