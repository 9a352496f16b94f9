mod attach;
mod driver;
mod end;
mod keepalive;

use tensorpool_wire::{
    ClientId, CorrelationId, Epoch, LeaseId, LeaseRevokeReason, Message, MonoNanos, NodeId,
    PayloadPool, PoolId, ResponseCode, Role, ShmAttachRequest, ShmAttachResponse,
    ShmDetachResponse, ShmDriverShutdown, ShmLeaseRevoked, ShutdownReason, StreamId,
};

use super::*;

const STREAM: StreamId = StreamId(10_000);
const MS: u64 = 1_000_000;
const SEC: u64 = 1_000 * MS;

/// A machine with a clock, and everything that it asked for in the last step.
struct Lab {
    machine: LeaseMachine,
    now: MonoNanos,
    out: Vec<LeaseAction>,
}

impl Lab {
    fn new(role: LeaseRole) -> Self {
        Self::with(LeaseOptions::new(STREAM, role))
    }

    fn with(options: LeaseOptions) -> Self {
        Self {
            machine: LeaseMachine::new(options, 7),
            now: MonoNanos(SEC),
            out: Vec::new(),
        }
    }

    fn at(&mut self, nanos: u64) -> &mut Self {
        self.now = MonoNanos(nanos);
        self
    }

    fn on(&mut self, event: LeaseEvent<'_>) -> &[LeaseAction] {
        self.out.clear();
        self.machine.handle(self.now, event, &mut self.out);
        &self.out
    }

    fn hear(&mut self, message: impl Into<Message>) -> &[LeaseAction] {
        let message = message.into();
        self.on(LeaseEvent::Received(&message))
    }

    /// Ticks at every deadline until something is asked for, and says what.
    fn run_until_action(&mut self) -> Vec<LeaseAction> {
        for _ in 0..1_000 {
            if let Some(at) = self.machine.next_deadline() {
                self.now = self.now.max(at);
            }
            if !self.on(LeaseEvent::Tick).is_empty() {
                return self.out.clone();
            }
        }
        panic!("nothing was asked for, state {}", self.machine.state());
    }

    fn linked(mut self) -> (Self, ShmAttachRequest) {
        assert_eq!(self.on(LeaseEvent::Tick), [LeaseAction::Connect]);
        let request = sent_attach(self.on(LeaseEvent::LinkUp));
        (self, request)
    }

    fn mapping(self) -> Self {
        let (mut lab, request) = self.linked();
        let answer = granted(&request, lab.now);
        match lab.hear(answer) {
            [LeaseAction::Map(_)] => lab,
            other => panic!("{other:?}"),
        }
    }

    fn attached(self) -> Self {
        let mut lab = self.mapping();
        assert_eq!(lab.on(LeaseEvent::Mapped { lease: LeaseId(42) }), []);
        assert_eq!(lab.machine.state(), "attached");
        lab
    }
}

fn sent_attach(actions: &[LeaseAction]) -> ShmAttachRequest {
    match actions {
        [LeaseAction::Send(Message::ShmAttachRequest(request))] => request.clone(),
        other => panic!("an attach was expected, not {other:?}"),
    }
}

fn granted(request: &ShmAttachRequest, now: MonoNanos) -> ShmAttachResponse {
    ShmAttachResponse {
        correlation_id: request.correlation_id,
        code: ResponseCode::Ok,
        lease_id: Some(LeaseId(42)),
        lease_expiry_timestamp_ns: Some(now.saturating_add(3 * SEC)),
        stream_id: Some(STREAM),
        epoch: Some(Epoch(9)),
        layout_version: Some(1),
        header_nslots: Some(64),
        header_slot_bytes: Some(256),
        node_id: Some(NodeId(3)),
        payload_pools: vec![PayloadPool {
            pool_id: PoolId(1),
            pool_nslots: 64,
            stride_bytes: 4_096,
            region_uri: "shm:file?path=/dev/shm/x/1.pool".into(),
        }],
        header_region_uri: "shm:file?path=/dev/shm/x/header.ring".into(),
        error_message: String::new(),
    }
}

fn refused(request: &ShmAttachRequest, code: ResponseCode, text: &str) -> ShmAttachResponse {
    ShmAttachResponse {
        code,
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
        ..granted(request, MonoNanos(0))
    }
}

fn revoked(lab: &Lab, reason: LeaseRevokeReason) -> ShmLeaseRevoked {
    let grant = lab.machine.grant().expect("attached");
    ShmLeaseRevoked {
        timestamp_ns: lab.now,
        lease_id: grant.lease,
        stream_id: grant.stream,
        client_id: grant.client,
        role: grant.role.to_wire(),
        reason,
        error_message: "words".into(),
    }
}
