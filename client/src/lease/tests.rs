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

// spec: D-4.2-1, D-B.1-1, D-B.2-1, D-4.8-1
#[test]
fn the_first_attach_has_a_random_correlation_and_a_client_id_that_is_not_zero() {
    let (_, first) = Lab::new(LeaseRole::Consumer).linked();
    assert!(first.correlation_id.get() > 0);
    assert!((1..=0x7FFF_FFFF).contains(&first.client_id.get()));
    assert_eq!(first.role, Role::Consumer);

    let mut zero = LeaseOptions::new(STREAM, LeaseRole::Consumer);
    zero.client_id = Some(ClientId(0));
    let (_, request) = Lab::with(zero).linked();
    assert_ne!(request.client_id, ClientId(0));

    let other = LeaseMachine::new(LeaseOptions::new(STREAM, LeaseRole::Consumer), 8);
    assert_ne!(
        other.next_correlation,
        first.correlation_id.get(),
        "another seed, another start"
    );
}

#[test]
fn one_seed_makes_one_transcript() {
    let run = || {
        let (lab, request) = Lab::new(LeaseRole::Producer).linked();
        (request, lab.machine.next_deadline())
    };
    assert_eq!(run(), run());
}

// spec: D-4.2-2, D-4.8-2
#[test]
fn an_unanswered_attach_is_sent_again_unchanged_and_then_reported() {
    let (mut lab, request) = Lab::new(LeaseRole::Producer).linked();
    let started = lab.now;
    let mut sent = 0;
    let failure = loop {
        match lab.run_until_action().as_slice() {
            [LeaseAction::Send(Message::ShmAttachRequest(again))] => {
                assert_eq!(*again, request);
                sent += 1;
            }
            [LeaseAction::Failed(failure)] => break failure.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(sent, 9, "every 500 ms within 5 s");
    assert_eq!(lab.now, started.saturating_add(5 * SEC));
    assert_eq!(
        failure,
        AttachFailure::TimedOut {
            timeout_ns: 5 * SEC
        }
    );
    assert_eq!(failure.retry(), Retry::Backoff);
    // The next attempt is the same request: never two at once for one stream and role.
    let again = sent_attach(&lab.run_until_action());
    assert_eq!(again, request);
}

#[test]
fn an_answer_that_comes_during_backoff_is_still_taken() {
    let (mut lab, request) = Lab::new(LeaseRole::Producer).linked();
    while !matches!(lab.run_until_action().as_slice(), [LeaseAction::Failed(_)]) {}
    let answer = granted(&request, lab.now);
    assert!(matches!(lab.hear(answer), [LeaseAction::Map(_)]));
}

// spec: D-4.2-1
#[test]
fn an_answer_to_somebody_else_is_ignored_whatever_it_says() {
    let (mut lab, request) = Lab::new(LeaseRole::Consumer).linked();
    let mut other = granted(&request, lab.now);
    other.correlation_id = CorrelationId(request.correlation_id.get() ^ 1);
    assert_eq!(lab.hear(other.clone()), []);
    other.code = ResponseCode::Rejected;
    assert_eq!(lab.hear(other), []);
    assert_eq!(lab.machine.state(), "attaching");
}

// spec: D-B.1-2
#[test]
fn a_second_answer_changes_nothing() {
    let (mut lab, request) = Lab::new(LeaseRole::Consumer).linked();
    let answer = granted(&request, lab.now);
    lab.hear(answer.clone());
    lab.on(LeaseEvent::Mapped { lease: LeaseId(42) });
    let refusal = refused(&request, ResponseCode::Rejected, "too late");
    assert_eq!(lab.hear(answer), []);
    assert_eq!(lab.hear(refusal), []);
    assert_eq!(lab.machine.state(), "attached");
}

// spec: D-4.2-3, D-4.2-4, D-4.2-5, D-4.2-6, D-4.7a-1
#[test]
fn an_ok_with_anything_missing_or_wrong_gives_the_lease_back_and_backs_off() {
    type Spoil = fn(&mut ShmAttachResponse);
    let cases: [(&str, Spoil); 15] = [
        ("stream", |r| r.stream_id = None),
        ("epoch", |r| r.epoch = None),
        ("layout", |r| r.layout_version = None),
        ("nslots", |r| r.header_nslots = None),
        ("slot bytes", |r| r.header_slot_bytes = None),
        ("blank header uri", |r| r.header_region_uri = "  ".into()),
        ("blank pool uri", |r| {
            r.payload_pools[0].region_uri = String::new()
        }),
        ("no pools", |r| r.payload_pools.clear()),
        ("slot bytes 128", |r| r.header_slot_bytes = Some(128)),
        ("pool nslots", |r| r.payload_pools[0].pool_nslots = 32),
        ("ring of 65", |r| {
            r.header_nslots = Some(65);
            r.payload_pools[0].pool_nslots = 65;
        }),
        ("layout 2", |r| r.layout_version = Some(2)),
        ("stride 100", |r| r.payload_pools[0].stride_bytes = 100),
        ("pool twice", |r| {
            r.payload_pools.push(r.payload_pools[0].clone())
        }),
        ("expired", |r| {
            r.lease_expiry_timestamp_ns = Some(MonoNanos(1))
        }),
    ];
    for (name, spoil) in cases {
        let (mut lab, request) = Lab::new(LeaseRole::Consumer).linked();
        let mut answer = granted(&request, lab.now);
        spoil(&mut answer);
        match lab.hear(answer) {
            [
                LeaseAction::Send(Message::ShmDetachRequest(detach)),
                LeaseAction::Failed(AttachFailure::Malformed(_)),
            ] => {
                assert_eq!(detach.lease_id, LeaseId(42), "{name}");
                assert_eq!(detach.client_id, request.client_id, "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(lab.machine.state(), "backoff", "{name}");
        let next = sent_attach(&lab.run_until_action());
        assert_ne!(next.correlation_id, request.correlation_id, "{name}");
    }
}

// spec: D-4.2-3
#[test]
fn an_ok_without_a_lease_id_backs_off_without_a_detach() {
    let (mut lab, request) = Lab::new(LeaseRole::Consumer).linked();
    let mut answer = granted(&request, lab.now);
    answer.lease_id = None;
    assert_eq!(
        lab.hear(answer),
        [LeaseAction::Failed(AttachFailure::Malformed(
            GrantError::Missing { field: "leaseId" }
        ))]
    );
}

// spec: D-B.2-2, D-4.8-1
#[test]
fn a_taken_client_id_is_replaced_where_it_was_chosen_and_kept_where_it_was_given() {
    let (mut lab, request) = Lab::new(LeaseRole::Consumer).linked();
    let refusal = refused(
        &request,
        ResponseCode::Rejected,
        "client_id already attached",
    );
    lab.hear(refusal);
    let again = sent_attach(&lab.run_until_action());
    assert_ne!(again.client_id, request.client_id);
    assert_ne!(again.correlation_id, request.correlation_id);

    let mut fixed = LeaseOptions::new(STREAM, LeaseRole::Consumer);
    fixed.client_id = Some(ClientId(77));
    let (mut lab, request) = Lab::with(fixed).linked();
    let refusal = refused(
        &request,
        ResponseCode::Rejected,
        "client_id already attached",
    );
    lab.hear(refusal);
    assert_eq!(sent_attach(&lab.run_until_action()).client_id, ClientId(77));
}

// spec: W-15.17-1
#[test]
fn refusals_say_whether_asking_again_helps() {
    let failure = |code, text: &str| AttachFailure::Refused {
        code,
        text: text.into(),
    };
    assert_eq!(failure(ResponseCode::Unsupported, "").retry(), Retry::Never);
    assert_eq!(
        failure(ResponseCode::InvalidParams, "").retry(),
        Retry::Never
    );
    assert_eq!(
        failure(ResponseCode::InternalError, "").retry(),
        Retry::Backoff
    );
    assert_eq!(
        failure(ResponseCode::Rejected, "stream not provisioned").retry(),
        Retry::AwaitChange
    );
    assert_eq!(
        failure(ResponseCode::Rejected, "producer already attached").retry(),
        Retry::Backoff
    );
    assert_eq!(
        failure(ResponseCode::Rejected, "driver draining").retry(),
        Retry::Backoff
    );
}

// spec: D-4.2-2
#[test]
fn backoff_doubles_from_100_ms_to_3_s_and_is_never_the_same_for_two_seeds() {
    let delays = |seed| {
        let mut lab = Lab::new(LeaseRole::Consumer);
        lab.machine = LeaseMachine::new(LeaseOptions::new(STREAM, LeaseRole::Consumer), seed);
        let (mut lab, mut request) = lab.linked();
        let mut delays = Vec::new();
        for _ in 0..8 {
            let refusal = refused(&request, ResponseCode::Rejected, "no");
            lab.hear(refusal);
            let before = lab.now;
            request = sent_attach(&lab.run_until_action());
            delays.push(lab.now.saturating_since(before));
        }
        delays
    };
    let first = delays(1);
    for (attempt, delay) in first.iter().enumerate() {
        let full = ((100 * MS) << attempt).min(3 * SEC);
        assert!(
            (full / 2..=full).contains(delay),
            "attempt {attempt}: {delay}"
        );
    }
    assert_ne!(first, delays(2));
}

// spec: D-4.4-1, D-4.2-7
#[test]
fn keepalives_go_out_every_second_and_each_one_sent_moves_the_deadline() {
    let mut lab = Lab::new(LeaseRole::Producer).attached();
    assert_eq!(lab.machine.lease_deadline(), Some(MonoNanos(4 * SEC)));
    for second in 2..=6 {
        match lab.run_until_action().as_slice() {
            [LeaseAction::SendKeepalive(keepalive)] => {
                assert_eq!(keepalive.lease_id, LeaseId(42));
                assert_eq!(keepalive.client_timestamp_ns, MonoNanos(second * SEC));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(lab.on(LeaseEvent::KeepaliveSent), []);
        assert_eq!(
            lab.machine.lease_deadline(),
            Some(MonoNanos((second + 3) * SEC))
        );
    }
}

// spec: D-4.4-1
#[test]
fn a_short_grant_makes_the_keepalives_as_short() {
    let (mut lab, request) = Lab::new(LeaseRole::Producer).linked();
    let mut answer = granted(&request, lab.now);
    answer.lease_expiry_timestamp_ns = Some(lab.now.saturating_add(300 * MS));
    lab.hear(answer);
    lab.on(LeaseEvent::Mapped { lease: LeaseId(42) });
    let before = lab.now;
    assert!(matches!(
        lab.run_until_action().as_slice(),
        [LeaseAction::SendKeepalive(_)]
    ));
    assert_eq!(lab.now.saturating_since(before), 100 * MS);
}

// spec: D-4.2-7
#[test]
fn without_a_keepalive_sent_the_lease_ends_at_its_deadline() {
    let mut lab = Lab::new(LeaseRole::Producer).attached();
    loop {
        match lab.run_until_action().as_slice() {
            [LeaseAction::SendKeepalive(_)] => {
                lab.on(LeaseEvent::KeepaliveFailed { lasting: false });
            }
            [
                LeaseAction::StopUsing(LeaseEnd::DeadlinePassed),
                LeaseAction::Send(Message::ShmDetachRequest(_)),
            ] => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lab.now, MonoNanos(4 * SEC + 1));
    assert_eq!(lab.machine.state(), "backoff");
    assert_eq!(lab.machine.usable_lease(), None);
}

#[test]
fn a_stopped_process_finds_its_lease_over_before_it_hears_anything_else() {
    let mut lab = Lab::new(LeaseRole::Producer).attached();
    let late = revoked(&lab, LeaseRevokeReason::Expired);
    lab.at(60 * SEC);
    assert!(matches!(
        lab.hear(late),
        [
            LeaseAction::StopUsing(LeaseEnd::DeadlinePassed),
            LeaseAction::Send(_)
        ]
    ));
}

// spec: D-4.4-2
#[test]
fn a_keepalive_that_cannot_be_sent_at_all_ends_the_lease() {
    let mut lab = Lab::new(LeaseRole::Consumer).attached();
    lab.run_until_action();
    assert_eq!(
        lab.on(LeaseEvent::KeepaliveFailed { lasting: true }),
        [LeaseAction::StopUsing(LeaseEnd::KeepaliveFailed)]
    );
    assert_eq!(lab.machine.state(), "backoff");
}

// spec: D-4.7-1, D-4.9-1, D-4.9-10
#[test]
fn a_revocation_of_the_own_lease_stops_all_use_and_attaches_again() {
    for (reason, end) in [
        (LeaseRevokeReason::Detached, LeaseEnd::Detached),
        (
            LeaseRevokeReason::Expired,
            LeaseEnd::Expired {
                text: "words".into(),
            },
        ),
        (
            LeaseRevokeReason::Revoked,
            LeaseEnd::Revoked {
                text: "words".into(),
            },
        ),
    ] {
        let mut lab = Lab::new(LeaseRole::Producer).attached();
        let client = lab.machine.grant().map(|grant| grant.client);
        let message = revoked(&lab, reason);
        assert_eq!(lab.hear(message.clone()), [LeaseAction::StopUsing(end)]);
        // spec: D-4.9-5
        assert_eq!(lab.hear(message), [], "a duplicate is harmless");
        let next = sent_attach(&lab.run_until_action());
        assert_ne!(
            Some(next.client_id),
            client,
            "a new lease has its own client id"
        );
    }
}

// spec: D-4.9-2, D-4.9-3, D-4.9-4
#[test]
fn a_revocation_that_differs_in_any_field_or_is_unknown_leaves_the_lease_alone() {
    type Spoil = fn(&mut ShmLeaseRevoked);
    let cases: [Spoil; 6] = [
        |m| m.lease_id = LeaseId(43),
        |m| m.stream_id = StreamId(1),
        |m| m.client_id = ClientId(m.client_id.get() ^ 1),
        |m| m.role = Role::Producer,
        |m| m.role = Role::Unknown(9),
        |m| m.reason = LeaseRevokeReason::Unknown(9),
    ];
    for spoil in cases {
        let mut lab = Lab::new(LeaseRole::Consumer).attached();
        let mut message = revoked(&lab, LeaseRevokeReason::Revoked);
        spoil(&mut message);
        assert_eq!(lab.hear(message), []);
        assert_eq!(lab.machine.usable_lease(), Some(LeaseId(42)));
    }
}

// spec: D-4.13-5
#[test]
fn a_shutdown_ends_the_lease_at_once_and_attaches_after_backoff() {
    let mut lab = Lab::new(LeaseRole::Consumer).attached();
    let shutdown = ShmDriverShutdown {
        timestamp_ns: lab.now,
        reason: ShutdownReason::Normal,
        error_message: String::new(),
    };
    assert_eq!(
        lab.hear(shutdown),
        [LeaseAction::StopUsing(LeaseEnd::DriverShutdown)]
    );
    sent_attach(&lab.run_until_action());
}

// spec: D-10-1, X-2-25, X-2-26
#[test]
fn a_lost_driver_leaves_the_memory_in_use_until_the_deadline_and_not_longer() {
    let mut lab = Lab::new(LeaseRole::Producer).attached();
    assert_eq!(lab.on(LeaseEvent::LinkDown), []);
    assert_eq!(lab.machine.usable_lease(), Some(LeaseId(42)));
    let mut connects = 0;
    loop {
        match lab.run_until_action().as_slice() {
            [LeaseAction::Connect] => {
                connects += 1;
                lab.on(LeaseEvent::LinkFailed);
            }
            [LeaseAction::StopUsing(LeaseEnd::DriverLost), rest @ ..] => {
                assert!(matches!(rest, [] | [LeaseAction::Connect]));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(connects >= 4, "{connects} attempts in 3 s");
    assert_eq!(lab.now, MonoNanos(4 * SEC + 1));
    assert_eq!(lab.machine.usable_lease(), None);
}

// spec: X-2-26
#[test]
fn a_driver_that_comes_back_in_time_swaps_the_memory_at_its_ok() {
    let mut lab = Lab::new(LeaseRole::Producer).attached();
    let old = lab.machine.grant().map(|grant| grant.client);
    lab.on(LeaseEvent::LinkDown);
    assert_eq!(lab.run_until_action(), [LeaseAction::Connect]);
    let request = sent_attach(lab.on(LeaseEvent::LinkUp));
    assert_ne!(Some(request.client_id), old);
    assert_eq!(
        lab.machine.usable_lease(),
        Some(LeaseId(42)),
        "still the old memory"
    );
    let mut answer = granted(&request, lab.now);
    answer.lease_id = Some(LeaseId(50));
    answer.epoch = Some(Epoch(10));
    assert!(matches!(lab.hear(answer), [LeaseAction::Map(_)]));
    assert_eq!(lab.machine.usable_lease(), Some(LeaseId(42)));
    assert_eq!(
        lab.on(LeaseEvent::Mapped { lease: LeaseId(50) }),
        [],
        "no stop in between"
    );
    assert_eq!(lab.machine.usable_lease(), Some(LeaseId(50)));
}

#[test]
fn reconnect_delays_stay_between_10_ms_and_1_s() {
    let mut lab = Lab::new(LeaseRole::Consumer);
    assert_eq!(lab.on(LeaseEvent::Tick), [LeaseAction::Connect]);
    let mut longest = 0;
    for _ in 0..12 {
        lab.on(LeaseEvent::LinkFailed);
        let before = lab.now;
        assert_eq!(lab.run_until_action(), [LeaseAction::Connect]);
        let delay = lab.now.saturating_since(before);
        assert!((5 * MS..=SEC).contains(&delay), "{delay}");
        longest = longest.max(delay);
    }
    assert!(longest >= SEC / 2);
}

// spec: D-4.13-6, D-6-1
#[test]
fn a_producer_that_sees_its_stream_at_a_higher_epoch_stops() {
    let announce = |epoch, stream| tensorpool_wire::ShmPoolAnnounce {
        stream_id: stream,
        producer_id: ClientId(0),
        epoch: Epoch(epoch),
        announce_timestamp_ns: MonoNanos(SEC),
        announce_clock_domain: tensorpool_wire::ClockDomain::Monotonic,
        layout_version: 1,
        header_nslots: 64,
        header_slot_bytes: 256,
        payload_pools: Vec::new(),
        header_region_uri: String::new(),
    };
    let mut lab = Lab::new(LeaseRole::Producer).attached();
    assert_eq!(lab.hear(announce(9, STREAM)), []);
    assert_eq!(lab.hear(announce(99, StreamId(1))), []);
    assert_eq!(
        lab.hear(announce(10, STREAM)),
        [LeaseAction::StopUsing(LeaseEnd::Superseded)]
    );

    let mut consumer = Lab::new(LeaseRole::Consumer).attached();
    assert_eq!(
        consumer.hear(announce(10, STREAM)),
        [],
        "a consumer keeps its lease and remaps"
    );
}

// spec: W-15.22-6, W-15.13-1
#[test]
fn refused_regions_give_the_lease_back() {
    let mut lab = Lab::new(LeaseRole::Consumer).mapping();
    assert!(matches!(
        lab.on(LeaseEvent::MapFailed { lease: LeaseId(42) }),
        [
            LeaseAction::Send(Message::ShmDetachRequest(_)),
            LeaseAction::Failed(AttachFailure::MapFailed)
        ]
    ));
    assert_eq!(lab.machine.state(), "backoff");
}

#[test]
fn a_mapping_that_is_ready_after_its_lease_ended_is_given_up() {
    let mut lab = Lab::new(LeaseRole::Consumer).mapping();
    let Phase::Mapping(held) = &lab.machine.phase else {
        panic!()
    };
    let message = ShmLeaseRevoked {
        timestamp_ns: lab.now,
        lease_id: held.grant.lease,
        stream_id: held.grant.stream,
        client_id: held.grant.client,
        role: Role::Consumer,
        reason: LeaseRevokeReason::Revoked,
        error_message: String::new(),
    };
    assert_eq!(lab.hear(message), [], "nothing was in use yet");
    assert_eq!(
        lab.on(LeaseEvent::Mapped { lease: LeaseId(42) }),
        [LeaseAction::StopUsing(LeaseEnd::Unusable)]
    );
}

#[test]
fn useless_memory_is_given_up_detached_and_asked_for_anew() {
    let mut lab = Lab::new(LeaseRole::Consumer).attached();
    assert!(matches!(
        lab.on(LeaseEvent::GiveUp(LeaseEnd::Unusable)),
        [
            LeaseAction::StopUsing(LeaseEnd::Unusable),
            LeaseAction::Send(Message::ShmDetachRequest(_))
        ]
    ));
    sent_attach(&lab.run_until_action());
}

// spec: D-4.9-10
#[test]
fn a_detach_stops_the_use_before_it_is_sent_and_ends_with_either_answer_or_time() {
    enum End {
        Response,
        Revocation,
        Time,
    }
    for end in [End::Response, End::Revocation, End::Time] {
        let mut lab = Lab::new(LeaseRole::Producer).attached();
        let revocation = revoked(&lab, LeaseRevokeReason::Detached);
        let correlation = match lab.on(LeaseEvent::Detach) {
            [
                LeaseAction::StopUsing(LeaseEnd::Detached),
                LeaseAction::Send(Message::ShmDetachRequest(detach)),
            ] => detach.correlation_id,
            other => panic!("{other:?}"),
        };
        let response = |id| ShmDetachResponse {
            correlation_id: id,
            code: ResponseCode::Ok,
            error_message: String::new(),
        };
        assert_eq!(
            lab.hear(response(CorrelationId(correlation.get() ^ 1))),
            [],
            "not mine"
        );
        match end {
            End::Response => assert_eq!(lab.hear(response(correlation)), [LeaseAction::Detached]),
            // Both known drivers send this one first: it must not lead to a new attach.
            End::Revocation => assert_eq!(lab.hear(revocation), [LeaseAction::Detached]),
            End::Time => assert_eq!(lab.run_until_action(), [LeaseAction::Detached]),
        }
        assert!(lab.machine.is_done());
        assert_eq!(lab.machine.next_deadline(), None);
    }
}

#[test]
fn a_lease_without_an_expiry_outlives_a_lost_driver_by_one_grace_only() {
    let (mut lab, request) = Lab::new(LeaseRole::Consumer).linked();
    let mut answer = granted(&request, lab.now);
    answer.lease_expiry_timestamp_ns = None;
    lab.hear(answer);
    lab.on(LeaseEvent::Mapped { lease: LeaseId(42) });
    assert_eq!(lab.machine.lease_deadline(), None);
    lab.on(LeaseEvent::LinkDown);
    assert_eq!(
        lab.machine.lease_deadline(),
        Some(lab.now.saturating_add(3 * SEC))
    );
}
