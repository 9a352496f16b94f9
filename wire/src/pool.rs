//! Schema 900: where a stream's memory is.

use alloc::string::String;

use crate::table::{body, message, wire_enum};
use crate::{ClientId, Epoch, MonoNanos, PoolId, StreamId};

wire_enum! {
    /// The clock of a timestamp.
    // spec: W-10.1.2-1
    pub enum ClockDomain: u8 {
        /// `CLOCK_MONOTONIC` of the host.
        Monotonic = 1,
        /// `CLOCK_REALTIME`, disciplined to a common source.
        RealtimeSynced = 2,
    }
}

body! {
    /// One payload pool of a stream.
    #[derive(Clone, Debug, PartialEq, Eq)]
    #[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
    pub struct PayloadPool, block 10 {
        /// The pool's number, 1 or more.
        @0 pool_id: PoolId,
        /// Slots, as many as the header ring has.
        @2 pool_nslots: u32,
        /// Bytes from one slot to the next.
        @6 stride_bytes: u32,
    }
    data {
        /// `shm:` URI of the pool's region.
        region_uri: String,
    }
}

message! {
    /// The driver says, about once per second, where a stream's memory is. Soft state: the highest
    /// epoch counts.
    pub struct ShmPoolAnnounce, schema SCHEMA_WIRE, template 1, block 35 {
        /// The stream.
        @0 stream_id: StreamId,
        /// Client id of the attached producer, 0 if there is none.
        @4 producer_id: ClientId,
        /// Incarnation of the regions below.
        @8 epoch: Epoch,
        /// When it was sent, by the clock of `announce_clock_domain`.
        @16 announce_timestamp_ns: MonoNanos,
        /// The clock of `announce_timestamp_ns`.
        @24 announce_clock_domain: ClockDomain,
        /// Layout version of the regions.
        @25 layout_version: u32,
        /// Slots of the header ring, a power of two.
        @29 header_nslots: u32,
        /// Bytes of a header slot, 256.
        @33 header_slot_bytes: u16,
    }
    groups {
        /// All pools of the stream.
        payload_pools: PayloadPool,
    }
    data {
        /// `shm:` URI of the header ring.
        header_region_uri: String,
    }
}
