//! Each rule for refusing a region, and what may differ.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tensorpool_wire::{
    Dtype, Epoch, ExpectedKind, ExpectedRegion, LAYOUT_VERSION, MAGIC, MAX_DIMS, MajorOrder,
    MonoNanos, PoolId, RegionType, SLOT_LEN, SUPERBLOCK_LEN, StreamId, Superblock,
    SuperblockReject, header_ring_len, header_slot_offset, is_stride, payload_slot_offset,
    pool_len,
};

const POOL: ExpectedRegion = ExpectedRegion {
    kind: ExpectedKind::Pool {
        pool_id: PoolId(3),
        stride_bytes: 4_096,
    },
    ..RING
};
const RING: ExpectedRegion = ExpectedRegion {
    layout_version: 1,
    epoch: Epoch(9),
    stream_id: StreamId(10_000),
    header_nslots: 64,
    kind: ExpectedKind::HeaderRing,
};

fn ring() -> Superblock {
    Superblock {
        layout_version: 1,
        epoch: Epoch(9),
        stream_id: StreamId(10_000),
        region_type: RegionType::HeaderRing,
        pool_id: PoolId(0),
        nslots: 64,
        slot_bytes: 256,
        stride_bytes: 0,
        pid: 4_242,
        start_timestamp_ns: MonoNanos(111),
        activity_timestamp_ns: MonoNanos(222),
    }
}

fn pool() -> Superblock {
    Superblock {
        region_type: RegionType::PayloadPool,
        pool_id: PoolId(3),
        slot_bytes: 4_096,
        stride_bytes: 4_096,
        ..ring()
    }
}

// spec: W-7.1-3, W-15.1-1
#[test]
fn announced_regions_match() {
    assert_eq!(ring().matches(&RING), Ok(()));
    assert_eq!(pool().matches(&POOL), Ok(()));
}

// spec: W-6-2, W-7.1-1
#[test]
fn the_first_64_bytes_stand_where_the_layout_says() {
    let bytes = pool().encode();
    assert_eq!(bytes.len(), SUPERBLOCK_LEN);
    assert_eq!(&bytes[..8], b"1MHSLPOT");
    assert_eq!(bytes[..8], MAGIC.to_le_bytes());
    assert_eq!(bytes[8..12], 1u32.to_le_bytes());
    assert_eq!(bytes[12..20], 9u64.to_le_bytes());
    assert_eq!(bytes[20..24], 10_000u32.to_le_bytes());
    assert_eq!(bytes[24..26], 2i16.to_le_bytes());
    assert_eq!(bytes[26..28], 3u16.to_le_bytes());
    assert_eq!(bytes[28..32], 64u32.to_le_bytes());
    assert_eq!(bytes[32..36], 4_096u32.to_le_bytes());
    assert_eq!(bytes[36..40], 4_096u32.to_le_bytes());
    assert_eq!(bytes[40..48], 4_242u64.to_le_bytes());
    assert_eq!(bytes[48..56], 111u64.to_le_bytes());
    assert_eq!(bytes[56..64], 222u64.to_le_bytes());
    assert_eq!(Superblock::decode(&bytes), Ok(pool()));
}

// spec: W-7.1-1
#[test]
fn any_other_magic_number_is_no_region() {
    for at in 0..8 {
        let mut bytes = ring().encode();
        bytes[at] ^= 1;
        let found = MAGIC ^ 1 << (8 * at);
        assert_eq!(
            Superblock::decode(&bytes),
            Err(SuperblockReject::Magic { found })
        );
    }
    let unfinished = [0; SUPERBLOCK_LEN];
    assert_eq!(
        Superblock::decode(&unfinished),
        Err(SuperblockReject::Magic { found: 0 })
    );
}

// spec: W-15.1-1, W-7.1-5, W-9-2, W-7.1-7
#[test]
fn each_field_that_differs_from_the_announce_is_the_reason() {
    let differing = [
        (
            Superblock {
                layout_version: 2,
                ..pool()
            },
            "layout_version",
        ),
        (
            Superblock {
                epoch: Epoch(10),
                ..pool()
            },
            "epoch",
        ),
        (
            Superblock {
                stream_id: StreamId(1),
                ..pool()
            },
            "stream_id",
        ),
        (
            Superblock {
                region_type: RegionType::HeaderRing,
                ..pool()
            },
            "region_type",
        ),
        (
            Superblock {
                region_type: RegionType::Unknown(3),
                ..pool()
            },
            "region_type",
        ),
        (
            Superblock {
                pool_id: PoolId(4),
                ..pool()
            },
            "pool_id",
        ),
        (
            Superblock {
                nslots: 128,
                ..pool()
            },
            "nslots",
        ),
        (
            Superblock {
                stride_bytes: 8_192,
                ..pool()
            },
            "stride_bytes",
        ),
    ];
    for (superblock, reason) in differing {
        let reject = superblock.matches(&POOL).unwrap_err();
        assert_eq!(reject.reason(), reason, "{reject}");
    }
    let differing = [
        (
            Superblock {
                region_type: RegionType::PayloadPool,
                ..ring()
            },
            "region_type",
        ),
        (
            Superblock {
                pool_id: PoolId(1),
                ..ring()
            },
            "pool_id",
        ),
        (
            Superblock {
                slot_bytes: 128,
                ..ring()
            },
            "slot_bytes",
        ),
    ];
    for (superblock, reason) in differing {
        let reject = superblock.matches(&RING).unwrap_err();
        assert_eq!(reject.reason(), reason, "{reject}");
    }
}

