//! Requests to the API server and calls of kubelet, counted for metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::attachments::calls::Calls;

/// How often each kind of request was answered how. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    counts: Arc<Mutex<Counts>>,
    calls: Arc<Mutex<Vec<Calls>>>,
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

    /// What the `csi` container has counted so far.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn hear_of(&self, calls: Vec<Calls>) {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner) = calls;
    }

    /// What was heard last.
    pub(crate) fn calls(&self) -> Vec<Calls> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.clone()
    }

    /// All so far.
    pub(crate) fn all(&self) -> Counts {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}
