//! What the vectors of sbe-tool mean, in their order.

use tensorpool_wire::{
    Attribute, Bool, ClientId, ClockDomain, ConsumerConfig, ConsumerHello, ControlResponse,
    CorrelationId, DataSourceAnnounce, DataSourceMeta, DiscoveryRequest, DiscoveryResponse,
    DiscoveryResult, DiscoveryStatus, Dtype, Epoch, FrameDescriptor, FrameProgress,
    FrameProgressState, HugepagesPolicy, LeaseId, LeaseRevokeReason, MajorOrder, Message,
    MetaBlobAnnounce, MetaBlobChunk, MetaBlobComplete, Mode, MonoNanos, NodeId, PayloadPool,
    PoolId, ProgressUnit, PublishMode, QosConsumer, QosProducer, RegionType, ResponseCode, Role,
    Seq, ShmAttachRequest, ShmAttachResponse, ShmDetachRequest, ShmDetachResponse,
    ShmDriverShutdown, ShmDriverShutdownRequest, ShmLeaseKeepalive, ShmLeaseRevoked,
    ShmPoolAnnounce, ShutdownReason, SlotHeader, StreamId, Superblock, TensorHeader, TraceId,
};

use crate::Vector;

const STREAM: StreamId = StreamId(10_000);
const EPOCH: Epoch = Epoch(9);
const PRODUCER: ClientId = ClientId(7);
const CONSUMER: ClientId = ClientId(8);
const RING_URI: &str = "shm:file?path=/dev/shm/tp/header.ring|require_hugepages=true";
const POOL_URI: &str = "shm:file?path=/dev/shm/tp/1.pool";

pub(crate) fn all() -> Vec<(&'static str, Vector)> {
    let mut all = Vec::new();
    announces(&mut all);
    consumers(&mut all);
    frames(&mut all);
    qos(&mut all);
    metadata(&mut all);
    attach(&mut all);
    leases(&mut all);
    discovery(&mut all);
    memory(&mut all);
    all
}

