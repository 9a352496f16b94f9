//! Drivers that stop, and that are lost and come back.

use super::*;

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
