//! Ends of a lease that is held.

use super::*;

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

// spec: D-4.9-11
#[test]
fn a_detach_before_the_answer_gives_back_what_the_answer_still_grants() {
    for is_backing_off in [false, true] {
        let (mut lab, request) = Lab::new(LeaseRole::Producer).linked();
        while is_backing_off && lab.machine.state() != "backoff" {
            lab.run_until_action();
        }
        assert_eq!(lab.on(LeaseEvent::Detach), [], "it waits for the answer");
        assert!(!lab.machine.is_done());
        let response = granted(&request, lab.now);
        let detach = match lab.hear(response.clone()) {
            [LeaseAction::Send(Message::ShmDetachRequest(detach))] => detach.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(Some(detach.lease_id), response.lease_id);
        assert_eq!(
            (detach.client_id, detach.role),
            (request.client_id, request.role)
        );
        let done = ShmDetachResponse {
            correlation_id: detach.correlation_id,
            code: ResponseCode::Ok,
            error_message: String::new(),
        };
        assert_eq!(lab.hear(done), [LeaseAction::Detached]);
    }
}

#[test]
fn a_detach_before_the_answer_ends_with_a_refusal_a_lost_driver_or_time() {
    let leaving = || {
        let (mut lab, request) = Lab::new(LeaseRole::Consumer).linked();
        lab.on(LeaseEvent::Detach);
        (lab, request)
    };
    let (mut lab, request) = leaving();
    let refusal = refused(&request, ResponseCode::Rejected, "driver draining");
    assert_eq!(lab.hear(refusal), [LeaseAction::Detached]);
    let (mut lab, _) = leaving();
    assert_eq!(lab.run_until_action(), [LeaseAction::Detached]);
    let (mut lab, _) = leaving();
    lab.on(LeaseEvent::LinkDown);
    assert!(lab.machine.is_done());
    let (mut lab, request) = leaving();
    let mut useless = granted(&request, lab.now);
    useless.epoch = None;
    match lab.hear(useless) {
        [
            LeaseAction::Send(Message::ShmDetachRequest(_)),
            LeaseAction::Detached,
        ] => {}
        other => panic!("{other:?}"),
    }
}
