//! The driver's end of the bus's sockets: the real server's decisions over memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;

use tensorpool_wire::{ConnectionId, LogicalStream, MonoNanos};

use super::connection::{Queue, SEND_BUFFER};
use super::{Bus, Shared};
use crate::port::{CloseReason, Inbound, Outbound, ServerPort};
use crate::pubsub::{Dead, SendError};
use crate::socket::packet::{MAX_BODY_LEN, PREFIX_LEN};
use crate::socket::service::Service;
use crate::socket::sockets::{Accepted, Peer, Ready, Received, Sent, Sockets};
use crate::socket::{Limits, Stats};

/// A send buffer's bytes once last words are to be said.
const LAST_WORDS_BUFFER: usize = 2 * SEND_BUFFER;

/// The driver's end. Dropping it is what the death of the driver's process does: connections end,
/// and nobody listens until the next one does.
#[derive(Debug)]
pub struct BusServer {
    service: Service<BusSockets>,
}

impl Bus {
    /// A server that listens for these attachments, in place of whoever did before.
    #[must_use]
    pub fn listen(&self, attachments: &[u32], limits: Limits) -> BusServer {
        let number = self.lock().pipes.fresh_id();
        let sockets = BusSockets {
            bus: self.clone(),
            number,
            open: BTreeMap::new(),
            attachments: BTreeSet::new(),
        };
        let mut server = BusServer {
            service: Service::new(sockets, limits),
        };
        attachments
            .iter()
            .for_each(|attachment| server.add_listener(*attachment));
        server
    }
}

impl BusServer {
    /// Listens for one more attachment.
    pub fn add_listener(&mut self, attachment: u32) {
        let sockets = &mut self.service.sockets;
        sockets.attachments.insert(attachment);
        let mut shared = sockets.bus.lock();
        let now = shared.now;
        shared.pipes.stop_listening(attachment, now);
        let queue = Queue {
            server: sockets.number,
            waiting: std::collections::VecDeque::new(),
        };
        shared.pipes.listening.insert(attachment, queue);
    }

    /// Stops listening for `attachment` and cuts its connections off.
    pub fn remove_listener(&mut self, attachment: u32) {
        self.service.sockets.stop_listening(attachment);
        self.service.remove_attachment(attachment);
    }

    /// Counters since this server was made.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        self.service.stats()
    }
}

impl ServerPort for BusServer {
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
        MAX_BODY_LEN
    }
}

#[derive(Debug)]
struct OpenEnd {
    pipe: u64,
    send_buffer: usize,
    watch_input: bool,
    watch_output: bool,
}

/// Memory in place of the kernel.
#[derive(Debug)]
struct BusSockets {
    bus: Bus,
    number: u64,
    open: BTreeMap<ConnectionId, OpenEnd>,
    attachments: BTreeSet<u32>,
}

impl BusSockets {
    fn stop_listening(&mut self, attachment: u32) {
        let mut shared = self.bus.lock();
        let now = shared.now;
        let own = shared
            .pipes
            .listening
            .get(&attachment)
            .is_some_and(|q| q.server == self.number);
        if own {
            shared.pipes.stop_listening(attachment, now);
        }
        drop(shared);
        self.attachments.remove(&attachment);
    }
}

impl Drop for BusSockets {
    fn drop(&mut self) {
        for attachment in std::mem::take(&mut self.attachments) {
            self.stop_listening(attachment);
        }
        for id in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(id);
        }
    }
}

impl Sockets for BusSockets {
    fn ready(&mut self, found: &mut Vec<Ready>) -> io::Result<()> {
        let shared = self.bus.lock();
        let Shared { now, pipes, .. } = &*shared;
        for (attachment, queue) in &pipes.listening {
            let arrived = queue.waiting.front().is_some_and(|(at, _)| at <= now);
            if queue.server == self.number && arrived {
                found.push(Ready::Listener(*attachment));
            }
        }
        for (id, end) in &self.open {
            let Some(pipe) = pipes.pipes.get(&end.pipe) else {
                continue;
            };
            let input = end.watch_input && pipe.to_server.has_input(*now);
            let output = end.watch_output && pipe.to_client.has_room(end.send_buffer);
            let hung_up = pipe.to_server.is_closed(*now);
            if input || output || hung_up {
                found.push(Ready::Connection {
                    id: *id,
                    input,
                    output,
                    hung_up,
                });
            }
        }
        Ok(())
    }

