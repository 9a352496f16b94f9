//! Every field of a message by its name in the schema, one per line, in wire order, as the Java side
//! writes it down.

use std::fmt::{Debug, Write};

use tensorpool_wire::{
    Bool, ClientId, ClockDomain, CorrelationId, DiscoveryResult, DiscoveryStatus, Dtype, Epoch,
    FrameProgressState, HugepagesPolicy, LeaseId, LeaseRevokeReason, MAGIC, MajorOrder, Message,
    MessageHeader, Mode, MonoNanos, NodeId, PayloadPool, PoolId, ProgressUnit, PublishMode,
    RegionType, ResponseCode, Role, Seq, ShutdownReason, SlotHeader, StreamId, Superblock,
    TensorHeader, TraceId,
};

use crate::Vector;

pub(crate) fn dump(name: &str, vector: &Vector, out: &mut String) {
    writeln!(out, "== {name}").unwrap();
    let mut lines = Lines {
        prefix: String::new(),
        out,
    };
    match vector {
        Vector::Message(message) => lines.message(message),
        Vector::Superblock(superblock) => lines.superblock(superblock),
        Vector::Slot(slot) => lines.slot(slot),
    }
}

/// How a value reads.
trait Show {
    fn show(&self) -> String;
}

macro_rules! show_numbers {
    ($($ty:ty),*) => {$(
        impl Show for $ty {
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
show_numbers!(
    u8, u16, u32, u64, StreamId, ClientId, LeaseId, Epoch, PoolId, Seq
);
show_numbers!(CorrelationId, NodeId, MonoNanos, TraceId);

impl<T: Show> Show for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "null".into(), Show::show)
    }
}

impl Show for String {
    fn show(&self) -> String {
        let text = self.bytes().map(|byte| match byte {
            b' '..=b'~' if byte != b'"' && byte != b'\\' => char::from(byte).to_string(),
            other => format!("\\x{other:02x}"),
        });
        format!("\"{}\"", text.collect::<Self>())
    }
}

impl Show for Vec<u8> {
    fn show(&self) -> String {
        self.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Show for [i32; 8] {
    fn show(&self) -> String {
        self.map(|value| value.to_string()).join(",")
    }
}

macro_rules! show_enums {
    ($($ty:ident with null $null:literal $(and unknown $unknown:literal)?),* $(,)?) => {$(
        impl Show for $ty {
            fn show(&self) -> String {
                match *self {
                    Self::Unknown($null) => "null".into(),
                    $( Self::Unknown($unknown) => "UNKNOWN".into(), )?
                    Self::Unknown(raw) => raw.to_string(),
                    known => schema_name(&known),
                }
            }
        }
    )*};
}
show_enums! {
    Bool with null 255, Mode with null 255, FrameProgressState with null 255 and unknown 0,
    ProgressUnit with null 255, ClockDomain with null 255, HugepagesPolicy with null 255,
    Role with null 255, PublishMode with null 255, LeaseRevokeReason with null 255,
    ShutdownReason with null 255, DiscoveryStatus with null 255, ResponseCode with null -2147483648,
    RegionType with null -32768, Dtype with null -32768 and unknown 0,
    MajorOrder with null -32768 and unknown 0,
}

/// `RateLimited` is RATE_LIMITED in the schema, `Uint8` is UINT8.
fn schema_name(variant: &impl Debug) -> String {
    let mut name = String::new();
    for (at, letter) in format!("{variant:?}").char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

struct Lines<'a> {
    prefix: String,
    out: &'a mut String,
}

/// `lines.field(name, &value)` for each pair.
macro_rules! fields {
    ($lines:ident, $value:expr; $($name:literal $field:ident),* $(,)?) => {
        $( $lines.field($name, &$value.$field); )*
    };
}

impl Lines<'_> {
    fn field(&mut self, name: &str, value: &impl Show) {
        self.line(name, &value.show());
    }

    fn line(&mut self, name: &str, value: &str) {
        writeln!(self.out, "{}{name} = {value}", self.prefix).unwrap();
    }

    fn group<T>(&mut self, name: &str, entries: &[T], mut entry: impl FnMut(&mut Self, &T)) {
        self.line(name, &format!("{} entries", entries.len()));
        for (index, value) in entries.iter().enumerate() {
            let outer = self.prefix.clone();
            write!(self.prefix, "{name}[{index}].").unwrap();
            entry(self, value);
            self.prefix = outer;
        }
    }

    fn pools(&mut self, pools: &[PayloadPool]) {
        self.group("payloadPools", pools, |lines, pool| {
            fields!(lines, pool; "poolId" pool_id, "poolNslots" pool_nslots,
                "strideBytes" stride_bytes, "regionUri" region_uri);
        });
    }

    fn tags(&mut self, tags: &[String]) {
        self.group("tags", tags, |lines, tag| lines.field("tag", tag));
    }

    fn message(&mut self, message: &Message) {
        let header = MessageHeader::peek(&message.encode()).unwrap();
        let (schema, template) = (message.schema_id(), message.template_id());
        let (version, block) = (header.version, header.block_length);
        self.line("header", &format!("{schema}/{template}/{version}/{block}"));
        match schema {
            900 => self.wire(message),
            901 => self.driver(message),
            _ => self.discovery(message),
        }
    }

    fn wire(&mut self, message: &Message) {
        match message {
            Message::ShmPoolAnnounce(m) => {
                fields!(self, m; "streamId" stream_id, "producerId" producer_id, "epoch" epoch,
                    "announceTimestampNs" announce_timestamp_ns,
                    "announceClockDomain" announce_clock_domain, "layoutVersion" layout_version,
                    "headerNslots" header_nslots, "headerSlotBytes" header_slot_bytes);
                self.pools(&m.payload_pools);
                fields!(self, m; "headerRegionUri" header_region_uri);
            }
            Message::ConsumerHello(m) => {
                fields!(self, m; "streamId" stream_id, "consumerId" consumer_id,
                    "supportsShm" supports_shm, "supportsProgress" supports_progress,
                    "mode" mode, "maxRateHz" max_rate_hz,
                    "expectedLayoutVersion" expected_layout_version,
                    "progressIntervalUs" progress_interval_us,
                    "progressBytesDelta" progress_bytes_delta,
                    "progressMajorDeltaUnits" progress_major_delta_units,
                    "descriptorStreamId" descriptor_stream_id,
                    "controlStreamId" control_stream_id,
                    "descriptorChannel" descriptor_channel, "controlChannel" control_channel);
            }
            Message::ConsumerConfig(m) => {
                fields!(self, m; "streamId" stream_id, "consumerId" consumer_id,
                    "useShm" use_shm, "mode" mode, "descriptorStreamId" descriptor_stream_id,
                    "controlStreamId" control_stream_id,
                    "payloadFallbackUri" payload_fallback_uri,
                    "descriptorChannel" descriptor_channel, "controlChannel" control_channel);
            }
            Message::FrameDescriptor(m) => {
                fields!(self, m; "streamId" stream_id, "epoch" epoch, "seq" seq,
                    "timestampNs" timestamp_ns, "metaVersion" meta_version, "traceId" trace_id);
            }
            Message::FrameProgress(m) => {
                fields!(self, m; "streamId" stream_id, "epoch" epoch, "seq" seq,
                    "payloadBytesFilled" payload_bytes_filled, "state" state);
            }
            Message::QosConsumer(m) => {
                fields!(self, m; "streamId" stream_id, "consumerId" consumer_id, "epoch" epoch,
                    "lastSeqSeen" last_seq_seen, "dropsGap" drops_gap, "dropsLate" drops_late,
                    "mode" mode);
            }
            Message::QosProducer(m) => {
                fields!(self, m; "streamId" stream_id, "producerId" producer_id, "epoch" epoch,
                    "currentSeq" current_seq, "watermark" watermark);
            }
            Message::ControlResponse(m) => {
                fields!(self, m; "correlationId" correlation_id, "code" code,
                    "errorMessage" error_message);
            }
            metadata => self.metadata(metadata),
        }
    }

    fn metadata(&mut self, message: &Message) {
        match message {
            Message::DataSourceAnnounce(m) => {
                fields!(self, m; "streamId" stream_id, "producerId" producer_id, "epoch" epoch,
                    "metaVersion" meta_version, "name" name, "summary" summary);
            }
            Message::DataSourceMeta(m) => {
                fields!(self, m; "streamId" stream_id, "metaVersion" meta_version,
                    "timestampNs" timestamp_ns);
                self.group("attributes", &m.attributes, |lines, attribute| {
                    fields!(lines, attribute; "key" key, "format" format, "value" value);
                });
            }
            Message::MetaBlobAnnounce(m) => {
                fields!(self, m; "streamId" stream_id, "metaVersion" meta_version,
                    "blobType" blob_type, "totalLen" total_len, "checksum" checksum);
            }
            Message::MetaBlobChunk(m) => {
                fields!(self, m; "streamId" stream_id, "metaVersion" meta_version,
                    "chunkOffset" chunk_offset, "bytes" bytes);
            }
            Message::MetaBlobComplete(m) => {
                fields!(self, m; "streamId" stream_id, "metaVersion" meta_version,
                    "checksum" checksum);
            }
            other => panic!("{} is not of schema 900", other.name()),
        }
    }

    fn driver(&mut self, message: &Message) {
        match message {
            Message::ShmAttachRequest(m) => {
                fields!(self, m; "correlationId" correlation_id, "streamId" stream_id,
                    "clientId" client_id, "role" role,
                    "expectedLayoutVersion" expected_layout_version, "publishMode" publish_mode,
                    "requireHugepages" require_hugepages, "desiredNodeId" desired_node_id);
            }
            Message::ShmAttachResponse(m) => {
                fields!(self, m; "correlationId" correlation_id, "code" code, "leaseId" lease_id,
                    "leaseExpiryTimestampNs" lease_expiry_timestamp_ns, "streamId" stream_id,
                    "epoch" epoch, "layoutVersion" layout_version,
                    "headerNslots" header_nslots, "headerSlotBytes" header_slot_bytes,
                    "nodeId" node_id);
                self.pools(&m.payload_pools);
                fields!(self, m; "headerRegionUri" header_region_uri,
                    "errorMessage" error_message);
            }
            Message::ShmDetachRequest(m) => {
                fields!(self, m; "correlationId" correlation_id, "leaseId" lease_id,
                    "streamId" stream_id, "clientId" client_id, "role" role);
            }
            Message::ShmDetachResponse(m) => {
                fields!(self, m; "correlationId" correlation_id, "code" code,
                    "errorMessage" error_message);
            }
            Message::ShmLeaseKeepalive(m) => {
                fields!(self, m; "leaseId" lease_id, "streamId" stream_id,
                    "clientId" client_id, "role" role, "clientTimestampNs" client_timestamp_ns);
            }
            Message::ShmDriverShutdown(m) => {
                fields!(self, m; "timestampNs" timestamp_ns, "reason" reason,
                    "errorMessage" error_message);
            }
            Message::ShmLeaseRevoked(m) => {
                fields!(self, m; "timestampNs" timestamp_ns, "leaseId" lease_id,
                    "streamId" stream_id, "clientId" client_id, "role" role, "reason" reason,
                    "errorMessage" error_message);
            }
            Message::ShmDriverShutdownRequest(m) => {
                fields!(self, m; "correlationId" correlation_id, "reason" reason,
                    "token" token, "errorMessage" error_message);
            }
            other => panic!("{} is not of schema 901", other.name()),
        }
    }

    fn discovery(&mut self, message: &Message) {
        match message {
            Message::DiscoveryRequest(m) => {
                fields!(self, m; "requestId" request_id, "clientId" client_id,
                    "responseStreamId" response_stream_id, "streamId" stream_id,
                    "producerId" producer_id, "dataSourceId" data_source_id);
                self.tags(&m.tags);
                fields!(self, m; "responseChannel" response_channel,
                    "dataSourceName" data_source_name);
            }
            Message::DiscoveryResponse(m) => {
                fields!(self, m; "requestId" request_id, "status" status);
                self.group("results", &m.results, Self::result);
                fields!(self, m; "errorMessage" error_message);
            }
            other => panic!("{} is not of schema 910", other.name()),
        }
    }

    fn result(&mut self, result: &DiscoveryResult) {
        fields!(self, result; "streamId" stream_id, "producerId" producer_id, "epoch" epoch,
            "layoutVersion" layout_version, "headerNslots" header_nslots,
            "headerSlotBytes" header_slot_bytes, "maxDims" max_dims,
            "dataSourceId" data_source_id, "driverControlStreamId" driver_control_stream_id);
        self.pools(&result.payload_pools);
        self.tags(&result.tags);
        fields!(self, result; "headerRegionUri" header_region_uri,
            "dataSourceName" data_source_name, "driverInstanceId" driver_instance_id,
            "driverControlChannel" driver_control_channel);
    }

    fn superblock(&mut self, superblock: &Superblock) {
        self.field("magic", &MAGIC);
        fields!(self, superblock; "layoutVersion" layout_version, "epoch" epoch,
            "streamId" stream_id, "regionType" region_type, "poolId" pool_id, "nslots" nslots,
            "slotBytes" slot_bytes, "strideBytes" stride_bytes, "pid" pid,
            "startTimestampNs" start_timestamp_ns, "activityTimestampNs" activity_timestamp_ns);
    }

    fn slot(&mut self, slot: &SlotHeader) {
        self.field("seqCommit", &slot.seq.committed_word());
        fields!(self, slot; "valuesLenBytes" values_len_bytes, "payloadSlot" payload_slot,
            "poolId" pool_id, "payloadOffset" payload_offset);
        self.field(
            "timestampNs",
            &slot.timestamp_ns.map_or(u64::MAX, MonoNanos::get),
        );
        self.field("metaVersion", &slot.meta_version.unwrap_or(u32::MAX));
        self.line("pad", &["0"; 26].join(","));
        self.line("headerBytes", "192 bytes");
        self.prefix.push_str("headerBytes.");
        self.line("header", "900/52/1/184");
        self.tensor(&slot.tensor);
    }

    fn tensor(&mut self, tensor: &TensorHeader) {
        fields!(self, tensor; "dtype" dtype, "majorOrder" major_order, "ndims" ndims);
        self.line("padAlign", "0");
        fields!(self, tensor; "progressUnit" progress_unit,
            "progressStrideBytes" progress_stride_bytes, "dims" dims, "strides" strides);
        self.line("pad", &["0"; 109].join(","));
    }
}
