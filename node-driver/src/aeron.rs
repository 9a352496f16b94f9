//! Aeron as a way in: the embedded media driver, the connection to it, and what is done on it beside
//! control messages: relays, and subscriptions held so that Aeron producers see one.
//!
//! A media driver that dies is a normal event. Everything on it is dropped and built anew, the
//! embedded one included; relays and held subscriptions are wishes that outlive it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tensorpool_driver_core::EpochKey;
use tensorpool_shm::ReadMapping;
use tensorpool_transport::aeron::media_driver::{
    EmbeddedMediaDriver, MediaDriverConfig, StartError,
};
use tensorpool_transport::aeron::port::{AeronServerPort, Endpoint, Endpoints};
use tensorpool_transport::aeron::reconnect::{Backoff, Progress, Reconnecting};
use tensorpool_transport::aeron::rusteron::{
    ConnectError, RusteronClient, RusteronConfig, RusteronPublication, RusteronSubscription,
};
use tensorpool_transport::aeron::settings as media_settings;
use tensorpool_transport::port::{Inbound, Outbound, ServerPort};
use tensorpool_transport::pubsub::{Dead, MessageClient, SendError, Subscription};
use tensorpool_wire::{MonoNanos, StreamId};

use crate::config::{self, MediaDriverMode, Settings};
use crate::counters::Counters;
use crate::files::in_words;
use crate::relay::{Outcome, Relay};

/// Time between attempts to open a descriptor stream that was refused.
const RETRY_NS: u64 = 1_000_000_000;
/// Time between log lines about a media driver that stays away.
const COMPLAIN_NS: u64 = 10_000_000_000;
/// Descriptors read at one go from a held subscription, and how often in one cycle.
const DRAIN_LIMIT: usize = 256;
const DRAIN_ROUNDS: usize = 16;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The embedded media driver did not start.
    #[error(
        "the embedded media driver did not start; where another one runs, set driver.media_driver = \"external\", or give this one its own driver.aeron_dir"
    )]
    MediaDriver(#[from] StartError),
    /// No connection to the media driver.
    #[error("no connection to the media driver")]
    Connect(#[from] ConnectError),
    /// It went away while the streams were opened.
    #[error("the media driver refused the driver's streams")]
    Open(#[from] Dead),
}

impl LinkError {
    /// Bounded label.
    #[must_use]
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::MediaDriver(error) => error.reason(),
            Self::Connect(error) => error.reason(),
            Self::Open(_) => "refused",
        }
    }
}

/// One connection and everything on it. Handles stand before the port, so they are dropped first.
struct Link {
    publications: BTreeMap<i32, RusteronPublication>,
    held: BTreeMap<i32, RusteronSubscription>,
    retry_at: MonoNanos,
    port: AeronServerPort<RusteronClient>,
}

type Build = Box<dyn FnMut() -> Result<Link, LinkError>>;

/// The way in.
pub(crate) struct Aeron {
    link: Reconnecting<Link, Build>,
    descriptor_channel: String,
    /// Directory of an external media driver, whose settings are looked at after each connection.
    inspected: Option<PathBuf>,
    relays: Vec<(i32, Relay)>,
    held: BTreeMap<StreamId, i32>,
    complained_at: Option<MonoNanos>,
}

