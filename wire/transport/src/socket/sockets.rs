//! What the server asks of the system.
//!
//! The kernel answers in production ([`super::kernel`]), memory on the bus.

use std::io;
use std::os::fd::BorrowedFd;

use tensorpool_wire::ConnectionId;

use super::packet::PREFIX_LEN;

/// What a poll of the sockets found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Somebody connects through this attachment's file.
    Listener(u32),
    /// Something happened on a connection.
    Connection {
        id: ConnectionId,
        input: bool,
        output: bool,
        hung_up: bool,
    },
}

/// Who connected, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// The outcome of an accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// The connection has the id that was passed in.
    Peer(Peer),
    /// Nobody is waiting.
    Nobody,
    /// Somebody was turned away for want of a resource, in words.
    #[cfg_attr(
        not(feature = "server"),
        allow(dead_code, reason = "memory does not run out")
    )]
    TurnedAway(&'static str),
}

/// The outcome of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A packet of this real length, which may exceed the buffer.
    Packet(usize),
    /// Nothing there now.
    Nothing,
    /// The end, or an empty packet: the kernel does not tell them apart.
    Zero,
}

/// The outcome of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The receiver will find it.
    Done,
    /// No room now.
    Full,
    /// The receiver is gone.
    Gone,
}

/// The system calls, or what stands for them. Nothing here waits.
pub(crate) trait Sockets {
    /// What is ready. Levels, not edges.
    fn ready(&mut self, found: &mut Vec<Ready>) -> io::Result<()>;
    /// Whose peer has closed.
    fn hung_up(&mut self, found: &mut Vec<ConnectionId>) -> io::Result<()>;
    /// Accepts one connection and gives it the id.
    fn accept(&mut self, attachment: u32, id: ConnectionId) -> io::Result<Accepted>;
    /// Receives one packet. File descriptors in it are dropped.
    fn receive(&mut self, id: ConnectionId, buffer: &mut [u8]) -> Received;
    /// Sends one packet of two parts.
    fn send(
        &mut self,
        id: ConnectionId,
        prefix: &[u8; PREFIX_LEN],
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Sent;
    /// Whether [`Sockets::ready`] tells when there is room to send.
    fn watch_output(&mut self, id: ConnectionId, watch: bool);
    /// From now on [`Sockets::ready`] tells of this connection only when its peer closes.
    fn watch_nothing(&mut self, id: ConnectionId);
    /// Makes room for last words beyond the ordinary send buffer.
    fn widen(&mut self, id: ConnectionId);
    /// Closes; what was sent before stays readable for the peer.
    fn close(&mut self, id: ConnectionId);
}
