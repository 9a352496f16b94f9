//! A ring on the heap, for tests and models.

use super::{Miss, Slots, begin, commit, read, write_words};
use crate::sync::AtomicU64;

/// `N` words per slot; all zero at first, as in a new region.
pub(crate) struct Ring<const N: usize> {
    slots: Vec<[AtomicU64; N]>,
}

impl<const N: usize> Ring<N> {
    pub(crate) fn new(nslots: usize) -> Self {
        assert!(nslots.is_power_of_two());
        let slot = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            slots: (0..nslots).map(slot).collect(),
        }
    }

    /// Publishes frame `seq` as a producer does.
    pub(crate) fn publish(&self, seq: u64) {
        begin(self.slot(seq), seq);
        write_words(self.slot(seq), &frame::<N>(seq));
        commit(self.slot(seq), seq);
    }

    /// Copies frame `seq` as a consumer does.
    pub(crate) fn read(&self, seq: u64) -> Result<[u64; N], Miss> {
        read(self.slot(seq), seq)
    }

    /// Begins frame `seq` and leaves it.
    pub(crate) fn abandon(&self, seq: u64) {
        begin(self.slot(seq), seq);
    }
}

impl<const N: usize> Slots<N> for Ring<N> {
    fn mask(&self) -> u64 {
        u64::try_from(self.slots.len()).expect("a small ring") - 1
    }

    fn slot(&self, seq: u64) -> &[AtomicU64; N] {
        &self.slots[usize::try_from(seq & self.mask()).expect("a small ring")]
    }
}

/// What the words of frame `seq` must be: each names the frame and its own place.
pub(crate) fn frame<const N: usize>(seq: u64) -> [u64; N] {
    std::array::from_fn(|i| match u64::try_from(i).expect("a few words") {
        0 => super::committed(seq),
        i => (seq + 1).wrapping_mul(1000) + i,
    })
}
