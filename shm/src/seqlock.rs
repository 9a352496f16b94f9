//! The per-slot sequence lock: what orders a frame's bytes against the word that says it is there.
//!
//! A slot is `N` words; word 0 is `seq_commit`, `seq << 1` while a frame is written and
//! `seq << 1 | 1` once it is complete. There is one writer, and nobody waits for anybody. The module
//! is generic in `N` (32 in production) and safe: it sees words, never addresses.
//!
//! The pairs, by name:
//! - SLOT-BEGIN: the release fence in [`begin`] with the second acquire fence in [`read_each`] and the
//!   one in [`is_still`]. A reader that saw any word of the new frame sees the begin mark too.
//! - SLOT-COMMIT: the release store in [`commit`] with the first acquire fence in [`read_each`]. A reader
//!   that saw the committed mark sees every word of that frame.
//!
//! The protocol's own text has a release store and no fence at SLOT-BEGIN, which lets the frame's
//! stores move up before the mark; `tests` keeps that ordering as a model that must fail. The bytes
//! are the same either way (docs/decisions.md, "seqlock fences").
//!
//! Readers use relaxed loads and fences only, because their mapping is read-only.

use crate::sync::{AtomicU64, Ordering, fence};

/// The largest sequence number: `seq << 1 | 1` must fit, and `2^63-1` is kept free (W-8.3-1).
pub(crate) const MAX_SEQ: u64 = (1 << 63) - 2;

/// Words of a cache line. Slots begin on one.
const LINE_WORDS: usize = 8;

/// The ring of slots that a cursor or reader looks at.
pub(crate) trait Slots<const N: usize> {
    /// Number of slots minus one; the number of slots is a power of two.
    fn mask(&self) -> u64;
    /// The slot that `seq` falls into: index `seq & mask`.
    fn slot(&self, seq: u64) -> &[AtomicU64; N];

    /// `seq_commit` of the slot that `seq` falls into.
    #[inline]
    fn mark(&self, seq: u64) -> u64 {
        self.slot(seq)[0].load(Ordering::Relaxed)
    }
}

/// Why a slot did not yield the frame that was asked for. Each is one dropped frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// The slot is in progress, or still holds an older frame: not visible yet.
    #[error("the frame is not committed in its slot")]
    NotCommitted,
    /// A later frame has taken the slot, before or during the read.
    #[error("a later frame has taken the slot")]
    Overwritten,
    /// The number is above `2^63-2`, which no frame can have.
    #[error("the sequence number is above 2^63-2")]
    SeqOutOfRange,
}

/// `seq_commit` of frame `seq` once it is complete.
pub(crate) const fn committed(seq: u64) -> u64 {
    seq << 1 | 1
}

/// The frame that a `seq_commit` speaks of.
pub(crate) const fn seq_of(mark: u64) -> u64 {
    mark >> 1
}

/// Marks the slot as being written with frame `seq`, before any of its bytes change.
// spec: W-8.3-2 X-1-26
#[inline]
pub(crate) fn begin<const N: usize>(slot: &[AtomicU64; N], seq: u64) {
    slot[0].store(seq << 1, Ordering::Release);
    fence(Ordering::Release); // SLOT-BEGIN
}

/// Stores words `1..N` of the `N` in the frame that was begun, except those that the slot already holds.
///
/// The comparison is with this slot's own memory, on every frame: each slot is one lap old, so
/// nothing may be assumed about what it holds. The result is the same as storing every word. The
/// cache line of the mark changes in any case: its words are stored without a look, which would have
/// to wait for the line.
// spec: W-8.3-3
#[inline]
pub(crate) fn write_words<const N: usize>(slot: &[AtomicU64; N], words: &[u64; N]) {
    write_first(slot, words);
    let rest = const { first_words(N) };
    for (cell, &word) in slot[rest..].iter().zip(&words[rest..]) {
        if cell.load(Ordering::Relaxed) != word {
            cell.store(word, Ordering::Relaxed);
        }
    }
}

/// Stores the words of the frame that was begun which share the mark's cache line. With
/// [`has_rest`], which may come before the mark since nobody else writes, that is all of them.
// spec: W-8.3-3
#[inline]
pub(crate) fn write_first<const N: usize>(slot: &[AtomicU64; N], words: &[u64; N]) {
    let first = const { first_words(N) };
    for (cell, &word) in slot[1..first].iter().zip(&words[1..first]) {
        cell.store(word, Ordering::Relaxed);
    }
}

/// Whether the slot already holds all words of a frame behind the mark's cache line.
// spec: W-8.3-3
#[inline]
pub(crate) fn has_rest<const N: usize>(slot: &[AtomicU64; N], words: &[u64; N]) -> bool {
    let rest = const { first_words(N) };
    let pairs = slot[rest..].iter().zip(&words[rest..]);
    pairs.fold(0, |seen, (cell, word)| {
        seen | cell.load(Ordering::Relaxed) ^ word
    }) == 0
}

/// How many words of a slot of `N` are stored without a look. The small slots of the models have
/// none, so that their compares are modelled.
const fn first_words(n: usize) -> usize {
    if n > LINE_WORDS { LINE_WORDS } else { 1 }
}

/// Marks frame `seq` as complete, after all of its bytes.
// spec: W-8.3-3 W-8.2-3 W-8.3-4 X-1-26
#[inline]
pub(crate) fn commit<const N: usize>(slot: &[AtomicU64; N], seq: u64) {
    slot[0].store(committed(seq), Ordering::Release); // SLOT-COMMIT
}

/// Copies the first `M` words of frame `seq` out of its slot, one after the other, if it is there,
/// complete and undisturbed. After an error, what `put` got means nothing.
// spec: W-8.3-5 W-15.21-1 W-10.2.1-4 W-8.2-6 W-15.3-1 W-15.3-3
#[inline]
pub(crate) fn read_each<const N: usize, const M: usize>(
    slot: &[AtomicU64; N],
    seq: u64,
    mut put: impl FnMut(usize, u64),
) -> Result<(), Miss> {
    const { assert!(0 < M && M <= N) };
    if seq > MAX_SEQ {
        return Err(Miss::SeqOutOfRange);
    }
    let mark = slot[0].load(Ordering::Relaxed);
    if mark != committed(seq) {
        return Err(if seq_of(mark) > seq {
            Miss::Overwritten
        } else {
            Miss::NotCommitted
        });
    }
    fence(Ordering::Acquire); // pairs with SLOT-COMMIT
    put(0, mark);
    for (i, word) in slot[..M].iter().enumerate().skip(1) {
        put(i, word.load(Ordering::Relaxed));
    }
    if is_still(slot, seq) {
        Ok(())
    } else {
        Err(Miss::Overwritten)
    }
}

/// `read_each` of all words, into an array.
#[cfg(test)]
pub(crate) fn read<const N: usize>(slot: &[AtomicU64; N], seq: u64) -> Result<[u64; N], Miss> {
    let mut words = [0; N];
    read_each::<N, N>(slot, seq, |i, word| words[i] = word)?;
    Ok(words)
}

/// Whether everything that was read of frame `seq` before this call was of that frame.
// spec: W-8.3-7 W-15.3-2
#[inline]
pub(crate) fn is_still<const N: usize>(slot: &[AtomicU64; N], seq: u64) -> bool {
    fence(Ordering::Acquire); // pairs with SLOT-BEGIN
    slot[0].load(Ordering::Relaxed) == committed(seq)
}

#[cfg(all(test, loom))]
pub(crate) mod loom;
#[cfg(test)]
pub(crate) mod ring;
#[cfg(all(test, not(loom)))]
mod tests;
