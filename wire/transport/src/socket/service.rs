//! The server without its system calls: who is connected, what waits for whom, who is cut off.
//!
//! It runs over [`Sockets`], which is the kernel in production and memory in the bus. It decides by
//! the time that is passed in, and owns every rule of docs/extensions.md §2.6 for the driver's end.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;

use tensorpool_wire::{ConnectionId, MonoNanos, Origin};

use super::backlog::{Backlog, Waiting};
use super::limits::{Limits, Meter};
use super::packet::{self, MAX_BODY_LEN, MAX_PACKET_LEN, PREFIX_LEN};
use crate::port::{CloseReason, Coalesce, Destination, Inbound, MAX_FDS, Outbound};
use crate::pubsub::{Dead, SendError};

/// How long a connection that ends may still be sent to.
const LAST_WORDS_NS: u64 = 1_000_000_000;

/// Connections accepted in one poll.
const ACCEPTS_PER_POLL: usize = 64;

/// Bytes read before they are handed out.
const BATCH_BYTES: usize = 256 * 1024;

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
    /// Somebody was turned away, since this process has no descriptor left.
    NoDescriptors,
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

/// Counters since the server was made, for metrics. Every drop is in one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that opened.
    pub opened: u64,
    /// Connections that were closed at once because of a limit.
    pub refused: u64,
    /// Connections that ended, by reason, in the order of [`CloseReason::ALL`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Garbage packets by [`packet::PacketError::reason`].
    pub garbage: BTreeMap<&'static str, u64>,
    /// Waiting announces, QoS and metadata that a newer one replaced.
    pub replaced: u64,
    /// Waiting announces, QoS and metadata that gave way to other messages.
    pub evicted: u64,
    /// Messages that were dropped when their connection was cut off or ended.
    pub unsent: u64,
}

impl Stats {
    fn count_closed(&mut self, why: CloseReason) {
        let places = self.closed.iter_mut().zip(CloseReason::ALL);
        places
            .filter(|(_, reason)| *reason == why)
            .for_each(|(count, _)| *count += 1);
    }
}

#[derive(Debug)]
enum Phase {
    /// Packets flow.
    Open,
    /// To be cut off; the driver has not been told yet.
    Doomed { why: CloseReason, text: String },
    /// The driver was told and may send last words until then.
    LastWords { why: CloseReason, until: MonoNanos },
    /// The driver has ended it; what waits is still sent until then.
    Ending { why: CloseReason, until: MonoNanos },
}

#[derive(Debug)]
struct Connection {
    attachment: u32,
    uid: u32,
    attached: bool,
    phase: Phase,
    backlog: Backlog,
    meter: Meter,
}

/// Packets that were read and not yet handed out.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    packets: Vec<BatchPacket>,
    zeros: Vec<ConnectionId>,
}

#[derive(Clone, Copy, Debug)]
struct BatchPacket {
    from: ConnectionId,
    start: usize,
    end: usize,
    /// Length on the wire, which can exceed what was read.
    len: usize,
}

/// The server over some sockets.
#[derive(Debug)]
pub(crate) struct Service<S> {
    pub(crate) sockets: S,
    limits: Limits,
    connections: BTreeMap<ConnectionId, Connection>,
    per_attachment: HashMap<u32, usize>,
    per_uid: HashMap<u32, usize>,
    next_id: u64,
    /// In the order of their deadlines; who attached or left meanwhile is passed over.
    unattached: VecDeque<(MonoNanos, ConnectionId)>,
    /// Connections that are not [`Phase::Open`].
    not_open: Vec<ConnectionId>,
    /// Gone, and the driver was not told yet.
    gone: VecDeque<(ConnectionId, CloseReason)>,
    now: MonoNanos,
    batch: Batch,
    /// One packet's room.
    scratch: Box<[u8]>,
    stats: Stats,
}

