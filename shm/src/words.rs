//! The casts from mapped bytes to atomics, and the one copy between mapped and private memory.
//!
//! Every function checks its range against the region, so the invariants hold right here: `[mapped]`,
//! `[in-bounds]`, `[aligned]` and `[shared]` are those of `region`.
//!
//! **The payload copy races, and says so.** A reader copies a payload while its producer, another
//! process, may begin to overwrite it. Rust's memory model has no such operation for plain bytes, and
//! copying word by word through atomics reaches less than half of memcpy's speed. The copy is
//! therefore `copy_nonoverlapping` on raw pointers, between the fences of `seqlock`: what it read is
//! believed only after the slot's word is found unchanged, and bytes that are not believed are only
//! ever bytes (`u8` has no invalid value). What bounds the race: the compiler cannot see the other
//! side, no reference to the shared bytes exists, and each byte is read exactly once. Under Miri the
//! copy goes byte by byte through relaxed atomics, so that everything around it can be checked.

use std::ptr::NonNull;

use crate::region::{Access, Region};
use crate::sync::{AtomicU32, AtomicU64};

/// Words of the superblock.
pub(crate) const SUPERBLOCK_WORDS: usize = 8;
/// Words of a header slot.
pub(crate) const SLOT_WORDS: usize = 32;

// W-15.1-4: the words are little-endian, so a big-endian machine refuses at compile time.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "the protocol's memory is little-endian"
);
const _: () = assert!(size_of::<[AtomicU64; SLOT_WORDS]>() == 256);
const _: () = assert!(size_of::<[AtomicU64; SUPERBLOCK_WORDS]>() == 64);

/// The superblock of a region.
pub(crate) fn superblock(region: &Region) -> &[AtomicU64; SUPERBLOCK_WORDS] {
    words(region, 0)
}

/// Header slot `index` of a header ring.
// spec: W-8.1-1 W-8.2-1
#[inline]
pub(crate) fn slot(ring: &Region, index: usize) -> &[AtomicU64; SLOT_WORDS] {
    words(ring, slot_offset(index))
}

/// Where header slot `index` lies in its ring: behind the superblock.
// spec: W-8.1-1 W-8.2-1
#[inline]
pub(crate) const fn slot_offset(index: usize) -> usize {
    64 + index * 256
}

/// `N` words at `offset`, which is a multiple of 64.
#[inline]
fn words<const N: usize>(region: &Region, offset: usize) -> &[AtomicU64; N] {
    assert!(
        offset.is_multiple_of(64) && offset <= region.len() && N * 8 <= region.len() - offset,
        "words lie in their region: indices are masked by the layout that sized it"
    );
    // SAFETY: [in-bounds] checked above.
    let at = unsafe { region.base().add(offset) };
    // SAFETY: [mapped] the borrow of `region` keeps the mapping; [in-bounds] checked above; [aligned]
    // base is page-aligned and offset a multiple of 64; [shared] atomics allow other writers, and a
    // read-only mapping only ever sees relaxed 8-byte loads.
    unsafe { at.cast::<[AtomicU64; N]>().as_ref() }
}

/// The half of a slot's `seq_commit` that changes with every frame, for the kernel's futex only.
pub(crate) fn low_half(mark: &AtomicU64) -> &AtomicU32 {
    // SAFETY: [aligned] an 8-aligned word is 4-aligned, and its first four bytes are the low half on
    // a little-endian machine. Only the kernel reads through it.
    unsafe { NonNull::from(mark).cast::<AtomicU32>().as_ref() }
}

/// The first of `len` bytes at `offset`.
#[inline]
pub(crate) fn bytes(region: &Region, offset: usize, len: usize) -> NonNull<u8> {
    assert!(
        offset <= region.len() && len <= region.len() - offset,
        "bytes lie in their region: the layout that sized it bounds them"
    );
    // SAFETY: [in-bounds] checked above.
    unsafe { region.base().add(offset) }
}

/// Asks for the cache line at `offset` of a region that will be read in a moment. A hint: nothing
/// depends on it.
#[inline]
pub(crate) fn prefetch_to_read(region: &Region, offset: usize) {
    let at = region.base().as_ptr().wrapping_add(offset);
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: [mapped] a prefetch never faults and reads nothing that the program sees, whatever `at`
    // is.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _: *mut u8 = at;
}

/// Asks for the cache line at `offset` of a region that will be written in a moment, so that the core
/// owns it by then. A hint: nothing depends on it.
#[inline]
pub(crate) fn prefetch_to_write(region: &Region, offset: usize) {
    let at = region.base().as_ptr().wrapping_add(offset);
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: [mapped] `prefetchw` never faults and changes nothing that the program sees, whatever
    // `at` is; a processor that does not know it does nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags));
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _: *mut u8 = at;
}

/// Copies bytes of a region out; `dst.len()` of them, from `offset`.
// spec: X-1-28
#[inline]
pub(crate) fn copy_out(region: &Region, offset: usize, dst: &mut [u8]) {
    let src = bytes(region, offset, dst.len()).as_ptr();
    #[cfg(not(miri))]
    copy(src, dst.as_mut_ptr(), dst.len());
    #[cfg(miri)]
    for (i, byte) in dst.iter_mut().enumerate() {
        *byte = shared_byte(src, i).load(std::sync::atomic::Ordering::Relaxed);
    }
}

/// Copies `src` into a region, to `offset`.
// spec: X-1-28
#[inline]
pub(crate) fn copy_in(region: &Region, offset: usize, src: &[u8]) {
    assert!(
        region.access() == Access::ReadWrite,
        "only a producer's mapping is written"
    );
    let dst = bytes(region, offset, src.len()).as_ptr();
    #[cfg(not(miri))]
    copy(src.as_ptr(), dst, src.len());
    #[cfg(miri)]
    for (i, byte) in src.iter().enumerate() {
        shared_byte(dst, i).store(*byte, std::sync::atomic::Ordering::Relaxed);
    }
}

/// `len` bytes from `src` to `dst`, one of which is shared memory and the other a private slice.
#[cfg(not(miri))]
fn copy(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: [mapped] [in-bounds] the callers took both ends from a live slice and a checked range,
    // which never overlap; the race is the one that the module head describes.
    unsafe { std::ptr::copy_nonoverlapping(src, dst, len) }
}

/// Byte `i` of a checked range of shared memory.
#[cfg(miri)]
fn shared_byte<'a>(base: *const u8, i: usize) -> &'a std::sync::atomic::AtomicU8 {
    // SAFETY: [in-bounds] the callers checked the range and `i` lies in it.
    let at = unsafe { base.add(i) };
    // SAFETY: [mapped] the callers borrow the region while they copy; a byte is an AtomicU8.
    unsafe { &*at.cast() }
}
