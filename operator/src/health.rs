//! Whether the process lives, and is ready.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Without a beat for longer than this the process is dead. Longer than any single step.
const STILL: Duration = Duration::from_secs(60);

/// What `/livez` and `/readyz` answer from.
#[derive(Debug)]
pub(crate) struct Health {
    beat: Mutex<Instant>,
    ready: watch::Sender<bool>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            beat: Mutex::new(Instant::now()),
            ready: watch::Sender::new(false),
        }
    }

    /// Some loop has come round.
    pub(crate) fn beat(&self) {
        if let Ok(mut beat) = self.beat.lock() {
            *beat = Instant::now();
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.beat.lock().is_ok_and(|beat| beat.elapsed() < STILL)
    }

    /// Every cache was filled once.
    pub(crate) fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Returns once every cache was filled.
    pub(crate) async fn ready(&self) {
        // An error would mean that the sender is gone; it is here.
        drop(self.ready.subscribe().wait_for(|ready| *ready).await);
    }
}
