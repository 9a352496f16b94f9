//! The end of the driver: by token, by signal, by handover.

use tensorpool_driver_core::{Event, Lifecycle, ShutdownMode};
use tensorpool_wire::{CorrelationId, MonoNanos, ShmDriverShutdownRequest, ShutdownReason};

use crate::assert_transcript;
use crate::rig::*;

fn request(token: &str) -> ShmDriverShutdownRequest {
    ShmDriverShutdownRequest {
        correlation_id: CorrelationId(1),
        reason: ShutdownReason::Admin,
        token: token.to_owned(),
        error_message: "maintenance".to_owned(),
    }
}

#[test]
// spec: D-4.13-1, D-4.13-2
fn a_request_without_the_right_token_is_ignored_silently() {
    let mut rig = Rig::new();
    for token in ["", "open", "open sesame!", "OPEN SESAME"] {
        assert_eq!(rig.send(aeron(1), request(token)), []);
    }
    assert_eq!(rig.status().lifecycle, Lifecycle::Running);
    assert_eq!(
        rig.drops(),
        [("bad_token ShmDriverShutdownRequest".to_owned(), 4)]
    );
}

#[test]
// spec: D-4.13-2
fn an_empty_configured_token_turns_the_request_off() {
    let mut rig = Rig::with(|spec| spec.shutdown_token.clear());
    assert_eq!(rig.send(aeron(1), request("")), []);
    assert_eq!(rig.status().lifecycle, Lifecycle::Running);
}

#[test]
// spec: D-4.13-3, D-4.13-4, D-4.13-2
fn a_valid_request_drains_announces_once_more_and_ends_with_its_reason_after_the_timeout() {
    let mut rig = Rig::new();
    rig.open(1);
    let held = rig.lease(aeron(1), produce(7));
    rig.lease(socket(1), consume(8));
    rig.epoch_name(held.epoch);
    let actions = rig.send(aeron(1), request("open sesame"));
    assert_transcript!(
        rig,
        actions,
        [
            "refresh 10000/e1",
            "aeron+c1 <- Announce 10000/e1 producer 7"
        ]
    );
    let until = MonoNanos(START + 2 * SECOND);
    assert_eq!(rig.status().lifecycle, Lifecycle::Draining { until });
    // Keepalive and detach are served as before, a second request changes nothing.
    rig.keepalive(&held);
    assert_eq!(rig.send(aeron(1), request("open sesame")), []);
    rig.now += 2 * SECOND - 1;
    let before = rig.tick();
    assert!(!rig.show(&before).contains("stop"));
    rig.now += 1;
    let actions = rig.tick();
    assert_transcript!(
        rig,
        actions,
        [
            "release descriptors 10000",
            "aeron+c1 <- DriverShutdown Admin `maintenance`",
            "stop",
        ]
    );
    assert_eq!(rig.status().lifecycle, Lifecycle::Stopped);
    assert_eq!(rig.driver.next_deadline(), None);
    assert_eq!(rig.tick(), [], "after its last action it does nothing");
}

#[test]
// spec: X-2-28, D-4.13-4
fn a_signal_drains_and_a_second_one_ends_the_drain() {
    let mut rig = Rig::new();
    rig.event(Event::Shutdown(ShutdownMode::Drain));
    let actions = rig.event(Event::Shutdown(ShutdownMode::Drain));
    assert_transcript!(rig, actions, ["aeron <- DriverShutdown Normal ``", "stop"]);
}

#[test]
// spec: X-2-28, X-2-62
fn a_handover_says_nothing_to_anybody() {
    let mut rig = Rig::new();
    rig.open(1);
    rig.lease(socket(1), produce(7));
    rig.lease(aeron(2), consume(8));
    let actions = rig.event(Event::Shutdown(ShutdownMode::Handover));
    assert_transcript!(rig, actions, ["stop relay 10000", "stop"]);
}

#[test]
// spec: D-4.13-3
fn an_attach_that_was_admitted_before_the_drain_is_still_answered() {
    let mut rig = Rig::new();
    let begun = rig.send_raw(aeron(1), produce(7));
    rig.raw(Event::Shutdown(ShutdownMode::Drain));
    rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    let done = rig.raw(Event::RegionsReady {
        op: create_op(&begun),
    });
    assert!(rig.show(&done).contains("AttachResponse #70 Ok"));
}
