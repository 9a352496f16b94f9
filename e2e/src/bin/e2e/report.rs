//! What was shown, and what was not.

use std::mem;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::ending;

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: u32,
    failed: Vec<&'static str>,
    beside: Vec<Beside>,
}

/// A step that goes on beside others.
#[derive(Debug)]
struct Beside {
    what: &'static str,
    /// What it says, and how long it took.
    thread: JoinHandle<(Result<String, String>, Duration)>,
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
        self.end(what, outcome, started.elapsed())
    }

    /// Begins a step that waits more than it works. Others go on meanwhile; [`Self::settle`] says what it
    /// said and how it ended.
    pub(crate) fn beside(
        &mut self,
        what: &'static str,
        step: impl FnOnce() -> Result<String, String> + Send + 'static,
    ) {
        println!("== {what}: begins, beside what follows");
        ending::stop_if_asked();
        let thread = thread::spawn(move || {
            let started = Instant::now();
            let outcome = step();
            (outcome, started.elapsed())
        });
        self.beside.push(Beside { what, thread });
    }

    /// Waits for everything that goes on beside.
    pub(crate) fn settle(&mut self) {
        for Beside { what, thread } in mem::take(&mut self.beside) {
            let ended = thread.join();
            println!("== {what}");
            let (outcome, took) =
                ended.unwrap_or_else(|_| (Err("its thread panicked".to_owned()), Duration::ZERO));
            self.end(what, outcome.map(|said| print!("{said}")), took);
        }
    }

    fn end<T>(
        &mut self,
        what: &'static str,
        outcome: Result<T, String>,
        took: Duration,
    ) -> Option<T> {
        ending::stop_if_asked();
        let seconds = took.as_secs_f64();
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

    #[test]
    fn what_goes_on_beside_counts_once_it_has_ended() {
        let mut report = Report::default();
        let (go, may_go) = std::sync::mpsc::channel();
        report.beside("good", || Ok("said\n".to_owned()));
        report.beside("late", move || {
            may_go.recv().map_err(|error| error.to_string())
        });
        report.beside("broken", || panic!("on purpose"));
        assert_eq!(
            report.step("between", || go
                .send("at last\n".to_owned())
                .map_err(|_| "gone".to_owned())),
            Some(())
        );
        assert_eq!(report.passed, 1);
        report.settle();
        assert_eq!(report.passed, 3);
        assert_eq!(report.failed, ["broken"]);
    }
}
