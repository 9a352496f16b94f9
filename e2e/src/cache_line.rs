//! The reference of ring notification: one cache line there, one back, between two cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use crate::latency::{RoundTrip, spin_until};
use crate::machine::{Machine, pin};

/// Sends the answering thread to rest.
const REST: u64 = u64::MAX;
/// What the table calls it.
pub const CACHE_LINE: &str = "bare cache line";

/// A word that has its cache lines (and the prefetcher's next one) for itself.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone(AtomicU64);

#[derive(Debug, Default)]
struct Lines {
    there: Alone,
    back: Alone,
}

/// A thread on the other core that answers one word with another. Two threads or two processes
/// make no difference to a cache line.
#[derive(Debug)]
pub struct CacheLine {
    lines: Arc<Lines>,
    wake: Sender<()>,
    next: u64,
}

impl CacheLine {
    /// Starts the thread, at rest.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        let lines = Arc::new(Lines::default());
        let (wake, orders) = channel::<()>();
        let (answering, core) = (Arc::clone(&lines), machine.there);
        thread::spawn(move || {
            if let Err(error) = pin(core) {
                eprintln!("{error}");
                return;
            }
            while orders.recv().is_ok() {
                answer(&answering);
            }
        });
        Self {
            lines,
            wake,
            next: 1,
        }
    }
}

fn answer(lines: &Lines) {
    let mut last = 0;
    loop {
        let word = lines.there.0.load(Ordering::Acquire);
        if word == REST {
            lines.back.0.store(REST, Ordering::Release);
            return;
        }
        if word != last {
            lines.back.0.store(word, Ordering::Release);
            last = word;
        }
        std::hint::spin_loop();
    }
}

impl RoundTrip for CacheLine {
    fn name(&self) -> &'static str {
        CACHE_LINE
    }

    fn begin(&mut self) -> Result<(), String> {
        self.lines.there.0.store(0, Ordering::Release);
        self.lines.back.0.store(0, Ordering::Release);
        let gone = |_| "the answering thread is gone".to_owned();
        self.wake.send(()).map_err(gone)
    }

    fn trip(&mut self) -> Result<(), String> {
        let word = self.next;
        self.next += 1;
        self.lines.there.0.store(word, Ordering::Release);
        spin_until(|| Ok(self.lines.back.0.load(Ordering::Acquire) == word))
    }

    fn end(&mut self) -> Result<(), String> {
        self.lines.there.0.store(REST, Ordering::Release);
        spin_until(|| Ok(self.lines.back.0.load(Ordering::Acquire) == REST))
    }
}
