//! The socket connections that the driver knows, and what each may do.

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_wire::{ClientId, ConnectionId, LeaseId};

use crate::access::Access;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) access: Access,
    pub(crate) pid: u32,
    pub(crate) leases: BTreeSet<LeaseId>,
    /// Clients whose attach waits for files.
    pub(crate) pending: BTreeSet<ClientId>,
    /// It is being cut off: nothing that it sends counts any more.
    pub(crate) closing: bool,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    table: BTreeMap<ConnectionId, Connection>,
}

impl Connections {
    pub(crate) fn open(&mut self, id: ConnectionId, access: Access, pid: u32) {
        let connection = Connection {
            access,
            pid,
            leases: BTreeSet::new(),
            pending: BTreeSet::new(),
            closing: false,
        };
        self.table.insert(id, connection);
    }

    pub(crate) fn contains(&self, id: ConnectionId) -> bool {
        self.table.contains_key(&id)
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.table.remove(&id)
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.table.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.table.get_mut(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Those that still listen, in ascending order.
    pub(crate) fn open_ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.table
            .iter()
            .filter(|(_, connection)| !connection.closing)
            .map(|(id, _)| *id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ConnectionId, &Connection)> {
        self.table.iter()
    }
}
