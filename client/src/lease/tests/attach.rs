//! Asking for a lease, and what answers do.

use super::*;

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

// spec: X-2-73
#[test]
fn where_only_some_client_ids_count_one_of_them_is_chosen_and_another_when_it_is_taken() {
    let ids = |first| Some(ClientIds::new(first, first + 255).expect("a range"));
    let mut lab = Lab::new(LeaseRole::Consumer);
    lab.machine.set_client_ids(ids(1_792));
    let (mut lab, request) = lab.linked();
    assert!((1_792..=2_047).contains(&request.client_id.get()));
    lab.hear(refused(
        &request,
        ResponseCode::Rejected,
        "client_id already attached",
    ));
    lab.machine.set_client_ids(ids(1_792));
    let again = sent_attach(&lab.run_until_action());
    assert!((1_792..=2_047).contains(&again.client_id.get()));
    assert_ne!(again.client_id, request.client_id);

    let mut fixed = LeaseOptions::new(STREAM, LeaseRole::Consumer);
    fixed.client_id = Some(ClientId(5));
    let mut lab = Lab::with(fixed);
    lab.machine.set_client_ids(ids(1_792));
    assert_eq!(lab.linked().1.client_id, ClientId(5), "its own choice");
}

// spec: X-2-73
#[test]
fn an_id_that_counts_on_aeron_only_is_not_tried_again_on_a_socket() {
    let (mut lab, request) = Lab::new(LeaseRole::Consumer).linked();
    let text = "client_id 7 was given to a volume with `transport: aeron` and counts on Aeron only: take another one";
    lab.hear(refused(&request, ResponseCode::Rejected, text));
    let again = sent_attach(&lab.run_until_action());
    assert_ne!(again.client_id, request.client_id);
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
