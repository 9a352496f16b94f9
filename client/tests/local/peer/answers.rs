//! What the peer answers to discovery and attach.

use tensorpool_shm::Access;
use tensorpool_transport::port::{Coalesce, Outbound};
use tensorpool_wire::{
    ClientId, ConnectionId, DiscoveryRequest, DiscoveryResponse, DiscoveryResult, DiscoveryStatus,
    LeaseId, LogicalStream, Message, ResponseCode, Role, ShmAttachRequest, ShmAttachResponse,
};

use super::{Lease, NAME, NSLOTS, STREAM, State, now};

impl State {
    pub(super) fn on_discovery(&mut self, from: ConnectionId, request: &DiscoveryRequest) {
        let is_it = request.data_source_name == NAME || request.stream_id == Some(STREAM);
        let mut results = Vec::new();
        if is_it {
            if self.current.is_none() {
                self.bump();
            }
            results.push(DiscoveryResult {
                stream_id: STREAM,
                producer_id: ClientId(0),
                epoch: self.current.as_ref().unwrap().layout().epoch(),
                layout_version: 1,
                header_nslots: NSLOTS,
                header_slot_bytes: 256,
                max_dims: 8,
                data_source_id: None,
                driver_control_stream_id: 1,
                payload_pools: self.pools(),
                tags: vec![format!("base={}", self.base.display())],
                header_region_uri: self.header_uri(),
                data_source_name: NAME.into(),
                driver_instance_id: "peer".into(),
                driver_control_channel: "socket".into(),
            });
        }
        let mut response = DiscoveryResponse {
            request_id: request.request_id,
            status: DiscoveryStatus::Ok,
            results,
            error_message: String::new(),
        };
        if let Some(spoil) = self.spoil_discovery {
            spoil(&mut response);
        }
        self.send(from, LogicalStream::Discovery, response);
    }

    pub(super) fn on_attach(&mut self, from: ConnectionId, request: &ShmAttachRequest) {
        let is_taken = request.role == Role::Producer && self.lease_of(Role::Producer).is_some();
        if is_taken {
            self.refuse(from, request, "producer already attached");
            return;
        }
        if request.role == Role::Producer || self.current.is_none() {
            self.bump();
        }
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let current = self.current.as_ref().unwrap();
        let mut response = ShmAttachResponse {
            correlation_id: request.correlation_id,
            code: ResponseCode::Ok,
            lease_id: Some(lease),
            lease_expiry_timestamp_ns: Some(now().saturating_add(self.grant_ns)),
            stream_id: Some(STREAM),
            epoch: Some(current.layout().epoch()),
            layout_version: Some(1),
            header_nslots: Some(NSLOTS),
            header_slot_bytes: Some(256),
            node_id: None,
            payload_pools: self.pools(),
            header_region_uri: self.header_uri(),
            error_message: String::new(),
        };
        if let Some(spoil) = self.spoil {
            spoil(&mut response);
        }
        let files = if request.role == Role::Producer && !self.is_shared() {
            current.open(Access::ReadWrite).unwrap()
        } else {
            Vec::new()
        };
        let fds: Vec<_> = files.iter().map(std::os::fd::AsFd::as_fd).collect();
        let bytes = Message::from(response).encode();
        let to = self.address(from);
        let server = self.server.as_mut().unwrap();
        server.mark_attached(from);
        let outbound = Outbound {
            to,
            stream: LogicalStream::Control,
            bytes: &bytes,
            coalesce: Coalesce::Never,
            fds: &fds,
        };
        server.send(&outbound).unwrap();
        let (client, role) = (request.client_id, request.role);
        self.leases.insert(
            lease,
            Lease {
                connection: from,
                client,
                role,
            },
        );
    }

    fn refuse(&mut self, to: ConnectionId, request: &ShmAttachRequest, text: &str) {
        let response = ShmAttachResponse {
            correlation_id: request.correlation_id,
            code: ResponseCode::Rejected,
            lease_id: None,
            lease_expiry_timestamp_ns: None,
            stream_id: None,
            epoch: None,
            layout_version: None,
            header_nslots: None,
            header_slot_bytes: None,
            node_id: None,
            payload_pools: Vec::new(),
            header_region_uri: String::new(),
            error_message: text.into(),
        };
        self.send(to, LogicalStream::Control, response);
    }
}
