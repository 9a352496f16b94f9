//! Both ends of the control conversation on Aeron, over any [`MessageClient`].
//!
//! Each of the protocol's streams has a channel and an Aeron stream id. Where two have the same,
//! they share one publication and one subscription, and their messages cannot be told apart by where
//! they came from: what is delivered then names the stream with the lowest number, and the receiver
//! goes by the message's template. A port does not deliver what it published itself.

use std::os::fd::BorrowedFd;

use tensorpool_wire::{LogicalStream, MonoNanos, Origin};

mod opening;

pub use self::opening::OpeningServerPort;

use super::channel::is_ipc;
use super::outbox::{Outbox, OutboxCounts, OutboxLimits};
use super::responses::Responses;
use crate::port::{
    ClientInbound, ClientPort, CloseReason, Coalesce, Destination, Inbound, Outbound, ServerPort,
};
use crate::pubsub::{
    Dead, Delivery, ImageEvent, MessageClient, Publication, SendError, Subscription,
};

/// Messages taken from one subscription in one poll.
const MESSAGES_PER_POLL: usize = 64;
/// Image events kept for a caller that does not take them; later ones are dropped.
const IMAGES_MAX: usize = 4096;

/// Where one of the protocol's streams lives on Aeron.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Channel text, for instance `aeron:ipc?term-length=4m`.
    pub channel: String,
    /// Aeron stream id.
    pub stream: i32,
}

impl Endpoint {
    /// The endpoint with this channel and stream id.
    #[must_use]
    pub fn new(channel: impl Into<String>, stream: i32) -> Self {
        Self {
            channel: channel.into(),
            stream,
        }
    }
}

/// Where all of them live. A stream without an endpoint is neither sent nor heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Attach, lease, hello, config, progress, shutdown.
    pub control: Endpoint,
    /// Announces.
    pub announce: Endpoint,
    /// QoS of producers and consumers.
    pub qos: Endpoint,
    /// Metadata.
    pub metadata: Endpoint,
    /// Discovery. At the server: where requests come in; answers go where the request says. At a
    /// client: where its requests go.
    pub discovery: Option<Endpoint>,
}

impl Endpoints {
    fn get(&self, stream: LogicalStream) -> Option<&Endpoint> {
        match stream {
            LogicalStream::Control => Some(&self.control),
            LogicalStream::Announce => Some(&self.announce),
            LogicalStream::Qos => Some(&self.qos),
            LogicalStream::Metadata => Some(&self.metadata),
            LogicalStream::Discovery => self.discovery.as_ref(),
            LogicalStream::Status => None,
        }
    }
}

/// One publication with what it did not take yet.
struct Out<P> {
    endpoint: Endpoint,
    publication: P,
    outbox: Outbox,
}

/// One subscription and the stream that its messages are reported on.
struct In<S> {
    endpoint: Endpoint,
    reported_as: LogicalStream,
    subscription: S,
}

/// What both ports are made of. Handles stand before the client, so they are dropped first.
struct Lines<C: MessageClient> {
    outs: Vec<Out<C::Publication>>,
    ins: Vec<In<C::Subscription>>,
    endpoints: Endpoints,
    images: Vec<ImageEvent>,
    client: C,
}

impl<C: MessageClient> Lines<C> {
    fn open(
        mut client: C,
        endpoints: Endpoints,
        sends: &[LogicalStream],
        hears: &[LogicalStream],
        limits: OutboxLimits,
    ) -> Result<Self, Dead> {
        let mut ins = Vec::new();
        for (endpoint, reported_as) in distinct(&endpoints, hears) {
            ins.push(In {
                subscription: client.add_subscription(&endpoint.channel, endpoint.stream)?,
                endpoint,
                reported_as,
            });
        }
        let mut outs = Vec::new();
        for (endpoint, _) in distinct(&endpoints, sends) {
            outs.push(Out {
                publication: client.add_publication(&endpoint.channel, endpoint.stream)?,
                endpoint,
                outbox: Outbox::new(limits),
            });
        }
        Ok(Self {
            outs,
            ins,
            endpoints,
            images: Vec::new(),
            client,
        })
    }

    fn out(&mut self, stream: LogicalStream) -> Option<&mut Out<C::Publication>> {
        let endpoint = self.endpoints.get(stream)?;
        self.outs.iter_mut().find(|out| out.endpoint == *endpoint)
    }

    fn send(
        &mut self,
        stream: LogicalStream,
        bytes: &[u8],
        coalesce: Coalesce,
    ) -> Result<(), SendError> {
        // A new epoch must not be announced before the revoke of the old one went out.
        let hold = stream == LogicalStream::Announce
            && self
                .out(LogicalStream::Control)
                .is_some_and(|control| control.outbox.is_blocked());
        let out = self.out(stream).ok_or(SendError::NotConnected)?;
        out.outbox.send(&mut out.publication, bytes, coalesce, hold)
    }

