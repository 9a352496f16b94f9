//! Bytes and types of the Tensorpool protocol.
//!
//! This crate owns every byte that two processes exchange: the SBE messages of schemas 900, 901 and
//! 910, the superblock, the slot header and the embedded TensorHeader, the `shm:` URI grammar, and
//! newtypes for the ids in them. It refuses everything else: it opens no file, knows no socket and
//! reads no clock. No input makes it panic or allocate more than the input's own length warrants.
//!
//! Who sends what, and on which stream ([`LogicalStream`]; on Aeron the usual stream id):
//!
//! | message | schema/template | stream | from → to |
//! |---|---|---|---|
//! | [`ShmAttachRequest`], [`ShmDetachRequest`] | 901/1, 901/3 | control 1000 | client → driver |
//! | [`ShmAttachResponse`], [`ShmDetachResponse`] | 901/2, 901/4 | control 1000 | driver → client |
//! | [`ShmLeaseKeepalive`] | 901/5 | control 1000 | client → driver |
//! | [`ShmDriverShutdown`], [`ShmLeaseRevoked`] | 901/6, 901/7 | control 1000 | driver → all |
//! | [`ShmDriverShutdownRequest`] | 901/8 | control 1000 | administrator → driver |
//! | [`ShmPoolAnnounce`] | 900/1 | announce 1001 | driver → all |
//! | [`ConsumerHello`] | 900/2 | control 1000 | consumer → driver, producer |
//! | [`ConsumerConfig`] | 900/3 | control 1000 | driver → consumer, producer |
//! | [`ControlResponse`] | 900/9 | control 1000 | nobody sends it |
//! | [`FrameDescriptor`] | 900/4 | descriptor 1100 | producer → consumers |
//! | [`FrameProgress`] | 900/11 | control 1000 | producer → consumers |
//! | [`QosConsumer`], [`QosProducer`] | 900/5, 900/6 | QoS 1200 | consumer, producer → all |
//! | [`DataSourceAnnounce`], [`DataSourceMeta`] | 900/7, 900/8 | metadata 1300 | producer → all |
//! | [`MetaBlobAnnounce`], [`MetaBlobChunk`], [`MetaBlobComplete`] | 900/10, 900/12, 900/13 | metadata 1300 | producer → all |
//! | [`DiscoveryRequest`] | 910/1 | discovery 7000 | client → provider |
//! | [`DiscoveryResponse`] | 910/2 | as the request says | provider → client |
//! | [`Superblock`], [`SlotHeader`], [`TensorHeader`] | 900/50 to 52 | none: shared memory | |
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

extern crate alloc;
#[cfg(any(test, feature = "arbitrary"))]
extern crate std;

mod blob;
mod consumer;
mod discovery;
mod driver;
mod error;
mod frame;
mod id;
mod layout;
mod message;
mod metadata;
mod pool;
mod qos;
mod route;
mod sbe;
mod slot;
mod superblock;
mod table;
mod tensor;
mod uri;

pub use blob::{BLOB_CHUNK_LEN, BlobAssembly, BlobReject, blob_chunks, crc32c};
pub use consumer::{Bool, ConsumerConfig, ConsumerHello, ControlResponse, Mode};
pub use discovery::{DiscoveryRequest, DiscoveryResponse, DiscoveryResult, DiscoveryStatus};
pub use driver::{
    HugepagesPolicy, LeaseRevokeReason, PublishMode, ResponseCode, Role, ShmAttachRequest,
    ShmAttachResponse, ShmDetachRequest, ShmDetachResponse, ShmDriverShutdown,
    ShmDriverShutdownRequest, ShmLeaseKeepalive, ShmLeaseRevoked, ShutdownReason,
};
pub use error::{DecodeError, DecodeErrorKind};
pub use frame::{FrameDescriptor, FrameProgress, FrameProgressState};
pub use id::{
    ClientId, CorrelationId, Epoch, LeaseId, MonoNanos, NodeId, PoolId, Seq, StreamId, TraceId,
    WallNanos,
};
pub use layout::{
    LAYOUT_VERSION, MAGIC, MAX_DIMS, SLOT_LEN, STRIDE_UNIT, SUPERBLOCK_LEN, header_ring_len,
    header_slot_offset, is_stride, payload_slot_offset, pool_len,
};
pub use message::{Message, SCHEMA_DISCOVERY, SCHEMA_DRIVER, SCHEMA_WIRE};
pub use metadata::{
    Attribute, DataSourceAnnounce, DataSourceMeta, MetaBlobAnnounce, MetaBlobChunk,
    MetaBlobComplete,
};
pub use pool::{ClockDomain, PayloadPool, ShmPoolAnnounce};
pub use qos::{QosConsumer, QosProducer};
pub use route::{ConnectionId, LogicalStream, Origin};
pub use sbe::{
    MAX_GROUP_ENTRIES, MAX_VAR_DATA_LEN, MESSAGE_HEADER_LEN, MessageHeader, SCHEMA_VERSION,
};
pub use slot::{ExpectedSlot, PoolStride, Slot, SlotHeader, SlotReject, TENSOR_HEADER_LEN};
pub use superblock::{ExpectedKind, ExpectedRegion, RegionType, Superblock, SuperblockReject};
pub use tensor::{Dtype, MajorOrder, ProgressUnit, Tensor, TensorHeader, TensorReject};
pub use uri::{ShmUri, UriError};
