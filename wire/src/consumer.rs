//! Schema 900: what a consumer wants and what it gets.

use alloc::string::String;

use crate::driver::ResponseCode;
use crate::table::{message, wire_enum};
use crate::{ClientId, CorrelationId, StreamId};

wire_enum! {
    /// A truth value.
    pub enum Bool: u8 {
        /// No.
        False = 0,
        /// Yes.
        True = 1,
    }
}

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

wire_enum! {
    /// Which frames a consumer takes.
    // spec: W-10.1.2-1
    pub enum Mode: u8 {
        /// All of them.
        Stream = 1,
        /// At most so many per second.
        RateLimited = 2,
    }
}

message! {
    /// A consumer shows itself and asks for streams of its own. Repeated, idempotent.
    pub struct ConsumerHello, schema SCHEMA_WIRE, template 2, block 39 {
        /// The stream that it consumes.
        @0 stream_id: StreamId,
        /// The consumer; the client id of its lease.
        @4 consumer_id: ClientId,
        /// Whether it can map shared memory.
        @8 supports_shm: Bool,
        /// Whether it wants FrameProgress.
        @9 supports_progress: Bool,
        /// Which frames it takes.
        @10 mode: Mode,
        /// Frames per second with [`Mode::RateLimited`]; 0: no limit.
        @11 max_rate_hz: u32,
        /// Layout version that it understands; 0: any.
        @15 expected_layout_version: u32,
        /// Shortest time between two FrameProgress that it wants, in microseconds.
        @19 progress_interval_us: Option<u32>,
        /// Least growth between two FrameProgress that it wants, in bytes.
        @23 progress_bytes_delta: Option<u32>,
        /// The same in rows or columns.
        @27 progress_major_delta_units: Option<u32>,
        /// Aeron stream id of the descriptor stream that it asks for; 0: none.
        @31 descriptor_stream_id: u32,
        /// Aeron stream id of the control stream that it asks for; 0: none.
        @35 control_stream_id: u32,
    }
    data {
        /// Aeron channel of the descriptor stream that it asks for; empty: none.
        descriptor_channel: String,
        /// Aeron channel of the control stream that it asks for; empty: none.
        control_channel: String,
    }
}

message! {
    /// What one consumer has to use.
    pub struct ConsumerConfig, schema SCHEMA_WIRE, template 3, block 18 {
        /// The stream that it consumes.
        @0 stream_id: StreamId,
        /// The consumer.
        @4 consumer_id: ClientId,
        /// Whether it may map shared memory.
        @8 use_shm: Bool,
        /// Which frames it takes; 0 and 255: as before.
        @9 mode: Mode,
        /// Aeron stream id of its own descriptor stream; 0: the shared one.
        @10 descriptor_stream_id: u32,
        /// Aeron stream id of its own control stream; 0: none.
        @14 control_stream_id: u32,
    }
    data {
        /// Where it gets payload without shared memory; empty: nowhere.
        payload_fallback_uri: String,
        /// Aeron channel of its own descriptor stream; empty: the shared one.
        descriptor_channel: String,
        /// Aeron channel of its own control stream; empty: none.
        control_channel: String,
    }
}

message! {
    /// A general answer. Defined, hardly used.
    pub struct ControlResponse, schema SCHEMA_WIRE, template 9, block 12 {
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
