//! A frame between its first byte and its commit.

use tensorpool_shm::{CopyError, FrameMark, SlotWrite};
use tensorpool_wire::{FrameDescriptor, MonoNanos, Seq, TraceId};

use super::{Place, Sender};
use crate::clock::mono_now;
use crate::error::ClaimError;
use crate::mapping::Life;
use crate::progress::About;
use crate::stats::{ProducerDrop, bump};

/// A slot that is being written. No reader takes it before [`SlotClaim::commit`].
#[derive(Debug)]
pub struct SlotClaim<'a> {
    /// `None` only after the commit.
    pub(super) slot: Option<SlotWrite<'a>>,
    pub(super) len_bytes: u32,
    pub(super) payload_slot: u32,
    pub(super) about: About,
    /// When the claim was made.
    pub(super) begun: MonoNanos,
    pub(super) timestamp: Option<MonoNanos>,
    pub(super) meta_version: Option<u32>,
    pub(super) trace: Option<TraceId>,
    pub(super) place: &'a mut Place,
    pub(super) life: &'a Life,
    pub(super) sender: &'a mut Sender,
}

impl<'a> SlotClaim<'a> {
    /// The frame's number.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        self.about.seq
    }

    /// Bytes of the tensor.
    #[must_use]
    pub const fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// The first byte of the payload, 64-byte aligned: for a device, or for the caller's own `unsafe`.
    /// Valid for writes of [`SlotClaim::len_bytes`] bytes while the claim lives.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.slot_mut().payload().as_mut_ptr()
    }

    /// Copies the whole payload.
    ///
    /// # Errors
    /// [`ClaimError::Length`] if `bytes` is not as long as the tensor, [`ClaimError::LeaseEnded`].
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ClaimError> {
        if u32::try_from(bytes.len()) == Ok(self.len_bytes) {
            self.write_at(0, bytes)
        } else {
            let (expected_bytes, found_bytes) = (self.len_bytes, bytes.len());
            Err(ClaimError::Length {
                expected_bytes,
                found_bytes,
            })
        }
    }

    /// Copies bytes to `offset` of the payload.
    ///
    /// # Errors
    /// [`ClaimError::Length`] if they pass the end, [`ClaimError::LeaseEnded`].
    #[inline]
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), ClaimError> {
        self.check_lease()?;
        let fits = offset
            .checked_add(bytes.len())
            .and_then(|end| u32::try_from(end).ok())
            .is_some_and(|end| end <= self.len_bytes);
        if !fits {
            let (expected_bytes, found_bytes) =
                (self.len_bytes, offset.saturating_add(bytes.len()));
            return Err(ClaimError::Length {
                expected_bytes,
                found_bytes,
            });
        }
        match self.slot_mut().payload().write_at(offset, bytes) {
            Ok(()) => Ok(()),
            Err(CopyError::Poisoned(poisoned)) => Err(ClaimError::Poisoned(poisoned)),
            Err(CopyError::OutOfBounds { .. } | CopyError::Overwritten) => {
                unreachable!("the tensor was found to fit its pool's stride in `claim`")
            }
        }
    }

    /// The capture time, instead of the time of the claim. `None`: unknown.
    // spec: W-10.2.1-8 W-15.7-1
    pub const fn set_timestamp(&mut self, captured: Option<MonoNanos>) -> &mut Self {
        self.timestamp = captured;
        self
    }

    /// The description that the frame refers to, instead of the latest one that was set.
    pub const fn set_meta_version(&mut self, version: Option<u32>) -> &mut Self {
        self.meta_version = version;
        self
    }

    /// The trace id of the frame's descriptor (Aeron only; on a socket nobody sees it).
    // spec: T-8.1-1
    pub const fn set_trace(&mut self, trace: TraceId) -> &mut Self {
        self.trace = Some(trace);
        self
    }

    /// Says that the first `filled` bytes are written. Told to consumers at the rate that they asked
    /// for, and not at all while nobody listens.
    ///
    /// # Errors
    /// [`ClaimError::Length`] if `filled` passes the payload, [`ClaimError::LeaseEnded`].
    // spec: W-10.2.2-1 W-10.2.2-6
    pub fn progress(&mut self, filled: u32) -> Result<(), ClaimError> {
        self.check_lease()?;
        if filled > self.len_bytes {
            let expected_bytes = self.len_bytes;
            let found_bytes = usize::try_from(filled).unwrap_or(usize::MAX);
            return Err(ClaimError::Length {
                expected_bytes,
                found_bytes,
            });
        }
        let now = mono_now();
        let Sender {
            telling,
            shared,
            handle,
            ..
        } = self.sender;
        if telling.tell(&shared.progress, self.about, now, u64::from(filled)) {
            handle.wake();
        }
        Ok(())
    }

    /// Publishes the frame and returns its number.
    ///
    /// # Errors
    /// [`ClaimError::LeaseEnded`]; the frame was not published.
    // spec: W-8.3-3 W-8.3-4 W-15.18-2
    #[inline]
    pub fn commit(self) -> Result<Seq, ClaimError> {
        self.commit_at(None)
    }

    /// Commits at `now`; where that is not known, the clock is read after the commit.
    #[inline]
    pub(super) fn commit_at(mut self, now: Option<MonoNanos>) -> Result<Seq, ClaimError> {
        // spec: X-2-66 D-4.9-10
        self.check_lease()?;
        let seq = self.about.seq;
        let frame = FrameMark {
            seq,
            payload_slot: self.payload_slot,
            timestamp_ns: self.timestamp,
            meta_version: self.meta_version,
        };
        let slot = self
            .slot
            .take()
            .expect("only the commit takes the slot, and it consumes the claim");
        let committed = slot.commit_with(&mut self.sender.encoder, &frame);
        // Everything from here on comes after the frame, so it does not delay it.
        self.place.next = seq.get() + 1;
        let counters = &self.sender.shared.counters;
        bump(&counters.published, 1);
        bump(&counters.next, 1);
        if !self.sender.outlets.is_empty() {
            self.offer(now.unwrap_or(self.begun));
        }
        let now = now.unwrap_or_else(mono_now);
        // spec: X-1-23
        if self.place.wake.on_commit(now) && committed.wake().is_err() {
            // A refused wake costs a sleeper one nap and the frame nothing.
            let counters = &self.sender.shared.counters;
            counters.count(ProducerDrop::WakeRefused);
        }
        let len = u64::from(self.len_bytes);
        let Sender {
            telling,
            shared,
            handle,
            ..
        } = self.sender;
        if telling.complete(&shared.progress, self.about, now, len) {
            handle.wake();
        }
        Ok(seq)
    }

    /// Tells of the frame by descriptors.
    // The slot's timestamp is the only one, so no second one can disagree with it.
    // spec: W-10.2.1-1 W-10.2.1-8 W-15.7-2
    fn offer(&mut self, now: MonoNanos) {
        let About { stream, epoch, seq } = self.about;
        let descriptor = FrameDescriptor {
            stream_id: stream,
            epoch,
            seq,
            timestamp_ns: None,
            meta_version: self.meta_version,
            trace_id: self.trace,
        };
        let Sender {
            outlets, shared, ..
        } = self.sender;
        for outlet in outlets.iter_mut() {
            outlet.offer(now, &descriptor, &shared.counters);
        }
    }

    #[inline]
    fn check_lease(&self) -> Result<(), ClaimError> {
        if self.life.is_over() {
            Err(ClaimError::LeaseEnded(self.life.why_over()))
        } else {
            Ok(())
        }
    }

    const fn slot_mut(&mut self) -> &mut SlotWrite<'a> {
        self.slot
            .as_mut()
            .expect("only the commit takes the slot, and it consumes the claim")
    }
}

impl Drop for SlotClaim<'_> {
    fn drop(&mut self) {
        if self.slot.is_some() {
            let counters = &self.sender.shared.counters;
            counters.count(ProducerDrop::Abandoned);
            // spec: X-1-18: a number that a progress message has named is spent.
            if self.sender.telling.has_begun() {
                self.place.next = self.about.seq.get() + 1;
                bump(&counters.next, 1);
            }
        }
    }
}
