//! Schema 900: how producers and consumers fare.

use crate::consumer::Mode;
use crate::table::{fixed_message, message};
use crate::{ClientId, Epoch, Seq, StreamId};

message! {
    /// A consumer's counters, about once per second.
    pub struct QosConsumer, schema SCHEMA_WIRE, template 5, block 41 {
        /// The stream that it consumes.
        @0 stream_id: StreamId,
        /// The consumer.
        @4 consumer_id: ClientId,
        /// The epoch that it has mapped.
        @8 epoch: Epoch,
        /// The newest frame that it has seen.
        @16 last_seq_seen: Seq,
        /// Frames that it never heard of, by gaps in the sequence.
        @24 drops_gap: u64,
        /// Frames that were overwritten or unfinished when it looked.
        @32 drops_late: u64,
        /// Which frames it takes. Peers send 0 too.
        @40 mode: Mode,
    }
}

message! {
    /// A producer's counters, about once per second.
    pub struct QosProducer, schema SCHEMA_WIRE, template 6, block 28 {
        /// The stream that it feeds.
        @0 stream_id: StreamId,
        /// The producer.
        @4 producer_id: ClientId,
        /// The epoch that it writes to.
        @8 epoch: Epoch,
        /// The next frame's number, which is how many it has published.
        @16 current_seq: Seq,
        /// Not used by anybody.
        @24 watermark: Option<u32>,
    }
}

fixed_message! {
    QosConsumer, 49;
    QosProducer, 36;
}
