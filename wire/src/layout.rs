//! Numbers of the shared-memory layout, and the few sums that follow from them.

/// Bytes of the superblock at the start of every region.
// spec: W-6-2
pub const SUPERBLOCK_LEN: usize = 64;
/// Bytes of one slot of the header ring.
// spec: W-8.1-1
pub const SLOT_LEN: usize = 256;
/// Most dimensions of a tensor. Not on the wire: another number is another layout version.
// spec: W-15.8-4, W-8.2-5, W-15.20-1
pub const MAX_DIMS: usize = 8;
/// Version of the layout that this crate reads and writes. It governs memory; the schema version
/// governs messages.
// spec: W-7.1-7
pub const LAYOUT_VERSION: u32 = 1;
/// First 8 bytes of a region, as a little-endian number.
// spec: W-7.1-1
pub const MAGIC: u64 = 0x544F_504C_5348_4D31;
/// Payload slots are multiples of this many bytes.
pub const STRIDE_UNIT: u32 = 64;

/// Bytes of a header ring file, `None` beyond `u64`.
#[must_use]
pub fn header_ring_len(nslots: u32) -> Option<u64> {
    region_len(nslots, u32::try_from(SLOT_LEN).ok()?)
}

/// Bytes of a payload pool file, `None` beyond `u64`.
#[must_use]
pub fn pool_len(nslots: u32, stride_bytes: u32) -> Option<u64> {
    region_len(nslots, stride_bytes)
}

/// Where header slot `index` starts in its file.
// spec: W-8.1-1
#[must_use]
pub fn header_slot_offset(index: u32) -> Option<u64> {
    region_len(index, u32::try_from(SLOT_LEN).ok()?)
}

/// Where payload slot `index` starts in its file: 64-byte aligned, never page-aligned.
// spec: W-9-1
#[must_use]
pub fn payload_slot_offset(index: u32, stride_bytes: u32) -> Option<u64> {
    region_len(index, stride_bytes)
}

/// Whether payload slots may be this long: a multiple of 64, and not 0.
// spec: W-15.22-5, W-15.22-7
#[must_use]
pub const fn is_stride(stride_bytes: u32) -> bool {
    stride_bytes != 0 && stride_bytes.is_multiple_of(STRIDE_UNIT)
}

fn region_len(nslots: u32, slot_bytes: u32) -> Option<u64> {
    u64::from(nslots)
        .checked_mul(u64::from(slot_bytes))?
        .checked_add(u64::try_from(SUPERBLOCK_LEN).ok()?)
}
