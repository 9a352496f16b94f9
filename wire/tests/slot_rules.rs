//! Each rule for dropping a slot: the slot that just keeps it, and the slot that just breaks it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tensorpool_wire::{
    Dtype, ExpectedSlot, MajorOrder, MessageHeader, MonoNanos, PoolId, PoolStride, ProgressUnit,
    SLOT_LEN, Seq, Slot, SlotHeader, SlotReject, TensorHeader, TensorReject,
};

const NSLOTS: u32 = 8;
const SEQ: Seq = Seq(21);
const POOLS: [PoolStride; 2] = [
    PoolStride {
        pool_id: PoolId(3),
        stride_bytes: 64,
    },
    PoolStride {
        pool_id: PoolId(9),
        stride_bytes: 4_096,
    },
];

fn frame() -> SlotHeader {
    SlotHeader {
        seq: SEQ,
        values_len_bytes: 24,
        payload_slot: 5,
        pool_id: PoolId(9),
        payload_offset: 0,
        timestamp_ns: Some(MonoNanos(1_000)),
        meta_version: Some(2),
        tensor: TensorHeader::contiguous(Dtype::Float32, MajorOrder::Row, &[2, 3]).unwrap(),
    }
}

fn read(bytes: &[u8; SLOT_LEN]) -> Result<Slot, SlotReject> {
    let expected = ExpectedSlot {
        seq: SEQ,
        header_nslots: NSLOTS,
        pools: &POOLS,
    };
    SlotHeader::decode(bytes)?.validate(&expected)
}

/// The frame's slot with some bytes replaced.
fn with<const N: usize>(at: usize, bytes: [u8; N]) -> [u8; SLOT_LEN] {
    let mut slot = frame().encode();
    slot[at..at + N].copy_from_slice(&bytes);
    slot
}

fn refusal(bytes: &[u8; SLOT_LEN]) -> SlotReject {
    read(bytes).expect_err("the slot is dropped")
}

#[test]
fn a_valid_slot_says_what_the_frame_is() {
    let slot = read(&frame().encode()).unwrap();
    assert_eq!(slot.seq, SEQ);
    assert_eq!(
        (slot.pool_index, slot.pool_id, slot.payload_slot),
        (1, PoolId(9), 5)
    );
    assert_eq!(slot.values_len_bytes, 24);
    assert_eq!(slot.timestamp_ns, Some(MonoNanos(1_000)));
    assert_eq!(slot.meta_version, Some(2));
    assert_eq!(slot.tensor.shape(), [2, 3]);
    assert_eq!(slot.tensor.strides(), [12, 4]);
}

// spec: W-8.2-1, W-8.2-2, W-8.2-3, W-8.3-3, W-13-1
#[test]
fn bytes_of_a_slot_stand_where_the_layout_says() {
    let bytes = frame().encode();
    assert_eq!(bytes[..8], (21u64 << 1 | 1).to_le_bytes());
    assert_eq!(bytes[8..12], 24u32.to_le_bytes());
    assert_eq!(bytes[12..16], 5u32.to_le_bytes());
    assert_eq!(bytes[16..18], 9u16.to_le_bytes());
    assert_eq!(bytes[18..22], [0; 4]);
    assert_eq!(bytes[22..30], 1_000u64.to_le_bytes());
    assert_eq!(bytes[30..34], 2u32.to_le_bytes());
    assert_eq!(bytes[60..64], 192u32.to_le_bytes());
    assert_eq!(bytes[64..72], [184, 0, 52, 0, 0x84, 3, 1, 0]);
    assert_eq!(bytes[72..74], 9i16.to_le_bytes());
    assert_eq!(bytes[74..76], 1i16.to_le_bytes());
    assert_eq!(bytes[76], 2);
    assert_eq!(bytes[83..91], [2, 0, 0, 0, 3, 0, 0, 0]);
}

// spec: W-8.2-4
#[test]
fn padding_is_not_looked_at() {
    let mut slot = frame().encode();
    slot[34..60].fill(0xA5);
    slot[77] = 0xA5;
    slot[147..].fill(0xA5);
    assert_eq!(read(&slot), read(&frame().encode()));
}

