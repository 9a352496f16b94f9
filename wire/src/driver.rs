//! Schema 901: attach, detach, keepalive, revocation and shutdown.

use alloc::string::String;

use crate::pool::PayloadPool;
use crate::table::{message, wire_enum};
use crate::{ClientId, CorrelationId, Epoch, LeaseId, MonoNanos, NodeId, StreamId};

wire_enum! {
    /// Which pages a client wants its regions on.
    pub enum HugepagesPolicy: u8 {
        /// As the driver is configured.
        Unspecified = 0,
        /// Ordinary pages only.
        Standard = 1,
        /// Hugepages only.
        Hugepages = 2,
    }
}

wire_enum! {
    /// How a request went.
    // spec: W-15.17-1, D-4.6-1
    pub enum ResponseCode: i32 {
        /// Done.
        Ok = 0,
        /// The answerer lacks the capability, for instance the schema version.
        Unsupported = 1,
        /// The request is malformed or breaks a rule.
        InvalidParams = 2,
        /// The request is valid, policy or state denies it.
        Rejected = 3,
        /// The answerer failed; a retry after a pause can succeed.
        InternalError = 4,
    }
}

wire_enum! {
    /// What a lease allows.
    pub enum Role: u8 {
        /// Writes frames; one per stream.
        Producer = 1,
        /// Reads frames.
        Consumer = 2,
    }
}

wire_enum! {
    /// Whether an attach may create the stream.
    pub enum PublishMode: u8 {
        /// The stream must be provisioned already.
        RequireExisting = 1,
        /// The stream is created if it may be.
        ExistingOrCreate = 2,
    }
}

wire_enum! {
    /// Why a lease is over.
    pub enum LeaseRevokeReason: u8 {
        /// Its holder gave it back.
        Detached = 1,
        /// Its holder did not keep it alive.
        Expired = 2,
        /// The driver took it away.
        Revoked = 3,
    }
}

wire_enum! {
    /// Why a driver stops.
    pub enum ShutdownReason: u8 {
        /// As planned.
        Normal = 0,
        /// Asked by an administrator.
        Admin = 1,
        /// It failed.
        Error = 2,
    }
}

message! {
    /// A client asks for a lease on one stream in one role.
    pub struct ShmAttachRequest, schema SCHEMA_DRIVER, template 1, block 27 {
        /// Chosen by the client, echoed in the answer.
        @0 correlation_id: CorrelationId,
        /// The stream; 0 asks a driver with dynamic streams to choose.
        @8 stream_id: StreamId,
        /// The client, unique over all live leases; never 0.
        @12 client_id: ClientId,
        /// What the lease is for.
        @16 role: Role,
        /// Layout version that the client understands; 0 or the u32 null: any.
        @17 expected_layout_version: u32,
        /// Absent means [`PublishMode::RequireExisting`].
        @21 publish_mode: Option<PublishMode>,
        /// Which pages the client wants.
        @22 require_hugepages: HugepagesPolicy,
        /// Node id for trace ids that the client would like.
        @23 desired_node_id: Option<NodeId>,
    }
}

message! {
    /// The driver's answer to [`ShmAttachRequest`]. All optional fields are there if `code` is OK.
    pub struct ShmAttachResponse, schema SCHEMA_DRIVER, template 2, block 54 {
        /// The request's.
        @0 correlation_id: CorrelationId,
        /// How it went.
        @8 code: ResponseCode,
        /// The new lease.
        @12 lease_id: Option<LeaseId>,
        /// When the lease ends unless it is kept alive.
        @20 lease_expiry_timestamp_ns: Option<MonoNanos>,
        /// The stream, possibly another one than asked for (dynamic streams).
        @28 stream_id: Option<StreamId>,
        /// Incarnation of the regions below.
        @32 epoch: Option<Epoch>,
        /// Layout version of the regions.
        @40 layout_version: Option<u32>,
        /// Slots of the header ring, a power of two.
        @44 header_nslots: Option<u32>,
        /// Bytes of a header slot, 256.
        @48 header_slot_bytes: Option<u16>,
        /// Node id given to the client for the life of the lease.
        @50 node_id: Option<NodeId>,
    }
    groups {
        /// All pools of the stream.
        payload_pools: PayloadPool,
    }
    data {
        /// `shm:` URI of the header ring.
        header_region_uri: String,
        /// Why not, in words, at most 1,024 bytes; empty if OK.
        error_message: String,
    }
}

message! {
    /// A client gives a lease back.
    pub struct ShmDetachRequest, schema SCHEMA_DRIVER, template 3, block 25 {
        /// Chosen by the client, echoed in the answer.
        @0 correlation_id: CorrelationId,
        /// The lease.
        @8 lease_id: LeaseId,
        /// Its stream.
        @16 stream_id: StreamId,
        /// Its holder.
        @20 client_id: ClientId,
        /// Its role.
        @24 role: Role,
    }
}

message! {
    /// The driver's answer to [`ShmDetachRequest`].
    pub struct ShmDetachResponse, schema SCHEMA_DRIVER, template 4, block 12 {
        /// The request's.
        @0 correlation_id: CorrelationId,
        /// How it went.
        @8 code: ResponseCode,
    }
    data {
        /// Why not, in words; empty if OK.
        error_message: String,
    }
}

message! {
    /// A client is alive and still uses its lease. One-way.
    pub struct ShmLeaseKeepalive, schema SCHEMA_DRIVER, template 5, block 25 {
        /// The lease.
        @0 lease_id: LeaseId,
        /// Its stream.
        @8 stream_id: StreamId,
        /// Its holder.
        @12 client_id: ClientId,
        /// Its role.
        @16 role: Role,
        /// When the client sent it.
        @17 client_timestamp_ns: MonoNanos,
    }
}

message! {
    /// The driver stops: all its leases are over.
    pub struct ShmDriverShutdown, schema SCHEMA_DRIVER, template 6, block 9 {
        /// When it was sent.
        @0 timestamp_ns: MonoNanos,
        /// Why.
        @8 reason: ShutdownReason,
    }
    data {
        /// Why, in words; may be empty.
        error_message: String,
    }
}

message! {
    /// The driver ended one lease.
    pub struct ShmLeaseRevoked, schema SCHEMA_DRIVER, template 7, block 26 {
        /// When it was ended.
        @0 timestamp_ns: MonoNanos,
        /// The lease.
        @8 lease_id: LeaseId,
        /// Its stream.
        @16 stream_id: StreamId,
        /// Its holder.
        @20 client_id: ClientId,
        /// Its role.
        @24 role: Role,
        /// Why it ended.
        @25 reason: LeaseRevokeReason,
    }
    data {
        /// Why, in words; may be empty.
        error_message: String,
    }
}

message! {
    /// An administrator asks the driver to stop.
    pub struct ShmDriverShutdownRequest, schema SCHEMA_DRIVER, template 8, block 9 {
        /// Chosen by the asker. There is no answer that carries it.
        @0 correlation_id: CorrelationId,
        /// Passed on in [`ShmDriverShutdown`].
        @8 reason: ShutdownReason,
    }
    data {
        /// The secret that proves the asker's right.
        token: String,
        /// Passed on in [`ShmDriverShutdown`].
        error_message: String,
    }
}
