//! The reference of waiting: a thread on the other core that sleeps in the kernel on one word without
//! any limit of time, and how long after the wake it runs. Nothing of ours is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use hdrhistogram::Histogram;
use rustix::io::Errno;
use rustix::thread::futex;
use tensorpool_e2e::latency::{Percentiles, new_histogram, percentiles};
use tensorpool_e2e::machine::{Machine, pin};

use super::clock;

const OVER: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Word {
    turn: AtomicU32,
    /// `CLOCK_MONOTONIC` just before the wake.
    sent: AtomicU64,
}

/// The sleeping thread.
#[derive(Debug)]
pub(super) struct Sleeper {
    word: Arc<Word>,
    thread: JoinHandle<Result<Histogram<u64>, String>>,
}

impl Sleeper {
    /// Starts it on the core of the waiting peer.
    pub(super) fn start(machine: &Machine) -> Self {
        let word = Arc::new(Word::default());
        let (sleeping, core) = (Arc::clone(&word), machine.there);
        let thread = thread::spawn(move || {
            pin(core)?;
            sleep(&sleeping)
        });
        Self { word, thread }
    }

    /// Wakes it once.
    pub(super) fn wake(&self) -> Result<(), String> {
        let next = self.word.turn.load(Ordering::Relaxed).wrapping_add(1);
        self.set(next)
    }

    /// Ends it: how long its wakes took.
    pub(super) fn end(self) -> Result<Percentiles, String> {
        self.set(OVER)?;
        let wakes = self.thread.join();
        let wakes = wakes.map_err(|_| "the sleeping thread panicked".to_owned())??;
        Ok(percentiles(&wakes))
    }

    fn set(&self, turn: u32) -> Result<(), String> {
        let now = clock(rustix::time::ClockId::Monotonic);
        self.word.sent.store(now, Ordering::Relaxed);
        self.word.turn.store(turn, Ordering::Release);
        // Not FUTEX_PRIVATE: between processes the kernel looks the word up in the same way.
        futex::wake(&self.word.turn, futex::Flags::empty(), 1)
            .map(drop)
            .map_err(|error| format!("the reference could not be woken: {error}"))
    }
}

fn sleep(word: &Word) -> Result<Histogram<u64>, String> {
    let mut wakes = new_histogram()?;
    let mut last = 0;
    loop {
        match futex::wait(&word.turn, futex::Flags::empty(), last, None) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(format!("the reference could not sleep: {error}")),
        }
        let turn = word.turn.load(Ordering::Acquire);
        if turn == OVER {
            return Ok(wakes);
        }
        if turn != last {
            let sent = word.sent.load(Ordering::Relaxed);
            let now = clock(rustix::time::ClockId::Monotonic);
            wakes.saturating_record(now.saturating_sub(sent).max(1));
            last = turn;
        }
    }
}
