//! Discovery, embedded: which streams are announced right now, by id, producer, name and tags.
//!
//! An answer is a snapshot and grants nothing (DI-3-1). Its entries are the driver's own announced
//! epochs, so the newest epoch is the only one there is and an entry that is not announced any more is
//! gone. A socket also names configured streams without an epoch: with a name alone a first producer
//! could not ask for its stream otherwise (X-2-41).

use std::collections::BTreeSet;

use tensorpool_wire::{
    ClientId, DiscoveryRequest, DiscoveryResponse, DiscoveryResult, DiscoveryStatus, Epoch,
    LogicalStream, Origin, StreamId,
};

use crate::access::{Access, Visible};
use crate::action::{Action, To};
use crate::counters::{DropReason, bump};
use crate::driver::{Driver, send};
use crate::layout::{HEADER_SLOT_BYTES, LAYOUT_VERSION};
use crate::stream::{Place, Stream};

/// Dimensions that a TensorHeader has (DI-5.2-4).
const MAX_DIMS: u8 = 8;
/// Control channel and stream id in answers on a socket (X-2-41).
const SOCKET_ENDPOINT: (&str, u32) = ("socket", 1);

/// What a request wants to see.
struct Wanted<'a> {
    request: &'a DiscoveryRequest,
    tags: BTreeSet<&'a str>,
}

impl Driver {
    // spec: DI-3-1, DI-4.3-1, DI-5.2-1, DI-8-1, X-2-40
    pub(crate) fn on_discovery(
        &mut self,
        origin: Origin,
        request: DiscoveryRequest,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let to = match origin {
            Origin::Socket { .. } => To::Origin(origin),
            Origin::Aeron { .. } => endpoint(&request)?,
        };
        let is_socket = matches!(origin, Origin::Socket { .. });
        let response = if !is_socket && request.response_stream_id == 0 {
            // spec: DI-5.1-3
            error(request.request_id, "invalid response_stream_id".to_owned())
        } else {
            self.find(origin, &request)
        };
        let label = match response.status {
            DiscoveryStatus::Ok => "ok",
            DiscoveryStatus::NotFound => "not_found",
            DiscoveryStatus::Error | DiscoveryStatus::Unknown(_) => "error",
        };
        bump(&mut self.counters.discoveries, label);
        send(out, to, LogicalStream::Discovery, response);
        Ok(())
    }

