//! The server without its system calls: who is connected, what waits for whom, who is cut off.
//!
//! It runs over [`Sockets`], which is the kernel in production and memory in the bus. It decides by
//! the time that is passed in, and owns every rule of docs/extensions.md §2.6 for the driver's end.

mod inbound;
mod outbound;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;

use tensorpool_wire::{ConnectionId, LogicalStream, MonoNanos};

use super::backlog::Backlog;
use super::limits::{Limits, Meter};
use super::packet::{self, MAX_PACKET_LEN, PacketError};
use super::sockets::{Ready, Sockets};
use super::stats::Stats;
use crate::port::{CloseReason, Inbound};
use crate::pubsub::Dead;

use inbound::Batch;

/// How long a connection that ends may still be sent to.
const LAST_WORDS_NS: u64 = 1_000_000_000;

/// Bytes read before they are handed out.
const BATCH_BYTES: usize = 256 * 1024;

#[derive(Debug)]
enum Phase {
    /// Packets flow.
    Open,
    /// To be cut off; the driver has not been told yet.
    Doomed { why: CloseReason, text: String },
    /// The driver was told and may send last words until then.
    LastWords {
        why: CloseReason,
        text: String,
        until: MonoNanos,
    },
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
                Some(Phase::LastWords { why, until, .. } | Phase::Ending { why, until })
                    if *until <= self.now =>
                {
                    overdue.push((*id, *why));
                }
                Some(_) | None => {}
            }
        }
        overdue
            .into_iter()
            .for_each(|(id, why)| self.cut_off(id, why));
    }

    fn garbage(&mut self, id: ConnectionId, error: PacketError) {
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
                handler(Inbound::Closing {
                    connection: *id,
                    why,
                    text: &text,
                });
                connection.phase = Phase::LastWords { why, text, until };
            }
        }
    }

    fn report_gone(&mut self, handler: Handler<'_>) {
        while let Some((connection, why)) = self.gone.pop_front() {
            handler(Inbound::Closed { connection, why });
        }
    }

    /// Says why, behind everything else, and closes.
    // spec: X-2-38
    fn cut_off(&mut self, id: ConnectionId, why: CloseReason) {
        if let Some(Connection {
            phase: Phase::Doomed { text, .. } | Phase::LastWords { text, .. },
            ..
        }) = self.connections.get_mut(&id)
        {
            let text = std::mem::take(text);
            self.say_why(id, &text);
        }
        self.finish(id, why);
    }

    fn say_why(&mut self, id: ConnectionId, text: &str) {
        let body = packet::closing(text);
        if let Some(prefix) = packet::prefix(LogicalStream::Status, body.len()) {
            // Whoever has no room for it goes without: log and metric have it in any case.
            let _best_effort = self.sockets.send(id, &prefix, &body, &[]);
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
                self.cut_off(id, why);
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
