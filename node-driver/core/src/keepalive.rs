//! Keepalives, those of leases that are not known included.

use std::collections::BTreeMap;

use tensorpool_wire::{
    LeaseId, LeaseRevokeReason, LogicalStream, MonoNanos, Origin, ShmLeaseKeepalive,
    ShmLeaseRevoked, StreamId,
};

use crate::action::{Action, To};
use crate::config::SECOND_NS;
use crate::counters::DropReason;
use crate::driver::{Driver, send};
use crate::grant::{names_lease, same_world};

/// Leases that were answered as unknown within the last second.
#[derive(Debug)]
pub(crate) struct UnknownLeases {
    answered: BTreeMap<LeaseId, MonoNanos>,
    limit: usize,
}

impl UnknownLeases {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            answered: BTreeMap::new(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// Whether this lease may be answered now, which then counts as done.
    fn admit(&mut self, now: MonoNanos, lease: LeaseId) -> bool {
        let is_recent = |at: &MonoNanos| now.saturating_since(*at) < SECOND_NS;
        if self.answered.get(&lease).is_some_and(is_recent) {
            return false;
        }
        if self.answered.len() >= self.limit {
            self.answered.retain(|_, at| is_recent(at));
        }
        if self.answered.len() >= self.limit {
            return false;
        }
        self.answered.insert(lease, now);
        true
    }
}

impl Driver {
    /// Extends a lease. All four fields must be its own (B-15).
    // spec: D-4.4-3, X-2-17
    pub(crate) fn on_keepalive(
        &mut self,
        origin: Origin,
        keepalive: &ShmLeaseKeepalive,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let expiry = self.now.saturating_add(self.config.timing.lease_ns());
        let Some(lease) = self.leases.get_mut(keepalive.lease_id) else {
            return self.on_unknown_lease(origin, keepalive, out);
        };
        if !names_lease(
            lease,
            keepalive.stream_id,
            keepalive.client_id,
            keepalive.role,
        ) {
            return Err(DropReason::IdMismatch);
        }
        if !same_world(lease.asker.origin, origin) {
            return Err(DropReason::ForeignOrigin);
        }
        // After a stall the expiry may lie further ahead already.
        lease.expiry = lease.expiry.max(expiry);
        lease.kept_alive = true;
        self.counters.keepalives += 1;
        Ok(())
    }

    /// Whether this driver is the authority for `stream`, even if it does not know it any more.
    // spec: D-2.1-1
    fn owns(&self, stream: StreamId) -> bool {
        let spec = self.policy.spec();
        let dynamic = spec.stream_id_range.filter(|_| spec.allow_dynamic_streams);
        self.streams.contains_key(&stream)
            || dynamic.is_some_and(|range| range.contains(stream.get()))
    }

    /// Tells a client that goes on with a lease of an earlier driver, or missed its lease's end. Some
    /// clients never notice by themselves.
    fn on_unknown_lease(
        &mut self,
        origin: Origin,
        keepalive: &ShmLeaseKeepalive,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        if !self.owns(keepalive.stream_id) {
            return Err(DropReason::UnknownStream);
        }
        if !self.unknown_leases.admit(self.now, keepalive.lease_id) {
            return Err(DropReason::UnknownLease);
        }
        let text = if self.leases.was_granted(keepalive.lease_id) {
            "unknown lease: it has ended"
        } else {
            "unknown lease: driver restarted"
        };
        let revoked = ShmLeaseRevoked {
            timestamp_ns: self.now,
            lease_id: keepalive.lease_id,
            stream_id: keepalive.stream_id,
            client_id: keepalive.client_id,
            role: keepalive.role,
            reason: LeaseRevokeReason::Expired,
            error_message: text.to_owned(),
        };
        send(out, To::Origin(origin), LogicalStream::Control, revoked);
        Ok(())
    }
}
