//! Where a message came from and which of the protocol's streams carries it.
//!
//! The two worlds (Aeron and socket) share these names, so that the driver's decisions can speak of
//! an asker without knowing how it is reached.

/// One accepted socket connection. Never reused within a driver process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Who sent an inbound message. A lease belongs to the world, and on the socket to the connection,
/// that it was granted in (extensions §2 "Origin").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An Aeron image, by the session id of its publication.
    Aeron {
        /// Aeron session id of the sending publication.
        session: i32,
    },
    /// A socket connection, whose identity is the socket file that it came through.
    Socket {
        /// The connection that the packet arrived on.
        connection: ConnectionId,
    },
}

/// The protocol's streams by purpose. The number is the `logical stream` byte of a socket packet; on
/// Aeron each purpose has a configured channel and stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LogicalStream {
    /// Attach, lease, hello, config, progress, shutdown.
    Control = 1,
    /// ShmPoolAnnounce.
    Announce = 2,
    /// QosProducer and QosConsumer.
    Qos = 3,
    /// DataSourceAnnounce, DataSourceMeta, MetaBlob*.
    Metadata = 4,
    /// DiscoveryRequest and DiscoveryResponse.
    Discovery = 5,
    /// Status requests and JSON answers; socket only.
    Status = 6,
}

impl LogicalStream {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Control,
        Self::Announce,
        Self::Qos,
        Self::Metadata,
        Self::Discovery,
        Self::Status,
    ];

    /// The stream with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::Announce),
            3 => Some(Self::Qos),
            4 => Some(Self::Metadata),
            5 => Some(Self::Discovery),
            6 => Some(Self::Status),
            _ => None,
        }
    }

    /// The number in a packet's prefix.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Announce => 2,
            Self::Qos => 3,
            Self::Metadata => 4,
            Self::Discovery => 5,
            Self::Status => 6,
        }
    }
}