type Handler<'h> = &'h mut dyn FnMut(Inbound<'_>);

impl<S: Sockets> Service<S> {
    pub(crate) fn new(sockets: S, limits: Limits) -> Self {
        Self {
            sockets,
            limits,
            connections: BTreeMap::new(),
            per_attachment: HashMap::new(),
            per_uid: HashMap::new(),
            next_id: 1,
            unattached: VecDeque::new(),
            not_open: Vec::new(),
            gone: VecDeque::new(),
            now: MonoNanos(0),
            batch: Batch::default(),
            scratch: vec![0; MAX_PACKET_LEN].into_boxed_slice(),
            stats: Stats::default(),
        }
    }

    pub(crate) const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// One look at everything, in this order: ends that the driver caused, closes by peers (each
    /// after its last packets), new connections, packets, room to send, cut-offs.
    // spec: X-2-23
    pub(crate) fn poll(&mut self, now: MonoNanos, handler: Handler<'_>) -> Result<usize, Dead> {
        self.now = now;
        let mut count = 0;
        let mut counted = |inbound: Inbound<'_>| {
            count += 1;
            handler(inbound);
        };
        let over = |error: io::Error| Dead::Closed(format!("the socket server failed: {error}"));
        self.pass_deadlines();
        self.report_gone(&mut counted);
        let mut ready = Vec::new();
        self.sockets.ready(&mut ready).map_err(over)?;
        if !ready.is_empty() {
            self.take_ready(&ready, &mut counted).map_err(over)?;
        }
        self.report_doomed(&mut counted);
        self.report_gone(&mut counted);
        Ok(count)
    }

    fn take_ready(&mut self, ready: &[Ready], handler: Handler<'_>) -> io::Result<()> {
        let mut hung = Vec::new();
        let mut listeners = Vec::new();
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        for found in ready {
            match *found {
                Ready::Listener(attachment) => listeners.push(attachment),
                Ready::Connection {
                    id, hung_up: true, ..
                } => hung.push(id),
                Ready::Connection {
                    id,
                    input,
                    output,
                    hung_up: false,
                } => {
                    inputs.extend(input.then_some(id));
                    outputs.extend(output.then_some(id));
                }
            }
        }
        hung.sort_unstable();
        for id in hung {
            self.end_by_peer(id, handler);
        }
        self.accept(&listeners, handler)?;
        for id in inputs {
            self.read(id);
            if self.batch.bytes.len() >= BATCH_BYTES {
                self.hand_out_batch(handler)?;
            }
        }
        self.hand_out_batch(handler)?;
        for id in outputs {
            self.flush(id);
        }
        Ok(())
    }

    /// Reads what one connection may say in this poll into the batch.
    // spec: X-2-34
    fn read(&mut self, id: ConnectionId) {
        if !self.is_open(id) {
            return;
        }
        for _ in 0..self.limits.packets_per_poll {
            match self.sockets.receive(id, &mut self.scratch) {
                Received::Packet(len) => {
                    let start = self.batch.bytes.len();
                    self.batch
                        .bytes
                        .extend_from_slice(&self.scratch[..len.min(MAX_PACKET_LEN)]);
                    let end = self.batch.bytes.len();
                    self.batch.packets.push(BatchPacket {
                        from: id,
                        start,
                        end,
                        len,
                    });
                }
                Received::Nothing => return,
                Received::Zero => return self.batch.zeros.push(id),
            }
        }
    }

    /// Hands out what was read. Whoever closed before any of it was read comes first: a packet cannot
    /// have been sent because of a close that is not visible by now.
    // spec: X-2-23
    fn hand_out_batch(&mut self, handler: Handler<'_>) -> io::Result<()> {
        if self.batch.packets.is_empty() && self.batch.zeros.is_empty() {
            return Ok(());
        }
        let mut hung = Vec::new();
        self.sockets.hung_up(&mut hung)?;
        hung.sort_unstable();
        let batch = std::mem::take(&mut self.batch);
        let of_batch = |p: &BatchPacket| (p.from, &batch.bytes[p.start..p.end], p.len);
        for &id in &hung {
            for (from, bytes, len) in batch.packets.iter().filter(|p| p.from == id).map(of_batch) {
                self.deliver(from, bytes, len, handler);
            }
            self.end_by_peer(id, handler);
        }
        for (from, bytes, len) in batch.packets.iter().map(of_batch) {
            if hung.binary_search(&from).is_err() {
                self.deliver(from, bytes, len, handler);
            }
        }
        for id in &batch.zeros {
            // Had it been the end, the connection would be gone by now.
            if self.is_open(*id) {
                self.garbage(*id, packet::PacketError::TooShort { len: 0 });
            }
        }
        let Batch {
            mut bytes,
            mut packets,
            mut zeros,
        } = batch;
        bytes.clear();
        packets.clear();
        zeros.clear();
        self.batch = Batch {
            bytes,
            packets,
            zeros,
        };
        Ok(())
    }

    /// Hands out one packet if its connection is still allowed to speak.
    fn deliver(&mut self, id: ConnectionId, read: &[u8], len: usize, handler: Handler<'_>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if !matches!(connection.phase, Phase::Open) {
            return;
        }
        if len > MAX_PACKET_LEN {
            return self.garbage(id, packet::PacketError::TooLong { len });
        }
        let (stream, body) = match packet::parse(read) {
            Ok(parts) => parts,
            Err(error) => return self.garbage(id, error),
        };
        let class = (self.limits.classify)(stream, body);
        if let Err(over) = connection.meter.count(self.now, class, &self.limits) {
            let of_key = over
                .key
                .map(|key| format!(" of key {key}"))
                .unwrap_or_default();
            let text = format!(
                "more packets{of_key} than {} within one second: {} seen",
                over.limit,
                u64::from(over.limit) + 1
            );
            return self.doom(id, CloseReason::Flood, text);
        }
        let origin = Origin::Socket { connection: id };
        handler(Inbound::Message {
            origin,
            stream,
            bytes: body,
        });
    }

    /// Reads a connection whose peer has closed to its end, then lets it go.
    // spec: X-2-22
    fn end_by_peer(&mut self, id: ConnectionId, handler: Handler<'_>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while self.is_open(id) {
            let Received::Packet(len) = self.sockets.receive(id, &mut scratch) else {
                break;
            };
            self.deliver(id, &scratch[..len.min(MAX_PACKET_LEN)], len, handler);
        }
        self.scratch = scratch;
        let why = match self.connections.get(&id).map(|c| &c.phase) {
            None => return,
            Some(Phase::Open) => CloseReason::PeerClosed,
            Some(
                Phase::Doomed { why, .. }
                | Phase::LastWords { why, .. }
                | Phase::Ending { why, .. },
            ) => *why,
        };
        self.finish(id, why);
        self.report_gone(handler);
    }

    fn accept(&mut self, listeners: &[u32], handler: Handler<'_>) -> io::Result<()> {
        let mut left = ACCEPTS_PER_POLL;
        for &attachment in listeners {
            while left > 0 {
                left -= 1;
                let id = ConnectionId(self.next_id);
                match self.sockets.accept(attachment, id)? {
                    Accepted::Nobody => break,
                    Accepted::NoDescriptors => {
                        self.stats.refused += 1;
                        let text = "this process has no file descriptor left";
                        handler(Inbound::Refused {
                            attachment,
                            uid: None,
                            text,
                        });
                    }
                    Accepted::Peer(peer) => {
                        self.next_id += 1;
                        self.open(id, attachment, peer, handler);
                    }
                }
            }
        }
        Ok(())
    }

    // spec: X-2-35
    fn open(&mut self, id: ConnectionId, attachment: u32, peer: Peer, handler: Handler<'_>) {
        let Peer { pid, uid } = peer;
        let in_attachment = self.per_attachment.get(&attachment).copied().unwrap_or(0);
        let of_uid = self.per_uid.get(&uid).copied().unwrap_or(0);
        let bounds = [
            (
                in_attachment,
                self.limits.per_attachment,
                "through this socket file",
            ),
            (of_uid, self.limits.per_uid, "of this uid"),
            (self.connections.len(), self.limits.total, "in all"),
        ];
        if let Some((_, limit, what)) = bounds.iter().find(|(count, limit, _)| count >= limit) {
            self.sockets.close(id);
            self.stats.refused += 1;
            let text = format!("{limit} connections {what} are open, no more are allowed");
            return handler(Inbound::Refused {
                attachment,
                uid: Some(uid),
                text: &text,
            });
        }
        self.stats.opened += 1;
        *self.per_attachment.entry(attachment).or_default() += 1;
        *self.per_uid.entry(uid).or_default() += 1;
        self.unattached
            .push_back((self.now.saturating_add(self.limits.attach_within_ns), id));
        let connection = Connection {
            attachment,
            uid,
            attached: false,
            phase: Phase::Open,
            backlog: Backlog::new(self.limits.backlog_bytes),
            meter: Meter::new(),
        };
        self.connections.insert(id, connection);
        handler(Inbound::Opened {
            connection: id,
            attachment,
            pid,
            uid,
        });
    }

    // spec: X-2-36
    fn pass_deadlines(&mut self) {
        while let Some(&(deadline, id)) = self.unattached.front() {
            if deadline > self.now {
                break;
            }
            self.unattached.pop_front();
            let waiting = self.connections.get(&id).is_some_and(|c| !c.attached);
            if waiting && self.is_open(id) {
                let limit_ms = self.limits.attach_within_ns / 1_000_000;
                let text = format!("no attach within {limit_ms} ms of connecting");
                self.doom(id, CloseReason::NoAttach, text);
            }
        }
        let mut overdue = Vec::new();
        for id in &self.not_open {
            match self.connections.get(id).map(|c| &c.phase) {
                Some(Phase::LastWords { why, until } | Phase::Ending { why, until })
                    if *until <= self.now =>
                {
                    overdue.push((*id, *why));
                }
                Some(_) | None => {}
            }
        }
        overdue
            .into_iter()
            .for_each(|(id, why)| self.finish(id, why));
    }

    fn garbage(&mut self, id: ConnectionId, error: packet::PacketError) {
        *self.stats.garbage.entry(error.reason()).or_default() += 1;
        self.doom(id, CloseReason::Garbage, error.to_string());
    }

    /// Decides to cut a connection off. The next report tells the driver.
    // spec: X-2-33
    fn doom(&mut self, id: ConnectionId, why: CloseReason, text: String) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if !matches!(connection.phase, Phase::Open) {
            return;
        }
        connection.phase = Phase::Doomed { why, text };
        self.stats.unsent += connection.backlog.clear();
        self.not_open.push(id);
        self.sockets.watch_nothing(id);
        self.sockets.widen(id);
    }

    fn report_doomed(&mut self, handler: Handler<'_>) {
        for id in &self.not_open {
            let Some(connection) = self.connections.get_mut(id) else {
                continue;
            };
            if let Phase::Doomed { why, text } = &mut connection.phase {
                let (why, text) = (*why, std::mem::take(text));
                let until = self.now.saturating_add(LAST_WORDS_NS);
                connection.phase = Phase::LastWords { why, until };
                handler(Inbound::Closing {
                    connection: *id,
                    why,
                    text: &text,
                });
            }
        }
    }

    fn report_gone(&mut self, handler: Handler<'_>) {
        while let Some((connection, why)) = self.gone.pop_front() {
            handler(Inbound::Closed { connection, why });
        }
    }

    /// Closes and forgets a connection. The next report tells the driver.
    fn finish(&mut self, id: ConnectionId, why: CloseReason) {
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        self.sockets.close(id);
        self.stats.unsent += connection.backlog.clear();
        self.stats.count_closed(why);
        self.not_open.retain(|other| *other != id);
        release(&mut self.per_attachment, connection.attachment);
        release(&mut self.per_uid, connection.uid);
        self.gone.push_back((id, why));
    }

    fn is_open(&self, id: ConnectionId) -> bool {
        self.connections
            .get(&id)
            .is_some_and(|c| matches!(c.phase, Phase::Open))
    }

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
    fn flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        while let Some(next) = connection.backlog.front() {
            let Some(prefix) = packet::prefix(next.stream, next.bytes.len()) else {
                return;
            };
            let fds: Vec<_> = next.fds.iter().map(std::os::fd::AsFd::as_fd).collect();
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

    pub(crate) fn disconnect(&mut self, id: ConnectionId, why: CloseReason) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let until = self.now.saturating_add(LAST_WORDS_NS);
        match &connection.phase {
            Phase::Ending { .. } => {}
            Phase::Open if connection.backlog.is_empty() => self.finish(id, why),
            Phase::Open => {
                connection.phase = Phase::Ending { why, until };
                self.not_open.push(id);
                self.sockets.watch_nothing(id);
                self.sockets.watch_output(id, true);
            }
            Phase::Doomed { why, .. } | Phase::LastWords { why, .. } => {
                let why = *why;
                self.finish(id, why);
            }
        }
    }

    pub(crate) fn mark_attached(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.attached = true;
        }
    }

    /// Cuts off everybody who came through this attachment.
    // spec: X-2-15
    pub(crate) fn remove_attachment(&mut self, attachment: u32) {
        let all = self
            .connections
            .iter()
            .filter(|(_, c)| c.attachment == attachment);
        let ids: Vec<_> = all.map(|(id, _)| *id).collect();
        for id in ids {
            self.doom(
                id,
                CloseReason::Removed,
                "the socket file was removed".to_owned(),
            );
        }
    }
}

fn release(counts: &mut HashMap<u32, usize>, key: u32) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
