//! What was shown, and what was not.

use std::time::{Duration, Instant};

use crate::ending;

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: u32,
    failed: Vec<&'static str>,
}

impl Report {
    /// Does one step and says how it ended. What it made, if it succeeded.
    pub(crate) fn step<T>(
        &mut self,
        what: &'static str,
        step: impl FnOnce() -> Result<T, String>,
    ) -> Option<T> {
        println!("== {what}");
        let started = Instant::now();
        ending::stop_if_asked();
        let outcome = step();
        ending::stop_if_asked();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(made) => {
                println!("ok      {seconds:6.1} s  {what}");
                self.passed += 1;
                Some(made)
            }
            Err(why) => {
                println!("FAILED  {seconds:6.1} s  {what}\n{why}");
                self.failed.push(what);
                None
            }
        }
    }

    /// Whether a step failed.
    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The line that everything ends with.
    pub(crate) fn summary(&self, took: Duration) -> String {
        let failed = self.failed.len();
        let names = match self.failed.join("; ") {
            names if names.is_empty() => names,
            names => format!(" ({names})"),
        };
        let (minutes, seconds) = (took.as_secs() / 60, took.as_secs() % 60);
        let passed = self.passed;
        format!("e2e: {passed} passed, {failed} failed{names}, {minutes} min {seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_in_the_last_line() {
        let mut report = Report::default();
        assert_eq!(report.step("one", || Ok(1)), Some(1));
        assert!(!report.has_failed());
        assert_eq!(report.step::<()>("two", || Err("no".to_owned())), None);
        assert!(report.has_failed());
        assert_eq!(
            report.summary(Duration::from_secs(61)),
            "e2e: 1 passed, 1 failed (two), 1 min 1 s"
        );
    }
}
