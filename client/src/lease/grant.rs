//! What an accepted attach grants, checked field by field.

use tensorpool_wire::{
    ClientId, Epoch, LeaseId, MonoNanos, NodeId, PayloadPool, ShmAttachRequest, ShmAttachResponse,
    ShmLeaseRevoked, StreamId,
};

use super::LeaseRole;

/// The only slot size of layout version 1, in bytes.
const HEADER_SLOT_BYTES: u16 = 256;

/// An accepted attach in which every required field is present and consistent. The URIs are not yet
/// resolved and the regions not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease. Opaque, only valid with this driver process.
    // spec: D-4.8-3
    pub lease: LeaseId,
    /// The stream; the driver's choice where 0 was asked for.
    pub stream: StreamId,
    /// The client id that the lease was granted to.
    pub client: ClientId,
    /// The role that was asked for.
    pub role: LeaseRole,
    /// Epoch of the regions.
    pub epoch: Epoch,
    /// Layout of the regions.
    pub layout_version: u32,
    /// Slots of the header ring and of each pool. A power of two.
    pub header_nslots: u32,
    /// Where the header ring is.
    pub header_uri: String,
    /// The payload pools, at least one.
    pub pools: Vec<PayloadPool>,
    /// Node id for trace ids, if the driver gave one.
    pub node: Option<NodeId>,
    /// When the lease ends without a keepalive, `CLOCK_MONOTONIC`.
    pub expires_at: Option<MonoNanos>,
}

/// Why an answer with code OK is a protocol error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// A field that OK requires is null or blank.
    #[error("the answer is OK but lacks {field}")]
    Missing {
        /// The schema's name of the field.
        field: &'static str,
    },
    /// Another stream than the one asked for.
    #[error("stream {asked} was asked for, the answer is about {granted}")]
    OtherStream {
        /// The stream in the request.
        asked: StreamId,
        /// The stream in the answer.
        granted: StreamId,
    },
    /// A layout that this client cannot read.
    #[error("layout version {granted} is not supported, only 1 is")]
    Layout {
        /// The layout version in the answer.
        granted: u32,
    },
    /// Slots that are not 256 bytes.
    #[error("header slots of {bytes} bytes are not possible, they have 256")]
    SlotBytes {
        /// Slot size in the answer, in bytes.
        bytes: u16,
    },
    /// A ring whose length is no power of two.
    #[error("a ring of {nslots} slots is not possible, the number must be a power of two")]
    NotAPowerOfTwo {
        /// Slots in the answer.
        nslots: u32,
    },
    /// A pool that does not fit the ring.
    #[error("pool {pool} has {pool_nslots} slots, the header ring {header_nslots}")]
    PoolSlots {
        /// The pool.
        pool: u16,
        /// Its slots.
        pool_nslots: u32,
        /// The ring's slots.
        header_nslots: u32,
    },
    /// Two pools with one id.
    #[error("pool {pool} occurs twice")]
    PoolTwice {
        /// The pool.
        pool: u16,
    },
    /// A stride outside the rule.
    #[error("pool {pool} has a stride of {stride} bytes, it must be a multiple of 64 above 0")]
    Stride {
        /// The pool.
        pool: u16,
        /// Its stride in bytes.
        stride: u32,
    },
    /// The lease is over before it began.
    #[error("the lease expired {late_ns} ns before the answer arrived")]
    Expired {
        /// How late, in nanoseconds.
        late_ns: u64,
    },
}

impl Grant {
    /// Checks an answer with code OK.
    ///
    /// # Errors
    /// [`GrantError`]: a protocol error, after which nothing of the answer may be used.
    pub fn from_response(
        request: &ShmAttachRequest,
        role: LeaseRole,
        now: MonoNanos,
        response: &ShmAttachResponse,
    ) -> Result<Self, GrantError> {
        // spec: D-4.2-3: required although the schema lets them be null.
        let missing = |field| GrantError::Missing { field };
        let lease = response.lease_id.ok_or_else(|| missing("leaseId"))?;
        let stream = response.stream_id.ok_or_else(|| missing("streamId"))?;
        let epoch = response.epoch.ok_or_else(|| missing("epoch"))?;
        let layout_version = response
            .layout_version
            .ok_or_else(|| missing("layoutVersion"))?;
        let header_nslots = response
            .header_nslots
            .ok_or_else(|| missing("headerNslots"))?;
        let slot_bytes = response
            .header_slot_bytes
            .ok_or_else(|| missing("headerSlotBytes"))?;
        // spec: D-4.2-4
        if response.header_region_uri.trim().is_empty() {
            return Err(missing("headerRegionUri"));
        }
        if request.stream_id.get() != 0 && stream != request.stream_id {
            return Err(GrantError::OtherStream {
                asked: request.stream_id,
                granted: stream,
            });
        }
        if layout_version != 1 {
            return Err(GrantError::Layout {
                granted: layout_version,
            });
        }
        // spec: D-4.2-5
        if slot_bytes != HEADER_SLOT_BYTES {
            return Err(GrantError::SlotBytes { bytes: slot_bytes });
        }
        // spec: W-3-1
        if !header_nslots.is_power_of_two() {
            return Err(GrantError::NotAPowerOfTwo {
                nslots: header_nslots,
            });
        }
        check_pools(header_nslots, &response.payload_pools)?;
        if let Some(at) = response.lease_expiry_timestamp_ns
            && at <= now
        {
            return Err(GrantError::Expired {
                late_ns: now.saturating_since(at),
            });
        }
        Ok(Self {
            lease,
            stream,
            client: request.client_id,
            role,
            epoch,
            layout_version,
            header_nslots,
            header_uri: response.header_region_uri.clone(),
            pools: response.payload_pools.clone(),
            node: response.node_id,
            expires_at: response.lease_expiry_timestamp_ns,
        })
    }

    /// Whether a revocation, whose role is known, names exactly this lease.
    pub(super) fn is_named_by(&self, revoked: &ShmLeaseRevoked, role: LeaseRole) -> bool {
        revoked.lease_id == self.lease
            && revoked.stream_id == self.stream
            && revoked.client_id == self.client
            && role == self.role
    }
}

fn check_pools(header_nslots: u32, pools: &[PayloadPool]) -> Result<(), GrantError> {
    if pools.is_empty() {
        return Err(GrantError::Missing {
            field: "payloadPools",
        });
    }
    for (index, pool) in pools.iter().enumerate() {
        let id = pool.pool_id.get();
        if pool.region_uri.trim().is_empty() {
            return Err(GrantError::Missing { field: "regionUri" });
        }
        // spec: D-4.2-6
        if pool.pool_nslots != header_nslots {
            return Err(GrantError::PoolSlots {
                pool: id,
                pool_nslots: pool.pool_nslots,
                header_nslots,
            });
        }
        // spec: W-15.22-5
        if pool.stride_bytes == 0 || pool.stride_bytes % 64 != 0 {
            return Err(GrantError::Stride {
                pool: id,
                stride: pool.stride_bytes,
            });
        }
        if pools
            .iter()
            .take(index)
            .any(|other| other.pool_id == pool.pool_id)
        {
            return Err(GrantError::PoolTwice { pool: id });
        }
    }
    Ok(())
}
