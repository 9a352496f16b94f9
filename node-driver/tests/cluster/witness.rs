//! A producer and a consumer that must not notice anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use tensorpool_client::{Consumer, Producer};

use crate::support::PATIENCE;
use crate::world::eventually;

/// Publishes a frame, reads it, publishes the next. Each holds its running number; none may be lost,
/// and all are of one epoch.
pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// On this stream. Returns when the first frame has gone through.
    pub(crate) fn start(socket: &Path, stream: &'static str) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&seen));
        let socket: PathBuf = socket.to_owned();
        let thread = thread::spawn(move || {
            let producer = Producer::builder(stream).socket(&socket).build();
            let mut producer = producer.expect("the producer attaches");
            let consumer = Consumer::builder(stream).socket(&socket).build();
            let mut consumer = consumer.expect("the consumer attaches");
            let mut first_epoch = None;
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                producer
                    .publish(&number.to_le_bytes())
                    .expect("the lease lives");
                let frame = consumer.wait(PATIENCE).expect("the lease lives");
                let frame = frame.expect("the frame comes");
                let epoch = *first_epoch.get_or_insert_with(|| frame.epoch());
                assert_eq!(frame.epoch(), epoch, "the memory is the same");
                let mut bytes = [0; 8];
                frame.copy_to(&mut bytes).expect("it is whole");
                assert_eq!(u64::from_le_bytes(bytes), number, "none is lost");
                number += 1;
                counted.store(number, Ordering::Relaxed);
                // A frame a millisecond leaves the machine to the others.
                thread::park_timeout(std::time::Duration::from_millis(1));
            }
        });
        let witness = Self {
            stop,
            seen,
            thread: Some(thread),
        };
        witness.goes_on();
        witness
    }

    /// How many frames went through.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Returns once further frames have gone through.
    pub(crate) fn goes_on(&self) {
        let before = self.seen();
        eventually("frames go on", || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "the witness ended");
            match self.seen() {
                seen if seen > before + 10 => Ok(()),
                seen => Err(format!("{seen} frames, {before} before")),
            }
        });
    }

    /// All that it saw was as it must be; how many frames that were.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("no frame was lost");
        self.seen()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