    fn hung_up(&mut self, found: &mut Vec<ConnectionId>) -> io::Result<()> {
        let shared = self.bus.lock();
        let closed = |end: &OpenEnd| {
            let pipe = shared.pipes.pipes.get(&end.pipe);
            pipe.is_some_and(|pipe| pipe.to_server.is_closed(shared.now))
        };
        found.extend(
            self.open
                .iter()
                .filter(|(_, end)| closed(end))
                .map(|(id, _)| *id),
        );
        Ok(())
    }

    fn accept(&mut self, attachment: u32, id: ConnectionId) -> io::Result<Accepted> {
        let mut shared = self.bus.lock();
        let now = shared.now;
        let Some(queue) = shared.pipes.listening.get_mut(&attachment) else {
            return Ok(Accepted::Nobody);
        };
        let arrived =
            queue.server == self.number && queue.waiting.front().is_some_and(|(at, _)| *at <= now);
        let Some((_, pipe)) = arrived.then(|| queue.waiting.pop_front()).flatten() else {
            return Ok(Accepted::Nobody);
        };
        drop(shared);
        let end = OpenEnd {
            pipe,
            send_buffer: SEND_BUFFER,
            watch_input: true,
            watch_output: false,
        };
        self.open.insert(id, end);
        Ok(Accepted::Peer(Peer { pid: 0, uid: 0 }))
    }

    fn receive(&mut self, id: ConnectionId, buffer: &mut [u8]) -> Received {
        let Some(end) = self.open.get(&id) else {
            return Received::Nothing;
        };
        let mut shared = self.bus.lock();
        let now = shared.now;
        let Some(pipe) = shared.pipes.pipes.get_mut(&end.pipe) else {
            return Received::Zero;
        };
        let Some(arrived) = pipe.to_server.pop(now) else {
            let closed = pipe.to_server.is_closed(now);
            return if closed {
                Received::Zero
            } else {
                Received::Nothing
            };
        };
        if arrived.packet.is_empty() {
            return Received::Zero;
        }
        let len = arrived.packet.len().min(buffer.len());
        buffer[..len].copy_from_slice(&arrived.packet[..len]);
        Received::Packet(arrived.packet.len())
    }

    fn send(
        &mut self,
        id: ConnectionId,
        prefix: &[u8; PREFIX_LEN],
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Sent {
        let Some(end) = self.open.get(&id) else {
            return Sent::Gone;
        };
        let copies = fds
            .iter()
            .map(BorrowedFd::try_clone_to_owned)
            .collect::<io::Result<_>>();
        let Ok(copies) = copies else {
            return Sent::Full;
        };
        let mut shared = self.bus.lock();
        let at = shared.arrival();
        let Some(pipe) = shared.pipes.pipes.get_mut(&end.pipe) else {
            return Sent::Gone;
        };
        if pipe.to_server.is_closed(at) {
            return Sent::Gone;
        }
        if !pipe.to_client.has_room(end.send_buffer) {
            return Sent::Full;
        }
        let mut packet = prefix.to_vec();
        packet.extend_from_slice(body);
        pipe.to_client.push(at, packet, copies);
        Sent::Done
    }

    fn watch_output(&mut self, id: ConnectionId, watch: bool) {
        if let Some(end) = self.open.get_mut(&id) {
            end.watch_output = watch;
        }
    }

    fn watch_nothing(&mut self, id: ConnectionId) {
        if let Some(end) = self.open.get_mut(&id) {
            end.watch_input = false;
            end.watch_output = false;
        }
    }

    fn widen(&mut self, id: ConnectionId) {
        if let Some(end) = self.open.get_mut(&id) {
            end.send_buffer = LAST_WORDS_BUFFER;
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(end) = self.open.remove(&id) else {
            return;
        };
        let mut shared = self.bus.lock();
        let at = shared.arrival();
        shared.pipes.close_server_end(end.pipe, at);
    }
}
