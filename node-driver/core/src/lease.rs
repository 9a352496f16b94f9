//! The lease table with its indexes. Only this file edits both.

use std::collections::BTreeMap;

use tensorpool_wire::{
    ClientId, ConnectionId, CorrelationId, Epoch, LeaseId, MonoNanos, NodeId, Origin, Role,
    StreamId,
};

use crate::deadline::{Deadlines, Due};
use crate::status::ConsumerQos;

/// A role that can be leased. What [`Role`] is once it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeaseRole {
    Producer,
    Consumer,
}

impl LeaseRole {
    pub(crate) const fn parse(role: Role) -> Option<Self> {
        match role {
            Role::Producer => Some(Self::Producer),
            Role::Consumer => Some(Self::Consumer),
            Role::Unknown(_) => None,
        }
    }

    pub(crate) const fn wire(self) -> Role {
        match self {
            Self::Producer => Role::Producer,
            Self::Consumer => Role::Consumer,
        }
    }
}

/// An attach that passed its checks and waits for files, or what a lease was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) client: ClientId,
    pub(crate) role: LeaseRole,
    pub(crate) origin: Origin,
    /// Echoed in the answer. Of a consumer's retry: the newest.
    pub(crate) correlation: CorrelationId,
    /// The stream id of the request: 0 where a dynamic one was wanted (B-14).
    pub(crate) requested: StreamId,
    pub(crate) node: Option<NodeId>,
}

impl Asker {
    pub(crate) const fn connection(&self) -> Option<ConnectionId> {
        match self.origin {
            Origin::Aeron { .. } => None,
            Origin::Socket { connection } => Some(connection),
        }
    }
}

/// One granted lease.
// spec: D-4.1-1
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) stream: StreamId,
    pub(crate) asker: Asker,
    /// The epoch of its last attach answer.
    pub(crate) epoch: Epoch,
    pub(crate) expiry: MonoNanos,
    /// Time of its entry in the queue; at most `expiry`.
    queued_at: MonoNanos,
    /// Whether a keepalive has come; until then a consumer's retry may carry another correlation id.
    pub(crate) kept_alive: bool,
    /// Last ConsumerHello or QosConsumer.
    pub(crate) heard_at: MonoNanos,
    pub(crate) qos: Option<ConsumerQos>,
    pub(crate) own: OwnStreams,
}

/// The per-consumer streams of a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnStreams {
    pub(crate) descriptor: Option<u32>,
    pub(crate) control: Option<u32>,
}

impl OwnStreams {
    pub(crate) const fn is_empty(self) -> bool {
        self.descriptor.is_none() && self.control.is_none()
    }
}

/// All leases.
#[derive(Debug)]
pub(crate) struct Leases {
    next: u64,
    first: u64,
    table: BTreeMap<LeaseId, Lease>,
    by_client: BTreeMap<ClientId, LeaseId>,
}

impl Leases {
    pub(crate) const fn new(first: u64) -> Self {
        Self {
            next: first,
            first,
            table: BTreeMap::new(),
            by_client: BTreeMap::new(),
        }
    }

    /// Enters a new lease and its deadline.
    // spec: D-4.8-4, ids only rise, so none is used twice.
    pub(crate) fn grant(
        &mut self,
        now: MonoNanos,
        lease_ns: u64,
        stream: StreamId,
        epoch: Epoch,
        asker: Asker,
        deadlines: &mut Deadlines,
    ) -> LeaseId {
        let id = LeaseId(self.next);
        self.next += 1;
        let expiry = now.saturating_add(lease_ns);
        let queued_at = deadlines.set(expiry, Due::Lease(id));
        self.by_client.insert(asker.client, id);
        let lease = Lease {
            id,
            stream,
            asker,
            epoch,
            expiry,
            queued_at,
            kept_alive: false,
            heard_at: now,
            qos: None,
            own: OwnStreams::default(),
        };
        self.table.insert(id, lease);
        id
    }

    /// Takes a lease and its deadline out.
    pub(crate) fn remove(&mut self, id: LeaseId, deadlines: &mut Deadlines) -> Option<Lease> {
        let lease = self.table.remove(&id)?;
        self.by_client.remove(&lease.asker.client);
        deadlines.cancel(lease.queued_at, Due::Lease(id));
        Some(lease)
    }

    /// Its deadline came up: whether it has expired. If not, its deadline is set anew.
    pub(crate) fn came_due(
        &mut self,
        now: MonoNanos,
        id: LeaseId,
        deadlines: &mut Deadlines,
    ) -> bool {
        let Some(lease) = self.table.get_mut(&id) else {
            return false;
        };
        // spec: D-4.4-4, expired means past the expiry, not at it.
        if now > lease.expiry {
            return true;
        }
        let at = lease.expiry.saturating_add(1);
        lease.queued_at = deadlines.set(at, Due::Lease(id));
        false
    }

    /// Moves every expiry by `gap_ns`. Deadlines come up early and are set anew.
    pub(crate) fn extend_all(&mut self, gap_ns: u64) {
        for lease in self.table.values_mut() {
            lease.expiry = lease.expiry.saturating_add(gap_ns);
        }
    }

    /// Whether this process granted `id` at some time.
    pub(crate) const fn was_granted(&self, id: LeaseId) -> bool {
        self.first <= id.get() && id.get() < self.next
    }

    pub(crate) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.table.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        self.table.get_mut(&id)
    }

    pub(crate) fn of_client(&self, client: ClientId) -> Option<&Lease> {
        self.by_client
            .get(&client)
            .and_then(|id| self.table.get(id))
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.table.values()
    }

    /// Panics if table and index disagree: both are edited only here.
    pub(crate) fn check(&self) {
        assert_eq!(
            self.table.len(),
            self.by_client.len(),
            "one client id per lease"
        );
        for (id, lease) in &self.table {
            assert_eq!(*id, lease.id, "a lease stands under its own id");
            assert_eq!(
                self.by_client.get(&lease.asker.client),
                Some(id),
                "client index"
            );
            assert!(self.was_granted(*id), "a lease id comes from the counter");
            assert!(
                lease.queued_at <= lease.expiry.saturating_add(1),
                "a lease is looked at no later than it expires"
            );
        }
    }
}
