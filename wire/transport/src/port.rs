//! One end of a control conversation, whatever carries it.

use std::os::fd::BorrowedFd;

use tensorpool_wire::{ConnectionId, LogicalStream, Origin};

use crate::pubsub::{Dead, SendError};

/// Where a driver's outbound message goes, already resolved to a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The Aeron publication of the message's logical stream: every Aeron client sees it.
    Aeron,
    /// One socket connection.
    Connection(ConnectionId),
}

/// What a [`ServerPort`] hands to the driver.
#[derive(Debug)]
pub enum Inbound<'a> {
    /// A connection was accepted on the socket file with this index (0 where there is one).
    Opened {
        /// The new connection.
        connection: ConnectionId,
        /// Which listening socket file it came through: its identity.
        attachment: u32,
        /// `SO_PEERCRED` pid, for logs only; 0 across PID namespaces.
        pid: u32,
        /// `SO_PEERCRED` uid, for limits and logs.
        uid: u32,
    },
    /// One whole message.
    Message {
        /// Who sent it.
        origin: Origin,
        /// Which of the protocol's streams it came on.
        stream: LogicalStream,
        /// The SBE message (on [`LogicalStream::Status`]: the request body).
        bytes: &'a [u8],
    },
    /// A connection ended. Everything that it had sent before was delivered first.
    Closed {
        /// The connection that is gone.
        connection: ConnectionId,
        /// In words, for log and metric.
        why: CloseReason,
    },
}

/// Why a connection ended. Bounded: the label of log and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    /// The peer closed it or its process ended.
    PeerClosed,
    /// A packet broke the framing rules (version, length, stream number).
    Garbage,
    /// More packets per second than allowed.
    Flood,
    /// The peer did not read and its backlog overflowed.
    Overflow,
    /// No attach within the limit.
    NoAttach,
    /// More connections than the limit for the attachment, the uid or in total.
    TooMany,
    /// The driver closed it on purpose.
    Local,
}

impl CloseReason {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Garbage => "garbage",
            Self::Flood => "flood",
            Self::Overflow => "overflow",
            Self::NoAttach => "no_attach",
            Self::TooMany => "too_many",
            Self::Local => "local",
        }
    }
}

/// The driver's end of one way in.
pub trait ServerPort {
    /// Takes what has arrived, bounded per call and fair between connections. Within one call closes
    /// come before packets of other connections. Returns how many things were handed over; the caller
    /// polls again until 0 to have all inputs empty.
    ///
    /// # Errors
    /// [`Dead`] when this way in is over as a whole and must be rebuilt.
    fn poll(&mut self, handler: &mut dyn FnMut(Inbound<'_>)) -> Result<usize, Dead>;

    /// Sends one message, with file descriptors where the way can carry them.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    fn send(
        &mut self,
        to: Destination,
        stream: LogicalStream,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), SendError>;

    /// Ends one connection after what was sent to it before.
    fn disconnect(&mut self, connection: ConnectionId, why: CloseReason);
}

/// What a [`ClientPort`] hands to a client.
#[derive(Debug)]
pub struct ClientInbound<'a> {
    /// Which of the protocol's streams it came on.
    pub stream: LogicalStream,
    /// The SBE message (on [`LogicalStream::Status`]: the JSON answer).
    pub bytes: &'a [u8],
    /// File descriptors that came with it; taken out by the handler or closed.
    pub fds: &'a mut Vec<std::os::fd::OwnedFd>,
}

/// A client's end of the conversation with its driver.
pub trait ClientPort {
    /// Takes what has arrived, returns how many messages there were.
    ///
    /// # Errors
    /// [`Dead`] when the conversation is over and must be rebuilt. What had arrived before was
    /// delivered first.
    fn poll(&mut self, handler: &mut dyn FnMut(ClientInbound<'_>)) -> Result<usize, Dead>;

    /// Sends one message to the driver (Aeron: to all on that stream).
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    fn send(&mut self, stream: LogicalStream, bytes: &[u8]) -> Result<(), SendError>;
}
