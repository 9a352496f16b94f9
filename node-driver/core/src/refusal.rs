//! Every reason why an attach is refused, with the code and the text that are sent.

use tensorpool_wire::{ClientId, ResponseCode};

use crate::quota::Resource;
use crate::room::ClassShort;

/// Longest error text in bytes (D-4.2-12).
const MAX_TEXT_BYTES: usize = 1_024;

/// Why an attach is refused. The order is the order of the checks.
// spec: D-4.6-1
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("unsupported driver schema version")]
    SchemaVersion,
    #[error("malformed request: {0}")]
    Malformed(String),
    #[error("invalid role")]
    Role,
    #[error("client_id must be non-zero")]
    ClientIdZero,
    #[error(
        "client_id {client} was not given to any volume with `transport: aeron` on this node: take one that discovery on the volume's driver.sock names in the tag `client_ids`"
    )]
    ClientNotAssigned { client: ClientId },
    #[error(
        "client_id {client} was given to a volume with `transport: aeron` and counts on Aeron only: take another one"
    )]
    ClientAssigned { client: ClientId },
    #[error("driver draining")]
    Draining,
    /// Clients compare the whole text (D-B.2-2).
    #[error("client_id already attached")]
    ClientBusy,
    #[error("unsupported publish_mode")]
    PublishMode,
    #[error("layout version mismatch")]
    LayoutVersion,
    #[error("invalid hugepages policy")]
    HugepagesPolicy,
    #[error("hugepages not available")]
    HugepagesMissing,
    #[error("standard pages requested")]
    StandardPages,
    #[error("stream not provisioned")]
    NotProvisioned,
    #[error("stream_id_range not configured")]
    RangeUnset,
    #[error("no stream ids available")]
    RangeExhausted,
    #[error("default profile missing")]
    ProfileMissing,
    #[error("stream limit reached: {limit}")]
    StreamLimit { limit: u32 },
    #[error("role not allowed for this attachment")]
    RoleDenied,
    #[error("stream has no payload pools")]
    NoPools,
    #[error("producer already attached")]
    ProducerBusy,
    #[error("consumer limit of this stream reached: {limit}")]
    ConsumerLimit { limit: u32 },
    #[error("desired node_id unavailable")]
    NodeIdBusy,
    #[error("lease limit of this connection reached: {limit}")]
    ConnectionLimit { limit: u32 },
    #[error("too many attaches wait for this stream: {limit}")]
    PendingLimit { limit: u32 },
    #[error("lease allocation failed: limit of {limit} leases reached")]
    OutOfLeases { limit: u32 },
    #[error("shm creation failed: {0}")]
    CreateFailed(String),
    #[error("stream was removed")]
    StreamRemoved,
    #[error("node is cordoned: no memory is taken for streams that have none here")]
    Cordoned,
    #[error("this node has no memory with pages of {0} for the driver")]
    NoBase(String),
    #[error(
        "stream `{stream}` takes no more {what} on this node: limit {limit}, used {used}, asked 1"
    )]
    StreamMembers {
        stream: String,
        what: Resource,
        limit: u32,
        used: u64,
    },
    #[error(
        "quota `{quota}` reached on this node: {what}: limit {limit}, used {used}, asked {asked}"
    )]
    Quota {
        quota: String,
        what: Resource,
        limit: u64,
        used: u64,
        asked: u64,
    },
    #[error("{0}")]
    ClassFull(Box<ClassShort>),
    #[error(
        "memory is short on this node: `{first}` with priority {first_priority} waits for {first_bytes} bytes and comes before priority {priority}; {needed} bytes needed"
    )]
    MemoryClaimed {
        needed: u64,
        priority: i32,
        first: String,
        first_priority: i32,
        first_bytes: u64,
    },
}

