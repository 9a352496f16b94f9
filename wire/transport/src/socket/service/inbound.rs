//! What comes in: packets, closes, new connections.

use std::io;

use tensorpool_wire::{ConnectionId, Origin};

use super::{Connection, Handler, Phase, Service};
use crate::port::{CloseReason, Inbound};
use crate::socket::backlog::Backlog;
use crate::socket::limits::Meter;
use crate::socket::packet::{self, MAX_PACKET_LEN};
use crate::socket::sockets::{Accepted, Peer, Received, Sockets};

/// Connections accepted in one poll, where there are not more socket files than that.
const ACCEPTS_PER_POLL: usize = 64;

/// Packets that were read and not yet handed out.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
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

impl<S: Sockets> Service<S> {
    /// Reads what one connection may say in this poll into the batch.
    // spec: X-2-34
    pub(super) fn read(&mut self, id: ConnectionId) {
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
    pub(super) fn hand_out_batch(&mut self, handler: Handler<'_>) -> io::Result<()> {
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
    pub(super) fn end_by_peer(&mut self, id: ConnectionId, handler: Handler<'_>) {
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

    pub(super) fn accept(&mut self, listeners: &[u32], handler: Handler<'_>) -> io::Result<()> {
        // Each has its share: a crowd at one socket file keeps nobody from another.
        let share = ACCEPTS_PER_POLL / listeners.len().max(1);
        for &attachment in listeners {
            for _ in 0..share.max(1) {
                let id = ConnectionId(self.next_id);
                match self.sockets.accept(attachment, id)? {
                    Accepted::Nobody => break,
                    Accepted::TurnedAway(text) => {
                        self.stats.refused += 1;
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

    // spec: X-2-35, X-2-38
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
            let text = format!("{limit} connections {what} are open, no more are allowed");
            self.say_why(id, &text);
            self.sockets.close(id);
            self.stats.refused += 1;
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
}
