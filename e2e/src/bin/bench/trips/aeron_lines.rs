//! What descriptors cost by themselves: 48 bytes over bare Aeron IPC that name a frame, and the two
//! cache lines of that frame written and read by hand. No code of ours between.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tensorpool_e2e::latency::{RoundTrip, spin_until};
use tensorpool_e2e::machine::{Machine, pin};

use super::REST;
use super::aeron::{Ends, TRIPS_PER_WORK};
use super::two_lines::Ring;

/// What the table calls it.
pub(crate) const AERON_AND_LINES: &str =
    "bare Aeron IPC and the frame's lines by hand, with a timestamp";

const THERE: i32 = 9003;
const BACK: i32 = 9004;

struct Rings {
    there: Ring,
    back: Ring,
}

/// The measuring end. The answering end is a thread with an Aeron client of its own.
pub(crate) struct AeronLines {
    rings: Arc<Rings>,
    directory: PathBuf,
    wake: Sender<()>,
    said: Receiver<Result<(), String>>,
    ends: Option<Ends>,
    next: u64,
}

impl AeronLines {
    /// Starts the thread, at rest.
    pub(crate) fn new(machine: &Machine, directory: &Path) -> Self {
        let rings = Arc::new(Rings {
            there: Ring::new(),
            back: Ring::new(),
        });
        let (wake, orders) = channel::<()>();
        let (answers, said) = channel();
        let (answering, core, aeron) = (Arc::clone(&rings), machine.there, directory.to_owned());
        thread::spawn(move || {
            let pinned = pin(core);
            while orders.recv().is_ok() {
                let outcome = pinned.clone();
                let outcome = outcome.and_then(|()| answer(&answering, &aeron));
                if answers.send(outcome).is_err() {
                    return;
                }
            }
        });
        Self {
            rings,
            directory: directory.to_owned(),
            wake,
            said,
            ends: None,
            next: 1,
        }
    }
}

/// Answers one turn.
fn answer(rings: &Rings, directory: &Path) -> Result<(), String> {
    let mut ends = Ends::open(directory, BACK, THERE)?;
    ends.connected()?;
    let mut trips = 0_u32;
    loop {
        let seq = received(&mut ends)?;
        if seq == REST {
            return Ok(());
        }
        let word = rings.there.receive(seq).ok_or("a descriptor came early")?;
        rings.back.send(word, true);
        ends.send(word)?;
        trips += 1;
        if trips.is_multiple_of(TRIPS_PER_WORK) {
            ends.work()?;
        }
    }
}

fn received(ends: &mut Ends) -> Result<u64, String> {
    let mut word = None;
    spin_until(|| {
        word = ends.receive()?;
        Ok(word.is_some())
    })?;
    word.ok_or_else(|| "nothing came".to_owned())
}

impl RoundTrip for AeronLines {
    fn name(&self) -> &'static str {
        AERON_AND_LINES
    }

    fn begin(&mut self) -> Result<(), String> {
        let gone = |_| "the answering thread is gone".to_owned();
        self.wake.send(()).map_err(gone)?;
        let mut ends = Ends::open(&self.directory, THERE, BACK)?;
        ends.connected()?;
        self.ends = Some(ends);
        Ok(())
    }

    fn trip(&mut self) -> Result<(), String> {
        let seq = self.next;
        self.next += 1;
        let ends = self.ends.as_mut().ok_or("a trip outside a turn")?;
        if seq.is_multiple_of(u64::from(TRIPS_PER_WORK)) {
            ends.work()?;
        }
        self.rings.there.send(seq, true);
        ends.send(seq)?;
        let back = received(ends)?;
        match self.rings.back.receive(back) {
            Some(word) if word == seq => Ok(()),
            Some(_) | None => Err("another frame came back".to_owned()),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        let mut ends = self.ends.take().ok_or("a turn that did not begin")?;
        ends.send(REST)?;
        let said = self.said.recv();
        said.map_err(|_| "the answering thread is gone".to_owned())?
    }
}
