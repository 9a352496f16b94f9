//! Aeron as a way in: the embedded media driver, the connection to it, and what is done on it beside
//! control messages: relays, and subscriptions held so that Aeron producers see one.
//!
//! A media driver that dies is a normal event. Everything on it is dropped and built anew, the
//! embedded one included; relays and held subscriptions are wishes that outlive it.

mod line;
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tensorpool_driver_core::EpochKey;
use tensorpool_shm::ReadMapping;
use tensorpool_transport::aeron::OutboxCounts;
use tensorpool_transport::aeron::port::{Endpoint, Endpoints};
use tensorpool_transport::aeron::settings as media_settings;
use tensorpool_transport::port::{Inbound, Outbound, ServerPort};
use tensorpool_transport::pubsub::{Dead, SendError};
use tensorpool_wire::{MonoNanos, StreamId};

use self::line::{Change, Line};
use crate::clock;
use crate::config::{self, MediaDriverMode, Settings};
use crate::counters::Counters;
use crate::files::in_words;
use crate::relay::{Group, Relay};

pub(crate) use self::line::LinkError;

/// Time between log lines about a media driver that stays away.
const COMPLAIN_NS: u64 = 10_000_000_000;
/// Between two looks at a connection that is made before the duty cycle begins.
const START_NAP: std::time::Duration = std::time::Duration::from_millis(1);

/// The way in.
pub(crate) struct Aeron {
    line: Line,
    descriptor_channel: String,
    /// Directory of an external media driver, whose settings are looked at after each connection.
    inspected: Option<PathBuf>,
    /// By Aeron stream id.
    relays: BTreeMap<i32, Group>,
    /// Whether the last round of relays had somebody who listens.
    relays_are_heard: bool,
    held: BTreeMap<StreamId, i32>,
    complained_at: Option<MonoNanos>,
    /// Of connections that were lost.
    past_outbox: OutboxCounts,
}

