//! Payload bytes: the producer's to write, everybody's to read.
//!
//! Payload slots start at byte 64 of a pool, so payloads are 64-byte aligned and never page-aligned
//! (ambiguities K-11).

use std::cell::Cell;
use std::marker::PhantomData;

use tensorpool_wire::Seq;

use crate::error::{CopyError, Poisoned};
use crate::reader::ReadMapping;
use crate::region::Region;
use crate::words;

/// The payload slot of a frame that is being written. One thread at a time may hold it:
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>(_: T) {}
/// fn misuse(payload: tensorpool_shm::PayloadMut<'_>) {
///     shared(payload);
/// }
/// ```
#[derive(Debug)]
pub struct PayloadMut<'a> {
    region: &'a Region,
    offset: usize,
    len: usize,
    /// Writing needs no lock because the handle is not shared between threads.
    not_sync: PhantomData<Cell<u8>>,
}

/// The payload of one committed frame, in place.
///
/// The producer may overwrite it at any time. [`copy_to`](Self::copy_to) copies and then checks;
/// whoever reads through [`as_ptr`](Self::as_ptr) does so in their own `unsafe` code, must treat the
/// bytes as volatile, and may believe what they computed only if
/// [`still_valid`](Self::still_valid) is true *afterwards*. A view does not outlive its mapping:
///
/// ```compile_fail,E0505
/// fn misuse(mapping: tensorpool_shm::ReadMapping, slot: &tensorpool_wire::Slot) {
///     let view = mapping.payload(slot);
///     drop(mapping);
///     drop(view);
/// }
/// ```
///
/// A read that races an overwrite is outside
/// Rust's memory model; what it yields is arbitrary bytes, never a fault.
#[derive(Clone, Copy, Debug)]
pub struct PayloadView<'a> {
    mapping: &'a ReadMapping,
    region: &'a Region,
    seq: Seq,
    offset: usize,
    len: usize,
}

// === impl PayloadMut ===

impl<'a> PayloadMut<'a> {
    pub(crate) const fn new(region: &'a Region, offset: usize, len: usize) -> Self {
        Self {
            region,
            offset,
            len,
            not_sync: PhantomData,
        }
    }

    /// Bytes of the slot: the pool's stride.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never true: strides are at least 64.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`] if they do not fit; no byte was written.
    // spec: W-8.3-3
    #[inline]
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), CopyError> {
        check_range(offset, bytes.len(), self.len)?;
        words::copy_in(self.region, self.offset + offset, bytes);
        Ok(())
    }

    /// The first byte, 64-byte aligned: for writing in place or handing to a device.
    ///
    /// Valid for writes of `len` bytes while `self` lives. Readers may look at the same bytes.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        words::bytes(self.region, self.offset, self.len).as_ptr()
    }
}

// === impl PayloadView ===

impl<'a> PayloadView<'a> {
    pub(crate) const fn new(
        mapping: &'a ReadMapping,
        region: &'a Region,
        seq: Seq,
        offset: usize,
        len: usize,
    ) -> Self {
        Self {
            mapping,
            region,
            seq,
            offset,
            len,
        }
    }

    /// Bytes of the payload.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the frame has no payload (W-8.2-12).
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte, 64-byte aligned. Readable for `len` bytes while the mapping lives; see the type
    /// for what may be believed.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        words::bytes(self.region, self.offset, self.len).as_ptr()
    }

    /// Whether everything that was read of this payload before the call belongs to this frame.
    // spec: W-8.3-7
    #[must_use]
    #[inline]
    pub fn still_valid(&self) -> bool {
        self.mapping.is_still(self.seq)
    }

    /// Copies the whole payload into `to`, which has exactly its length, and checks it.
    ///
    /// # Errors
    /// [`CopyError`]; `to` then holds bytes that mean nothing.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> Result<(), CopyError> {
        if to.len() != self.len {
            return Err(CopyError::OutOfBounds {
                offset: 0,
                len: to.len(),
                payload_len: self.len,
            });
        }
        self.copy_range_to(0, to)
    }

    /// Copies `to.len()` bytes from `offset` into `to` and checks them.
    ///
    /// # Errors
    /// [`CopyError`]; `to` then holds bytes that mean nothing.
    #[inline]
    pub fn copy_range_to(&self, offset: usize, to: &mut [u8]) -> Result<(), CopyError> {
        check_range(offset, to.len(), self.len)?;
        words::copy_out(self.region, self.offset + offset, to);
        if self.still_valid() {
            Ok(())
        } else if self.mapping.is_poisoned() {
            Err(Poisoned.into())
        } else {
            Err(CopyError::Overwritten)
        }
    }
}

#[inline]
fn check_range(offset: usize, len: usize, payload_len: usize) -> Result<(), CopyError> {
    match offset.checked_add(len) {
        Some(end) if end <= payload_len => Ok(()),
        Some(_) | None => Err(CopyError::OutOfBounds {
            offset,
            len,
            payload_len,
        }),
    }
}