    fn find(&self, origin: Origin, request: &DiscoveryRequest) -> DiscoveryResponse {
        let wanted = Wanted {
            request,
            // spec: DI-5.1-5, duplicates count once
            tags: request.tags.iter().map(String::as_str).collect(),
        };
        let access = match origin {
            Origin::Aeron { .. } => None,
            Origin::Socket { connection } => self
                .connections
                .get(connection)
                .map(|connection| &connection.access),
        };
        // spec: DI-12-1, X-2-51
        let limited = access.is_some_and(|access| access.visible != Visible::All);
        let on_socket = access.is_some();
        let candidates: Box<dyn Iterator<Item = (&StreamId, &Stream)>> = match request.stream_id {
            Some(id) => Box::new(self.streams.range(id..=id)),
            None => Box::new(self.streams.iter()),
        };
        let matching: Vec<(StreamId, &Stream)> = candidates
            .filter(|(id, stream)| match access {
                Some(access) => access.sees(**id),
                None => stream.on_aeron,
            })
            // spec: DI-6.2-1, DI-6.3-1, on Aeron what is not announced now is not there. A socket also
            // names configured streams before their first epoch (X-2-41).
            .filter(|(_, stream)| {
                stream.current().is_some() || on_socket && !stream.name.is_empty()
            })
            .filter(|(id, stream)| self.matches(&wanted, **id, stream, on_socket))
            .map(|(id, stream)| (*id, stream))
            .collect();
        // spec: DI-5.2-5
        let limit = self.config.limits.discovery_results;
        if matching.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            return too_many(request.request_id, matching.len(), limit, "results");
        }
        let results: Vec<DiscoveryResult> = matching
            .into_iter()
            .map(|(id, stream)| self.result(id, stream, access))
            .collect();
        // spec: DI-5.2-6
        let status = if results.is_empty() && limited {
            DiscoveryStatus::NotFound
        } else {
            DiscoveryStatus::Ok
        };
        let response = DiscoveryResponse {
            request_id: request.request_id,
            status,
            results,
            error_message: String::new(),
        };
        // spec: X-2-42
        let limit = self.config.limits.discovery_bytes;
        let bytes = response.encoded_len();
        if bytes > usize::try_from(limit).unwrap_or(usize::MAX) {
            return too_many(request.request_id, bytes, limit, "bytes");
        }
        response
    }

    /// Every filter that is given must match; a null or empty one is not given.
    // spec: DI-5.1-1, DI-5.1-4, DI-5.1-5
    fn matches(&self, wanted: &Wanted<'_>, id: StreamId, stream: &Stream, on_socket: bool) -> bool {
        let request = wanted.request;
        let name = &request.data_source_name;
        let base = on_socket.then(|| self.base_tag(stream)).flatten();
        let has_tag =
            |tag: &str| stream.tags.iter().any(|have| have == tag) || base.as_deref() == Some(tag);
        request.stream_id.is_none_or(|wanted| wanted == id)
            && request
                .producer_id
                .is_none_or(|wanted| wanted == self.producer_of(stream))
            && request
                .data_source_id
                .is_none_or(|wanted| stream.data_source_id == Some(wanted))
            && (name.is_empty() || is_named(stream, name, on_socket))
            && wanted.tags.iter().all(|tag| has_tag(tag))
    }

    // spec: DI-5.2-2, DI-5.2-3, DI-5.2-4, DI-6.1-1, DI-6.4-1, X-2-41
    fn result(&self, id: StreamId, stream: &Stream, access: Option<&Access>) -> DiscoveryResult {
        let on_socket = access.is_some();
        let current = stream.current();
        let uris = current.map(|current| &current.uris);
        let identity = &self.config.identity;
        let (channel, stream_id) = if on_socket {
            SOCKET_ENDPOINT
        } else {
            (
                identity.control_channel.as_str(),
                identity.control_stream_id,
            )
        };
        let base = on_socket.then(|| self.base_tag(stream)).flatten();
        DiscoveryResult {
            stream_id: id,
            producer_id: self.producer_of(stream),
            epoch: current.map_or(Epoch(0), |current| current.epoch),
            layout_version: LAYOUT_VERSION,
            header_nslots: uris.map_or(0, |uris| uris.nslots),
            header_slot_bytes: HEADER_SLOT_BYTES,
            max_dims: MAX_DIMS,
            data_source_id: stream.data_source_id,
            driver_control_stream_id: stream_id,
            payload_pools: uris.map_or_else(Vec::new, |uris| uris.pools.clone()),
            tags: base
                .into_iter()
                .chain(access.into_iter().flat_map(aeron_tags))
                .chain(stream.tags.iter().cloned())
                .collect(),
            header_region_uri: uris.map_or_else(String::new, |uris| uris.header.clone()),
            data_source_name: data_source_name(stream, on_socket).to_owned(),
            driver_instance_id: identity.instance_id.clone(),
            driver_control_channel: channel.to_owned(),
        }
    }

    /// Tells a socket client below which directory the announced paths lie, so that it can rebase
    /// them onto its own mount.
    fn base_tag(&self, stream: &Stream) -> Option<String> {
        let base = match (stream.current(), &stream.place) {
            (Some(current), _) => current.base,
            (None, Place::On(base)) => *base,
            (None, Place::Nowhere(_)) => return None,
        };
        Some(format!(
            "base={}",
            self.config.identity.base(base).directory
        ))
    }

    fn producer_of(&self, stream: &Stream) -> ClientId {
        stream
            .producer
            .and_then(|lease| self.leases.get(lease))
            .map_or(ClientId(0), |lease| lease.asker.client)
    }
}

/// Tells a client that may use Aeron with which client ids, and where.
// spec: X-2-75
fn aeron_tags(access: &Access) -> impl Iterator<Item = String> + use<> {
    let place = access.aeron.as_ref().map(|place| {
        [
            format!("client_ids={}", place.clients),
            format!("aeron_dir={}", place.directory),
        ]
    });
    place.into_iter().flatten()
}

/// A socket finds a stream by its full name as well; names of two namespaces may be equal.
fn is_named(stream: &Stream, name: &str, on_socket: bool) -> bool {
    name == data_source_name(stream, on_socket)
        || on_socket
            && name
                .strip_suffix(stream.name.as_str())
                .is_some_and(|before| {
                    !stream.namespace.is_empty()
                        && before.strip_suffix('/') == Some(stream.namespace.as_str())
                })
}

/// On a socket the configured name; on Aeron the one that the producer announced, if it did.
fn data_source_name(stream: &Stream, on_socket: bool) -> &str {
    let announced = stream.metadata.announce.as_ref();
    match announced {
        Some(announce) if !announce.name.is_empty() && (!on_socket || stream.name.is_empty()) => {
            &announce.name
        }
        Some(_) | None => &stream.name,
    }
}

/// Where an answer on Aeron goes: only there where the request says.
// spec: DI-5.1-2, DI-5.1-3
fn endpoint(request: &DiscoveryRequest) -> Result<To, DropReason> {
    if request.response_channel.is_empty() {
        return Err(DropReason::NoEndpoint);
    }
    let stream_id =
        i32::try_from(request.response_stream_id).map_err(|_| DropReason::NoEndpoint)?;
    Ok(To::Endpoint {
        channel: request.response_channel.clone(),
        stream_id,
    })
}

// spec: DI-5.2-7
const fn error(request_id: u64, error_message: String) -> DiscoveryResponse {
    DiscoveryResponse {
        request_id,
        status: DiscoveryStatus::Error,
        results: Vec::new(),
        error_message,
    }
}

fn too_many(request_id: u64, count: usize, limit: u32, unit: &str) -> DiscoveryResponse {
    error(
        request_id,
        format!("result limit exceeded: {count} {unit}, the limit is {limit}"),
    )
}