    /// Drives the client and sends what waits. Image events are kept for the caller.
    fn work(&mut self, now: MonoNanos) -> Result<(), Dead> {
        let images = &mut self.images;
        self.client.do_work(&mut |event| {
            if images.len() < IMAGES_MAX {
                images.push(event);
            }
        })?;
        for out in &mut self.outs {
            if !out.outbox.is_empty() {
                out.outbox.flush(&mut out.publication, now);
            }
        }
        Ok(())
    }

    fn hear(
        &mut self,
        mut handler: impl FnMut(LogicalStream, &[u8], Delivery),
    ) -> Result<usize, Dead> {
        let mut count = 0;
        for line in &mut self.ins {
            let own = &self.outs;
            let stream = line.endpoint.stream;
            let reported_as = line.reported_as;
            line.subscription
                .poll(MESSAGES_PER_POLL, &mut |bytes, delivery| {
                    count += 1;
                    if !is_own(own, stream, delivery.session) {
                        handler(reported_as, bytes, delivery);
                    }
                })?;
        }
        Ok(count)
    }

    fn max_message_len(&self, stream: LogicalStream) -> usize {
        self.endpoints
            .get(stream)
            .and_then(|endpoint| self.outs.iter().find(|out| out.endpoint == *endpoint))
            .map_or(0, |out| out.publication.max_message_len())
    }

    fn counts(&self, stream: LogicalStream) -> OutboxCounts {
        self.endpoints
            .get(stream)
            .and_then(|endpoint| self.outs.iter().find(|out| out.endpoint == *endpoint))
            .map_or_else(OutboxCounts::default, |out| out.outbox.counts())
    }
}

/// The endpoints of these streams, each once, with the first stream that lives there.
fn distinct(endpoints: &Endpoints, streams: &[LogicalStream]) -> Vec<(Endpoint, LogicalStream)> {
    let mut found: Vec<(Endpoint, LogicalStream)> = Vec::new();
    for stream in streams {
        if let Some(endpoint) = endpoints.get(*stream)
            && found.iter().all(|(known, _)| known != endpoint)
        {
            found.push((endpoint.clone(), *stream));
        }
    }
    found
}

/// Session ids are unique per stream of a media driver, whatever the channel's parameters.
fn is_own<P: Publication>(outs: &[Out<P>], stream: i32, session: i32) -> bool {
    outs.iter()
        .any(|out| out.endpoint.stream == stream && out.publication.session() == session)
}

/// What the driver publishes on, and what it hears.
const SERVER_SENDS: [LogicalStream; 4] = [
    LogicalStream::Control,
    LogicalStream::Announce,
    LogicalStream::Qos,
    LogicalStream::Metadata,
];
const SERVER_HEARS: [LogicalStream; 5] = [
    LogicalStream::Control,
    LogicalStream::Announce,
    LogicalStream::Qos,
    LogicalStream::Metadata,
    LogicalStream::Discovery,
];

/// The driver's end on Aeron.
pub struct AeronServerPort<C: MessageClient> {
    responses: Responses<C>,
    lines: Lines<C>,
}

impl<C: MessageClient> AeronServerPort<C> {
    /// Opens the driver's publications (control, announce, QoS, metadata) and its subscriptions
    /// (the same and discovery) on `client`, waiting for the media driver.
    /// [`OpeningServerPort`] does the same without waiting.
    ///
    /// # Errors
    /// [`Dead`] when the media driver is gone or refuses one of them.
    pub fn open(client: C, endpoints: Endpoints) -> Result<Self, Dead> {
        let limits = OutboxLimits::default();
        Ok(Self {
            responses: Responses::new(limits),
            lines: Lines::open(client, endpoints, &SERVER_SENDS, &SERVER_HEARS, limits)?,
        })
    }

    /// Sends one message on a channel and stream that a peer named: a discovery answer, or a
    /// consumer's own control stream. Publications for these are made when first needed, kept for a
    /// while and bounded in number. Only channels of this machine (`aeron:ipc`) are answered, with
    /// terms of our own length whatever the channel asks for: a peer's text never makes the driver
    /// open a network socket or fill its memory. Does not wait for the media driver: what is sent on a
    /// publication that is still being opened is kept meanwhile.
    ///
    /// # Errors
    /// [`SendError::Closed`] for a channel that is not answered or that the media driver refuses,
    /// [`SendError::BackPressured`] while all publications of the pool have messages waiting.
    pub fn send_to(
        &mut self,
        now: MonoNanos,
        channel: &str,
        stream: i32,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        // spec: DI-4.3-1
        if !is_ipc(channel) {
            return Err(SendError::Closed(format!(
                "only aeron:ipc channels are answered, not {channel:?}"
            )));
        }
        self.responses
            .send(&mut self.lines.client, now, stream, bytes)
    }

    /// What became of messages that were not sent at once: those of the driver's streams and those on
    /// streams that peers named.
    #[must_use]
    pub fn all_outbox_counts(&self) -> OutboxCounts {
        let lines = self.lines.outs.iter().map(|out| out.outbox.counts());
        lines.fold(self.responses.counts(), OutboxCounts::plus)
    }

