//! What goes out: at once, or from the backlog when there is room again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tensorpool_wire::ConnectionId;

use super::{Phase, Service};
use crate::port::{CloseReason, Coalesce, Destination, MAX_FDS, Outbound};
use crate::pubsub::SendError;
use crate::socket::backlog::Waiting;
use crate::socket::packet::{self, MAX_BODY_LEN, PREFIX_LEN};
use crate::socket::sockets::{Sent, Sockets};

impl<S: Sockets> Service<S> {
    pub(crate) fn send(&mut self, message: &Outbound<'_>) -> Result<(), SendError> {
        let Destination::Connection(id) = message.to else {
            return Err(SendError::NotConnected);
        };
        let too_long = SendError::TooLong {
            len: message.bytes.len(),
            max: MAX_BODY_LEN,
        };
        let prefix = packet::prefix(message.stream, message.bytes.len()).ok_or(too_long)?;
        if message.fds.len() > MAX_FDS {
            return Err(SendError::TooLong {
                len: message.fds.len(),
                max: MAX_FDS,
            });
        }
        let Some(connection) = self.connections.get(&id) else {
            return Err(SendError::NotConnected);
        };
        let keeps = match &connection.phase {
            Phase::Open => true,
            Phase::LastWords { .. } => false,
            Phase::Doomed { .. } | Phase::Ending { .. } => return Err(SendError::NotConnected),
        };
        if !connection.backlog.is_empty() {
            return self.keep(id, message);
        }
        match self.sockets.send(id, &prefix, message.bytes, message.fds) {
            Sent::Done => Ok(()),
            Sent::Full if keeps => self.keep(id, message),
            Sent::Full => Err(SendError::BackPressured),
            Sent::Gone => Err(SendError::NotConnected),
        }
    }

    // spec: X-2-30, X-2-31
    fn keep(&mut self, id: ConnectionId, message: &Outbound<'_>) -> Result<(), SendError> {
        let copies = message.fds.iter().map(BorrowedFd::try_clone_to_owned);
        let fds = copies.collect::<io::Result<Vec<_>>>();
        let fds =
            fds.map_err(|error| SendError::Closed(format!("cannot keep the message: {error}")))?;
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err(SendError::NotConnected);
        };
        let waiting = Waiting {
            stream: message.stream,
            coalesce: message.coalesce,
            bytes: message.bytes.to_vec(),
            fds,
        };
        let full = match connection.backlog.push(waiting) {
            Ok(kept) => {
                self.stats.replaced += u64::from(kept.replaced);
                self.stats.evicted += kept.evicted;
                self.sockets.watch_output(id, true);
                return Ok(());
            }
            Err(full) => full,
        };
        self.stats.evicted += full.evicted;
        match message.coalesce {
            Coalesce::Latest(_) => Err(SendError::BackPressured),
            Coalesce::Never => {
                let limit = self.limits.backlog_bytes;
                let seen = full.waiting + PREFIX_LEN + message.bytes.len();
                let text = format!("more unread bytes than {limit}: {seen} would wait");
                self.stats.unsent += 1;
                self.doom(id, CloseReason::Overflow, text);
                Err(SendError::Overflow { limit })
            }
        }
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        while let Some(next) = connection.backlog.front() {
            let Some(prefix) = packet::prefix(next.stream, next.bytes.len()) else {
                return;
            };
            let fds: Vec<_> = next.fds.iter().map(AsFd::as_fd).collect();
            match self.sockets.send(id, &prefix, &next.bytes, &fds) {
                Sent::Done => connection.backlog.pop(),
                Sent::Full | Sent::Gone => return,
            }
        }
        self.sockets.watch_output(id, false);
        if let Phase::Ending { why, .. } = connection.phase {
            self.finish(id, why);
        }
    }
}
