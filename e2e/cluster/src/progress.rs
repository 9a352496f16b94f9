//! What a person sees while a cluster is built and started.

use std::fmt;
use std::sync::Arc;

/// Where lines of progress go.
#[derive(Clone)]
pub struct Progress {
    say: Arc<dyn Fn(&str) + Send + Sync>,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

impl Progress {
    /// Standard error.
    #[must_use]
    pub fn stderr() -> Self {
        Self::to(|line| eprintln!("{line}"))
    }

    /// Anywhere.
    pub fn to(say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { say: Arc::new(say) }
    }

    /// A step begins.
    pub(crate) fn step(&self, what: &str) {
        (self.say)(what);
    }

    /// More about the step that runs.
    pub(crate) fn detail(&self, what: &str) {
        (self.say)(&format!("  {what}"));
    }
}
