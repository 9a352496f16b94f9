//! What the cases of the ports share: a server whose deliveries are kept, and clients that listen.

use tensorpool_wire::{ConnectionId, LogicalStream, Origin};

use super::PortFixture;
use crate::conformance::Patience;
use crate::port::{ClientPort, CloseReason, Coalesce, Destination, Inbound, Outbound, ServerPort};

/// What a server was handed, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Opened(ConnectionId),
    Message(Origin, LogicalStream, Vec<u8>),
    Closing(ConnectionId, CloseReason),
    Closed(ConnectionId, CloseReason),
    Refused,
}

/// What a client was handed, kept.
pub(super) type Heard = Vec<(LogicalStream, Vec<u8>)>;

pub(super) struct World<F: PortFixture> {
    pub(super) server: F::Server,
    pub(super) seen: Vec<Seen>,
}

impl<F: PortFixture> World<F> {
    pub(super) fn new(fixture: &mut F) -> Self {
        Self {
            server: fixture.server(),
            seen: Vec::new(),
        }
    }

    pub(super) fn poll(&mut self, fixture: &F) -> usize {
        let seen = &mut self.seen;
        let handed = self.server.poll(fixture.now(), &mut |inbound| {
            seen.push(match inbound {
                Inbound::Opened { connection, .. } => Seen::Opened(connection),
                Inbound::Message {
                    origin,
                    stream,
                    bytes,
                } => Seen::Message(origin, stream, bytes.to_vec()),
                Inbound::Closing {
                    connection, why, ..
                } => Seen::Closing(connection, why),
                Inbound::Closed { connection, why } => Seen::Closed(connection, why),
                Inbound::Refused { .. } => Seen::Refused,
            });
        });
        handed.expect("the server lives")
    }

    pub(super) fn until(
        &mut self,
        fixture: &mut F,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) {
        let mut waited = 0;
        loop {
            self.poll(fixture);
            if done(self) {
                return;
            }
            assert_eq!(
                fixture.step(waited),
                Patience::GoOn,
                "waited too long for: {what}"
            );
            waited += 1;
        }
    }

    pub(super) fn messages(&self) -> Vec<(Origin, LogicalStream, Vec<u8>)> {
        let message = |seen: &Seen| match seen {
            Seen::Message(origin, stream, bytes) => Some((*origin, *stream, bytes.clone())),
            Seen::Opened(_) | Seen::Closing(..) | Seen::Closed(..) | Seen::Refused => None,
        };
        self.seen.iter().filter_map(message).collect()
    }

    /// Sends from a client and waits until the server has it; returns its origin.
    pub(super) fn ask(&mut self, fixture: &mut F, client: &mut F::Client, body: &[u8]) -> Origin {
        self.client_send(fixture, client, LogicalStream::Control, body);
        let mut origin = None;
        self.until(fixture, "the request", |world| {
            let asked = world
                .messages()
                .into_iter()
                .find(|(_, _, bytes)| bytes == body);
            origin = asked.map(|(from, _, _)| from);
            origin.is_some()
        });
        origin.expect("waited for above")
    }

    pub(super) fn client_send(
        &mut self,
        fixture: &mut F,
        client: &mut F::Client,
        stream: LogicalStream,
        body: &[u8],
    ) {
        let mut waited = 0;
        loop {
            match client.send(stream, body) {
                Ok(()) => return,
                Err(error) => assert!(error.is_retryable(), "the client cannot send: {error}"),
            }
            // A broadcast client is driven by its poll.
            listen(client, &mut Vec::new());
            self.poll(fixture);
            assert_eq!(
                fixture.step(waited),
                Patience::GoOn,
                "the client cannot send"
            );
            waited += 1;
        }
    }

    pub(super) fn send(
        &mut self,
        fixture: &mut F,
        to: Destination,
        stream: LogicalStream,
        body: &[u8],
    ) {
        let mut waited = 0;
        loop {
            let coalesce = Coalesce::Never;
            let message = Outbound {
                to,
                stream,
                bytes: body,
                coalesce,
                fds: &[],
            };
            match self.server.send(&message) {
                Ok(()) => return,
                Err(error) => assert!(error.is_retryable(), "the server cannot send: {error}"),
            }
            self.poll(fixture);
            assert_eq!(
                fixture.step(waited),
                Patience::GoOn,
                "the server cannot send"
            );
            waited += 1;
        }
    }
}

pub(super) fn listen<C: ClientPort>(client: &mut C, heard: &mut Heard) {
    let taken = client.poll(&mut |inbound| heard.push((inbound.stream, inbound.bytes.to_vec())));
    taken.expect("the client lives");
}

pub(super) const fn answer_to(origin: Origin) -> Destination {
    match origin {
        Origin::Aeron { .. } => Destination::Aeron,
        Origin::Socket { connection } => Destination::Connection(connection),
    }
}
