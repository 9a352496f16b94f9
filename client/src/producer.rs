//! Writes frames of one stream in place.
//!
//! The data path of a producer: claim a slot, write, commit. It never waits for a consumer: the ring
//! wraps (W-15.4-1). Nothing in it allocates, and the only system call is a wake when the previous
//! frame is more than 100 µs old. What happens between it and the driver is the conductor's business.

mod claim;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tensorpool_shm::{BeginError, ForkGuard, HeaderEncoder, WakePolicy, WriteMapping};
use tensorpool_wire::{Seq, StreamId};

use crate::client::AttachmentHandle;
use crate::clock::mono_now;
use crate::error::ClaimError;
use crate::handover::{Change, Seat, Status};
use crate::lease::LeaseEnd;
use crate::mapping::{Life, Writable};
use crate::metadata::{Metadata, MetadataCell};
use crate::outlet::{Outlet, OutletMail};
use crate::progress::{About, ProgressDesk, Telling};
use crate::stats::{ProducerCounters, ProducerDrop, ProducerStats};
use crate::tensor::TensorSpec;

pub use claim::SlotClaim;

/// What a producer shares with its conductor.
#[derive(Debug)]
pub(crate) struct ProducerShared {
    pub(crate) counters: ProducerCounters,
    pub(crate) metadata: MetadataCell,
    pub(crate) progress: ProgressDesk,
    pub(crate) outlets: OutletMail,
    pub(crate) guard: ForkGuard,
    /// The data path met memory that lost its pages.
    pub(crate) poisoned: AtomicBool,
}

/// The writer of one stream. Attached again and mapped again by its client, without being asked.
#[derive(Debug)]
pub struct Producer {
    seat: Seat<Writable>,
    state: State,
    sender: Sender,
}

/// What a claim needs of its producer beside memory. Stays as it is over epochs.
#[derive(Debug)]
struct Sender {
    outlets: Vec<Outlet>,
    encoder: HeaderEncoder,
    /// Of the claim that is open.
    telling: Telling,
    shared: Arc<ProducerShared>,
    handle: AttachmentHandle,
}

#[derive(Debug)]
enum State {
    NotAttached,
    Ended(LeaseEnd),
    Writing(Writing),
}

/// One epoch being written.
#[derive(Debug)]
struct Writing {
    life: Arc<Life>,
    regions: WriteMapping,
    place: Place,
}

/// How far an epoch is.
#[derive(Debug, Default)]
struct Place {
    /// The number of the next frame; starts at 0 in each epoch.
    // spec: W-15.2-3
    next: u64,
    wake: WakePolicy,
}

impl Producer {
    pub(crate) fn new(
        seat: Seat<Writable>,
        shared: Arc<ProducerShared>,
        handle: AttachmentHandle,
    ) -> Self {
        Self {
            seat,
            state: State::NotAttached,
            sender: Sender {
                outlets: Vec::new(),
                encoder: HeaderEncoder::default(),
                telling: Telling::default(),
                shared,
                handle,
            },
        }
    }

