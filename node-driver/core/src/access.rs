//! What an attachment may do: which streams it sees, in which roles.

use std::collections::BTreeMap;

use tensorpool_wire::StreamId;

use crate::assigned::ClientRange;

/// What one connection's attachment may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Streams and roles.
    pub visible: Visible,
    /// Leases of this connection, at most [`crate::config::Limits::leases_per_connection`].
    pub leases: u32,
    /// How the attachment may use Aeron, if it may; its connections learn of it by discovery.
    pub aeron: Option<AeronPlace>,
}

impl Access {
    /// Everything: the stand-alone socket, guarded by its file mode.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            visible: Visible::All,
            leases: u32::MAX,
            aeron: None,
        }
    }

    /// Nothing: whoever has no attachment any more.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            visible: Visible::Only(BTreeMap::new()),
            leases: 0,
            aeron: None,
        }
    }

    /// What may be done with `stream`. Nothing where it is not visible.
    #[must_use]
    pub fn roles(&self, stream: StreamId) -> Roles {
        match &self.visible {
            Visible::All => Roles {
                produce: true,
                consume: true,
            },
            Visible::Only(streams) => streams.get(&stream).copied().unwrap_or(Roles {
                produce: false,
                consume: false,
            }),
        }
    }

    /// Whether discovery and status may show `stream`.
    #[must_use]
    pub fn sees(&self, stream: StreamId) -> bool {
        let roles = self.roles(stream);
        roles.produce || roles.consume
    }
}

/// An attachment's place on Aeron.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AeronPlace {
    /// The client ids that it may use.
    pub clients: ClientRange,
    /// The media driver's directory, as the attachment sees it.
    pub directory: String,
}

/// Which streams an attachment sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    /// All, in both roles, dynamic ones included.
    All,
    /// These, each in these roles.
    Only(BTreeMap<StreamId, Roles>),
}

/// Roles that an attachment may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// PRODUCER.
    pub produce: bool,
    /// CONSUMER.
    pub consume: bool,
}
