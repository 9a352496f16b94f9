//! Reads frames of one stream in place.
//!
//! The data path of a consumer: it looks at the ring or at descriptors, checks each slot, counts every
//! frame that it does not deliver, and never waits for a producer. Nothing in it allocates or calls
//! the system, except the naps of [`Consumer::wait`]. What happens between it and the driver is the
//! conductor's business.
//!
//! The memory of an epoch is let go of in a call of the application, never behind its back: a consumer
//! that is not polled keeps its mapping, unused, until it is polled or dropped (X-2-67).

mod descriptors;
mod memory;
mod passage;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tensorpool_shm::{ForkGuard, IdlePolicy, Look, Start as CursorStart};
use tensorpool_transport::pubsub::Subscription;
use tensorpool_wire::{
    FrameDescriptor, FrameProgress, MonoNanos, Slot, SlotReject, StreamId, TraceId,
};

use crate::client::AttachmentHandle;
use crate::clock::mono_now;
use crate::error::PollError;
use crate::frame::{Found, Frame};
use crate::handover::{Change, Seat, Status};
use crate::mapping::Mapped;
use crate::metadata::{Metadata, MetadataCell};
use crate::progress::ProgressInbox;
use crate::stats::{ConsumerCounters, ConsumerStats, DropReason, bump};

pub use memory::Memory;

use descriptors::follow;
pub(crate) use descriptors::{DescriptorMail, Source};
pub(crate) use passage::committed;
use passage::{Leave, Passage, Reading};

/// How many dropped frames one poll gets over before it says that nothing is there.
const DROPS_PER_POLL: u32 = 8;
/// How many descriptors one [`Consumer::latest`] gets over.
const DESCRIPTORS_PER_POLL: u32 = 4_096;

/// Where the first attach begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Start {
    /// With the newest committed frame.
    #[default]
    Newest,
    /// With the next frame to be committed.
    Next,
}

impl Start {
    pub(crate) const fn cursor(self) -> CursorStart {
        match self {
            Self::Newest => CursorStart::Newest,
            Self::Next => CursorStart::Next,
        }
    }
}

/// How a consumer learns of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// From the slots themselves. The only way on a socket.
    Ring,
    /// From descriptors. The default on Aeron, and only there.
    Descriptor,
}

/// What a consumer shares with its conductor and its frames.
#[derive(Debug)]
pub(crate) struct ConsumerShared {
    pub(crate) counters: ConsumerCounters,
    pub(crate) metadata: MetadataCell,
    pub(crate) progress: ProgressInbox,
    pub(crate) guard: ForkGuard,
    pub(crate) descriptors: DescriptorMail,
}

/// A reader of one stream. Attached again and mapped again by its client, without being asked.
pub struct Consumer {
    seat: Seat<Arc<Mapped>>,
    reading: Option<Reading>,
    passage: Passage,
    notify: Notify,
    descriptors: Option<Box<dyn Subscription + Send>>,
    idle: IdlePolicy,
    /// Nanoseconds between two delivered frames at least; 0: all.
    min_gap_ns: u64,
    last_delivered: Option<MonoNanos>,
    /// Of the frame that was found last.
    trace: Option<TraceId>,
    /// A frame other than the last that was parsed.
    kept: Option<Found>,
    shared: Arc<ConsumerShared>,
    handle: AttachmentHandle,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("stream", &self.handle.stream())
            .field("notify", &self.notify)
            .field("is_mapped", &self.reading.is_some())
            .finish_non_exhaustive()
    }
}

impl Consumer {
    pub(crate) fn new(
        seat: Seat<Arc<Mapped>>,
        notify: Notify,
        max_rate_hz: u32,
        shared: Arc<ConsumerShared>,
        handle: AttachmentHandle,
    ) -> Self {
        Self {
            seat,
            reading: None,
            passage: Passage::default(),
            notify,
            descriptors: None,
            idle: IdlePolicy::default(),
            min_gap_ns: 1_000_000_000_u64
                .checked_div(u64::from(max_rate_hz))
                .unwrap_or(0),
            last_delivered: None,
            trace: None,
            kept: None,
            shared,
            handle,
        }
    }

    /// The next frame, if it is there. Never waits, never calls the system.
    ///
    /// # Errors
    /// [`PollError::LeaseEnded`] once per lost lease; the client attaches again by itself.
    // spec: W-15.21-1 X-1-8
    // A frame borrows its consumer, so this can be no `Iterator`.
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, PollError> {
        let is_there = self.look()?;
        Ok(self.frame_if(is_there))
    }

