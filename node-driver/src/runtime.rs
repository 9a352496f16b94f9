//! The duty cycle: poll every input to empty, let the core decide, perform, idle.
//!
//! One thread. The clock is read once per cycle. Nothing here waits but the idle step (`rest`); files
//! are made by the file worker, HTTP is served elsewhere.

mod asked;
mod inputs;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_driver_core::{Action, Damage, Driver, EpochKey, Event};
use tensorpool_shm::CreatedEpoch;
use tensorpool_transport::port::ServerPort;
use tensorpool_transport::socket::SocketServer;
use tensorpool_wire::{MonoNanos, StreamId};

use crate::aeron::Aeron;
use crate::clock;
use crate::config::{self, Settings};
use crate::control::Commands;
use crate::counters::Counters;
use crate::files::{Files, Job};
use crate::health::{Observed, Readiness};
use crate::log_filter::LogFilter;
use crate::log_share::LogShare;
use crate::metrics::Snapshot;
use crate::signals::Signals;
use crate::status::Answers;
use crate::stores::Stores;

use self::asked::Attachments;
use self::rest::{Outlook, is_awaited, sleep};

/// An input that is never empty puts expiry off for no longer than this: a peer that floods must not
/// keep leases alive.
const TICK_AT_LEAST_EVERY_NS: u64 = 250_000_000;
/// After the last action the transports are driven on for this long, so that last words go out.
const LAST_WORDS_NS: u64 = 100_000_000;
const LAST_WORDS_NAP_NS: u64 = 1_000_000;
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
    pub stores: Arc<Stores>,
    /// What other threads ask.
    pub commands: Commands,
    /// Aeron stream ids that a later policy must keep free of ranges.
    pub reserved_stream_ids: Vec<u32>,
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
    stores: Arc<Stores>,
    commands: Commands,
    attachments: Attachments,
    /// How much of the log each client has.
    pub(crate) log_share: LogShare,
    reserved_stream_ids: Vec<u32>,
    /// Revision of the policy that came through `commands`.
    revision: Option<String>,
    /// Without such a policy there is nothing to serve.
    awaits_policy: bool,
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
    /// Room for the actions of a cycle.
    actions: Vec<Action>,
    pub(crate) stopping: bool,
    fatal: Option<Fatal>,
    ending: bool,
    last_tick: MonoNanos,
    /// What the last cycle did, which says how long the next sleep may be.
    outlook: Outlook,
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
            stores: parts.stores,
            commands: parts.commands,
            attachments: Attachments::default(),
            log_share: LogShare::default(),
            reserved_stream_ids: parts.reserved_stream_ids,
            revision: None,
            awaits_policy: settings.kubernetes.is_some(),
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
            actions: Vec::new(),
            stopping: false,
            fatal: None,
            ending: false,
            last_tick: now,
            outlook: Outlook::default(),
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
        tracing::info!("{}", readiness.label());
        while !self.stopping {
            let now = clock::now();
            let work = self.cycle(now);
            self.observe(now, work);
            self.idle(now);
        }
        let fatal = self.fatal.take();
        self.finish();
        fatal.map_or(Ok(()), Err)
    }

    /// One round. Returns how much there was to do.
    fn cycle(&mut self, now: MonoNanos) -> usize {
        let mut out = std::mem::take(&mut self.actions);
        self.take_signals(now, &mut out);
        let asked = self.take_commands(now, &mut out);
        let (mut work, emptied) = self.poll_inputs(now, &mut out);
        work += asked + self.take_done(now, &mut out);
        for event in std::mem::take(&mut self.inner_events) {
            self.core.handle(now, event, &mut out);
            work += 1;
        }
        if emptied || now.saturating_since(self.last_tick) >= TICK_AT_LEAST_EVERY_NS {
            self.last_tick = now;
            self.core.handle(now, Event::Tick, &mut out);
        }
        work += out.len();
        let awaited = asked > 0 || out.iter().any(is_awaited);
        if out.iter().any(|action| matches!(action, Action::Note(_))) {
            self.commands.changed();
        }
        self.perform_all(now, &mut out);
        self.actions = out;
        work += self.work_descriptors(now);
        self.send_answers(now);
        self.scan_again(now);
        self.outlook = Outlook {
            goes_on: self.stopping || !emptied || !self.inner_events.is_empty(),
            worked: work > 0,
            quiet_cycles: match work {
                0 => self.outlook.quiet_cycles.saturating_add(1),
                _ => 0,
            },
            awaited: awaited || !self.answers.is_empty() || !self.files.is_idle(),
            has_socket: self.socket.is_some(),
            has_aeron: self.aeron.is_some(),
            relays_are_heard: self.aeron.as_ref().is_some_and(Aeron::relays_are_heard),
            holds_descriptors: self.aeron.as_ref().is_some_and(Aeron::holds_descriptors),
        };
        work
    }

    fn work_descriptors(&mut self, now: MonoNanos) -> usize {
        let Some(aeron) = &mut self.aeron else {
            return 0;
        };
        let (work, poisoned) = aeron.work(now, &mut self.counters);
        for EpochKey { stream, epoch } in poisoned {
            aeron.stop_relay(stream);
            self.inner_events.push(Event::RegionPoisoned {
                stream,
                epoch,
                damage: Damage::LostPages,
            });
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
            let status = self.core.status();
            let snapshot = Snapshot {
                bases: self.stores.facts(&status.bases),
                status,
                counters: self.counters.clone(),
                socket: self.socket.as_ref().map(|socket| socket.stats().clone()),
                media_driver: self.aeron.as_mut().is_some_and(Aeron::is_up),
                given_up: self.aeron.as_mut().map(Aeron::given_up),
                requests: self.commands.requests().all(),
                calls: self.commands.requests().calls(),
            };
            self.counters.longest_cycle_ns = 0;
            // Whoever asked may have given up; then nobody misses the answer.
            let _unasked = reply.send(snapshot);
        }
    }

    fn readiness(&mut self) -> Readiness {
        if self.ending {
            Readiness::Draining
        } else if self.awaits_policy && self.revision.is_none() {
            Readiness::NoPolicy
        } else if self.awaits_policy || self.aeron.as_mut().is_none_or(Aeron::is_up) {
            // In a cluster a condition of the node tells of the media driver; sockets go on.
            Readiness::Ready
        } else {
            Readiness::NoMediaDriver
        }
    }

    fn idle(&self, now: MonoNanos) {
        let due_in = self.core.next_deadline();
        let due_in = due_in.map(|due| due.saturating_since(now));
        if let Some(rest) = self.outlook.rest(due_in) {
            let socket = self.socket.as_ref().filter(|_| rest.wakes);
            sleep(&self.commands, socket, rest.nanos);
        }
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
            self.commands.hush();
            sleep(&self.commands, self.socket.as_ref(), LAST_WORDS_NAP_NS);
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
            remove_all(&self.stores);
        }
        tracing::info!("ended");
    }
}

/// The one socket file of a stand-alone driver.
pub(crate) const STANDALONE: u32 = 0;

fn remove_all(stores: &Stores) {
    for (_, store) in stores.iter() {
        let removed = store.list().and_then(|epochs| {
            let mut epochs = epochs.iter();
            epochs.try_for_each(|epoch| store.remove(epoch.stream_id, epoch.epoch))
        });
        if let Err(error) = removed {
            tracing::warn!(
                error = crate::files::in_words(&error),
                "regions stay behind"
            );
        }
    }
}
