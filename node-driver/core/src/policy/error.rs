//! What can be wrong with a policy.

use tensorpool_wire::{PoolId, StreamId};

use super::{IdRange, MAX_NAME_BYTES, MAX_POOLS};

/// Which value breaks which rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// See message.
    #[error("`{user}` names the profile `{profile}`, which is not defined")]
    NoSuchProfile {
        /// The key that names it.
        user: String,
        /// The name.
        profile: String,
    },
    /// See message.
    #[error("stream `{stream}` names the class `{class}`, which is not defined")]
    NoSuchClass {
        /// Which stream.
        stream: String,
        /// The name.
        class: String,
    },
    /// See message.
    #[error("stream `{stream}` names the quota `{quota}`, which is not defined")]
    NoSuchQuota {
        /// Which stream.
        stream: String,
        /// The name.
        quota: String,
    },
    /// See message.
    #[error("profile `{profile}`: header_nslots {nslots} is not a power of two")]
    Nslots {
        /// Which profile.
        profile: String,
        /// Its value.
        nslots: u32,
    },
    /// See message.
    #[error("profile `{0}` has more than {MAX_POOLS} pools")]
    TooManyPools(String),
    /// See message.
    #[error("profile `{profile}`: pool id {pool} is 0 or occurs twice")]
    PoolId {
        /// Which profile.
        profile: String,
        /// The id.
        pool: PoolId,
    },
    /// See message.
    #[error("profile `{profile}`: stride_bytes {stride_bytes} is not a positive multiple of 64")]
    Stride {
        /// Which profile.
        profile: String,
        /// Its value.
        stride_bytes: u32,
    },
    /// See message.
    #[error("stream `{0}`: stream_id must not be 0 or 4294967295")]
    StreamIdReserved(String),
    /// See message.
    #[error("stream id {0} is configured twice")]
    StreamIdTwice(StreamId),
    /// See message.
    #[error("stream name `{0}` is configured twice")]
    NameTwice(String),
    /// See message.
    #[error("stream {0}: its name must have 1 to {MAX_NAME_BYTES} bytes")]
    NameLength(StreamId),
    /// See message.
    #[error("`{name}` {}-{}: the first id must not be 0 or above the last, and the last must be usable", range.start, range.end)]
    RangeBounds {
        /// Which key.
        name: &'static str,
        /// Its value.
        range: IdRange,
    },
    /// See message.
    #[error("`{name}` and `{other}` overlap")]
    RangesOverlap {
        /// Which key.
        name: &'static str,
        /// Which other key.
        other: &'static str,
    },
    /// See message.
    #[error("`{name}` holds the id {id}, which is used otherwise")]
    RangeHoldsId {
        /// Which key.
        name: &'static str,
        /// The id.
        id: u32,
    },
}
