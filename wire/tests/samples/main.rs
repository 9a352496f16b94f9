//! Byte samples of the layouts, packed by hand by somebody else: each decodes to its end and encodes back
//! to the same bytes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../hex/mod.rs"]
mod hex;

use tensorpool_wire::{
    ClientId, CorrelationId, DiscoveryStatus, Dtype, Epoch, ExpectedKind, ExpectedRegion,
    ExpectedSlot, LeaseId, LeaseRevokeReason, Message, MonoNanos, PoolId, PoolStride, ProgressUnit,
    ResponseCode, Role, SLOT_LEN, SUPERBLOCK_LEN, Seq, ShutdownReason, SlotHeader, StreamId,
    Superblock,
};

const SAMPLES: &str = include_str!("samples.hex");
const STREAM: StreamId = StreamId(10_000);

fn sample(name: &str) -> Vec<u8> {
    let found = SAMPLES
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    hex::decode(found.unwrap_or_else(|| panic!("no sample {name}")))
}

fn message(name: &str) -> Message {
    Message::decode(&sample(name)).unwrap()
}

/// Run on a big-endian machine by Miri, too.
// spec: W-16-1, W-6-1, W-15.1-4, DI-5.0-1
#[test]
fn every_sampled_message_decodes_to_its_end_and_encodes_to_the_same_bytes() {
    let mut count = 0;
    for line in SAMPLES.lines() {
        let (name, bytes) = line.split_once(' ').unwrap();
        if name.starts_with("Superblock") || name.starts_with("Slot") {
            continue;
        }
        let bytes = hex::decode(bytes);
        let message = Message::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Some(message.name()), name.split('_').next());
        assert_eq!(message.encode(), bytes, "{name}");
        count += 1;
    }
    assert_eq!(count, 17);
}

// spec: D-4.2-9
#[test]
fn attach_response_of_the_sample_grants_a_lease_with_one_pool() {
    let Message::ShmAttachResponse(response) = message("ShmAttachResponse_OK") else {
        panic!("an attach response");
    };
    assert_eq!(response.code, ResponseCode::Ok);
    assert_eq!(response.lease_id, Some(LeaseId(42)));
    assert_eq!(response.lease_expiry_timestamp_ns, Some(MonoNanos(1_000)));
    assert_eq!(response.stream_id, Some(STREAM));
    assert_eq!(response.epoch, Some(Epoch(9)));
    assert_eq!(response.header_nslots, Some(64));
    let [pool] = response.payload_pools.as_slice() else {
        panic!("one pool");
    };
    assert_eq!(
        (pool.pool_id, pool.pool_nslots, pool.stride_bytes),
        (PoolId(1), 64, 1 << 20)
    );
    assert_eq!(pool.region_uri, "shm:file?path=/a/1.pool");
    assert_eq!(response.header_region_uri, "shm:file?path=/a/header.ring");
    assert_eq!(response.error_message, "");
}

// spec: D-4.2-11, W-10.1-2, W-10.1-4
#[test]
fn rejected_attach_of_the_sample_has_nothing_but_a_reason() {
    let Message::ShmAttachResponse(response) = message("ShmAttachResponse_REJECTED") else {
        panic!("an attach response");
    };
    assert_eq!(response.correlation_id, CorrelationId(5));
    assert_eq!(response.code, ResponseCode::Rejected);
    assert_eq!(response.lease_id, None);
    assert_eq!(response.node_id, None);
    assert_eq!(response.header_slot_bytes, None);
    assert!(response.payload_pools.is_empty());
    assert_eq!(response.error_message, "client_id already attached");
}

#[test]
fn lease_messages_of_the_samples_name_lease_holder_and_reason() {
    let Message::ShmLeaseRevoked(revoked) = message("ShmLeaseRevoked") else {
        panic!("a revocation");
    };
    assert_eq!(revoked.lease_id, LeaseId(42));
    assert_eq!(revoked.client_id, ClientId(7));
    assert_eq!(revoked.role, Role::Producer);
    assert_eq!(revoked.reason, LeaseRevokeReason::Expired);
    assert_eq!(revoked.error_message, "lease expired");
    let Message::ShmDriverShutdownRequest(request) = message("ShmDriverShutdownRequest") else {
        panic!("a shutdown request");
    };
    assert_eq!(
        (request.reason, request.token.as_str()),
        (ShutdownReason::Admin, "secret")
    );
}

#[test]
fn discovery_samples_have_tags_without_a_block_and_no_results() {
    let Message::DiscoveryRequest(request) = message("DiscoveryRequest_2_tags") else {
        panic!("a discovery request");
    };
    assert_eq!(request.tags, ["ab", "c"]);
    assert_eq!(request.stream_id, None);
    assert_eq!(request.data_source_id, None);
    assert_eq!(
        (
            request.response_stream_id,
            request.response_channel.as_str()
        ),
        (7_004, "aeron:ipc")
    );
    let Message::DiscoveryResponse(response) = message("DiscoveryResponse_0_results") else {
        panic!("a discovery response");
    };
    assert_eq!(response.status, DiscoveryStatus::Ok);
    assert!(response.results.is_empty());
}

// spec: W-7.1-1, W-7.1-3
#[test]
fn superblock_of_the_sample_is_pool_1() {
    let bytes = sample("Superblock");
    let bytes: &[u8; SUPERBLOCK_LEN] = bytes.as_slice().try_into().unwrap();
    let superblock = Superblock::decode(bytes).unwrap();
    let expected = ExpectedRegion {
        layout_version: 1,
        epoch: Epoch(9),
        stream_id: STREAM,
        header_nslots: 64,
        kind: ExpectedKind::Pool {
            pool_id: PoolId(1),
            stride_bytes: 1 << 20,
        },
    };
    assert_eq!(superblock.matches(&expected), Ok(()));
    assert_eq!(superblock.pid, 4_242);
    assert_eq!(superblock.activity_timestamp_ns, MonoNanos(222));
    assert_eq!(superblock.encode(), *bytes);
}

// spec: W-8.2-1, W-8.2-2, W-8.3-1
#[test]
fn slot_of_the_sample_is_a_640_by_480_picture() {
    let mut bytes = [0; SLOT_LEN];
    let sampled = sample("Slot");
    bytes[..sampled.len()].copy_from_slice(&sampled);
    let header = SlotHeader::decode(&bytes).unwrap();
    assert_eq!(header.seq, Seq(5));
    assert_eq!(header.timestamp_ns, Some(MonoNanos(999)));
    let expected = ExpectedSlot {
        seq: Seq(5),
        header_nslots: 64,
        pools: &[PoolStride {
            pool_id: PoolId(1),
            stride_bytes: 1 << 20,
        }],
    };
    let slot = header.validate(&expected).unwrap();
    assert_eq!(slot.values_len_bytes, 640 * 480);
    assert_eq!(slot.tensor.dtype(), Dtype::Uint8);
    assert_eq!(slot.tensor.shape(), [480, 640]);
    assert_eq!(slot.tensor.strides(), [640, 1]);
    assert_eq!(slot.tensor.progress_unit(), ProgressUnit::None);
    assert_eq!(slot.tensor.extent_bytes(), 640 * 480);
    assert_eq!(header.encode(), bytes);
}
