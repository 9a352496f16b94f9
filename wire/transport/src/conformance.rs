//! What every way has to do, as tests to be run over each of them.
//!
//! [`pubsub`] holds the cases of the lower layer, [`port`] those of the upper one. A way brings a
//! fixture; the macros make one `#[test]` of each case, so that a failure names what it broke:
//!
//! ```ignore
//! tensorpool_transport::pubsub_data_conformance!(MyFixture::new());
//! ```
//!
//! A case never sleeps. It calls the fixture's `step` until what it waits for has happened: in virtual
//! time that is an advance, over a real media driver a moment of waiting with a limit.

#[cfg(feature = "bus")]
pub mod bytes;
pub mod port;
pub mod pubsub;

/// Whether to go on waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Look again.
    GoOn,
    /// It took too long; the case fails.
    GiveUp,
}

/// `len` bytes that no other message of the same case has, so that mixed-up ones show.
fn pattern(number: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (number.wrapping_mul(31) ^ at.wrapping_mul(7) ^ (at >> 8)).to_le_bytes()[0])
        .collect()
}