impl Refusal {
    /// The response code.
    pub(crate) const fn code(&self) -> ResponseCode {
        match self {
            Self::SchemaVersion | Self::PublishMode => ResponseCode::Unsupported,
            Self::Malformed(_)
            | Self::Role
            | Self::ClientIdZero
            | Self::HugepagesPolicy
            | Self::RangeUnset
            | Self::RangeExhausted
            | Self::ProfileMissing
            | Self::NoPools => ResponseCode::InvalidParams,
            Self::Draining
            | Self::ClientNotAssigned { .. }
            | Self::ClientAssigned { .. }
            | Self::ClientBusy
            | Self::LayoutVersion
            | Self::HugepagesMissing
            | Self::StandardPages
            | Self::NotProvisioned
            | Self::StreamLimit { .. }
            | Self::RoleDenied
            | Self::ProducerBusy
            | Self::ConsumerLimit { .. }
            | Self::NodeIdBusy
            | Self::ConnectionLimit { .. }
            | Self::PendingLimit { .. }
            | Self::StreamRemoved
            | Self::Cordoned
            | Self::NoBase(_)
            | Self::StreamMembers { .. }
            | Self::Quota { .. }
            | Self::ClassFull(_)
            | Self::MemoryClaimed { .. } => ResponseCode::Rejected,
            Self::OutOfLeases { .. } | Self::CreateFailed(_) => ResponseCode::InternalError,
        }
    }

    /// Bounded label for metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::SchemaVersion => "schema_version",
            Self::Malformed(_) => "malformed",
            Self::Role => "role",
            Self::ClientIdZero => "client_id_zero",
            Self::Draining => "draining",
            Self::ClientBusy => "client_busy",
            Self::PublishMode => "publish_mode",
            Self::LayoutVersion => "layout_version",
            Self::HugepagesPolicy => "hugepages_policy",
            Self::HugepagesMissing => "hugepages_missing",
            Self::StandardPages => "standard_pages",
            Self::NotProvisioned => "not_provisioned",
            Self::RangeUnset => "range_unset",
            Self::RangeExhausted => "range_exhausted",
            Self::ProfileMissing => "profile_missing",
            Self::ClientNotAssigned { .. } => "client_not_assigned",
            Self::ClientAssigned { .. } => "client_assigned",
            Self::StreamLimit { .. } => "stream_limit",
            Self::RoleDenied => "role_denied",
            Self::NoPools => "no_pools",
            Self::ProducerBusy => "producer_busy",
            Self::ConsumerLimit { .. } => "consumer_limit",
            Self::NodeIdBusy => "node_id_busy",
            Self::ConnectionLimit { .. } => "connection_limit",
            Self::PendingLimit { .. } => "pending_limit",
            Self::OutOfLeases { .. } => "out_of_leases",
            Self::CreateFailed(_) => "create_failed",
            Self::StreamRemoved => "stream_removed",
            Self::Cordoned => "cordoned",
            Self::NoBase(_) => "no_base",
            Self::StreamMembers { what, .. } => match what {
                Resource::Producers => "stream_producers",
                Resource::Consumers => "stream_consumers",
                Resource::Bytes | Resource::Leases => "stream_members",
            },
            Self::Quota { what, .. } => what.label(),
            Self::ClassFull(_) => "class_full",
            Self::MemoryClaimed { .. } => "memory_claimed",
        }
    }
}

impl Refusal {
    /// What went wrong, for status and log: without what the answer's code says already.
    pub(crate) fn cause(&self) -> String {
        if let Self::CreateFailed(text) = self {
            return text.clone();
        }
        self.to_string()
    }
}

/// Cuts a text to what a message may carry.
// spec: D-4.2-12
pub(crate) fn clip(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let mut end = MAX_TEXT_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    // spec: D-4.2-12
    fn error_texts_are_cut_to_1024_bytes_between_characters() {
        assert_eq!(clip("x".repeat(1_024)).len(), 1_024);
        assert_eq!(clip("x".repeat(1_025)).len(), 1_024);
        assert_eq!(clip("é".repeat(600)).len(), 1_024);
        assert_eq!(clip(format!("x{}", "é".repeat(600))).len(), 1_023);
    }
}
