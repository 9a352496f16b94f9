//! A client process: the real lease machine, its way to the driver, and what it has mapped.

use std::collections::BTreeMap;

use tensorpool_client::lease::{LeaseMachine, LeaseOptions, LeaseRole};
use tensorpool_wire::{ConnectionId, Epoch, LeaseId, Message, Origin, StreamId};

/// How a process talks to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Aeron {
        session: i32,
    },
    /// The connection, while there is one.
    Socket {
        connection: Option<u64>,
    },
}

/// What comes to a process.
#[derive(Clone, Debug)]
pub(crate) enum Incoming {
    Message(Message),
    /// The end of this connection.
    LinkDown(u64),
}

/// Memory that a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Using {
    pub(crate) lease: LeaseId,
    pub(crate) epoch: Epoch,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) stream: StreamId,
    pub(crate) role: LeaseRole,
    pub(crate) on_socket: bool,
    pub(crate) way: Way,
    pub(crate) machine: LeaseMachine,
    pub(crate) using: Option<Using>,
    /// Dead until then.
    pub(crate) dead_until: Option<u64>,
    /// Stopped until then.
    pub(crate) paused_until: u64,
    /// In order of arrival; the number keeps the order of one instant.
    pub(crate) inbox: BTreeMap<(u64, u64), Incoming>,
    /// On a socket nothing overtakes.
    pub(crate) last_arrival: u64,
    pub(crate) refusals: u64,
}

impl Process {
    pub(crate) fn new(
        stream: StreamId,
        role: LeaseRole,
        on_socket: bool,
        session: i32,
        seed: u64,
    ) -> Self {
        let way = if on_socket {
            Way::Socket { connection: None }
        } else {
            Way::Aeron { session }
        };
        Self {
            stream,
            role,
            on_socket,
            way,
            machine: LeaseMachine::new(LeaseOptions::new(stream, role), seed),
            using: None,
            dead_until: None,
            paused_until: 0,
            inbox: BTreeMap::new(),
            last_arrival: 0,
            refusals: 0,
        }
    }

    pub(crate) const fn origin(&self) -> Option<Origin> {
        match self.way {
            Way::Aeron { session } => Some(Origin::Aeron { session }),
            Way::Socket {
                connection: Some(connection),
            } => Some(Origin::Socket {
                connection: ConnectionId(connection),
            }),
            Way::Socket { connection: None } => None,
        }
    }

    pub(crate) fn is_connection(&self, id: u64) -> bool {
        self.way
            == (Way::Socket {
                connection: Some(id),
            })
    }

    pub(crate) const fn runs(&self, now: u64) -> bool {
        self.dead_until.is_none() && self.paused_until <= now
    }
}