// spec: W-8.3-1, W-8.3-5, W-15.21-1
#[test]
fn a_slot_in_progress_is_dropped() {
    let slot = with(0, SEQ.in_progress_word().to_le_bytes());
    assert_eq!(refusal(&slot), SlotReject::InProgress);
    assert_eq!(refusal(&[0; SLOT_LEN]), SlotReject::InProgress);
}

// spec: W-8.3-1
#[test]
fn the_highest_sequence_number_is_2_to_the_63_minus_2() {
    assert_eq!(
        Seq::from_committed_word(Seq::MAX.committed_word()),
        Some(Seq::MAX)
    );
    assert_eq!(Seq::from_committed_word(u64::MAX), None);
    let expected = SlotReject::SeqOutOfRange {
        found: (1 << 63) - 1,
    };
    assert_eq!(refusal(&with(0, [0xFF; 8])), expected);
}

// spec: W-8.2-2, W-8.3-6
#[test]
fn the_embedded_message_has_192_bytes() {
    for found in [0u32, 191, 193, u32::MAX] {
        let slot = with(60, found.to_le_bytes());
        assert_eq!(refusal(&slot), SlotReject::HeaderLength { found });
    }
}

// spec: W-8.3-6, J-14-2
#[test]
fn the_embedded_message_is_a_tensor_header_of_version_1() {
    let right = MessageHeader {
        block_length: 184,
        template_id: 52,
        schema_id: 900,
        version: 1,
    };
    let wrong = [
        (
            64,
            MessageHeader {
                block_length: 183,
                ..right
            },
            183,
        ),
        (
            66,
            MessageHeader {
                template_id: 51,
                ..right
            },
            51,
        ),
        (
            68,
            MessageHeader {
                schema_id: 901,
                ..right
            },
            901,
        ),
        (
            70,
            MessageHeader {
                version: 2,
                ..right
            },
            2u16,
        ),
    ];
    for (at, found, value) in wrong {
        let slot = with(at, value.to_le_bytes());
        assert_eq!(refusal(&slot), SlotReject::EmbeddedHeader { found });
    }
}

// spec: W-8.2-6, W-10.2.1-4
#[test]
fn another_frame_in_the_slot_is_dropped() {
    for found in [13, 29] {
        let seq = Seq(found);
        let slot = SlotHeader { seq, ..frame() }.encode();
        let expected = SlotReject::Seq {
            expected: SEQ,
            found: seq,
        };
        assert_eq!(refusal(&slot), expected);
    }
}

// spec: W-10.2.1-3, W-15.5-1
#[test]
fn the_payload_lies_in_the_slot_of_the_same_index() {
    assert_eq!(SEQ.index(NSLOTS), 5);
    let slot = SlotHeader {
        payload_slot: 4,
        ..frame()
    }
    .encode();
    let expected = SlotReject::PayloadSlot {
        expected: 5,
        found: 4,
    };
    assert_eq!(refusal(&slot), expected);
}

// spec: W-10.2.1-5
#[test]
fn the_payload_lies_inside_the_pool() {
    let slot = SlotHeader {
        payload_slot: NSLOTS,
        ..frame()
    }
    .encode();
    let expected = SlotReject::PayloadSlotOutOfRange {
        nslots: 8,
        found: 8,
    };
    assert_eq!(refusal(&slot), expected);
}

// spec: W-8.2-8
#[test]
fn the_payload_starts_at_offset_0() {
    let slot = SlotHeader {
        payload_offset: 1,
        ..frame()
    }
    .encode();
    assert_eq!(refusal(&slot), SlotReject::PayloadOffset { found: 1 });
}

#[test]
fn the_pool_is_one_that_is_mapped() {
    let pool_id = PoolId(4);
    let slot = SlotHeader { pool_id, ..frame() }.encode();
    assert_eq!(refusal(&slot), SlotReject::Pool { found: pool_id });
}

// spec: W-10.2.1-6
#[test]
fn the_payload_fits_its_slot() {
    let bytes = |len| SlotHeader {
        pool_id: PoolId(3),
        values_len_bytes: len,
        ..frame()
    };
    assert!(read(&bytes(64).encode()).is_ok());
    let expected = SlotReject::ValuesTooLong {
        stride_bytes: 64,
        found: 65,
    };
    assert_eq!(refusal(&bytes(65).encode()), expected);
}

