//! Requests to the API server, counted for metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How often each kind of request was answered how. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    counts: Arc<Mutex<Counts>>,
}

/// By request and result.
pub(crate) type Counts = BTreeMap<(&'static str, &'static str), u64>;

impl Requests {
    /// One more. Both are words of a bounded set.
    pub fn count(&self, request: &'static str, result: &'static str) {
        // Every change of the map is one step, so a panic elsewhere leaves it whole.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((request, result)).or_default() += 1;
    }

    /// All so far.
    pub(crate) fn all(&self) -> Counts {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}
