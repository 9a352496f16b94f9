//! One end of a control conversation, whatever carries it.
//!
//! A [`ServerPort`] is the driver's end, a [`ClientPort`] a client's. Both are polled, neither waits,
//! neither reads a clock: the time of the cycle is passed in. The life of a connection is always
//! `Opened`, any number of `Message`s, at most one `Closing`, exactly one `Closed`.

use std::os::fd::{BorrowedFd, OwnedFd};

use tensorpool_wire::{ConnectionId, LogicalStream, MonoNanos, Origin};

use crate::pubsub::{Dead, SendError};

/// Where a driver's outbound message goes, already resolved to a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The Aeron publication of the message's logical stream: every Aeron client sees it.
    Aeron,
    /// One socket connection.
    Connection(ConnectionId),
}

/// What may happen to a message while its receiver does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Coalesce {
    /// It is kept until it is sent. A receiver whose backlog of these overflows is cut off.
    Never,
    /// A waiting message of the same logical stream and key is replaced by this one, and it is
    /// dropped and counted before anything overflows. For state that is repeated or superseded:
    /// announces, QoS, metadata.
    Latest(
        /// What the message is the newest of, for instance its stream id. Meant for the caller only.
        u64,
    ),
}

/// One message on its way out.
// spec: X-2-16
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// To whom.
    pub to: Destination,
    /// Which of the protocol's streams carries it.
    pub stream: LogicalStream,
    /// The SBE message (on [`LogicalStream::Status`]: the JSON document).
    pub bytes: &'a [u8],
    /// What may happen to it while the receiver does not read. Ways without a backlog ignore it.
    pub coalesce: Coalesce,
    /// Descriptors that the receiver gets copies of, in this order. Only sockets carry them; at most
    /// [`MAX_FDS`].
    pub fds: &'a [BorrowedFd<'a>],
}

/// Most file descriptors in one packet (the kernel's `SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// What a [`ServerPort`] hands to the driver.
// spec: X-2-16
#[derive(Debug)]
pub enum Inbound<'a> {
    /// A connection was accepted.
    Opened {
        /// The new connection.
        connection: ConnectionId,
        /// Which listening socket file it came through: its identity (0 where there is one).
        attachment: u32,
        /// `SO_PEERCRED` pid, for logs only; 0 across PID namespaces.
        pid: u32,
        /// `SO_PEERCRED` uid, for limits and logs.
        uid: u32,
    },
    /// A connection was closed before it opened: a limit was reached. For log and metric.
    Refused {
        /// Which listening socket file it came through.
        attachment: u32,
        /// `SO_PEERCRED` uid, where it is known.
        uid: Option<u32>,
        /// Which limit, with its number.
        text: &'a str,
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
    /// The port wants to end this connection for what its peer did. It reads no more from it and has
    /// dropped what was waiting. The driver may now send last words (a revoke per lease), which go
    /// out if they fit, and then calls [`ServerPort::disconnect`]. If it does not, the port does so
    /// itself one second later.
    Closing {
        /// The connection that will end.
        connection: ConnectionId,
        /// Bounded label.
        why: CloseReason,
        /// For the peer and the log: the rule, its limit and what was seen.
        text: &'a str,
    },
    /// A connection is gone. Everything that it had sent before was delivered first, unless a
    /// `Closing` came before. The last that is heard of it.
    Closed {
        /// The connection that is gone.
        connection: ConnectionId,
        /// Bounded label.
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
    /// Its socket file was removed.
    Removed,
    /// The driver closed it on purpose.
    Local,
}

impl CloseReason {
    /// All of them, for metrics that must exist before the first one happens.
    pub const ALL: [Self; 7] = [
        Self::PeerClosed,
        Self::Garbage,
        Self::Flood,
        Self::Overflow,
        Self::NoAttach,
        Self::Removed,
        Self::Local,
    ];

    /// Bounded label for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Garbage => "garbage",
            Self::Flood => "flood",
            Self::Overflow => "overflow",
            Self::NoAttach => "no_attach",
            Self::Removed => "removed",
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
    /// `now` is the cycle's time; rates and time limits are measured with it.
    ///
    /// # Errors
    /// [`Dead`] when this way in is over as a whole and must be rebuilt.
    fn poll(&mut self, now: MonoNanos, handler: &mut dyn FnMut(Inbound<'_>))
    -> Result<usize, Dead>;

    /// Sends one message, or keeps it to be sent by a later poll.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent or kept then.
    fn send(&mut self, message: &Outbound<'_>) -> Result<(), SendError>;

    /// Ends one connection after what was sent to it before. A later poll hands out its `Closed`.
    /// Unknown connections are ignored: their `Closed` is on its way.
    fn disconnect(&mut self, connection: ConnectionId, why: CloseReason);

    /// Says that this connection has attached, so that the limit for idle connections no longer
    /// applies to it. Ways without connections ignore it.
    fn mark_attached(&mut self, connection: ConnectionId);

    /// Longest message that [`ServerPort::send`] takes on this stream, in bytes.
    fn max_message_len(&self, stream: LogicalStream) -> usize;
}

/// What a [`ClientPort`] hands to a client.
#[derive(Debug)]
pub struct ClientInbound<'a> {
    /// Which of the protocol's streams it came on.
    pub stream: LogicalStream,
    /// The SBE message (on [`LogicalStream::Status`]: the JSON answer).
    pub bytes: &'a [u8],
    /// File descriptors that came with it; taken out by the handler or closed.
    pub fds: &'a mut Vec<OwnedFd>,
}

/// A client's end of the conversation with its driver.
pub trait ClientPort {
    /// Takes what has arrived, bounded per call, and returns how many messages there were; the caller
    /// polls again until 0 to have the input empty.
    ///
    /// # Errors
    /// [`Dead`] when the conversation is over and must be rebuilt. What had arrived before was
    /// delivered first, also after the other end closed with something unread.
    fn poll(&mut self, handler: &mut dyn FnMut(ClientInbound<'_>)) -> Result<usize, Dead>;

    /// Sends one message to the driver (Aeron: to all on that stream).
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    fn send(&mut self, stream: LogicalStream, bytes: &[u8]) -> Result<(), SendError>;

    /// Longest message that [`ClientPort::send`] takes on this stream, in bytes.
    fn max_message_len(&self, stream: LogicalStream) -> usize;

    /// A descriptor that becomes readable when [`ClientPort::poll`] has something to do, where this
    /// way has one.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;
}
