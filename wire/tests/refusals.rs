//! What is not taken for a message, and what it says then.

use tensorpool_wire::{
    ClientId, CorrelationId, DecodeError, DecodeErrorKind, DiscoveryRequest, FrameDescriptor,
    FrameProgress, HugepagesPolicy, LeaseId, MESSAGE_HEADER_LEN, Message, MessageHeader, MonoNanos,
    PoolId, QosConsumer, QosProducer, Role, SCHEMA_DRIVER, ShmAttachRequest, ShmDetachResponse,
    ShmLeaseKeepalive, ShmPoolAnnounce, StreamId,
};

const ASKER: CorrelationId = CorrelationId(0x0102_0304_0506_0708);

fn attach_request() -> ShmAttachRequest {
    ShmAttachRequest {
        correlation_id: ASKER,
        stream_id: StreamId(10_000),
        client_id: ClientId(7),
        role: Role::Producer,
        expected_layout_version: 1,
        publish_mode: None,
        require_hugepages: HugepagesPolicy::Unspecified,
        desired_node_id: None,
    }
}

fn discovery_request(tags: &[&str], data_source_name: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        request_id: 1,
        client_id: ClientId(7),
        response_stream_id: 7_004,
        stream_id: None,
        producer_id: None,
        data_source_id: None,
        tags: tags.iter().map(|&tag| tag.into()).collect(),
        response_channel: "aeron:ipc".into(),
        data_source_name: data_source_name.into(),
    }
}

fn announce_with_two_pools() -> ShmPoolAnnounce {
    let pool = |pool_id| tensorpool_wire::PayloadPool {
        pool_id: PoolId(pool_id),
        pool_nslots: 64,
        stride_bytes: 4_096,
        region_uri: "shm:file?path=/a".into(),
    };
    ShmPoolAnnounce {
        stream_id: StreamId(10_000),
        producer_id: ClientId(0),
        epoch: tensorpool_wire::Epoch(9),
        announce_timestamp_ns: MonoNanos(1),
        announce_clock_domain: tensorpool_wire::ClockDomain::Monotonic,
        layout_version: 1,
        header_nslots: 64,
        header_slot_bytes: 256,
        payload_pools: vec![pool(1), pool(2)],
        header_region_uri: "shm:file?path=/b".into(),
    }
}

fn refusal(bytes: &[u8]) -> DecodeError {
    Message::decode(bytes).expect_err("the message is refused")
}

fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn every_proper_prefix_of_a_message_is_refused() {
    let messages: [Message; 3] = [
        attach_request().into(),
        announce_with_two_pools().into(),
        ShmDetachResponse {
            correlation_id: ASKER,
            code: tensorpool_wire::ResponseCode::Rejected,
            error_message: "lease not found".into(),
        }
        .into(),
    ];
    for message in messages {
        let bytes = message.encode();
        for len in 0..bytes.len() {
            let error = refusal(&bytes[..len]);
            assert!(
                matches!(
                    error.reason(),
                    "too_short" | "var_data_too_long" | "group_too_long"
                ),
                "{len}: {error}"
            );
        }
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn bytes_after_the_last_field_are_refused() {
    let mut bytes = attach_request().encode();
    bytes.push(0);
    assert_eq!(
        refusal(&bytes).kind,
        DecodeErrorKind::TrailingBytes { count: 1 }
    );
    assert_eq!(refusal(&bytes).field, "end");
}

// spec: D-4.4a-3, DI-4.2-1, DI-10-1, T-13-1, J-14-1
#[test]
fn schema_id_decides_before_anything_else_is_read() {
    let mut bytes = attach_request().encode();
    // Template 1 of schema 900 is another message, of another length.
    set_u16(&mut bytes, 4, 900);
    let expected = DecodeErrorKind::BlockLength {
        expected: 35,
        found: 27,
    };
    assert_eq!(refusal(&bytes).kind, expected);
    for schema in [0, 899, 902, 903, 904, 911, u16::MAX] {
        set_u16(&mut bytes, 4, schema);
        assert_eq!(
            refusal(&bytes).kind,
            DecodeErrorKind::UnknownSchema { schema }
        );
    }
}

// spec: D-4.4a-3, DI-10-1
#[test]
fn template_id_must_be_one_of_the_schema() {
    // 50 to 52 lie in shared memory and are never sent.
    for (schema, unknown) in [
        (900, [0, 14, 50, 52]),
        (901, [0, 9, 11, 50]),
        (910, [0, 3, 4, 50]),
    ] {
        for template in unknown {
            let mut bytes = attach_request().encode();
            set_u16(&mut bytes, 2, template);
            set_u16(&mut bytes, 4, schema);
            let expected = DecodeErrorKind::UnknownTemplate { schema, template };
            assert_eq!(refusal(&bytes).kind, expected);
        }
    }
}

#[test]
fn a_message_of_one_type_does_not_decode_as_another() {
    let error = ShmLeaseKeepalive::decode(&attach_request().encode()).unwrap_err();
    assert_eq!(error.message, "ShmLeaseKeepalive");
    let expected = DecodeErrorKind::UnknownTemplate {
        schema: 901,
        template: 1,
    };
    assert_eq!(error.kind, expected);
}

// spec: D-4.4a-1, DI-10-2
#[test]
fn any_version_but_1_is_refused_on_every_schema() {
    let messages: [Message; 3] = [
        attach_request().into(),
        announce_with_two_pools().into(),
        discovery_request(&[], "").into(),
    ];
    for message in messages {
        for version in [0, 2, u16::MAX] {
            let mut bytes = message.encode();
            set_u16(&mut bytes, 6, version);
            let expected = DecodeErrorKind::UnsupportedVersion {
                schema: message.schema_id(),
                template: message.template_id(),
                version,
            };
            assert_eq!(refusal(&bytes).kind, expected);
        }
    }
}

// spec: D-4.4a-2
#[test]
fn a_request_that_cannot_be_read_still_names_its_asker() {
    let mut newer = attach_request().encode();
    set_u16(&mut newer, 0, 99);
    set_u16(&mut newer, 6, 2);
    newer.extend([0; 72]);
    assert_eq!(refusal(&newer).correlation_id(), Some(ASKER));

    let mut malformed = attach_request().encode();
    malformed.truncate(20);
    assert_eq!(refusal(&malformed).correlation_id(), Some(ASKER));

    let mut too_short = attach_request().encode();
    too_short.truncate(MESSAGE_HEADER_LEN + 7);
    assert_eq!(refusal(&too_short).correlation_id(), None);
}

#[test]
fn a_message_that_is_no_request_names_nobody() {
    let keepalive = ShmLeaseKeepalive {
        lease_id: LeaseId(42),
        stream_id: StreamId(10_000),
        client_id: ClientId(7),
        role: Role::Consumer,
        client_timestamp_ns: MonoNanos(1),
    };
    let mut bytes = keepalive.encode();
    set_u16(&mut bytes, 6, 2);
    assert_eq!(refusal(&bytes).correlation_id(), None);
    let mut response = ShmDetachResponse {
        correlation_id: ASKER,
        code: tensorpool_wire::ResponseCode::Ok,
        error_message: String::new(),
    }
    .encode();
    set_u16(&mut response, 6, 2);
    assert_eq!(refusal(&response).correlation_id(), None);
}

// spec: W-16-1
#[test]
fn block_length_must_be_that_of_the_layout() {
    for found in [0, 26, 28, u16::MAX] {
        let mut bytes = attach_request().encode();
        set_u16(&mut bytes, 0, found);
        let expected = DecodeErrorKind::BlockLength {
            expected: 27,
            found,
        };
        assert_eq!(refusal(&bytes).kind, expected);
        assert_eq!(refusal(&bytes).correlation_id(), Some(ASKER));
    }
}

#[test]
fn group_block_length_must_be_that_of_the_layout() {
    let mut bytes = announce_with_two_pools().encode();
    set_u16(&mut bytes, 8 + 35, 11);
    let error = refusal(&bytes);
    assert_eq!(error.field, "payload_pools");
    assert_eq!(
        error.kind,
        DecodeErrorKind::BlockLength {
            expected: 10,
            found: 11
        }
    );
}

#[test]
fn a_group_cannot_claim_more_entries_than_the_bytes_can_hold() {
    let mut bytes = announce_with_two_pools().encode();
    let left = bytes.len() - (8 + 35 + 4);
    // Each pool takes 14 bytes or more.
    let most = u16::try_from(left / 14).unwrap();
    for count in [most + 1, 65_534, 65_535] {
        set_u16(&mut bytes, 8 + 35 + 2, count);
        let error = refusal(&bytes);
        assert_eq!(error.field, "payload_pools");
        assert_eq!(error.kind, DecodeErrorKind::GroupTooLong { count, left });
    }
}

#[test]
#[cfg_attr(miri, ignore = "65,534 entries take minutes")]
fn the_null_of_a_group_count_is_no_count() {
    let tags = vec![String::new(); 65_534];
    let mut most = discovery_request(&[], "");
    most.tags = tags;
    let mut bytes = most.encode();
    assert_eq!(DiscoveryRequest::decode(&bytes), Ok(most));
    // One more entry is there, but the count would be SBE's null.
    bytes.splice(8 + 32 + 4..8 + 32 + 4, [0; 4]);
    set_u16(&mut bytes, 8 + 32 + 2, u16::MAX);
    assert_eq!(refusal(&bytes).reason(), "group_too_long");
}

#[test]
fn var_data_cannot_claim_more_bytes_than_are_left() {
    let mut bytes = announce_with_two_pools().encode();
    let at = bytes.len() - "shm:file?path=/b".len() - 4;
    for len in [17, 1 << 30, (1 << 30) + 1, u32::MAX] {
        set_u32(&mut bytes, at, len);
        let error = refusal(&bytes);
        assert_eq!(error.field, "header_region_uri");
        assert_eq!(
            error.kind,
            DecodeErrorKind::VarDataTooLong { len, left: 16 }
        );
    }
}

#[test]
fn text_must_be_utf_8() {
    let mut bytes = announce_with_two_pools().encode();
    *bytes.last_mut().unwrap() = 0xFF;
    let error = refusal(&bytes);
    assert_eq!(
        (error.field, error.kind),
        ("header_region_uri", DecodeErrorKind::NotUtf8)
    );
    assert_eq!(
        error.to_string(),
        "ShmPoolAnnounce, header_region_uri: is not UTF-8"
    );
}

#[test]
fn a_tags_group_that_says_block_length_4_means_the_same() {
    let request = discovery_request(&["left", "", "camera"], "eye");
    let mut bytes = request.encode();
    assert_eq!(bytes[8 + 32..8 + 34], [0, 0]);
    set_u16(&mut bytes, 8 + 32, 4);
    assert_eq!(DiscoveryRequest::decode(&bytes), Ok(request));
    set_u16(&mut bytes, 8 + 32, 8);
    assert_eq!(refusal(&bytes).field, "tags");
}

#[test]
fn a_discovery_request_may_end_before_its_last_texts() {
    let request = discovery_request(&["left"], "");
    let mut bytes = request.encode();
    bytes.truncate(bytes.len() - 4);
    assert_eq!(DiscoveryRequest::decode(&bytes), Ok(request.clone()));

    bytes.truncate(bytes.len() - "aeron:ipc".len() - 4);
    let without_channel = DiscoveryRequest {
        response_channel: String::new(),
        ..request
    };
    assert_eq!(DiscoveryRequest::decode(&bytes), Ok(without_channel));

    // A length that is cut in two is no end.
    bytes.extend([0, 0]);
    assert_eq!(refusal(&bytes).reason(), "too_short");
}

#[test]
fn fixed_messages_encode_to_arrays_of_the_same_bytes() {
    let descriptor = FrameDescriptor {
        stream_id: StreamId(1),
        epoch: tensorpool_wire::Epoch(2),
        seq: tensorpool_wire::Seq(3),
        timestamp_ns: None,
        meta_version: Some(4),
        trace_id: None,
    };
    assert_eq!(descriptor.encode_array().as_slice(), descriptor.encode());
    let progress = FrameProgress {
        stream_id: StreamId(1),
        epoch: tensorpool_wire::Epoch(2),
        seq: tensorpool_wire::Seq(3),
        payload_bytes_filled: 4,
        state: tensorpool_wire::FrameProgressState::Started,
    };
    assert_eq!(progress.encode_array().as_slice(), progress.encode());
    let consumer = QosConsumer {
        stream_id: StreamId(1),
        consumer_id: ClientId(2),
        epoch: tensorpool_wire::Epoch(3),
        last_seq_seen: tensorpool_wire::Seq(4),
        drops_gap: 5,
        drops_late: 6,
        mode: tensorpool_wire::Mode::Stream,
    };
    assert_eq!(consumer.encode_array().as_slice(), consumer.encode());
    let producer = QosProducer {
        stream_id: StreamId(1),
        producer_id: ClientId(2),
        epoch: tensorpool_wire::Epoch(3),
        current_seq: tensorpool_wire::Seq(4),
        watermark: None,
    };
    assert_eq!(producer.encode_array().as_slice(), producer.encode());
}

#[test]
fn the_header_can_be_looked_at_without_the_message() {
    let bytes = attach_request().encode();
    let header = MessageHeader {
        block_length: 27,
        template_id: 1,
        schema_id: SCHEMA_DRIVER,
        version: 1,
    };
    assert_eq!(MessageHeader::peek(&bytes), Some(header));
    assert_eq!(MessageHeader::peek(&bytes[..8]), Some(header));
    assert_eq!(MessageHeader::peek(&bytes[..7]), None);
}

// spec: W-16-1
#[test]
fn message_numbers_are_those_of_the_schemas() {
    let expected = [
        (900, 1, "ShmPoolAnnounce"),
        (900, 2, "ConsumerHello"),
        (900, 3, "ConsumerConfig"),
        (900, 4, "FrameDescriptor"),
        (900, 5, "QosConsumer"),
        (900, 6, "QosProducer"),
        (900, 7, "DataSourceAnnounce"),
        (900, 8, "DataSourceMeta"),
        (900, 9, "ControlResponse"),
        (900, 10, "MetaBlobAnnounce"),
        (900, 11, "FrameProgress"),
        (900, 12, "MetaBlobChunk"),
        (900, 13, "MetaBlobComplete"),
        (901, 1, "ShmAttachRequest"),
        (901, 2, "ShmAttachResponse"),
        (901, 3, "ShmDetachRequest"),
        (901, 4, "ShmDetachResponse"),
        (901, 5, "ShmLeaseKeepalive"),
        (901, 6, "ShmDriverShutdown"),
        (901, 7, "ShmLeaseRevoked"),
        (901, 8, "ShmDriverShutdownRequest"),
        (910, 1, "DiscoveryRequest"),
        (910, 2, "DiscoveryResponse"),
    ];
    assert_eq!(Message::ALL, expected);
}
