//! No claim in a message makes the decoder take memory that the message's own length does not warrant.
//!
//! Not run under Miri, whose allocator counts differently.
#![cfg(not(miri))]

use allocation_counter::measure;
use tensorpool_wire::{
    ClientId, DataSourceMeta, DiscoveryRequest, FrameDescriptor, Message, MonoNanos, SLOT_LEN, Seq,
    ShmLeaseKeepalive, SlotHeader, StreamId,
};

/// Bytes of memory per byte of message: an empty tag is 4 bytes of the one and 24 of the other.
const MOST_PER_BYTE: u64 = 8;

/// Memory that decoding `bytes` holds at its highest, and what came of it.
fn memory_for(bytes: &[u8]) -> (u64, bool) {
    let mut is_message = false;
    let used = measure(|| is_message = Message::decode(bytes).is_ok());
    (used.bytes_max, is_message)
}

fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn discovery_request(tags: usize) -> Vec<u8> {
    DiscoveryRequest {
        request_id: 1,
        client_id: ClientId(7),
        response_stream_id: 7_004,
        stream_id: None,
        producer_id: None,
        data_source_id: None,
        tags: vec![String::new(); tags],
        response_channel: "aeron:ipc".into(),
        data_source_name: String::new(),
    }
    .encode()
}

#[test]
fn a_group_count_alone_takes_no_memory() {
    let mut bytes = discovery_request(0);
    set(&mut bytes, 8 + 32 + 2, &65_534u16.to_le_bytes());
    assert_eq!(memory_for(&bytes), (0, false));
}

#[test]
fn a_var_data_length_alone_takes_no_memory() {
    for len in [1u32 << 30, u32::MAX] {
        let mut bytes = discovery_request(0);
        set(&mut bytes, 8 + 32 + 4, &len.to_le_bytes());
        assert_eq!(memory_for(&bytes), (0, false));
    }
}

#[test]
fn entries_that_are_there_take_a_bounded_multiple_of_their_bytes() {
    let tags = discovery_request(65_534);
    let attributes = {
        let mut meta = DataSourceMeta {
            stream_id: StreamId(1),
            meta_version: 1,
            timestamp_ns: MonoNanos(1),
            attributes: vec![],
        }
        .encode();
        set(&mut meta, 8 + 16 + 2, &10_000u16.to_le_bytes());
        meta.resize(meta.len() + 10_000 * 12, 0);
        meta
    };
    let results = {
        // A response with 1,000 empty results: 39 bytes of block, 2 groups, 4 texts each.
        let mut response = vec![9, 0, 2, 0, 0x8E, 3, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
        response.extend([39, 0]);
        response.extend(1_000u16.to_le_bytes());
        for _ in 0..1_000 {
            response.extend([0; 39]);
            response.extend([10, 0, 0, 0, 0, 0, 0, 0]);
            response.extend([0; 16]);
        }
        response.extend([0; 4]);
        response
    };
    for bytes in [tags, attributes, results] {
        let (memory, is_message) = memory_for(&bytes);
        assert!(is_message);
        let most = MOST_PER_BYTE * u64::try_from(bytes.len()).unwrap();
        assert!(
            memory <= most,
            "{memory} bytes for a message of {}",
            bytes.len()
        );
    }
}

#[test]
fn fixed_messages_and_slots_take_no_memory() {
    let keepalive = ShmLeaseKeepalive {
        lease_id: tensorpool_wire::LeaseId(1),
        stream_id: StreamId(1),
        client_id: ClientId(1),
        role: tensorpool_wire::Role::Producer,
        client_timestamp_ns: MonoNanos(1),
    };
    assert_eq!(memory_for(&keepalive.encode()), (0, true));
    let descriptor = FrameDescriptor {
        stream_id: StreamId(1),
        epoch: tensorpool_wire::Epoch(1),
        seq: Seq(1),
        timestamp_ns: None,
        meta_version: None,
        trace_id: None,
    };
    let used = measure(|| {
        let bytes = descriptor.encode_array();
        assert_eq!(FrameDescriptor::decode(&bytes), Ok(descriptor));
        assert!(SlotHeader::decode(&[0; SLOT_LEN]).is_err());
    });
    assert_eq!(used.count_total, 0);
}
