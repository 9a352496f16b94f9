//! The bus's sockets: what is on its way between the two ends of each connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use tensorpool_wire::{LogicalStream, MonoNanos};

use super::{Bus, Shared};
use crate::port::{ClientInbound, ClientPort};
use crate::pubsub::{Dead, SendError};
use crate::socket::packet::{self, MAX_BODY_LEN};
use crate::socket::{ConnectError, closed};

/// Bytes that a send buffer holds before it refuses; the last packet may pass it, as in the kernel.
pub(crate) const SEND_BUFFER: usize = 212_992;

/// Packets that a client takes in one poll.
const PACKETS_PER_POLL: usize = 32;

/// A packet on its way.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) at: MonoNanos,
    pub(crate) packet: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Half {
    queue: VecDeque<InFlight>,
    bytes: usize,
    /// When the sender's close arrives.
    closed: Option<MonoNanos>,
    last_arrival: Option<MonoNanos>,
}

impl Half {
    /// Order is kept: nothing arrives before what was sent before it.
    fn after_the_last(&self, at: MonoNanos) -> MonoNanos {
        self.last_arrival.map_or(at, |last| at.max(last))
    }

    pub(crate) fn has_room(&self, buffer: usize) -> bool {
        self.bytes < buffer
    }

    pub(crate) fn push(&mut self, at: MonoNanos, packet: Vec<u8>, fds: Vec<OwnedFd>) {
        let at = self.after_the_last(at);
        self.last_arrival = Some(at);
        self.bytes += packet.len();
        self.queue.push_back(InFlight { at, packet, fds });
    }

    pub(crate) fn close(&mut self, at: MonoNanos) {
        let at = self.after_the_last(at);
        self.closed.get_or_insert(at);
    }

    pub(crate) fn is_closed(&self, now: MonoNanos) -> bool {
        self.closed.is_some_and(|at| at <= now)
    }

    pub(crate) fn has_input(&self, now: MonoNanos) -> bool {
        self.queue.front().is_some_and(|first| first.at <= now)
    }

    pub(crate) fn pop(&mut self, now: MonoNanos) -> Option<InFlight> {
        if !self.has_input(now) {
            return None;
        }
        let first = self.queue.pop_front()?;
        self.bytes -= first.packet.len();
        Some(first)
    }

    fn next_arrival(&self) -> Option<MonoNanos> {
        self.queue
            .front()
            .map(|first| first.at)
            .into_iter()
            .chain(self.closed)
            .min()
    }
}

/// Both directions of a connection.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    pub(crate) to_server: Half,
    pub(crate) to_client: Half,
    /// The server closed with something unread.
    pub(crate) reset: bool,
}

/// All connections, and who listens for which attachment.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    next_id: u64,
    pub(crate) pipes: BTreeMap<u64, Pipe>,
    /// The server that listens, and who waits for its accept with the time of the connect.
    pub(crate) listening: BTreeMap<u32, Queue>,
    /// Connections whose server end was never made or is gone.
    pub(crate) without_server: BTreeSet<u64>,
}

/// The accept queue of one attachment.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) server: u64,
    pub(crate) waiting: VecDeque<(MonoNanos, u64)>,
}

impl Pipes {
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn next_arrival(&self) -> Option<MonoNanos> {
        let pipes = self.pipes.values();
        let halves = pipes.flat_map(|pipe| [&pipe.to_server, &pipe.to_client]);
        let queues = self
            .listening
            .values()
            .filter_map(|queue| queue.waiting.front());
        halves
            .filter_map(Half::next_arrival)
            .chain(queues.map(|(at, _)| *at))
            .min()
    }

    /// The server's end closes. What it had sent stays readable; unread input makes it a reset.
    pub(crate) fn close_server_end(&mut self, id: u64, at: MonoNanos) {
        let Some(pipe) = self.pipes.get_mut(&id) else {
            return;
        };
        pipe.reset = !pipe.to_server.queue.is_empty();
        pipe.to_client.close(at);
        self.without_server.insert(id);
        self.forget_if_over(id);
    }

    /// Stops listening; whoever waits for an accept is refused.
    pub(crate) fn stop_listening(&mut self, attachment: u32, now: MonoNanos) {
        let Some(queue) = self.listening.remove(&attachment) else {
            return;
        };
        queue
            .waiting
            .into_iter()
            .for_each(|(_, id)| self.close_server_end(id, now));
    }