// spec: W-7.1-7
#[test]
fn an_announced_layout_version_that_is_not_known_does_not_match() {
    let expected = ExpectedRegion {
        layout_version: 2,
        ..RING
    };
    let superblock = Superblock {
        layout_version: 2,
        ..ring()
    };
    assert_eq!(
        superblock.matches(&expected).unwrap_err().reason(),
        "layout_version"
    );
}

#[test]
fn slot_length_of_a_pool_and_stride_of_the_ring_are_not_looked_at() {
    for slot_bytes in [0, 1, u32::MAX] {
        assert_eq!(
            Superblock {
                slot_bytes,
                ..pool()
            }
            .matches(&POOL),
            Ok(())
        );
    }
    for stride_bytes in [1, 256, u32::MAX] {
        assert_eq!(
            Superblock {
                stride_bytes,
                ..ring()
            }
            .matches(&RING),
            Ok(())
        );
    }
}

// spec: W-3-1
#[test]
fn the_number_of_slots_is_a_power_of_two() {
    for nslots in [0, 3, 63, u32::MAX] {
        let expected = ExpectedRegion {
            header_nslots: nslots,
            ..RING
        };
        let reject = Superblock { nslots, ..ring() }
            .matches(&expected)
            .unwrap_err();
        assert_eq!(
            reject,
            SuperblockReject::NslotsNotPowerOfTwo { found: nslots }
        );
    }
    for nslots in [1, 2, 1 << 31] {
        let expected = ExpectedRegion {
            header_nslots: nslots,
            ..RING
        };
        assert_eq!(Superblock { nslots, ..ring() }.matches(&expected), Ok(()));
    }
}

// spec: W-15.22-5, W-15.22-7
#[test]
fn strides_are_multiples_of_64_and_need_not_be_pages_or_powers_of_two() {
    for stride_bytes in [64, 192, 4_096, 4_160, u32::MAX - 63] {
        assert!(is_stride(stride_bytes));
        let kind = ExpectedKind::Pool {
            pool_id: PoolId(3),
            stride_bytes,
        };
        let expected = ExpectedRegion { kind, ..POOL };
        assert_eq!(
            Superblock {
                stride_bytes,
                ..pool()
            }
            .matches(&expected),
            Ok(())
        );
    }
    for stride_bytes in [0, 1, 63, 65, 100, u32::MAX] {
        assert!(!is_stride(stride_bytes));
        let kind = ExpectedKind::Pool {
            pool_id: PoolId(3),
            stride_bytes,
        };
        let expected = ExpectedRegion { kind, ..POOL };
        let reject = Superblock {
            stride_bytes,
            ..pool()
        }
        .matches(&expected)
        .unwrap_err();
        assert_eq!(
            reject,
            SuperblockReject::StrideRule {
                found: stride_bytes
            }
        );
    }
}

// spec: W-15.1-2, W-7.1-2
#[test]
fn only_the_activity_time_may_change_within_an_incarnation() {
    let later = Superblock {
        activity_timestamp_ns: MonoNanos(999),
        ..ring()
    };
    assert!(ring().is_same_incarnation(&later));
    let others = [
        Superblock { pid: 1, ..later },
        Superblock {
            epoch: Epoch(10),
            ..later
        },
        Superblock {
            layout_version: 2,
            ..later
        },
        Superblock {
            start_timestamp_ns: MonoNanos(1),
            ..later
        },
    ];
    for other in others {
        assert!(!ring().is_same_incarnation(&other));
    }
}

// spec: W-8.2-5, W-15.8-4, W-15.20-1, W-6-2
#[test]
fn layout_version_1_stands_for_these_numbers() {
    assert_eq!(LAYOUT_VERSION, 1);
    assert_eq!((SUPERBLOCK_LEN, SLOT_LEN, MAX_DIMS), (64, 256, 8));
    assert_eq!(Dtype::KNOWN.len(), 13);
    assert_eq!(MajorOrder::KNOWN.len(), 2);
}

// spec: W-8.1-1, W-9-1
#[test]
fn slots_follow_the_superblock() {
    assert_eq!(header_slot_offset(0), Some(64));
    assert_eq!(header_slot_offset(3), Some(64 + 3 * 256));
    assert_eq!(header_ring_len(64), Some(64 + 64 * 256));
    assert_eq!(payload_slot_offset(0, 4_096), Some(64));
    assert_eq!(payload_slot_offset(3, 4_096), Some(64 + 3 * 4_096));
    // Beyond 4 GiB nothing wraps around.
    assert_eq!(pool_len(1 << 20, 1 << 20), Some((1 << 40) + 64));
    let most = u64::from(u32::MAX);
    assert_eq!(pool_len(u32::MAX, u32::MAX), Some(most * most + 64));
}