impl std::fmt::Debug for Aeron {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aeron")
            .field("line", &self.line.name())
            .field("relays", &self.relays)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl Aeron {
    /// Prepares the way in; `None` where it is switched off. Waits until it is there or the first
    /// attempt has failed: the failure of an embedded media driver is a mistake of the configuration,
    /// an external one may come later.
    ///
    /// # Errors
    /// [`LinkError`] of an embedded media driver.
    pub(crate) fn start(
        settings: &Settings,
        counters: &mut Counters,
    ) -> Result<Option<Self>, LinkError> {
        let mode = settings.driver.media_driver;
        if mode == MediaDriverMode::Off {
            return Ok(None);
        }
        let dir = settings.driver.aeron_dir.clone();
        let is_embedded = mode == MediaDriverMode::Embedded;
        let mut this = Self {
            line: Line::new(dir.clone(), is_embedded, endpoints(settings)),
            descriptor_channel: settings.driver.descriptor.channel.clone(),
            // In a cluster the chart starts it, in a container whose processes nobody sees here.
            inspected: (!is_embedded && settings.kubernetes.is_none()).then_some(dir),
            relays: BTreeMap::new(),
            relays_are_heard: false,
            held: BTreeMap::new(),
            complained_at: None,
            past_outbox: OutboxCounts::default(),
        };
        loop {
            match this.connect(clock::now(), counters) {
                Err(error) if is_embedded => return Err(error),
                Err(_) => return Ok(Some(this)),
                Ok(()) if this.is_up() => return Ok(Some(this)),
                Ok(()) => std::thread::sleep(START_NAP),
            }
        }
    }

    /// Whether Aeron clients are served now.
    pub(crate) const fn is_up(&mut self) -> bool {
        self.line.get().is_some()
    }

    /// Takes what has arrived, and connects again where the connection is lost.
    pub(crate) fn poll(
        &mut self,
        now: MonoNanos,
        counters: &mut Counters,
        handler: &mut dyn FnMut(Inbound<'_>),
    ) -> usize {
        let _failed_and_said_so = self.connect(now, counters);
        let Some(link) = self.line.get() else {
            return 0;
        };
        match link.port.poll(now, handler) {
            Ok(count) => count,
            Err(dead) => {
                self.lose(now, &dead, counters);
                0
            }
        }
    }

    /// Sends on the publication of the message's stream.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent or kept then.
    pub(crate) fn send(&mut self, message: &Outbound<'_>) -> Result<(), SendError> {
        match self.line.get() {
            Some(link) => link.port.send(message),
            None => Err(SendError::NotConnected),
        }
    }

    /// Sends to an endpoint that a peer named.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent or kept then.
    pub(crate) fn send_to(
        &mut self,
        now: MonoNanos,
        channel: &str,
        stream: i32,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        match self.line.get() {
            Some(link) => link.port.send_to(now, channel, stream, bytes),
            None => Err(SendError::NotConnected),
        }
    }

    /// Relays a stream's frames from now on, on this Aeron stream id.
    pub(crate) fn start_relay(&mut self, key: EpochKey, mapping: ReadMapping, stream_id: i32) {
        self.stop_relay(key.stream);
        let group = self.relays.entry(stream_id).or_default();
        group.add(Relay::new(key, mapping));
    }

    /// Ends a stream's relay; its ring is unmapped when this returns.
    // spec: X-2-62
    pub(crate) fn stop_relay(&mut self, stream: StreamId) {
        self.relays.retain(|_, group| {
            group.remove(stream);
            !group.is_empty()
        });
        if let Some(link) = self.line.get() {
            link.keep_publications(&self.relays);
        }
    }

    /// Whether a relay has somebody who listens, so that the duty cycle must not sleep long.
    pub(crate) const fn relays_are_heard(&self) -> bool {
        self.relays_are_heard
    }

    /// Whether a subscription is held, whose producer waits when it is not drained.
    pub(crate) fn holds_descriptors(&self) -> bool {
        !self.held.is_empty()
    }

    /// Holds a subscription to this stream's descriptors.
    // spec: X-1-6
    pub(crate) fn hold(&mut self, stream: StreamId, stream_id: i32) {
        self.held.insert(stream, stream_id);
    }

    /// Gives that subscription up, unless another stream has the same.
    pub(crate) fn release(&mut self, stream: StreamId) {
        self.held.remove(&stream);
        let wanted = self.held.values().copied().collect();
        if let Some(link) = self.line.get() {
            link.keep_held(&wanted);
        }
    }

    /// Relays what is new and drains what is held. Returns how much there was, and the epochs whose
    /// ring lost its pages.
    pub(crate) fn work(
        &mut self,
        now: MonoNanos,
        counters: &mut Counters,
    ) -> (usize, Vec<EpochKey>) {
        self.relays_are_heard = false;
        let Some(link) = self.line.get() else {
            return (0, Vec::new());
        };
        let channel = &self.descriptor_channel;
        let relayed = link.relay(now, channel, &mut self.relays, counters);
        self.relays_are_heard = relayed.heard;
        let mut work = relayed.work;
        if !self.held.is_empty() {
            let wanted: BTreeSet<i32> = self.held.values().copied().collect();
            match link.drain(now, channel, &wanted) {
                Ok(drained) => {
                    work += drained;
                    let drained = u64::try_from(drained).unwrap_or(u64::MAX);
                    counters.drained = counters.drained.saturating_add(drained);
                }
                Err(dead) => self.lose(now, &dead, counters),
            }
        }
        (work, relayed.poisoned)
    }

    /// Messages that waited to be sent and were dropped, by reason.
    pub(crate) fn given_up(&mut self) -> [(&'static str, u64); 2] {
        let OutboxCounts { unheard, lost, .. } = self.outbox();
        [("unheard", unheard), ("lost", lost)]
    }

    fn outbox(&mut self) -> OutboxCounts {
        let link = self.line.get();
        let now = link.map(|link| link.port.all_outbox_counts());
        self.past_outbox.plus(now.unwrap_or_default())
    }

    fn connect(&mut self, now: MonoNanos, counters: &mut Counters) -> Result<(), LinkError> {
        match self.line.poll(now) {
            Change::None => Ok(()),
            Change::Built { failures } => {
                counters.media_driver_connects += 1;
                self.complained_at = None;
                tracing::info!(failures, "connected to the media driver");
                if let Some(dir) = &self.inspected {
                    inspect(dir);
                }
                Ok(())
            }
            Change::Failed(error) => {
                Counters::bump(&mut counters.media_driver_losses, error.reason());
                let silent_since = self.complained_at;
                if silent_since.is_none_or(|at| now.saturating_since(at) >= COMPLAIN_NS) {
                    self.complained_at = Some(now);
                    tracing::warn!(
                        error = in_words(&error),
                        "no media driver; Aeron clients are not served, the socket is"
                    );
                }
                Err(error)
            }
        }
    }

    fn lose(&mut self, now: MonoNanos, dead: &Dead, counters: &mut Counters) {
        let reason = match dead {
            Dead::MediaDriver(_) => "gone",
            Dead::ClientTimeout(_) => "timeout",
            Dead::Closed(_) => "closed",
        };
        Counters::bump(&mut counters.media_driver_losses, reason);
        tracing::warn!(error = %dead, "the media driver was lost; connecting again");
        self.past_outbox = self.outbox();
        self.line.lost(now);
    }
}

/// Says which settings of an external media driver let one client stop the others.
fn inspect(dir: &Path) {
    match media_settings::inspect(dir) {
        Ok(report) => {
            if let Some(warning) = report.warning() {
                tracing::warn!("{warning}");
            }
        }
        Err(error) => tracing::warn!(
            error = in_words(&error),
            "the settings of the media driver could not be read"
        ),
    }
}

fn endpoints(settings: &Settings) -> Endpoints {
    let endpoint =
        |endpoint: &config::Endpoint| Endpoint::new(endpoint.channel.clone(), endpoint.stream_id);
    Endpoints {
        control: endpoint(&settings.driver.control),
        announce: endpoint(&settings.driver.announce),
        qos: endpoint(&settings.driver.qos),
        metadata: endpoint(&settings.driver.metadata),
        discovery: Some(endpoint(&settings.discovery.endpoint)),
    }
}
