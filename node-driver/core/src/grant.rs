//! How a lease begins and ends.
//!
//! A lease ends at the first of detach, expiry, revoke and close, once: whoever comes later finds it
//! gone. Its relay stops first, its revocation goes out next, and only then is a new epoch made.

use std::collections::BTreeSet;

use tensorpool_wire::{
    ConnectionId, CorrelationId, LeaseId, LeaseRevokeReason, LogicalStream, Message, Origin,
    ResponseCode, ShmAttachResponse, ShmDetachRequest, ShmDetachResponse, ShmLeaseRevoked,
    StreamId,
};

use crate::action::{Action, EpochCause, EpochKey, Note, To};
use crate::counters::{DropReason, bump};
use crate::driver::{Driver, send};
use crate::layout::{HEADER_SLOT_BYTES, LAYOUT_VERSION};
use crate::lease::{Asker, Lease, LeaseRole};
use crate::refusal::clip;
use crate::stream::{Metadata, Phase};

/// Reason and text of a lease's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) reason: LeaseRevokeReason,
    pub(crate) text: &'a str,
}

impl End<'_> {
    pub(crate) const DETACHED: End<'static> = End {
        reason: LeaseRevokeReason::Detached,
        text: "",
    };
    pub(crate) const EXPIRED: End<'static> = End {
        reason: LeaseRevokeReason::Expired,
        text: "no keepalive within the grace",
    };
    pub(crate) const CLOSED: End<'static> = End {
        reason: LeaseRevokeReason::Expired,
        text: "connection closed",
    };

    pub(crate) const fn revoked(text: &str) -> End<'_> {
        End {
            reason: LeaseRevokeReason::Revoked,
            text,
        }
    }

    const fn label(&self) -> &'static str {
        match self.reason {
            LeaseRevokeReason::Detached => "detached",
            LeaseRevokeReason::Expired => "expired",
            LeaseRevokeReason::Revoked | LeaseRevokeReason::Unknown(_) => "revoked",
        }
    }
}

impl Driver {
    /// Grants a lease on the stream's announced epoch and answers its attach.
    // spec: D-4.1-1
    pub(crate) fn grant(&mut self, id: StreamId, asker: Asker, out: &mut Vec<Action>) {
        self.leave_pending(&asker);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(epoch) = stream.current().map(|current| current.epoch) else {
            return;
        };
        let (role, client, connection) = (asker.role, asker.client, asker.connection());
        let correlation = asker.correlation;
        let lease = self.leases.grant(
            self.now,
            self.config.timing.lease_ns(),
            id,
            epoch,
            asker,
            &mut self.deadlines,
        );
        match role {
            LeaseRole::Producer => {
                stream.producer = Some(lease);
                stream.mark_produced();
            }
            LeaseRole::Consumer => {
                stream.consumers.insert(lease, connection);
            }
        }
        self.answer_ok(lease, correlation, out);
        if let Some(connection) = connection
            && let Some(known) = self.connections.get_mut(connection)
        {
            known.leases.insert(lease);
        }
        let (stream, role) = (id, role.wire());
        out.push(Action::Note(Note::LeaseGranted {
            lease,
            stream,
            client,
            role,
        }));
        self.update_ways(id, out);
    }

    /// The OK answer to a retry, with the retry's correlation id and a renewed expiry.
    // spec: D-4.8-6
    pub(crate) fn answer_again(
        &mut self,
        id: LeaseId,
        correlation: CorrelationId,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let lease_ns = self.config.timing.lease_ns();
        let expiry = self.now.saturating_add(lease_ns);
        let lease = self.leases.get_mut(id).ok_or(DropReason::NoLease)?;
        let current = self
            .streams
            .get(&lease.stream)
            .and_then(|stream| stream.current());
        // Between two epochs there is nothing to map; the next retry finds the new one.
        let current = current.ok_or(DropReason::AttachPending)?;
        lease.epoch = current.epoch;
        lease.expiry = lease.expiry.max(expiry);
        self.answer_ok(id, correlation, out);
        Ok(())
    }