type All = Vec<(&'static str, Vector)>;

fn message(all: &mut All, name: &'static str, message: impl Into<Message>) {
    all.push((name, Vector::Message(message.into())));
}

fn pool(pool_id: u16, nslots: u32, stride_bytes: u32, region_uri: &str) -> PayloadPool {
    PayloadPool {
        pool_id: PoolId(pool_id),
        pool_nslots: nslots,
        stride_bytes,
        region_uri: region_uri.into(),
    }
}

fn announces(all: &mut All) {
    let announce = ShmPoolAnnounce {
        stream_id: STREAM,
        producer_id: PRODUCER,
        epoch: EPOCH,
        announce_timestamp_ns: MonoNanos(1_000),
        announce_clock_domain: ClockDomain::Monotonic,
        layout_version: 1,
        header_nslots: 64,
        header_slot_bytes: 256,
        payload_pools: vec![
            pool(1, 64, 4_096, POOL_URI),
            pool(65_535, 64, 4_294_967_232, ""),
            pool(3, 64, 1_048_576, "shm:file?path=/a/3.pool"),
        ],
        header_region_uri: RING_URI.into(),
    };
    message(all, "ShmPoolAnnounce.three_pools", announce);
    let announce = ShmPoolAnnounce {
        stream_id: StreamId(0),
        producer_id: ClientId(u32::MAX),
        epoch: Epoch(u64::MAX),
        announce_timestamp_ns: MonoNanos(u64::MAX),
        announce_clock_domain: ClockDomain::RealtimeSynced,
        layout_version: u32::MAX,
        header_nslots: u32::MAX,
        header_slot_bytes: u16::MAX,
        payload_pools: vec![],
        header_region_uri: String::new(),
    };
    message(all, "ShmPoolAnnounce.empty_at_its_limits", announce);
}

fn consumers(all: &mut All) {
    let hello = ConsumerHello {
        stream_id: STREAM,
        consumer_id: CONSUMER,
        supports_shm: Bool::True,
        supports_progress: Bool::False,
        mode: Mode::Stream,
        max_rate_hz: 0,
        expected_layout_version: 1,
        progress_interval_us: None,
        progress_bytes_delta: None,
        progress_major_delta_units: None,
        descriptor_stream_id: 0,
        control_stream_id: 0,
        descriptor_channel: String::new(),
        control_channel: String::new(),
    };
    message(all, "ConsumerHello.nulls_and_empty", hello);
    let hello = ConsumerHello {
        stream_id: StreamId(10_001),
        consumer_id: ClientId(9),
        supports_shm: Bool::False,
        supports_progress: Bool::True,
        mode: Mode::RateLimited,
        max_rate_hz: 30,
        expected_layout_version: 0,
        progress_interval_us: Some(250),
        progress_bytes_delta: Some(65_536),
        progress_major_delta_units: Some(0),
        descriptor_stream_id: 31_000,
        control_stream_id: 32_000,
        descriptor_channel: "aeron:ipc?term-length=1m".into(),
        control_channel: "aeron:ipc".into(),
    };
    message(all, "ConsumerHello.all", hello);
    let config = ConsumerConfig {
        stream_id: STREAM,
        consumer_id: CONSUMER,
        use_shm: Bool::True,
        mode: Mode::Unknown(255),
        descriptor_stream_id: 31_000,
        control_stream_id: 0,
        payload_fallback_uri: String::new(),
        descriptor_channel: "aeron:ipc".into(),
        control_channel: String::new(),
    };
    message(all, "ConsumerConfig.descriptor_half", config);
    let config = ConsumerConfig {
        stream_id: STREAM,
        consumer_id: CONSUMER,
        use_shm: Bool::False,
        mode: Mode::RateLimited,
        descriptor_stream_id: 0,
        control_stream_id: 32_999,
        payload_fallback_uri: "bridge://5".into(),
        descriptor_channel: String::new(),
        control_channel: "aeron:ipc".into(),
    };
    message(all, "ConsumerConfig.fallback", config);
    let response = ControlResponse {
        correlation_id: CorrelationId(-5),
        code: ResponseCode::InternalError,
        error_message: "try again".into(),
    };
    message(all, "ControlResponse.internal_error", response);
}

fn frames(all: &mut All) {
    let descriptor = FrameDescriptor {
        stream_id: STREAM,
        epoch: EPOCH,
        seq: Seq(5),
        timestamp_ns: None,
        meta_version: None,
        trace_id: None,
    };
    message(all, "FrameDescriptor.nulls", descriptor);
    let descriptor = FrameDescriptor {
        stream_id: StreamId(u32::MAX - 1),
        epoch: Epoch(0x0102_0304_0506_0708),
        seq: Seq::MAX,
        timestamp_ns: Some(MonoNanos(0x1112_1314_1516_1718)),
        meta_version: Some(0),
        trace_id: Some(TraceId(u64::MAX)),
    };
    message(all, "FrameDescriptor.all", descriptor);
    for (name, state) in [
        ("FrameProgress.unknown", FrameProgressState::Unknown(0)),
        ("FrameProgress.started", FrameProgressState::Started),
        ("FrameProgress.progress", FrameProgressState::Progress),
        ("FrameProgress.complete", FrameProgressState::Complete),
        ("FrameProgress.null_val", FrameProgressState::Unknown(255)),
    ] {
        let progress = FrameProgress {
            stream_id: STREAM,
            epoch: EPOCH,
            seq: Seq(5),
            payload_bytes_filled: 4_096,
            state,
        };
        message(all, name, progress);
    }
}

fn qos(all: &mut All) {
    let consumer = QosConsumer {
        stream_id: STREAM,
        consumer_id: CONSUMER,
        epoch: EPOCH,
        last_seq_seen: Seq(5),
        drops_gap: 1,
        drops_late: u64::MAX,
        mode: Mode::Stream,
    };
    message(all, "QosConsumer.all", consumer);
    let producer = QosProducer {
        stream_id: STREAM,
        producer_id: PRODUCER,
        epoch: EPOCH,
        current_seq: Seq(6),
        watermark: None,
    };
    message(all, "QosProducer.nulls", producer);
    let watermark = Some(12);
    message(
        all,
        "QosProducer.all",
        QosProducer {
            watermark,
            ..producer
        },
    );
}

fn metadata(all: &mut All) {
    let announce = DataSourceAnnounce {
        stream_id: STREAM,
        producer_id: PRODUCER,
        epoch: EPOCH,
        meta_version: 3,
        name: "camera-left".into(),
        summary: "left eye".into(),
    };
    message(all, "DataSourceAnnounce.all", announce);
    let attribute = |key: &str, format: &str, value: &[u8]| Attribute {
        key: key.into(),
        format: format.into(),
        value: value.to_vec(),
    };
    let meta = DataSourceMeta {
        stream_id: STREAM,
        meta_version: 3,
        timestamp_ns: MonoNanos(1_000),
        attributes: vec![
            attribute("width", "text/plain", b"640"),
            attribute("", "", b""),
            attribute("gain", "application/octet-stream", &[0, 0xFF, 0x80, 1]),
        ],
    };
    message(all, "DataSourceMeta.three_attributes", meta);
    let meta = DataSourceMeta {
        stream_id: STREAM,
        meta_version: 4,
        timestamp_ns: MonoNanos(1_001),
        attributes: vec![],
    };
    message(all, "DataSourceMeta.empty", meta);
    let blob = MetaBlobAnnounce {
        stream_id: STREAM,
        meta_version: 3,
        blob_type: 77,
        total_len: 5,
        checksum: 0xC994_65AA,
    };
    message(all, "MetaBlobAnnounce.all", blob);
    let chunk = MetaBlobChunk {
        stream_id: STREAM,
        meta_version: 3,
        chunk_offset: 2,
        bytes: vec![9, 8, 7],
    };
    message(all, "MetaBlobChunk.three_bytes", chunk);
    let complete = MetaBlobComplete {
        stream_id: STREAM,
        meta_version: 3,
        checksum: 0xC994_65AA,
    };
    message(all, "MetaBlobComplete.all", complete);
}

fn attach(all: &mut All) {
    let request = ShmAttachRequest {
        correlation_id: CorrelationId(0x0102_0304_0506_0708),
        stream_id: STREAM,
        client_id: PRODUCER,
        role: Role::Producer,
        expected_layout_version: 1,
        publish_mode: None,
        require_hugepages: HugepagesPolicy::Unspecified,
        desired_node_id: None,
    };
    message(all, "ShmAttachRequest.nulls", request);
    let request = ShmAttachRequest {
        correlation_id: CorrelationId(i64::MIN),
        stream_id: StreamId(0),
        client_id: ClientId(u32::MAX),
        role: Role::Consumer,
        expected_layout_version: 0,
        publish_mode: Some(PublishMode::ExistingOrCreate),
        require_hugepages: HugepagesPolicy::Hugepages,
        desired_node_id: Some(NodeId(1_023)),
    };
    message(all, "ShmAttachRequest.all", request);
    let response = ShmAttachResponse {
        correlation_id: CorrelationId(5),
        code: ResponseCode::Ok,
        lease_id: Some(LeaseId(42)),
        lease_expiry_timestamp_ns: Some(MonoNanos(3_000_000_000)),
        stream_id: Some(STREAM),
        epoch: Some(EPOCH),
        layout_version: Some(1),
        header_nslots: Some(64),
        header_slot_bytes: Some(256),
        node_id: Some(NodeId(1)),
        payload_pools: vec![
            pool(1, 64, 4_096, POOL_URI),
            pool(2, 64, 1_048_576, "shm:file?path=/a/2.pool"),
        ],
        header_region_uri: RING_URI.into(),
        error_message: String::new(),
    };
    message(all, "ShmAttachResponse.ok", response);
    let response = ShmAttachResponse {
        correlation_id: CorrelationId(5),
        code: ResponseCode::Rejected,
        lease_id: None,
        lease_expiry_timestamp_ns: None,
        stream_id: None,
        epoch: None,
        layout_version: None,
        header_nslots: None,
        header_slot_bytes: None,
        node_id: None,
        payload_pools: vec![],
        header_region_uri: String::new(),
        error_message: "client_id already attached".into(),
    };
    message(all, "ShmAttachResponse.rejected", response);
}

fn leases(all: &mut All) {
    let detach = ShmDetachRequest {
        correlation_id: CorrelationId(6),
        lease_id: LeaseId(u64::MAX - 1),
        stream_id: STREAM,
        client_id: PRODUCER,
        role: Role::Producer,
    };
    message(all, "ShmDetachRequest.all", detach);
    let detached = ShmDetachResponse {
        correlation_id: CorrelationId(6),
        code: ResponseCode::Ok,
        error_message: String::new(),
    };
    message(all, "ShmDetachResponse.ok", detached);
    let keepalive = ShmLeaseKeepalive {
        lease_id: LeaseId(42),
        stream_id: STREAM,
        client_id: PRODUCER,
        role: Role::Consumer,
        client_timestamp_ns: MonoNanos(123_456_789),
    };
    message(all, "ShmLeaseKeepalive.all", keepalive);
    for (name, reason) in [
        ("ShmLeaseRevoked.detached", LeaseRevokeReason::Detached),
        ("ShmLeaseRevoked.expired", LeaseRevokeReason::Expired),
        ("ShmLeaseRevoked.revoked", LeaseRevokeReason::Revoked),
        ("ShmLeaseRevoked.null_val", LeaseRevokeReason::Unknown(255)),
    ] {
        let revoked = ShmLeaseRevoked {
            timestamp_ns: MonoNanos(1_000),
            lease_id: LeaseId(42),
            stream_id: STREAM,
            client_id: PRODUCER,
            role: Role::Producer,
            reason,
            error_message: "because".into(),
        };
        message(all, name, revoked);
    }
    let shutdown = ShmDriverShutdown {
        timestamp_ns: MonoNanos(1_000),
        reason: ShutdownReason::Error,
        error_message: "disk full".into(),
    };
    message(all, "ShmDriverShutdown.error", shutdown);
    let request = ShmDriverShutdownRequest {
        correlation_id: CorrelationId(8),
        reason: ShutdownReason::Admin,
        token: "secret".into(),
        error_message: String::new(),
    };
    message(all, "ShmDriverShutdownRequest.admin", request);
}

fn discovery(all: &mut All) {
    let request = DiscoveryRequest {
        request_id: 1,
        client_id: PRODUCER,
        response_stream_id: 7_004,
        stream_id: None,
        producer_id: None,
        data_source_id: None,
        tags: vec![],
        response_channel: "aeron:ipc".into(),
        data_source_name: String::new(),
    };
    message(all, "DiscoveryRequest.nulls_and_no_tags", request);
    let request = DiscoveryRequest {
        request_id: u64::MAX,
        client_id: PRODUCER,
        response_stream_id: 7_004,
        stream_id: Some(STREAM),
        producer_id: Some(ClientId(0)),
        data_source_id: Some(0),
        tags: vec!["ab".into(), String::new(), "left camera".into()],
        response_channel: "aeron:ipc".into(),
        data_source_name: "camera-left".into(),
    };
    message(all, "DiscoveryRequest.three_tags", request);
    let full = DiscoveryResult {
        stream_id: STREAM,
        producer_id: PRODUCER,
        epoch: EPOCH,
        layout_version: 1,
        header_nslots: 64,
        header_slot_bytes: 256,
        max_dims: 8,
        data_source_id: None,
        driver_control_stream_id: 1_000,
        payload_pools: vec![
            pool(1, 64, 4_096, POOL_URI),
            pool(2, 64, 8_192, "shm:file?path=/a/2.pool"),
        ],
        tags: vec!["left".into(), "Camera".into()],
        header_region_uri: RING_URI.into(),
        data_source_name: "camera-left".into(),
        driver_instance_id: "driver-01".into(),
        driver_control_channel: "aeron:ipc".into(),
    };
    let empty = DiscoveryResult {
        stream_id: StreamId(10_001),
        producer_id: ClientId(0),
        epoch: Epoch(10),
        header_nslots: 8,
        data_source_id: Some(5),
        payload_pools: vec![],
        tags: vec![],
        header_region_uri: String::new(),
        data_source_name: String::new(),
        driver_instance_id: String::new(),
        driver_control_channel: String::new(),
        ..full
    };
    let response = DiscoveryResponse {
        request_id: 1,
        status: DiscoveryStatus::Ok,
        results: vec![full, empty],
        error_message: String::new(),
    };
    message(all, "DiscoveryResponse.two_results", response);
    let response = DiscoveryResponse {
        request_id: 2,
        status: DiscoveryStatus::Error,
        results: vec![],
        error_message: "result limit exceeded".into(),
    };
    message(all, "DiscoveryResponse.error", response);
}

fn memory(all: &mut All) {
    let ring = Superblock {
        layout_version: 1,
        epoch: EPOCH,
        stream_id: STREAM,
        region_type: RegionType::HeaderRing,
        pool_id: PoolId(0),
        nslots: 64,
        slot_bytes: 256,
        stride_bytes: 0,
        pid: 4_242,
        start_timestamp_ns: MonoNanos(111),
        activity_timestamp_ns: MonoNanos(222),
    };
    let pool = Superblock {
        epoch: Epoch(u64::MAX - 1),
        region_type: RegionType::PayloadPool,
        pool_id: PoolId(65_535),
        slot_bytes: 1_048_576,
        stride_bytes: 1_048_576,
        ..ring
    };
    all.push(("ShmRegionSuperblock.header_ring", Vector::Superblock(ring)));
    all.push(("ShmRegionSuperblock.pool", Vector::Superblock(pool)));
    let row_major = SlotHeader {
        seq: Seq(5),
        values_len_bytes: 307_200,
        payload_slot: 5,
        pool_id: PoolId(1),
        payload_offset: 0,
        timestamp_ns: Some(MonoNanos(999)),
        meta_version: Some(1),
        tensor: TensorHeader {
            dtype: Dtype::Uint8,
            major_order: MajorOrder::Row,
            ndims: 2,
            progress_unit: ProgressUnit::Rows,
            progress_stride_bytes: 640,
            dims: [480, 640, 0, 0, 0, 0, 0, 0],
            strides: [640, 1, 0, 0, 0, 0, 0, 0],
        },
    };
    let column_major = SlotHeader {
        seq: Seq(63),
        values_len_bytes: 0,
        payload_slot: 63,
        tensor: TensorHeader {
            dtype: Dtype::Uint8,
            major_order: MajorOrder::Column,
            ndims: 8,
            progress_unit: ProgressUnit::None,
            progress_stride_bytes: 0,
            dims: [2, 3, 4, 5, 6, 7, 8, 9],
            strides: [0; 8],
        },
        ..row_major
    };
    all.push(("SlotHeader.row_major", Vector::Slot(row_major)));
    all.push((
        "SlotHeader.column_major_inferred",
        Vector::Slot(column_major),
    ));
}
