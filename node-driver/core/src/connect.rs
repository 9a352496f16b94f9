//! What the coming and going of connections means for leases.

use tensorpool_wire::{ClientId, ConnectionId, LeaseId, Origin};

use crate::access::{Access, Roles};
use crate::action::{Action, Note, To};
use crate::counters::DropReason;
use crate::driver::Driver;
use crate::grant::End;
use crate::lease::{Asker, LeaseRole};
use crate::refusal::Refusal;

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

    /// What a connection may do changed: it keeps what it still may have.
    pub(crate) fn on_access(
        &mut self,
        id: ConnectionId,
        access: Access,
        text: &str,
        out: &mut Vec<Action>,
    ) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if connection.access == access {
            return;
        }
        connection.access = access.clone();
        let leases: Vec<LeaseId> = connection.leases.iter().copied().collect();
        let pending: Vec<ClientId> = connection.pending.iter().copied().collect();
        let mut revoked = 0;
        for lease in leases {
            let allowed = self
                .leases
                .get(lease)
                .is_none_or(|lease| allows(access.roles(lease.stream), lease.asker.role));
            if !allowed {
                self.end_lease(lease, End::revoked(text), out);
                revoked += 1;
            }
        }
        for client in pending {
            let stream = self.pending.get(&client).copied();
            let denied = stream.and_then(|stream| {
                let roles = access.roles(stream);
                self.take_waiting(client, |role| !allows(roles, role))
            });
            if let Some(asker) = denied {
                self.refuse_waiting(&asker, &Refusal::RoleDenied, out);
            }
        }
        out.push(Action::Note(Note::AccessChanged {
            connection: id,
            revoked,
        }));
    }

    /// Takes the attach of a client out of those that wait, if `which` says so of its role.
    pub(crate) fn take_waiting(
        &mut self,
        client: ClientId,
        which: impl Fn(LeaseRole) -> bool,
    ) -> Option<Asker> {
        let id = self.pending.get(&client).copied()?;
        let stream = self.streams.get_mut(&id)?;
        let making = stream.making_mut()?;
        let at = making
            .waiting
            .iter()
            .position(|asker| asker.client == client && which(asker.role))?;
        let asker = making.waiting.remove(at);
        stream.idle_since = self.now;
        Some(asker)
    }

    /// Attaches whose asker is gone wait no longer. The epoch that they caused is made all the same.
    fn withdraw(&mut self, clients: &[ClientId]) {
        for client in clients {
            let Some(asker) = self.take_waiting(*client, |_| true) else {
                continue;
            };
            self.leave_pending(&asker);
            if let Some(node) = asker.node {
                self.node_ids.give_back(self.now, node);
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

pub(crate) const fn allows(roles: Roles, role: LeaseRole) -> bool {
    match role {
        LeaseRole::Producer => roles.produce,
        LeaseRole::Consumer => roles.consume,
    }
}
