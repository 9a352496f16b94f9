//! Random numbers of a lease, all from one seed.

/// SplitMix64: a full-period generator of 64-bit numbers from a seed.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `min` doubled `failures` times, at most `max`, of which the second half is random.
    pub(super) fn delay_ns(&mut self, min_ns: u64, max_ns: u64, failures: u32) -> u64 {
        let factor = 1_u64.checked_shl(failures.min(32)).unwrap_or(u64::MAX);
        let full = min_ns.saturating_mul(factor).min(max_ns);
        let half = full / 2;
        half + self.next() % (full - half).max(1)
    }
}
