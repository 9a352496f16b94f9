//! The duty cycle: poll every input to empty, let the core decide, perform, idle.
//!
//! One thread. The clock is read once per cycle. Nothing here waits but the idle step, and that wakes
//! for the socket at once; files are made by the file worker, HTTP is served elsewhere.

mod inputs;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tensorpool_driver_core::{Driver, EpochKey, Event};
use tensorpool_shm::{CreatedEpoch, EpochStore};
use tensorpool_transport::port::ServerPort;
use tensorpool_transport::socket::SocketServer;
use tensorpool_wire::{MonoNanos, StreamId};

use crate::aeron::Aeron;
use crate::clock;
use crate::config::{self, Settings};
use crate::counters::Counters;
use crate::files::{Files, Job};
use crate::health::{Observed, Readiness};
use crate::log_filter::LogFilter;
use crate::metrics::Snapshot;
use crate::signals::Signals;
use crate::status::Answers;

/// An input that is never empty puts expiry off for no longer than this: a peer that floods must not
/// keep leases alive.
const TICK_AT_LEAST_EVERY_NS: u64 = 250_000_000;
/// Idle rounds that spin, then those that yield, before the first sleep.
const SPINS: u32 = 1;
const YIELDS: u32 = 1;
/// Sleep at most, without a relay and with one.
const SLEEP_NS: u64 = 1_000_000;
/// Sleep at most where everything that cannot wait wakes: the socket alone, no file job under way.
const LONG_SLEEP_NS: u64 = 10_000_000;
// spec: X-2-63
const SLEEP_WITH_RELAY_NS: u64 = 100_000;
/// After the last action the transports are driven on for this long, so that last words go out.
const LAST_WORDS_NS: u64 = 100_000_000;
/// Time between looks at directories of drivers that were still alive at the last look.
const SCAN_PERIOD_NS: u64 = 30_000_000_000;

/// What ends the driver while it runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fatal {
    /// policies.mlock_shm is set and the kernel refuses.
    #[error(
        "memory cannot be locked: raise RLIMIT_MEMLOCK or set policies.mlock_shm = false ({0})"
    )]
    CannotLock(String),
    /// The socket as a whole.
    #[error("the socket failed: {0}")]
    Socket(String),
}

/// What the duty cycle is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The decisions.
    pub core: Driver,
    /// The socket, if one is configured.
    pub socket: Option<SocketServer>,
    /// Aeron, if it is configured.
    pub aeron: Option<Aeron>,
    /// The file worker.
    pub files: Files,
    /// The regions' directories.
    pub store: Arc<EpochStore>,
    /// What other threads see of it.
    pub observed: Observed,
    /// What was signalled.
    pub signals: Signals,
    /// The log filter and where a new one is found.
    pub log_filter: LogFilter,
    /// What was counted while it was put together.
    pub counters: Counters,
    /// Whether epochs of drivers that still run were found.
    pub others_alive: bool,
}

/// The running driver.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) core: Driver,
    pub(crate) socket: Option<SocketServer>,
    pub(crate) aeron: Option<Aeron>,
    pub(crate) files: Files,
    store: Arc<EpochStore>,
    observed: Observed,
    signals: Signals,
    log_filter: LogFilter,
    pub(crate) counters: Counters,
    /// The files of this process's epochs, for activity refreshes and producers' descriptors.
    pub(crate) epochs: BTreeMap<EpochKey, Box<CreatedEpoch>>,
    pub(crate) answers: Answers,
    /// Aeron stream id of each configured stream's descriptors.
    descriptor_streams: BTreeMap<StreamId, i32>,
    default_descriptor_stream: i32,
    shutdown_mode: config::ShutdownMode,
    cleanup: bool,
    /// Events that came up while actions were performed.
    pub(crate) inner_events: Vec<Event<'static>>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) stopping: bool,
    fatal: Option<Fatal>,
    ending: bool,
    last_tick: MonoNanos,
    idle_rounds: u32,
    /// When to look again at what earlier drivers left behind.
    scan_at: Option<MonoNanos>,
}

