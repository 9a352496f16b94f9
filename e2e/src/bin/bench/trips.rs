//! The series of round trips: ours, and the references that they are held against.

pub(crate) mod aeron;
pub(crate) mod aeron_lines;
pub(crate) mod frames;
pub(crate) mod iceoryx;
pub(crate) mod two_lines;

/// First eight bytes of a message that sends the peer to rest.
pub(crate) const REST: u64 = u64::MAX;