    fn forget_if_over(&mut self, id: u64) {
        let client_gone = self
            .pipes
            .get(&id)
            .is_some_and(|p| p.to_server.closed.is_some());
        if client_gone && self.without_server.remove(&id) {
            self.pipes.remove(&id);
        }
    }
}

/// A client's end of a connection over the bus. Dropping it closes it, as the kernel does when a
/// process ends; not polling it is what a stopped process does.
#[derive(Debug)]
pub struct BusConnection {
    bus: Bus,
    id: u64,
    /// Why the driver closes, as it said.
    reason: Option<String>,
    fds: Vec<OwnedFd>,
}

impl Bus {
    /// Connects to whoever listens for `attachment`.
    ///
    /// # Errors
    /// [`ConnectError::NoDriver`] when nobody does.
    pub fn connect(&self, attachment: u32) -> Result<BusConnection, ConnectError> {
        let mut shared = self.lock();
        let at = shared.arrival();
        let id = shared.pipes.fresh_id();
        let Some(queue) = shared.pipes.listening.get_mut(&attachment) else {
            return Err(ConnectError::NoDriver {
                path: PathBuf::from(format!("bus/{attachment}")),
                source: io::ErrorKind::ConnectionRefused.into(),
            });
        };
        queue.waiting.push_back((at, id));
        let mut pipe = Pipe::default();
        // Nothing arrives before the connect does.
        pipe.to_server.last_arrival = Some(at);
        shared.pipes.pipes.insert(id, pipe);
        drop(shared);
        Ok(BusConnection {
            bus: self.clone(),
            id,
            reason: None,
            fds: Vec::new(),
        })
    }
}

impl Drop for BusConnection {
    fn drop(&mut self) {
        let mut shared = self.bus.lock();
        let at = shared.arrival();
        let Shared { pipes, .. } = &mut *shared;
        if let Some(pipe) = pipes.pipes.get_mut(&self.id) {
            pipe.to_server.close(at);
        }
        pipes.forget_if_over(self.id);
    }
}

impl ClientPort for BusConnection {
    // spec: X-2-29
    fn poll(&mut self, handler: &mut dyn FnMut(ClientInbound<'_>)) -> Result<usize, Dead> {
        let mut count = 0;
        while count < PACKETS_PER_POLL {
            let mut shared = self.bus.lock();
            let now = shared.now;
            let gone = || Dead::Closed("the connection is gone".to_owned());
            let pipe = shared.pipes.pipes.get_mut(&self.id).ok_or_else(gone)?;
            let Some(InFlight { packet, fds, .. }) = pipe.to_client.pop(now) else {
                if count == 0 && pipe.to_client.is_closed(now) {
                    return Err(closed(pipe.reset, self.reason.as_deref()));
                }
                break;
            };
            drop(shared);
            self.fds = fds;
            let (stream, bytes) = packet::parse(&packet)
                .map_err(|error| Dead::Closed(format!("driver's garbage: {error}")))?;
            // spec: X-2-38
            if stream == LogicalStream::Status
                && let Some(why) = packet::closing_text(bytes)
            {
                self.reason = Some(why.to_owned());
                continue;
            }
            count += 1;
            handler(ClientInbound {
                stream,
                bytes,
                fds: &mut self.fds,
            });
        }
        self.fds.clear();
        Ok(count)
    }

    fn send(&mut self, stream: LogicalStream, bytes: &[u8]) -> Result<(), SendError> {
        let too_long = SendError::TooLong {
            len: bytes.len(),
            max: MAX_BODY_LEN,
        };
        let prefix = packet::prefix(stream, bytes.len()).ok_or(too_long)?;
        let mut packet = prefix.to_vec();
        packet.extend_from_slice(bytes);
        self.send_raw(packet)
    }

    fn max_message_len(&self, _stream: LogicalStream) -> usize {
        MAX_BODY_LEN
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl BusConnection {
    /// Sends these bytes as one packet, whatever they are: what a broken or hostile peer does.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    pub fn send_raw(&mut self, packet: Vec<u8>) -> Result<(), SendError> {
        let mut shared = self.bus.lock();
        let (now, at) = (shared.now, shared.arrival());
        let closed = || SendError::Closed("the driver is gone".to_owned());
        let pipe = shared.pipes.pipes.get_mut(&self.id).ok_or_else(closed)?;
        if pipe.to_client.is_closed(now) {
            return Err(closed());
        }
        if !pipe.to_server.has_room(SEND_BUFFER) {
            return Err(SendError::BackPressured);
        }
        pipe.to_server.push(at, packet, Vec::new());
        Ok(())
    }
}
