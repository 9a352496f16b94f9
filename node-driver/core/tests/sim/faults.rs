//! The dice, and which faults they decide about.

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `low..high`.
    pub(crate) const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// True once in `of` times; never if 0.
    pub(crate) const fn once_in(&mut self, of: u64) -> bool {
        of != 0 && self.next().is_multiple_of(of)
    }
}

/// How often what goes wrong: once in so many occasions, 0 for never.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// Of messages on Aeron.
    pub(crate) drop: u64,
    pub(crate) duplicate: u64,
    pub(crate) delay: u64,
    /// Of steps.
    pub(crate) kill_client: u64,
    pub(crate) pause_client: u64,
    pub(crate) kill_driver: u64,
    pub(crate) stall_driver: u64,
    pub(crate) drain_driver: u64,
    pub(crate) hand_over: u64,
    pub(crate) jump_clock: u64,
    pub(crate) clock_back: u64,
    pub(crate) poison: u64,
    pub(crate) relayout: u64,
    /// Only in a cluster.
    pub(crate) policy: u64,
    pub(crate) access: u64,
    pub(crate) cut_off: u64,
    pub(crate) garbage: u64,
    /// Of actions.
    pub(crate) crash_at_action: u64,
    /// Of file operations.
    pub(crate) fail_create: u64,
    pub(crate) fail_persist: u64,
    pub(crate) fail_remove: u64,
    pub(crate) slow_work: u64,
    /// Of epochs that are made: somebody keeps them mapped, whatever is revoked.
    pub(crate) hold_epoch: u64,
    /// Memory for so many epochs of each stream while faults last, 0 for no limit.
    pub(crate) epochs_of_memory: u64,
}

impl Faults {
    pub(crate) const fn none() -> Self {
        Self {
            drop: 0,
            duplicate: 0,
            delay: 0,
            kill_client: 0,
            pause_client: 0,
            kill_driver: 0,
            stall_driver: 0,
            drain_driver: 0,
            hand_over: 0,
            jump_clock: 0,
            clock_back: 0,
            poison: 0,
            relayout: 0,
            policy: 0,
            access: 0,
            cut_off: 0,
            garbage: 0,
            crash_at_action: 0,
            fail_create: 0,
            fail_persist: 0,
            fail_remove: 0,
            slow_work: 0,
            hold_epoch: 0,
            epochs_of_memory: 0,
        }
    }

    /// Each kind is left out in half of the worlds: some failures show only where others are absent.
    pub(crate) const fn mixed(random: &mut Random) -> Self {
        Self {
            drop: maybe(random, 15),
            duplicate: maybe(random, 20),
            delay: maybe(random, 5),
            kill_client: maybe(random, 100),
            pause_client: maybe(random, 150),
            kill_driver: maybe(random, 400),
            stall_driver: maybe(random, 300),
            drain_driver: maybe(random, 600),
            hand_over: maybe(random, 600),
            jump_clock: maybe(random, 500),
            clock_back: maybe(random, 300),
            poison: maybe(random, 300),
            relayout: maybe(random, 500),
            policy: 0,
            access: 0,
            cut_off: maybe(random, 300),
            garbage: maybe(random, 50),
            crash_at_action: maybe(random, 300),
            fail_create: maybe(random, 8),
            fail_persist: maybe(random, 15),
            fail_remove: maybe(random, 5),
            slow_work: maybe(random, 4),
            hold_epoch: 0,
            epochs_of_memory: maybe(random, 3),
        }
    }

    /// The same, in a cluster: memory is bounded by class and quota there.
    pub(crate) const fn of_a_cluster(random: &mut Random) -> Self {
        Self {
            policy: 50,
            access: 60,
            epochs_of_memory: 0,
            hold_epoch: 3,
            ..Self::mixed(random)
        }
    }
}

const fn maybe(random: &mut Random, often: u64) -> u64 {
    if random.once_in(2) { often } else { 0 }
}
