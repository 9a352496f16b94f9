//! Schema 910: which streams there are.

use alloc::string::String;

use crate::pool::PayloadPool;
use crate::table::{body, message, wire_enum};
use crate::{ClientId, Epoch, StreamId};

wire_enum! {
    /// How a query went.
    pub enum DiscoveryStatus: u8 {
        /// Processed, also with no result.
        Ok = 1,
        /// Nothing that the asker may see.
        NotFound = 2,
        /// Malformed or failed.
        Error = 3,
    }
}

// spec: DI-5.0-1
message! {
    /// A client asks for streams. All filters that are given must hold.
    ///
    /// A deployed client ends its message before an empty `data_source_name`; what is missing at the
    /// end counts as empty.
    pub struct DiscoveryRequest, schema SCHEMA_DISCOVERY, template 1, block 32 {
        /// Chosen by the asker, echoed in the answer.
        @0 request_id: u64,
        /// The asker, for logs and limits; proves nothing.
        @8 client_id: ClientId,
        /// Aeron stream id to answer on; 0 is refused.
        @12 response_stream_id: u32,
        /// Only this stream.
        @16 stream_id: Option<StreamId>,
        /// Only streams of this producer.
        @20 producer_id: Option<ClientId>,
        /// Only this data source.
        @24 data_source_id: Option<u64>,
    }
    groups {
        /// Only streams that have all of these.
        tags: String,
    }
    data_or_end {
        /// Aeron channel to answer on; an empty one is never answered.
        response_channel: String,
        /// Only the stream of this name; empty: any.
        data_source_name: String,
    }
}

body! {
    /// One stream that was found. A snapshot, never an authority.
    #[derive(Clone, Debug, PartialEq, Eq)]
    #[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
    pub struct DiscoveryResult, block 39 {
        /// The stream.
        @0 stream_id: StreamId,
        /// Client id of the attached producer, 0 if there is none.
        @4 producer_id: ClientId,
        /// Incarnation of the regions below.
        @8 epoch: Epoch,
        /// Layout version of the regions.
        @16 layout_version: u32,
        /// Slots of the header ring.
        @20 header_nslots: u32,
        /// Bytes of a header slot, 256.
        @24 header_slot_bytes: u16,
        /// Most dimensions of a tensor, 8.
        @26 max_dims: u8,
        /// The data source.
        @27 data_source_id: Option<u64>,
        /// Aeron stream id of the driver that owns the stream.
        @35 driver_control_stream_id: u32,
    }
    groups {
        /// All pools of the stream.
        payload_pools: PayloadPool,
        /// All tags of the stream.
        tags: String,
    }
    data {
        /// `shm:` URI of the header ring.
        header_region_uri: String,
        /// Name of the data source, as announced.
        data_source_name: String,
        /// The driver that owns the stream.
        driver_instance_id: String,
        /// Aeron channel of that driver.
        driver_control_channel: String,
    }
}

message! {
    /// The answer to [`DiscoveryRequest`].
    pub struct DiscoveryResponse, schema SCHEMA_DISCOVERY, template 2, block 9 {
        /// The request's.
        @0 request_id: u64,
        /// How it went.
        @8 status: DiscoveryStatus,
    }
    groups {
        /// The streams; none unless `status` is OK.
        results: DiscoveryResult,
    }
    data {
        /// What went wrong, in words, at most 1,024 bytes.
        error_message: String,
    }
}
