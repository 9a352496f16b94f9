//! A small generator of its own, so that a seed means the same for ever.

/// SplitMix64. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator whose numbers follow from `seed` alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included; `low` where `high` is not above it.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        let number = self.next_u64();
        if high <= low {
            return low;
        }
        match (high - low).checked_add(1) {
            Some(span) => low + number % span,
            None => number,
        }
    }

    /// True in `per_million` of a million cases.
    pub fn chance(&mut self, per_million: u32) -> bool {
        self.next_u64() % 1_000_000 < u64::from(per_million)
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_gives_the_published_numbers() {
        // The first outputs of SplitMix64 for seed 1234567, from its reference description.
        let mut random = Random::new(1_234_567);
        let first = [random.next_u64(), random.next_u64(), random.next_u64()];
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn bounds_hold_and_both_ends_are_reached() {
        let mut random = Random::new(7);
        let mut seen = [false; 4];
        for _ in 0..200 {
            let number = random.between(3, 6);
            assert!((3..=6).contains(&number));
            seen[usize::try_from(number - 3).unwrap()] = true;
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(random.between(5, 5), 5);
        assert!((0..100).all(|_| !random.chance(0)));
        assert!((0..100).all(|_| random.chance(1_000_000)));
    }
}