impl Runtime {
    /// Puts the parts together. Nothing runs before [`Runtime::run`].
    #[must_use]
    pub(crate) fn new(parts: Parts, settings: &Settings, now: MonoNanos) -> Self {
        Self {
            core: parts.core,
            socket: parts.socket,
            aeron: parts.aeron,
            files: parts.files,
            store: parts.store,
            observed: parts.observed,
            signals: parts.signals,
            log_filter: parts.log_filter,
            counters: parts.counters,
            epochs: BTreeMap::new(),
            answers: Answers::default(),
            descriptor_streams: settings
                .streams
                .values()
                .map(|stream| (stream.stream_id, stream.descriptor_stream_id))
                .collect(),
            default_descriptor_stream: settings.driver.descriptor.stream_id,
            shutdown_mode: settings.shutdown_mode,
            cleanup: settings.policies.cleanup_shm_on_exit,
            inner_events: Vec::new(),
            scratch: Vec::new(),
            stopping: false,
            fatal: None,
            ending: false,
            last_tick: now,
            idle_rounds: 0,
            scan_at: parts
                .others_alive
                .then(|| now.saturating_add(SCAN_PERIOD_NS)),
        }
    }

    /// Runs until the core says stop.
    ///
    /// # Errors
    /// [`Fatal`] when the driver could not go on.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        // Whoever reads `ready` in the log may ask /readyz at once.
        let readiness = self.readiness();
        self.observed.set_readiness(readiness);
        tracing::info!("ready");
        while !self.stopping {
            let now = clock::now();
            let work = self.cycle(now);
            self.observe(now, work);
            self.idle(now, work);
        }
        let fatal = self.fatal.take();
        self.finish();
        fatal.map_or(Ok(()), Err)
    }

    /// One round. Returns how much there was to do.
    fn cycle(&mut self, now: MonoNanos) -> usize {
        let mut out = Vec::new();
        self.take_signals(now, &mut out);
        let (mut work, mut emptied) = self.poll_inputs(now, &mut out);
        work += self.take_done(now, &mut out);
        for event in std::mem::take(&mut self.inner_events) {
            self.core.handle(now, event, &mut out);
            work += 1;
        }
        emptied |= now.saturating_since(self.last_tick) >= TICK_AT_LEAST_EVERY_NS;
        if emptied {
            self.last_tick = now;
            self.core.handle(now, Event::Tick, &mut out);
        }
        work += out.len();
        self.perform_all(now, out);
        work += self.work_descriptors(now);
        self.send_answers(now);
        self.scan_again(now);
        work
    }

    fn work_descriptors(&mut self, now: MonoNanos) -> usize {
        let Some(aeron) = &mut self.aeron else {
            return 0;
        };
        let (work, poisoned) = aeron.work(now, &mut self.counters);
        for EpochKey { stream, epoch } in poisoned {
            aeron.stop_relay(stream);
            self.inner_events
                .push(Event::RegionPoisoned { stream, epoch });
        }
        work
    }

    fn scan_again(&mut self, now: MonoNanos) {
        if self.scan_at.is_some_and(|at| now >= at) {
            self.scan_at = None;
            self.files.submit(Job::Scan);
        }
    }

    /// Aeron stream id of a stream's descriptors.
    pub(crate) fn descriptor_stream(&self, stream: StreamId) -> i32 {
        self.descriptor_streams
            .get(&stream)
            .copied()
            .unwrap_or(self.default_descriptor_stream)
    }

    /// Tells the other threads how it goes.
    fn observe(&mut self, now: MonoNanos, work: usize) {
        self.counters.cycles += 1;
        if work > 0 {
            self.counters.busy_cycles += 1;
            let took = clock::now().saturating_since(now);
            self.counters.longest_cycle_ns = self.counters.longest_cycle_ns.max(took);
        }
        self.observed.cycle(now);
        let readiness = self.readiness();
        self.observed.set_readiness(readiness);
        while let Some(reply) = self.observed.next_scrape() {
            let snapshot = Snapshot {
                status: self.core.status(),
                counters: self.counters.clone(),
                socket: self.socket.as_ref().map(|socket| socket.stats().clone()),
                media_driver: self.aeron.as_mut().is_some_and(Aeron::is_up),
            };
            self.counters.longest_cycle_ns = 0;
            // Whoever asked may have given up; then nobody misses the answer.
            let _unasked = reply.send(snapshot);
        }
    }

    fn readiness(&mut self) -> Readiness {
        if self.ending {
            Readiness::Draining
        } else if self.aeron.as_mut().is_none_or(Aeron::is_up) {
            Readiness::Ready
        } else {
            Readiness::NoMediaDriver
        }
    }

    /// Spins, yields, then sleeps. The first sleep after work is not cut short by the socket: packets
    /// of ten thousand clients come one by one, and a wake-up for each would cost more than the packet.
    /// Later sleeps are.
    fn idle(&mut self, now: MonoNanos, work: usize) {
        if work > 0 || self.stopping {
            self.idle_rounds = 0;
            return;
        }
        self.idle_rounds = self.idle_rounds.saturating_add(1);
        if self.idle_rounds <= SPINS {
            std::hint::spin_loop();
            return;
        }
        if self.idle_rounds <= SPINS + YIELDS {
            std::thread::yield_now();
            return;
        }
        let is_first = self.idle_rounds == SPINS + YIELDS + 1;
        let wakes_for_all = self.aeron.is_none() && self.socket.is_some() && self.files.is_idle();
        let has_relays = self.aeron.as_ref().is_some_and(Aeron::has_relays);
        let longest = longest_sleep_ns(has_relays, wakes_for_all && !is_first);
        let until_due = self
            .core
            .next_deadline()
            .map_or(longest, |due| due.saturating_since(now));
        let waking = self.socket.as_ref().filter(|_| !is_first);
        sleep(waking, longest.min(until_due));
    }

    /// Last words go out, the file worker finishes, memory is given back if that was asked for.
    fn finish(mut self) {
        self.observed.set_readiness(Readiness::Draining);
        let drained = self.shutdown_mode == config::ShutdownMode::Drain;
        let until = clock::now().saturating_add(LAST_WORDS_NS);
        loop {
            let now = clock::now();
            if let Some(socket) = &mut self.socket
                && socket.poll(now, &mut |_| {}).is_err()
            {
                break;
            }
            if let Some(aeron) = &mut self.aeron {
                aeron.poll(now, &mut self.counters, &mut |_| {});
            }
            if now >= until || !drained {
                break;
            }
            sleep(self.socket.as_ref(), SLEEP_NS);
        }
        self.aeron = None;
        if drained && let Some(socket) = &mut self.socket {
            // A handover leaves the file for the successor to rename its own over.
            if let Err(error) = socket.remove_listener(STANDALONE) {
                tracing::warn!(%error, "the socket file was not removed");
            }
        }
        self.files.stop();
        if self.cleanup && drained {
            drop(std::mem::take(&mut self.epochs));
            remove_all(&self.store);
        }
        tracing::info!("ended");
    }
}

