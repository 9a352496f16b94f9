//! A consumer of a stream whose producer means harm: it says what it sees, and how each lease ends.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tensorpool_client::Consumer;

use crate::Failure;

/// The stream, the driver and a producer may need their time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two lines.
const TOLD_EVERY: Duration = Duration::from_millis(500);

pub(crate) fn run(stream: &str) -> Result<(), Failure> {
    let asked = crate::asked_to_end()?;
    let builder = Consumer::builder(stream).timeout(PATIENCE);
    let mut consumer = builder.patient().build()?;
    println!("attached to {stream}");
    let (mut seen, mut unreadable, mut told) = (0_u64, 0_u64, Instant::now());
    let mut failures = 0;
    while !asked.load(Ordering::Relaxed) {
        match consumer.wait(TOLD_EVERY) {
            Ok(Some(frame)) => match frame.to_vec() {
                Ok(_) => seen += 1,
                Err(error) => {
                    unreadable += 1;
                    println!("a frame: {}", in_words(&error));
                }
            },
            Ok(None) => {}
            Err(error) => println!("{}", in_words(&error)),
        }
        let status = consumer.status();
        if status.failures > failures {
            failures = status.failures;
            if let Some(failure) = status.last_failure {
                println!("not attached: {}", in_words(&failure));
            }
        }
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            let mapped = if status.is_mapped {
                "mapped"
            } else {
                "not mapped"
            };
            println!("{seen} frames, {unreadable} that could not be read, {mapped}");
        }
    }
    Ok(())
}

/// An error and its causes.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
