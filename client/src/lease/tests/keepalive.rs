//! Holding a lease.

use super::*;

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