// spec: W-8.2-12
#[test]
fn a_frame_without_payload_is_a_frame() {
    let slot = SlotHeader {
        values_len_bytes: 0,
        ..frame()
    }
    .encode();
    assert_eq!(read(&slot).map(|slot| slot.values_len_bytes), Ok(0));
    // Its payload slot is checked all the same (W-15.5-1).
    let slot = SlotHeader {
        values_len_bytes: 0,
        payload_slot: 4,
        ..frame()
    };
    assert_eq!(refusal(&slot.encode()).reason(), "payload_slot");
}

// spec: W-10.2.1-7
#[test]
fn shape_rules_apply_to_what_stands_in_the_slot() {
    let tensor = TensorHeader {
        dtype: Dtype::Unknown(12),
        ..frame().tensor
    };
    let slot = SlotHeader { tensor, ..frame() }.encode();
    assert_eq!(
        refusal(&slot),
        SlotReject::Tensor(TensorReject::Dtype { raw: 12 })
    );
    assert_eq!(refusal(&slot).reason(), "dtype");
}

// spec: W-8.2-9
#[test]
fn dimensions_beyond_the_last_are_written_as_0_and_not_looked_at() {
    let tensor = TensorHeader {
        dims: [2, 3, 7, -1, 7, 7, 7, 7],
        strides: [0, 0, -1, 7, 7, 7, 7, 7],
        ..frame().tensor
    };
    let dirty = SlotHeader { tensor, ..frame() };
    assert_eq!(dirty.encode(), frame().encode());
    let mut slot = frame().encode();
    slot[91..115].fill(0xFF);
    slot[123..147].fill(0xFF);
    assert_eq!(read(&slot), read(&frame().encode()));
}

#[test]
fn absent_time_and_metadata_are_read_in_both_spellings() {
    let absent = SlotHeader {
        timestamp_ns: None,
        meta_version: None,
        ..frame()
    };
    assert_eq!(absent.encode()[22..34], [0xFF; 12]);
    let mut zeros = absent.encode();
    zeros[22..34].fill(0);
    for slot in [absent.encode(), zeros] {
        assert_eq!(SlotHeader::decode(&slot), Ok(absent));
    }
}

#[test]
fn the_first_broken_rule_in_the_order_of_the_life_cycle_is_the_reason() {
    let mut slot = SlotHeader {
        seq: Seq(22),
        payload_slot: 99,
        payload_offset: 1,
        pool_id: PoolId(4),
        values_len_bytes: u32::MAX,
        tensor: TensorHeader {
            dtype: Dtype::Unknown(0),
            major_order: MajorOrder::Unknown(0),
            ndims: 0,
            progress_unit: ProgressUnit::Unknown(7),
            ..frame().tensor
        },
        ..frame()
    };
    let mut reasons = Vec::new();
    let mut bytes = slot.encode();
    bytes[60] = 0;
    bytes[66] = 0;
    bytes[0] &= 0xFE;
    reasons.push(refusal(&bytes).reason());
    bytes[0] |= 1;
    reasons.push(refusal(&bytes).reason());
    bytes[60] = 192;
    reasons.push(refusal(&bytes).reason());
    let repairs: [fn(&mut SlotHeader); 10] = [
        |_| (),
        |slot| slot.seq = SEQ,
        |slot| slot.payload_slot = 4,
        |slot| slot.payload_slot = 5,
        |slot| slot.payload_offset = 0,
        |slot| slot.pool_id = PoolId(9),
        |slot| slot.values_len_bytes = 24,
        |slot| slot.tensor.dtype = Dtype::Float32,
        |slot| slot.tensor.major_order = MajorOrder::Row,
        |slot| slot.tensor.ndims = 2,
    ];
    for repair in repairs {
        repair(&mut slot);
        reasons.push(refusal(&slot.encode()).reason());
    }
    let expected = [
        "in_progress",
        "header_length",
        "embedded_header",
        "seq",
        "payload_slot_out_of_range",
        "payload_slot",
        "payload_offset",
        "pool",
        "values_too_long",
        "dtype",
        "major_order",
        "ndims",
        "progress_unit",
    ];
    assert_eq!(reasons, expected);
    slot.tensor.progress_unit = ProgressUnit::None;
    assert!(read(&slot.encode()).is_ok());
}