    /// What became of messages of this stream that were not sent at once.
    #[must_use]
    pub fn outbox_counts(&self, stream: LogicalStream) -> OutboxCounts {
        self.lines.counts(stream)
    }

    /// Image changes since the last call, at most 4,096.
    pub fn take_image_events(&mut self) -> Vec<ImageEvent> {
        std::mem::take(&mut self.lines.images)
    }

    /// The client, to open publications and subscriptions of one's own on it (descriptors).
    pub const fn client_mut(&mut self) -> &mut C {
        &mut self.lines.client
    }
}

impl<C: MessageClient> ServerPort for AeronServerPort<C> {
    fn poll(
        &mut self,
        now: MonoNanos,
        handler: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<usize, Dead> {
        self.lines.work(now)?;
        self.responses.work(&mut self.lines.client, now);
        let responses = &self.responses;
        self.lines.hear(|stream, bytes, delivery| {
            if !responses.is_own(delivery.session) {
                handler(Inbound::Message {
                    origin: Origin::Aeron {
                        session: delivery.session,
                    },
                    stream,
                    bytes,
                });
            }
        })
    }

    fn send(&mut self, message: &Outbound<'_>) -> Result<(), SendError> {
        match message.to {
            Destination::Aeron => self
                .lines
                .send(message.stream, message.bytes, message.coalesce),
            Destination::Connection(_) => Err(SendError::NotConnected),
        }
    }

    fn disconnect(&mut self, _: tensorpool_wire::ConnectionId, _: CloseReason) {}

    fn mark_attached(&mut self, _: tensorpool_wire::ConnectionId) {}

    fn max_message_len(&self, stream: LogicalStream) -> usize {
        self.lines.max_message_len(stream)
    }
}

/// A client's end on Aeron.
pub struct AeronClientPort<C: MessageClient> {
    lines: Lines<C>,
}

impl<C: MessageClient> AeronClientPort<C> {
    /// Opens a client's publications (control, QoS, metadata, discovery requests) and its
    /// subscriptions (control, announce, QoS, metadata) on `client`. Answers to discovery requests
    /// come on `answers`, which the request names, if there is one.
    ///
    /// # Errors
    /// [`Dead`] when the media driver is gone or refuses one of them.
    pub fn open(client: C, endpoints: Endpoints, answers: Option<Endpoint>) -> Result<Self, Dead> {
        let sends = [
            LogicalStream::Control,
            LogicalStream::Qos,
            LogicalStream::Metadata,
            LogicalStream::Discovery,
        ];
        let hears = [
            LogicalStream::Control,
            LogicalStream::Announce,
            LogicalStream::Qos,
            LogicalStream::Metadata,
        ];
        let limits = OutboxLimits {
            unheard_nanos: 0,
            ..OutboxLimits::default()
        };
        let mut lines = Lines::open(client, endpoints, &sends, &hears, limits)?;
        if let Some(endpoint) = answers {
            let subscription = lines
                .client
                .add_subscription(&endpoint.channel, endpoint.stream)?;
            lines.ins.push(In {
                endpoint,
                reported_as: LogicalStream::Discovery,
                subscription,
            });
        }
        Ok(Self { lines })
    }

    /// What became of messages of this stream that were not sent at once.
    #[must_use]
    pub fn outbox_counts(&self, stream: LogicalStream) -> OutboxCounts {
        self.lines.counts(stream)
    }

    /// Image changes since the last call, at most 4,096.
    pub fn take_image_events(&mut self) -> Vec<ImageEvent> {
        std::mem::take(&mut self.lines.images)
    }

    /// The client, to open publications and subscriptions of one's own on it (descriptors).
    pub const fn client_mut(&mut self) -> &mut C {
        &mut self.lines.client
    }
}

impl<C: MessageClient> ClientPort for AeronClientPort<C> {
    fn poll(&mut self, handler: &mut dyn FnMut(ClientInbound<'_>)) -> Result<usize, Dead> {
        // Nothing that waits here expires, so the time does not matter.
        self.lines.work(MonoNanos(0))?;
        let mut none = Vec::new();
        self.lines.hear(|stream, bytes, _| {
            handler(ClientInbound {
                stream,
                bytes,
                fds: &mut none,
            });
        })
    }

    fn send(&mut self, stream: LogicalStream, bytes: &[u8]) -> Result<(), SendError> {
        self.lines.send(stream, bytes, Coalesce::Never)
    }

    fn max_message_len(&self, stream: LogicalStream) -> usize {
        self.lines.max_message_len(stream)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl<C: MessageClient> std::fmt::Debug for AeronServerPort<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AeronServerPort")
            .field("endpoints", &self.lines.endpoints)
            .finish_non_exhaustive()
    }
}

impl<C: MessageClient> std::fmt::Debug for AeronClientPort<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AeronClientPort")
            .field("endpoints", &self.lines.endpoints)
            .finish_non_exhaustive()
    }
}