impl std::fmt::Debug for Aeron {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aeron")
            .field("built", &self.link.built())
            .field("relays", &self.relays.len())
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl Aeron {
    /// Prepares the way in; `None` where it is switched off. An embedded media driver is started at
    /// once, since its failure is a mistake of the configuration; an external one may come later.
    ///
    /// # Errors
    /// [`LinkError`] of an embedded media driver.
    pub(crate) fn start(
        settings: &Settings,
        now: MonoNanos,
        counters: &mut Counters,
    ) -> Result<Option<Self>, LinkError> {
        let mode = settings.driver.media_driver;
        if mode == MediaDriverMode::Off {
            return Ok(None);
        }
        let endpoints = endpoints(settings);
        let dir = settings.driver.aeron_dir.clone();
        let mut media: Option<EmbeddedMediaDriver> = None;
        let build: Build = Box::new(move || {
            if mode == MediaDriverMode::Embedded
                && !media.as_ref().is_some_and(EmbeddedMediaDriver::is_running)
            {
                // Dropped first: two in one directory cannot be.
                drop(media.take());
                media = Some(EmbeddedMediaDriver::start(&MediaDriverConfig::new(&dir))?);
            }
            let client = RusteronClient::connect(&RusteronConfig {
                driver_timeout: Duration::from_secs(2),
                ..RusteronConfig::new(&dir)
            })?;
            Ok(Link {
                publications: BTreeMap::new(),
                held: BTreeMap::new(),
                retry_at: MonoNanos(0),
                port: AeronServerPort::open(client, endpoints.clone())?,
            })
        });
        let mut this = Self {
            link: Reconnecting::new(Backoff::default(), build),
            descriptor_channel: settings.driver.descriptor.channel.clone(),
            inspected: (mode == MediaDriverMode::External)
                .then(|| settings.driver.aeron_dir.clone()),
            relays: Vec::new(),
            held: BTreeMap::new(),
            complained_at: None,
        };
        match (this.connect(now, counters), mode) {
            (Err(error), MediaDriverMode::Embedded) => Err(error),
            (Ok(()) | Err(_), _) => Ok(Some(this)),
        }
    }

    /// Whether Aeron clients are served now.
    pub(crate) const fn is_up(&mut self) -> bool {
        self.link.get().is_some()
    }

    /// Takes what has arrived, and connects again where the connection is lost.
    pub(crate) fn poll(
        &mut self,
        now: MonoNanos,
        counters: &mut Counters,
        handler: &mut dyn FnMut(Inbound<'_>),
    ) -> usize {
        let _failed_and_said_so = self.connect(now, counters);
        let Some(link) = self.link.get() else {
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
        match self.link.get() {
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
        match self.link.get() {
            Some(link) => link.port.send_to(now, channel, stream, bytes),
            None => Err(SendError::NotConnected),
        }
    }

    /// Relays a stream's frames from now on, on this Aeron stream id.
    pub(crate) fn start_relay(&mut self, key: EpochKey, mapping: ReadMapping, stream_id: i32) {
        self.stop_relay(key.stream);
        self.relays.push((stream_id, Relay::new(key, mapping)));
    }

    /// Ends a stream's relay; its ring is unmapped when this returns.
    // spec: X-2-62
    pub(crate) fn stop_relay(&mut self, stream: StreamId) {
        self.relays.retain(|(_, relay)| relay.stream() != stream);
        let wanted: BTreeSet<i32> = self.relays.iter().map(|(id, _)| *id).collect();
        if let Some(link) = self.link.get() {
            link.publications.retain(|id, _| wanted.contains(id));
        }
    }

    /// Whether a relay is there, so that the duty cycle must not sleep long.
    pub(crate) const fn has_relays(&self) -> bool {
        !self.relays.is_empty()
    }

    /// Holds a subscription to this stream's descriptors.
    // spec: X-1-6
    pub(crate) fn hold(&mut self, stream: StreamId, stream_id: i32) {
        self.held.insert(stream, stream_id);
    }

    /// Gives that subscription up, unless another stream has the same.
    pub(crate) fn release(&mut self, stream: StreamId) {
        self.held.remove(&stream);
        let wanted: BTreeSet<i32> = self.held.values().copied().collect();
        if let Some(link) = self.link.get() {
            link.held.retain(|id, _| wanted.contains(id));
        }
    }

    /// Relays what is new and drains what is held. Returns how much there was, and the epochs whose
    /// ring lost its pages.
    pub(crate) fn work(
        &mut self,
        now: MonoNanos,
        counters: &mut Counters,
    ) -> (usize, Vec<EpochKey>) {
        let mut poisoned = Vec::new();
        let Some(link) = self.link.get() else {
            return (0, poisoned);
        };
        open_missing(
            link,
            now,
            &self.descriptor_channel,
            &self.relays,
            &self.held,
        );
        let mut work = 0;
        // spec: X-2-60 — whoever was first in this cycle is last in the next.
        if !self.relays.is_empty() {
            self.relays.rotate_left(1);
        }
        for (stream_id, relay) in &mut self.relays {
            let Some(publication) = link.publications.get_mut(stream_id) else {
                continue;
            };
            match relay.work(publication, counters) {
                Outcome::Unheard => {}
                Outcome::Walked(looks) => work += looks,
                Outcome::Poisoned => poisoned.push(relay.key()),
            }
        }
        let mut lost = None;
        for subscription in link.held.values_mut() {
            match drain(subscription) {
                Ok(count) => {
                    work += count;
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    counters.drained = counters.drained.saturating_add(count);
                }
                Err(dead) => lost = Some(dead),
            }
        }
        if let Some(dead) = lost {
            self.lose(now, &dead, counters);
        }
        (work, poisoned)
    }

    fn connect(&mut self, now: MonoNanos, counters: &mut Counters) -> Result<(), LinkError> {
        match self.link.poll(now) {
            Progress::Up | Progress::Waiting { .. } => Ok(()),
            Progress::Built { failures } => {
                counters.media_driver_connects += 1;
                self.complained_at = None;
                tracing::info!(failures, "connected to the media driver");
                if let Some(dir) = &self.inspected {
                    inspect(dir);
                }
                Ok(())
            }
            Progress::Failed { error, next: _ } => {
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
        self.link.lost(now);
    }
}

impl Drop for Aeron {
    fn drop(&mut self) {
        // The client goes before the embedded media driver that it talks to.
        self.link.lost(MonoNanos(0));
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

/// Opens what is wished for and not there. A refusal is tried again after a while.
fn open_missing(
    link: &mut Link,
    now: MonoNanos,
    channel: &str,
    relays: &[(i32, Relay)],
    held: &BTreeMap<StreamId, i32>,
) {
    if now < link.retry_at {
        return;
    }
    let client = link.port.client_mut();
    let mut refused = None;
    for (id, _) in relays {
        if !link.publications.contains_key(id) {
            match client.add_publication(channel, *id) {
                Ok(publication) => {
                    link.publications.insert(*id, publication);
                }
                Err(dead) => refused = Some((*id, dead)),
            }
        }
    }
    for id in held.values() {
        if !link.held.contains_key(id) {
            match client.add_subscription(channel, *id) {
                Ok(subscription) => {
                    link.held.insert(*id, subscription);
                }
                Err(dead) => refused = Some((*id, dead)),
            }
        }
    }
    if let Some((stream_id, dead)) = refused {
        link.retry_at = now.saturating_add(RETRY_NS);
        tracing::warn!(stream_id, error = %dead, "a descriptor stream could not be opened; trying again");
    }
}

fn drain(subscription: &mut RusteronSubscription) -> Result<usize, Dead> {
    let mut total = 0;
    for _ in 0..DRAIN_ROUNDS {
        let count = subscription.poll(DRAIN_LIMIT, &mut |_, _| {})?;
        total += count;
        if count == 0 {
            break;
        }
    }
    Ok(total)
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
