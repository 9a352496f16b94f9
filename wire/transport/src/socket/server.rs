//! The driver's end of the sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use tensorpool_wire::{ConnectionId, LogicalStream, MonoNanos};

use super::kernel::Kernel;
use super::limits::Limits;
use super::listener::{ListenError, Listener};
use super::service::Service;
use super::stats::Stats;
use crate::port::{CloseReason, Inbound, Outbound, ServerPort};
use crate::pubsub::{Dead, SendError};

/// Listening socket files, one per attachment, and their connections.
///
/// Socket files stay when this is dropped: the next driver renames its own over them, so that there
/// is never a moment without one.
#[derive(Debug)]
pub struct SocketServer {
    service: Service<Kernel>,
}

impl SocketServer {
    /// A server that listens nowhere yet.
    ///
    /// # Errors
    /// When `epoll` is refused, or the system's send buffers cannot hold the longest packet.
    pub fn new(limits: Limits) -> io::Result<Self> {
        Ok(Self {
            service: Service::new(Kernel::new()?, limits),
        })
    }

    /// Listens on `path` for `attachment`. A socket file of an earlier driver is replaced without a
    /// moment in which there is none. `path` and its directory must be out of reach of others.
    /// `mode` are permission bits, for instance `0o660`.
    ///
    /// # Errors
    /// [`ListenError`]; nothing is left behind then.
    pub fn add_listener(
        &mut self,
        attachment: u32,
        path: &Path,
        mode: u32,
    ) -> Result<(), ListenError> {
        if self.service.sockets.has_listener(attachment) {
            return Err(ListenError::InUse { attachment });
        }
        let listener = Listener::bind(path, mode)?;
        let added = self.service.sockets.add_listener(attachment, listener);
        added.map_err(|source| ListenError::Io {
            path: path.into(),
            step: "watch",
            source,
        })
    }

    /// Stops listening for `attachment`, removes its file if it is still ours, and cuts its
    /// connections off with [`CloseReason::Removed`]. Returns whether there was one.
    ///
    /// # Errors
    /// When the file could not be removed; nobody listens on it all the same.
    pub fn remove_listener(&mut self, attachment: u32) -> io::Result<bool> {
        let listener = self.service.sockets.take_listener(attachment);
        self.service.remove_attachment(attachment);
        let found = listener.is_some();
        listener.map_or(Ok(()), Listener::unlink)?;
        Ok(found)
    }

    /// Counters since this server was made.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        self.service.stats()
    }
}

/// Readable when [`ServerPort::poll`] has something to do at once; time limits do not show here.
impl AsFd for SocketServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.service.sockets.ready_fd()
    }
}

impl ServerPort for SocketServer {
    fn poll(
        &mut self,
        now: MonoNanos,
        handler: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<usize, Dead> {
        self.service.poll(now, handler)
    }

    fn send(&mut self, message: &Outbound<'_>) -> Result<(), SendError> {
        self.service.send(message)
    }

    fn disconnect(&mut self, connection: ConnectionId, why: CloseReason) {
        self.service.disconnect(connection, why);
    }

    fn mark_attached(&mut self, connection: ConnectionId) {
        self.service.mark_attached(connection);
    }

    fn max_message_len(&self, _stream: LogicalStream) -> usize {
        super::packet::MAX_BODY_LEN
    }
}
