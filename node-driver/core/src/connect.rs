//! What the coming and going of connections means for leases.

use tensorpool_wire::{ClientId, ConnectionId, LeaseId, Origin};

use crate::action::{Action, To};
use crate::counters::DropReason;
use crate::driver::Driver;
use crate::grant::End;
use crate::policy::Access;

impl Driver {
    pub(crate) fn on_opened(
        &mut self,
        id: ConnectionId,
        access: Access,
        pid: u32,
        out: &mut Vec<Action>,
    ) {
        let limit = usize::try_from(self.config.limits.connections).unwrap_or(usize::MAX);
        if self.connections.contains(id) || self.connections.len() >= limit {
            self.counters.drop(DropReason::UnknownConnection, "connect");
            out.push(Action::Disconnect { connection: id });
            return;
        }
        self.connections.open(id, access, pid);
    }

    /// The transport cuts a connection off: last words, then the end.
    // spec: X-2-33
    pub(crate) fn on_closing(&mut self, id: ConnectionId, text: &str, out: &mut Vec<Action>) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut connection.closing, true) {
            return;
        }
        let leases: Vec<LeaseId> = connection.leases.iter().copied().collect();
        let pending: Vec<ClientId> = connection.pending.iter().copied().collect();
        let mut ended = Vec::new();
        for lease in leases {
            ended.extend(self.invalidate(lease, End::revoked(text), out));
        }
        out.push(Action::Disconnect { connection: id });
        self.withdraw(&pending);
        for lease in &ended {
            self.settle(lease, out);
        }
    }

    /// A connection is gone, and what it held with it. Everything that it had sent was handled before,
    /// so that a detach on its way made its lease DETACHED.
    // spec: X-2-21, X-2-22
    pub(crate) fn on_closed(&mut self, id: ConnectionId, out: &mut Vec<Action>) {
        let Some(connection) = self.connections.remove(id) else {
            return;
        };
        let pending: Vec<ClientId> = connection.pending.into_iter().collect();
        self.withdraw(&pending);
        for lease in connection.leases {
            self.end_lease(lease, End::CLOSED, out);
        }
    }

    /// Attaches whose asker is gone wait no longer. The epoch that they caused is made all the same.
    fn withdraw(&mut self, clients: &[ClientId]) {
        for client in clients {
            let Some(id) = self.pending.get(client).copied() else {
                continue;
            };
            let Some(making) = self
                .streams
                .get_mut(&id)
                .and_then(|stream| stream.making_mut())
            else {
                continue;
            };
            let Some(at) = making
                .waiting
                .iter()
                .position(|asker| asker.client == *client)
            else {
                continue;
            };
            let asker = making.waiting.remove(at);
            self.leave_pending(&asker);
            if let Some(node) = asker.node {
                self.node_ids.give_back(self.now, node);
            }
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.idle_since = self.now;
            }
        }
    }

    /// A status request has an empty body; anything else on that stream is dropped.
    // spec: X-2-50
    pub(crate) fn on_status_request(
        &mut self,
        origin: Origin,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) {
        match origin {
            Origin::Socket { connection } if bytes.is_empty() => {
                out.push(Action::AnswerStatus {
                    connection,
                    snapshot: Box::new(self.status_for(connection)),
                });
            }
            Origin::Socket { .. } => self.counters.drop(DropReason::Undecodable, "status"),
            Origin::Aeron { .. } => self.counters.drop(DropReason::WrongStream, "status"),
        }
    }

    /// All of these connections, and Aeron if `aeron`; `None` if that is nobody.
    pub(crate) fn audience(aeron: bool, connections: Vec<ConnectionId>) -> Option<To> {
        (aeron || !connections.is_empty()).then_some(To::All { aeron, connections })
    }
}
