//! Producers and consumers of Tensorpool streams.
//!
//! A producer writes tensors into shared memory that the driver owns; consumers read them in place.
//! This crate owns the lease (attach, keepalive, reattach), the mapping of one epoch's regions, and the
//! producer and consumer calls on it. It refuses to create, truncate or remove memory, and to guess
//! paths: both are the driver's (D-2.2-1, D-2.3-1).
//!
//! ```no_run
//! use tensorpool_client::{Consumer, Producer};
//! use std::time::Duration;
//!
//! let mut producer = Producer::builder("camera/front").build()?;
//! producer.publish(b"a frame")?;
//!
//! let mut consumer = Consumer::builder("camera/front").build()?;
//! if let Some(frame) = consumer.wait(Duration::from_secs(1))? {
//!     println!("frame {} of {} bytes", frame.seq(), frame.len_bytes());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod aeron;
mod attachment;
mod build;
mod client;
mod clock;
mod conductor;
mod consumer;
mod error;
mod find;
mod frame;
mod handover;
pub mod lease;
mod link;
mod mapping;
mod metadata;
mod outlet;
mod producer;
mod progress;
mod stats;
#[cfg(feature = "async")]
mod stream;
mod tensor;
mod watch;

pub use aeron::AeronOptions;
pub use build::{ConsumerBuilder, ProducerBuilder};
pub use client::{Client, ClientOptions};
pub use conductor::{Agent, Work};
pub use consumer::{Consumer, Memory, Notify, Start};
pub use error::{AttachError, BuildError, ClaimError, ClientError, FrameError, PollError, Report};
pub use find::Looked;
pub use frame::{Frame, HeldFrame};
pub use handover::Status;
pub use link::StreamKey;
pub use mapping::RegionError;
pub use metadata::Metadata;
pub use producer::{Producer, SlotClaim};
pub use stats::{ConsumerStats, DropReason, MessageStats, ProducerDrop, ProducerStats, Unsent};
#[cfg(feature = "async")]
pub use stream::FrameStream;
pub use tensor::TensorSpec;

pub use tensorpool_shm::{CopyError, DropCounter, PayloadView, Region};
pub use tensorpool_wire::{
    Attribute, ClientId, Dtype, Epoch, FrameProgress, FrameProgressState, HugepagesPolicy, LeaseId,
    MajorOrder, MonoNanos, NodeId, PoolId, ProgressUnit, Seq, StreamId, Tensor, TensorReject,
    TraceId,
};