/// How long the duty cycle may sleep. `wakes_for_all`: whatever cannot wait ends the sleep.
// spec: X-2-63
const fn longest_sleep_ns(has_relays: bool, wakes_for_all: bool) -> u64 {
    if has_relays {
        SLEEP_WITH_RELAY_NS
    } else if wakes_for_all {
        LONG_SLEEP_NS
    } else {
        SLEEP_NS
    }
}

/// The one socket file of a stand-alone driver.
pub(crate) const STANDALONE: u32 = 0;

/// Sleeps until the socket is readable or the time is over.
fn sleep(socket: Option<&SocketServer>, nanos: u64) {
    let timeout = Timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(0),
        tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
    };
    let woken = match socket {
        Some(socket) => {
            let fd = socket.as_fd();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))
        }
        None => poll(&mut [], Some(&timeout)),
    };
    // EINTR: a signal, which the next cycle sees. Nothing else can fail with these arguments.
    debug_assert!(matches!(woken, Ok(_) | Err(rustix::io::Errno::INTR)));
}

fn remove_all(store: &EpochStore) {
    let epochs = match store.list() {
        Ok(epochs) => epochs,
        Err(error) => {
            tracing::warn!(
                error = crate::files::in_words(&error),
                "regions stay behind"
            );
            return;
        }
    };
    for epoch in epochs {
        if let Err(error) = store.remove(epoch.stream_id, epoch.epoch) {
            tracing::warn!(
                error = crate::files::in_words(&error),
                "regions stay behind"
            );
        }
    }
}
