//! Schema 900: that a frame exists, and how far one has come.

use crate::table::{fixed_message, message, wire_enum};
use crate::{Epoch, MonoNanos, Seq, StreamId, TraceId};

wire_enum! {
    /// How far a frame has come. The schema's UNKNOWN is `Unknown(0)`.
    // spec: W-10.1.2-1
    pub enum FrameProgressState: u8 {
        /// The first bytes are being written.
        Started = 1,
        /// Some bytes are there.
        Progress = 2,
        /// All bytes are there. The slot's commit word still decides.
        Complete = 3,
    }
}

message! {
    /// A frame was committed. What it is stands in its header slot alone.
    pub struct FrameDescriptor, schema SCHEMA_WIRE, template 4, block 40 {
        /// The stream.
        @0 stream_id: StreamId,
        /// Incarnation of the memory that the frame is in.
        @4 epoch: Epoch,
        /// The frame.
        @12 seq: Seq,
        /// When it was published; usually absent.
        @20 timestamp_ns: Option<MonoNanos>,
        /// Version of the metadata that describes it.
        @28 meta_version: Option<u32>,
        /// Follows it through the stages.
        @32 trace_id: Option<TraceId>,
    }
}

message! {
    /// How much of a frame's payload can be read. Never replaces [`FrameDescriptor`].
    pub struct FrameProgress, schema SCHEMA_WIRE, template 11, block 29 {
        /// The stream.
        @0 stream_id: StreamId,
        /// Incarnation of the memory that the frame is in.
        @4 epoch: Epoch,
        /// The frame.
        @12 seq: Seq,
        /// Payload bytes from the start that are there.
        @20 payload_bytes_filled: u64,
        /// How far the frame has come.
        @28 state: FrameProgressState,
    }
}

fixed_message! {
    FrameDescriptor, 48;
    FrameProgress, 37;
}