    /// The newest frame, if there is one that was not delivered yet. Frames before it are passed over
    /// and counted as [`DropReason::PassedOver`].
    ///
    /// # Errors
    /// As for [`Consumer::next`].
    pub fn latest(&mut self) -> Result<Option<Frame<'_>>, PollError> {
        self.switch_if_changed()?;
        let is_there = match self.notify {
            Notify::Ring => {
                if let Some(reading) = &mut self.reading {
                    let passed = reading.mapped.regions.skip_to_newest(&mut reading.cursor);
                    self.shared
                        .counters
                        .drop_frames(DropReason::PassedOver, passed);
                }
                self.look()?
            }
            Notify::Descriptor => {
                let mut newest = None;
                for _ in 0..DESCRIPTORS_PER_POLL {
                    if !self.look()? {
                        break;
                    }
                    if newest.is_some() {
                        self.shared.counters.leave_out(DropReason::PassedOver);
                    }
                    newest = self.found();
                }
                // The last look may have dropped a frame that it had parsed.
                self.kept = newest;
                return Ok(self.frame_kept());
            }
        };
        Ok(self.frame_if(is_there))
    }

    /// Counters since the consumer was built.
    #[must_use]
    pub fn stats(&self) -> ConsumerStats {
        self.shared.counters.snapshot(self.passage.lost())
    }

    /// How the attachment stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.seat.handover.status()
    }

    /// The latest description of the stream; version 0 if none has come.
    #[must_use]
    pub fn metadata(&self) -> Arc<Metadata> {
        self.shared.metadata.get()
    }

    /// The next progress message, where the consumer was built with progress. A prefix of a frame is
    /// read with [`Consumer::prefix`].
    #[must_use]
    pub fn progress(&mut self) -> Option<FrameProgress> {
        self.shared.progress.next()
    }

    /// The frame that a progress message is about, if it is committed: bytes up to
    /// `payload_bytes_filled` of it may be read. A frame that is still in progress is `None`, since
    /// nothing but the commit says that bytes are the frame's.
    ///
    /// # Errors
    /// As for [`Consumer::next`].
    // spec: W-10.2.2-2 W-10.2.2-3 W-10.2.2-4
    pub fn prefix(&mut self, progress: &FrameProgress) -> Result<Option<Frame<'_>>, PollError> {
        self.switch_if_changed()?;
        self.kept = None;
        if let Some(reading) = &mut self.reading
            && reading.mapped.regions.layout().epoch() == progress.epoch
            && let Ok(snapshot) = reading.mapped.regions.read(progress.seq)
            && let Ok(slot) = reading.mapped.regions.parse(&snapshot)
            && progress.payload_bytes_filled <= u64::from(slot.values_len_bytes)
        {
            self.kept = Some(Found { slot, trace: None });
        }
        Ok(self.frame_kept())
    }

    /// The stream's number; 0 until the first attach where it was asked for by name.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.handle.stream()
    }

    /// The mapped memory, for registering it with a device (`cudaHostRegister`). It stays mapped as
    /// long as the value lives; ask again after each change of epoch. `None` while nothing is mapped.
    ///
    /// # Errors
    /// As for [`Consumer::next`].
    pub fn memory(&mut self) -> Result<Option<Memory>, PollError> {
        self.switch_if_changed()?;
        Ok(self.reading.as_ref().map(|reading| Memory {
            mapped: Arc::clone(&reading.mapped),
        }))
    }

    #[inline]
    fn frame_if(&self, is_there: bool) -> Option<Frame<'_>> {
        if !is_there {
            return None;
        }
        let reading = self.reading.as_ref()?;
        let slot = reading.parser.last()?;
        Some(Frame::new(&reading.mapped, &self.shared, slot, self.trace))
    }

    fn frame_kept(&self) -> Option<Frame<'_>> {
        let (reading, kept) = (self.reading.as_ref()?, self.kept.as_ref()?);
        let Found { slot, trace } = kept;
        Some(Frame::new(&reading.mapped, &self.shared, slot, *trace))
    }

    /// The frame that a look has just found.
    fn found(&self) -> Option<Found> {
        let slot = *self.reading.as_ref()?.parser.last()?;
        let trace = self.trace;
        Some(Found { slot, trace })
    }

    /// Whether there is a frame, which is then the last that was parsed. It is lent from there: a
    /// copy of what was just written would have to wait for it.
    #[inline]
    fn look(&mut self) -> Result<bool, PollError> {
        self.switch_if_changed()?;
        if self.reading.is_none() {
            if self.passage.is_open() {
                self.settle(false);
            }
            return Ok(false);
        }
        for _ in 0..DROPS_PER_POLL {
            let looked = match self.notify {
                Notify::Ring => self.look_at_ring(),
                Notify::Descriptor => self.look_at_descriptors(),
            };
            if self.passage.is_open() {
                self.settle(looked == Looked::Found);
            }
            match looked {
                Looked::Nothing => return Ok(false),
                Looked::Dropped => {}
                Looked::Found if self.is_too_soon() => {
                    self.shared.counters.leave_out(DropReason::RateLimited);
                }
                Looked::Found => return Ok(true),
            }
        }
        Ok(false)
    }

    /// While the end of an epoch that was left is still open.
    #[cold]
    fn settle(&mut self, has_frame: bool) {
        self.passage
            .settle(mono_now(), has_frame, &self.shared.counters);
    }

    // spec: X-1-9 X-1-10 X-1-11 X-1-12 X-1-14 X-1-15 X-1-16 X-1-17 X-1-21
    #[inline]
    fn look_at_ring(&mut self) -> Looked {
        let Some(reading) = &mut self.reading else {
            return Looked::Nothing;
        };
        let look = reading
            .mapped
            .regions
            .poll_frame(&mut reading.cursor, &mut reading.parser);
        match look {
            Ok(Look::Empty) => Looked::Nothing,
            Ok(Look::Frame(parsed)) => {
                self.trace = None;
                check(&self.shared, parsed)
            }
            Ok(Look::Skipped(skip)) => {
                self.shared.counters.drop_frames(skip.into(), skip.lost());
                self.shared
                    .counters
                    .lag
                    .fetch_max(skip.lost(), Ordering::Relaxed);
                Looked::Dropped
            }
            // The conductor notices by itself, unmaps and maps anew (X-1-30).
            Err(_) => Looked::Nothing,
        }
    }

    // spec: W-10.2.1-2 W-10.2.1-4
    fn look_at_descriptors(&mut self) -> Looked {
        let (Some(reading), Some(descriptors)) = (&mut self.reading, &mut self.descriptors) else {
            return Looked::Nothing;
        };
        let mut heard = None;
        let polled = descriptors.poll(1, &mut |bytes, _| {
            heard = FrameDescriptor::decode(bytes).ok()
        });
        match (polled, heard) {
            (Ok(0) | Err(_), _) => Looked::Nothing,
            (Ok(_), None) => Looked::Dropped,
            (Ok(_), Some(descriptor)) => {
                let passage = &mut self.passage;
                self.trace = descriptor.trace_id;
                follow(&self.shared, reading, passage, &descriptor)
            }
        }
    }

    /// Whether the frame comes before the rate that was asked for allows it. Measured by the frame's
    /// own time, or by ours where it has none.
    // spec: W-11-1
    #[inline]
    fn is_too_soon(&mut self) -> bool {
        if self.min_gap_ns == 0 {
            return false;
        }
        let found = self.reading.as_ref().and_then(|found| found.parser.last());
        let captured = found.and_then(|slot| slot.timestamp_ns);
        let now = captured.unwrap_or_else(mono_now);
        if self
            .last_delivered
            .is_some_and(|last| now.saturating_since(last) < self.min_gap_ns)
        {
            return true;
        }
        self.last_delivered = Some(now);
        false
    }

    #[inline]
    fn switch_if_changed(&mut self) -> Result<(), PollError> {
        // spec: X-2-24
        if self.shared.guard.is_forked_child() {
            return Err(PollError::ForkedChild);
        }
        if self.seat.has_change() {
            self.switch()
        } else {
            Ok(())
        }
    }

    #[cold]
    fn switch(&mut self) -> Result<(), PollError> {
        // What is posted after this is another change; letting go of a source takes its time.
        let change = self.seat.take();
        match self.shared.descriptors.take() {
            Some(Source::Ring) => {
                self.notify = Notify::Ring;
                self.descriptors = None;
            }
            Some(Source::Descriptors(subscription)) => {
                self.notify = Notify::Descriptor;
                self.descriptors = Some(subscription);
            }
            Some(Source::Gone) => self.descriptors = None,
            None => {}
        }
        match change {
            Change::Nothing => {}
            Change::Unmap => self.leave(Leave::Epoch),
            Change::Ended(end) => {
                self.leave(Leave::Lease);
                return Err(PollError::LeaseEnded(end));
            }
            Change::Map(mapped) => {
                self.leave(Leave::Epoch);
                let reading = self
                    .passage
                    .enter(mapped, self.notify, &self.shared.counters);
                self.reading = Some(reading);
            }
        }
        Ok(())
    }

    fn leave(&mut self, why: Leave) {
        if let Some(reading) = self.reading.take() {
            let counters = &self.shared.counters;
            self.passage
                .leave(reading, self.notify, why, mono_now(), counters);
        } else if why == Leave::Lease {
            self.passage.let_go();
        }
    }
}

/// What one look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Nothing,
    Dropped,
    Found,
}

/// Takes a parsed slot as a frame, or counts why not.
#[inline]
fn check(shared: &ConsumerShared, parsed: Result<&Slot, SlotReject>) -> Looked {
    match parsed {
        Ok(slot) => {
            bump(&shared.counters.delivered, 1);
            shared
                .counters
                .seen
                .store(slot.seq.get() + 1, Ordering::Relaxed);
            Looked::Found
        }
        Err(reject) => {
            shared.counters.drop_frames(DropReason::from(&reject), 1);
            Looked::Dropped
        }
    }
}
