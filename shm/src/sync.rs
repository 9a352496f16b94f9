//! The only place that names atomics, so that loom can take their place.
//!
//! Under `cfg(loom)` only `seqlock` and `cursor` are compiled: loom's atomics are larger than eight
//! bytes and can never be laid over a mapped file.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