    /// Begins a frame: the slot of the next number, in the smallest pool that holds the tensor. The
    /// capture time is now, unless the claim is told otherwise.
    ///
    /// A claim that is dropped without [`SlotClaim::commit`] leaves no gap: the next one takes the same
    /// number.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing was written. Never waits.
    // spec: W-9-3 W-9-4 W-15.4-1 D-4.9-10
    #[inline]
    pub fn claim(&mut self, tensor: &TensorSpec) -> Result<SlotClaim<'_>, ClaimError> {
        self.begin(tensor)
    }

    /// Writes one frame with one copy: `bytes` as the elements of `tensor`.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing was published.
    #[inline]
    pub fn publish_tensor(&mut self, tensor: &TensorSpec, bytes: &[u8]) -> Result<Seq, ClaimError> {
        if u32::try_from(bytes.len()) != Ok(tensor.len_bytes()) {
            let (expected_bytes, found_bytes) = (tensor.len_bytes(), bytes.len());
            return Err(ClaimError::Length {
                expected_bytes,
                found_bytes,
            });
        }
        let mut claim = self.begin(tensor)?;
        claim.write(bytes)?;
        let now = claim.begun;
        claim.commit_at(Some(now))
    }

    /// Writes one frame of plain bytes with one copy.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing was published.
    pub fn publish(&mut self, bytes: &[u8]) -> Result<Seq, ClaimError> {
        let tensor = TensorSpec::bytes(bytes.len()).map_err(ClaimError::Shape)?;
        self.publish_tensor(&tensor, bytes)
    }

    #[inline]
    fn begin(&mut self, tensor: &TensorSpec) -> Result<SlotClaim<'_>, ClaimError> {
        // spec: X-2-24
        if self.sender.shared.guard.is_forked_child() {
            return Err(ClaimError::ForkedChild);
        }
        if self.seat.has_change() {
            self.switch();
        }
        let writing = match &mut self.state {
            State::Writing(writing) => writing,
            State::NotAttached => return Err(ClaimError::NotAttached),
            State::Ended(end) => return Err(ClaimError::LeaseEnded(end.clone())),
        };
        let layout = writing.regions.layout();
        let (stream, epoch, nslots) = (layout.stream_id(), layout.epoch(), layout.nslots());
        let sender = &mut self.sender;
        let Some(index) = layout.smallest_pool_for(u64::from(tensor.len_bytes())) else {
            sender.shared.counters.count(ProducerDrop::TooLarge);
            let largest = layout.pools().iter().map(|pool| pool.stride_bytes).max();
            return Err(ClaimError::TooLarge {
                len_bytes: tensor.len_bytes(),
                largest_bytes: largest.unwrap_or_default(),
            });
        };
        let pool = layout.pools()[index].pool_id;
        let seq = Seq(writing.place.next);
        // The lines that are written first come here while the clock is read. A consumer that watches
        // the slot would take its line away again; one that listens for descriptors does not watch.
        writing.regions.prefetch_payload(seq, index);
        if !sender.outlets.is_empty() {
            writing.regions.prefetch_slot(seq);
        }
        sender
            .encoder
            .take_shape(tensor.header(), tensor.len_bytes(), pool);
        sender.telling.reset();
        let now = mono_now();
        // A process that was stopped beyond its lease finds out here, before it stores anything.
        if writing.life.is_past(now) {
            return Err(ClaimError::LeaseEnded(LeaseEnd::DeadlinePassed));
        }
        let slot = writing
            .regions
            .claim(seq, index, &sender.encoder)
            .map_err(|error| sender.refuse(&error))?;
        let version = sender.shared.metadata.version();
        Ok(SlotClaim {
            slot: Some(slot),
            len_bytes: tensor.len_bytes(),
            payload_slot: seq.index(nslots),
            about: About { stream, epoch, seq },
            begun: now,
            timestamp: Some(now),
            meta_version: (version != 0).then_some(version),
            trace: None,
            place: &mut writing.place,
            life: &writing.life,
            sender,
        })
    }

    /// Describes the stream; later frames refer to this description. Returns its version.
    ///
    /// All attributes travel in one message, which has at most 131,072 bytes on a socket and an eighth
    /// of the term on Aeron. A longer one is counted as [`Unsent::TooLong`](crate::Unsent) and heard
    /// by nobody: put large things into frames.
    // spec: W-10.3.1-1 W-10.3.2-2
    pub fn set_metadata(&mut self, metadata: Metadata) -> u32 {
        let version = self.sender.shared.metadata.replace(metadata);
        self.sender.handle.wake();
        version
    }

    /// Counters since the producer was built.
    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        self.sender.shared.counters.snapshot()
    }

    /// How the attachment stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.seat.handover.status()
    }

    /// The stream's number; 0 until the first attach where it was asked for by name.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.sender.handle.stream()
    }

    #[cold]
    fn switch(&mut self) {
        // What is posted after this is another change; letting go of an outlet takes its time.
        let change = self.seat.take();
        self.sender.shared.outlets.apply(&mut self.sender.outlets);
        match change {
            Change::Nothing => {}
            Change::Unmap => self.state = State::NotAttached,
            Change::Ended(end) => {
                self.state = State::Ended(end);
                // A new lease may be there already.
                if self.seat.has_change() {
                    self.switch();
                }
            }
            Change::Map(Writable { life, regions }) => {
                self.sender.shared.counters.restart();
                self.state = State::Writing(Writing {
                    life,
                    regions,
                    place: Place::default(),
                });
            }
        }
    }
}

impl Sender {
    /// Why a slot could not be claimed. Memory that is gone is told to the conductor.
    #[cold]
    fn refuse(&self, error: &BeginError) -> ClaimError {
        match error {
            BeginError::Poisoned(poisoned) => {
                self.shared.poisoned.store(true, Ordering::Relaxed);
                self.handle.wake();
                ClaimError::Poisoned(*poisoned)
            }
            BeginError::SeqOutOfRange => ClaimError::SeqExhausted,
            BeginError::NoSuchPool { .. } => {
                unreachable!("the index comes from the layout of the same mapping")
            }
        }
    }
}