    // spec: D-4.2-9, D-4.2-10, D-4.2-14, D-4.3-1, X-2-8, X-2-19
    fn answer_ok(&mut self, id: LeaseId, correlation: CorrelationId, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get(id) else {
            return;
        };
        let Some(stream) = self.streams.get(&lease.stream) else {
            return;
        };
        let Some(current) = stream.current() else {
            return;
        };
        let response = ShmAttachResponse {
            correlation_id: correlation,
            code: ResponseCode::Ok,
            lease_id: Some(id),
            lease_expiry_timestamp_ns: Some(lease.expiry),
            stream_id: Some(lease.stream),
            epoch: Some(current.epoch),
            layout_version: Some(LAYOUT_VERSION),
            header_nslots: Some(current.uris.nslots),
            header_slot_bytes: Some(HEADER_SLOT_BYTES),
            node_id: lease.asker.node,
            payload_pools: current.uris.pools.clone(),
            header_region_uri: current.uris.header.clone(),
            error_message: String::new(),
        };
        let key = EpochKey {
            stream: lease.stream,
            epoch: current.epoch,
        };
        let writes = lease.asker.role == LeaseRole::Producer;
        let socket = lease.asker.connection();
        out.push(Action::Send {
            to: To::Origin(lease.asker.origin),
            stream: LogicalStream::Control,
            message: response.into(),
            regions: (writes && socket.is_some()).then_some(key),
        });
        if let Some(connection) = socket
            && lease.asker.role == LeaseRole::Consumer
        {
            // spec: X-2-56
            let to = To::All {
                aeron: false,
                connections: vec![connection],
            };
            let Metadata { announce, meta } = &stream.metadata;
            let announce = announce.clone().map(Message::from);
            let meta = meta.clone().map(Message::from);
            for message in announce.into_iter().chain(meta) {
                send(out, to.clone(), LogicalStream::Metadata, message);
            }
        }
        bump(&mut self.counters.attaches, "ok");
    }

    // spec: D-4.9-11
    pub(crate) fn on_detach(
        &mut self,
        origin: Origin,
        request: &ShmDetachRequest,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let correlation_id = request.correlation_id;
        let lease = self.leases.get(request.lease_id).filter(|lease| {
            names_lease(lease, request.stream_id, request.client_id, request.role)
                && same_world(lease.asker.origin, origin)
        });
        let Some(lease) = lease.map(|lease| lease.id) else {
            let response = ShmDetachResponse {
                correlation_id,
                code: ResponseCode::Rejected,
                error_message: "lease not found".to_owned(),
            };
            send(out, To::Origin(origin), LogicalStream::Control, response);
            return Ok(());
        };
        let ended = self.invalidate(lease, End::DETACHED, out);
        let response = ShmDetachResponse {
            correlation_id,
            code: ResponseCode::Ok,
            error_message: String::new(),
        };
        send(out, To::Origin(origin), LogicalStream::Control, response);
        if let Some(ended) = ended {
            self.settle(&ended, out);
        }
        Ok(())
    }

    /// Ends a lease and lets its stream go on.
    pub(crate) fn end_lease(&mut self, id: LeaseId, end: End<'_>, out: &mut Vec<Action>) {
        if let Some(ended) = self.invalidate(id, end, out) {
            self.settle(&ended, out);
        }
    }

    /// A lease's deadline came up.
    // spec: D-4.4-4, D-7-1
    pub(crate) fn on_lease_due(&mut self, id: LeaseId, out: &mut Vec<Action>) {
        if self.leases.came_due(self.now, id, &mut self.deadlines) {
            self.end_lease(id, End::EXPIRED, out);
        }
    }

    /// Takes a lease out: relay off, revocation out, everything that it held given back.
    // spec: D-4.9-12, D-4.9-14, X-2-20, X-2-62
    pub(crate) fn invalidate(
        &mut self,
        id: LeaseId,
        end: End<'_>,
        out: &mut Vec<Action>,
    ) -> Option<Lease> {
        let lease = self.leases.remove(id, &mut self.deadlines)?;
        let stream = self.streams.get_mut(&lease.stream);
        if let Some(stream) = stream {
            match lease.asker.role {
                LeaseRole::Producer => {
                    stream.producer = None;
                    stream.metadata = Metadata::default();
                    stream.producer_qos = None;
                    if std::mem::take(&mut stream.relayed) {
                        out.push(Action::StopRelay {
                            stream: lease.stream,
                        });
                    }
                }
                LeaseRole::Consumer => {
                    stream.consumers.remove(&id);
                }
            }
            stream.idle_since = self.now;
        }
        let text = clip(end.text.to_owned());
        let revoked = ShmLeaseRevoked {
            timestamp_ns: self.now,
            lease_id: id,
            stream_id: lease.stream,
            client_id: lease.asker.client,
            role: lease.asker.role.wire(),
            reason: end.reason,
            error_message: text.clone(),
        };
        let to = To::All {
            aeron: true,
            connections: self.concerned_by_end(&lease),
        };
        send(out, to, LogicalStream::Control, revoked);
        self.free(&lease);
        bump(&mut self.counters.leases_ended, end.label());
        out.push(Action::Note(Note::LeaseEnded {
            lease: id,
            stream: lease.stream,
            client: lease.asker.client,
            role: lease.asker.role.wire(),
            reason: end.reason,
            text,
        }));
        self.update_ways(lease.stream, out);
        Some(lease)
    }

