//! The one place that calls Aeron's C functions directly: reading fragments.
//!
//! Everything else goes through the safe part of the binding. This file exists since the binding's
//! own handlers turn whatever length stands in shared memory into a slice before anybody can look at
//! it. Here the length is checked first, the bytes are copied out, and no code of ours but the copy
//! runs inside the library, so nothing can unwind through it.
//!
//! Invariants that the SAFETY comments name:
//! - **\[handle\]** An `AeronSubscription` holds a reference to its client, so the C objects behind it
//!   live as long as the borrow. `RusteronSubscription` owns it and hands it back to the client's
//!   thread to be closed; nobody closes it while it is borrowed.
//! - **\[callback\]** The C library calls `on_fragment` only inside `aeron_subscription_poll`, on the
//!   same thread, one at a time, with the pointer given to that call.
//! - **\[frame\]** Inside the callback `header` is valid, and `buffer..buffer + length` is mapped and
//!   readable where it ends within the term that it begins in.
//! - **\[reserved\]** `Vec::reserve(n)` leaves at least `n` bytes of spare capacity.
//!
//! Another process may write the term while it is copied. The library has seen the frame's length
//! published with release order, and a well-behaved publisher does not touch the frame after that; a
//! hostile one can make the copy hold any bytes, and nothing else.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::MaybeUninit;

use rusteron_client::AeronSubscription;
use rusteron_client::bindings::{
    aeron_header_t, aeron_header_values, aeron_header_values_t, aeron_subscription_poll,
};

use super::inbox::{FRAGMENT_MAX, FRAME_HEADER_LEN, Inbox};

/// Copies at most `limit` fragments into `inbox`, which must be empty (what was not handed on is
/// forgotten). Returns what the library returns: how many, or a negative number.
pub(super) fn poll(subscription: &AeronSubscription, limit: usize, inbox: &mut Inbox) -> i32 {
    inbox.clear();
    let inbox: *mut Inbox = inbox;
    // SAFETY: [handle] keeps the subscription alive for this call; `inbox` comes from a unique
    // borrow that outlives it and is touched only by the callback meanwhile, [callback].
    unsafe {
        aeron_subscription_poll(
            subscription.get_inner(),
            Some(on_fragment),
            inbox.cast::<c_void>(),
            limit,
        )
    }
}

unsafe extern "C-unwind" fn on_fragment(
    inbox: *mut c_void,
    buffer: *const u8,
    len: usize,
    header: *mut aeron_header_t,
) {
    // SAFETY: [callback]: this is the pointer that `poll` made from its unique borrow.
    let inbox = unsafe { &mut *inbox.cast::<Inbox>() };
    let Some(values) = header_values(header) else {
        inbox.refuse();
        return;
    };
    if len > FRAGMENT_MAX || !ends_in_its_term(&values, len) {
        inbox.refuse();
        return;
    }
    let bytes = inbox.bytes_mut();
    let start = bytes.len();
    bytes.reserve(len);
    let spare = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: [frame] makes the source readable for `len`, checked above to end in its term;
    // [reserved] makes the target writable; the target is private memory, so they do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(buffer, spare, len) };
    // SAFETY: [reserved] gives the capacity, and the copy above initialised these bytes.
    unsafe { bytes.set_len(start + len) };
    inbox.close_fragment(values.frame.session_id, values.frame.flags, start);
}

fn header_values(header: *mut aeron_header_t) -> Option<aeron_header_values_t> {
    let mut values = MaybeUninit::<aeron_header_values_t>::zeroed();
    // SAFETY: [frame]: `header` is valid inside the callback; the call writes `values` only.
    let result = unsafe { aeron_header_values(header, values.as_mut_ptr()) };
    if result < 0 {
        return None;
    }
    // SAFETY: plain integers, for which the zeroes that it started from are valid too.
    Some(unsafe { values.assume_init() })
}

/// Whether the frame's place and `len` leave it inside its term. The term's length comes from the
/// library's own memory, the frame's place from the frame, so a scribbled place is refused as well.
fn ends_in_its_term(values: &aeron_header_values_t, len: usize) -> bool {
    let shift = values.position_bits_to_shift;
    let Some(term_len) = u32::try_from(shift)
        .ok()
        .and_then(|s| 1_usize.checked_shl(s))
    else {
        return false;
    };
    usize::try_from(values.frame.term_offset)
        .is_ok_and(|offset| offset.saturating_add(FRAME_HEADER_LEN).saturating_add(len) <= term_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term_offset: i32, shift: usize) -> aeron_header_values_t {
        let mut values = aeron_header_values_t::default();
        values.frame.term_offset = term_offset;
        values.position_bits_to_shift = shift;
        values
    }

    #[test]
    fn a_frame_may_end_where_its_term_ends_and_not_behind() {
        assert!(ends_in_its_term(&at(65_536 - 96, 16), 64));
        assert!(!ends_in_its_term(&at(65_536 - 96, 16), 65));
    }

    #[test]
    fn lengths_and_places_that_cannot_be_true_are_refused() {
        assert!(!ends_in_its_term(&at(0, 16), usize::MAX - 16));
        assert!(!ends_in_its_term(&at(-32, 16), 1));
        assert!(!ends_in_its_term(&at(0, 64), 1));
        assert!(!ends_in_its_term(&at(0, usize::MAX), 1));
    }
}
