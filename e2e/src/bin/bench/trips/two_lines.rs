//! What the protocol's memory layout costs by itself: a frame lies in two cache lines, its slot's and
//! its payload's, and the second can be asked for only when the first has come. No code of ours: the
//! same stores and loads by hand, in the same places of a ring of the same shape.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::time::{ClockId, clock_gettime};
use tensorpool_e2e::latency::{RoundTrip, spin_until};
use tensorpool_e2e::machine::{Machine, pin};

/// What the table calls it.
pub(crate) const TWO_LINES: &str = "slot line and payload line by hand";
/// What the table calls it with one reading of the clock per frame, as every frame has.
pub(crate) const TWO_LINES_AND_TIME: &str = "slot line and payload line by hand, with a timestamp";

const SLOTS: usize = 1024;
/// Lines of a header slot.
const LINES_PER_SLOT: usize = 4;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; 8]);

#[derive(Debug)]
pub(super) struct Ring {
    slots: Vec<Line>,
    payloads: Vec<Line>,
}

#[derive(Debug)]
struct Rings {
    there: Ring,
    back: Ring,
    rest: AtomicBool,
    timed: bool,
}

/// A thread on the other core that answers one frame with another.
#[derive(Debug)]
pub(crate) struct TwoLines {
    rings: Arc<Rings>,
    wake: Sender<u64>,
    next: u64,
}

impl Ring {
    pub(super) fn new() -> Self {
        let lines = |count| std::iter::repeat_with(Line::default).take(count).collect();
        Self {
            slots: lines(SLOTS * LINES_PER_SLOT),
            payloads: lines(SLOTS),
        }
    }

    fn place(seq: u64) -> usize {
        usize::try_from(seq).unwrap_or(0) % SLOTS
    }

    pub(super) fn send(&self, seq: u64, timed: bool) {
        let place = Self::place(seq);
        let (slot, payload) = (&self.slots[place * LINES_PER_SLOT], &self.payloads[place]);
        if timed {
            let time = clock_gettime(ClockId::Monotonic);
            let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
            slot.0[3].store(nanos, Ordering::Relaxed);
        }
        for word in &payload.0 {
            word.store(seq, Ordering::Relaxed);
        }
        slot.0[0].store(seq, Ordering::Release);
    }

    /// The payload's first word, once the frame is there.
    pub(super) fn receive(&self, seq: u64) -> Option<u64> {
        let place = Self::place(seq);
        if self.slots[place * LINES_PER_SLOT].0[0].load(Ordering::Acquire) == seq {
            Some(self.payloads[place].0[0].load(Ordering::Relaxed))
        } else {
            None
        }
    }
}

impl TwoLines {
    /// Starts the thread, at rest.
    pub(crate) fn new(machine: &Machine, timed: bool) -> Self {
        let rings = Arc::new(Rings {
            there: Ring::new(),
            back: Ring::new(),
            rest: AtomicBool::new(false),
            timed,
        });
        let (wake, orders) = channel::<u64>();
        let (answering, core) = (Arc::clone(&rings), machine.there);
        thread::spawn(move || {
            if let Err(error) = pin(core) {
                eprintln!("{error}");
                return;
            }
            while let Ok(from) = orders.recv() {
                answer(&answering, from);
            }
        });
        Self {
            rings,
            wake,
            next: 1,
        }
    }
}

/// Answers frames from the given one on, until it is told to rest.
fn answer(rings: &Rings, from: u64) {
    let mut seq = from;
    while !rings.rest.load(Ordering::Relaxed) {
        if let Some(word) = rings.there.receive(seq) {
            rings.back.send(word, rings.timed);
            seq += 1;
        }
        std::hint::spin_loop();
    }
    rings.rest.store(false, Ordering::Release);
}

impl RoundTrip for TwoLines {
    fn name(&self) -> &'static str {
        if self.rings.timed {
            TWO_LINES_AND_TIME
        } else {
            TWO_LINES
        }
    }

    fn begin(&mut self) -> Result<(), String> {
        let gone = |_| "the answering thread is gone".to_owned();
        self.wake.send(self.next).map_err(gone)
    }

    fn trip(&mut self) -> Result<(), String> {
        let seq = self.next;
        self.next += 1;
        self.rings.there.send(seq, self.rings.timed);
        spin_until(|| Ok(self.rings.back.receive(seq) == Some(seq)))
    }

    fn end(&mut self) -> Result<(), String> {
        self.rings.rest.store(true, Ordering::Release);
        spin_until(|| Ok(!self.rings.rest.load(Ordering::Acquire)))
    }
}