    /// The connections that learn of a lease's end: its own, and for a producer's the consumers'.
    fn concerned_by_end(&self, lease: &Lease) -> Vec<ConnectionId> {
        let own = lease
            .asker
            .connection()
            .filter(|connection| self.connections.contains(*connection));
        let mut connections: BTreeSet<ConnectionId> = own.into_iter().collect();
        if lease.asker.role == LeaseRole::Producer {
            connections.extend(self.consumer_sockets(lease.stream));
        }
        connections.into_iter().collect()
    }

    fn free(&mut self, lease: &Lease) {
        if let Some(connection) = lease.asker.connection()
            && let Some(connection) = self.connections.get_mut(connection)
        {
            connection.leases.remove(&lease.id);
        }
        if let Some(node) = lease.asker.node {
            self.node_ids.give_back(self.now, node);
        }
        self.own_ranges.give_back(lease.own);
    }

    /// After the end of a lease: a producer's takes its epoch with it.
    // spec: D-6-1, D-4.7a-2, D-4.9-13, GC-2
    pub(crate) fn settle(&mut self, ended: &Lease, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&ended.stream) else {
            return;
        };
        match ended.asker.role {
            LeaseRole::Producer => {
                let phase = std::mem::replace(&mut stream.phase, Phase::Absent);
                debug_assert!(
                    matches!(phase, Phase::Ready(_)),
                    "a producer lease lives on an announced epoch only"
                );
                let cause = EpochCause::ProducerEnded;
                self.raise(ended.stream, cause, Vec::new(), None, out);
            }
            LeaseRole::Consumer => self.collect(ended.stream, out),
        }
    }

    /// Starts and ends what depends on who is on which way: the relay of descriptors (socket producer
    /// with consumers on Aeron), and the held subscription (Aeron producer with consumers on sockets).
    // spec: X-1-6, X-2-58
    pub(crate) fn update_ways(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let has_socket_consumer = stream.consumers.values().any(Option::is_some);
        // Nobody else on Aeron could map what descriptors name.
        let has_aeron_consumer = stream.consumers.values().any(Option::is_none);
        let producer = stream
            .producer
            .and_then(|lease| self.leases.get(lease))
            .map(|lease| (lease.asker.connection().is_some(), lease.epoch));
        let relay = match producer {
            Some((true, epoch)) if has_aeron_consumer => Some(epoch),
            Some(_) | None => None,
        };
        let hold = matches!(producer, Some((false, _))) && has_socket_consumer;
        if relay.is_some() != stream.relayed {
            stream.relayed = relay.is_some();
            out.push(match relay {
                Some(epoch) => Action::StartRelay {
                    key: EpochKey { stream: id, epoch },
                },
                None => Action::StopRelay { stream: id },
            });
        }
        if hold != stream.held {
            stream.held = hold;
            out.push(if hold {
                Action::HoldDescriptors { stream: id }
            } else {
                Action::ReleaseDescriptors { stream: id }
            });
        }
    }

    /// The connections of a stream's consumers, each once, in ascending order.
    pub(crate) fn consumer_sockets(&self, id: StreamId) -> Vec<ConnectionId> {
        let consumers = self.streams.get(&id).map(|stream| &stream.consumers);
        let consumers = consumers.into_iter().flat_map(|all| all.values());
        let mut sockets: Vec<ConnectionId> = consumers.filter_map(|socket| *socket).collect();
        sockets.sort_unstable();
        sockets.dedup();
        sockets
    }

    /// The connection of a stream's producer, if it is on a socket.
    pub(crate) fn producer_socket(&self, id: StreamId) -> Option<ConnectionId> {
        let lease = self.streams.get(&id)?.producer?;
        self.leases.get(lease)?.asker.connection()
    }
}

/// Whether a message names exactly this lease. The stream id of the request counts as well: who asked
/// for a dynamic stream may go on with what it asked for (B-14).
// spec: D-4.9-11
pub(crate) fn names_lease(
    lease: &Lease,
    stream: StreamId,
    client: tensorpool_wire::ClientId,
    role: tensorpool_wire::Role,
) -> bool {
    (stream == lease.stream || stream == lease.asker.requested)
        && client == lease.asker.client
        && role == lease.asker.role.wire()
}

/// Whether a message from `origin` may speak for a lease granted to `owner`: a socket lease is bound
/// to its connection, an Aeron lease to its fields alone.
// spec: X-2-17
pub(crate) fn same_world(owner: Origin, origin: Origin) -> bool {
    match (owner, origin) {
        (Origin::Aeron { .. }, Origin::Aeron { .. }) => true,
        (Origin::Socket { connection }, Origin::Socket { connection: other }) => {
            connection == other
        }
        (Origin::Aeron { .. }, Origin::Socket { .. })
        | (Origin::Socket { .. }, Origin::Aeron { .. }) => false,
    }
}
