//! How leases live and end: keepalive, expiry, detach, close, cut-off, stall, restart.

use tensorpool_driver_core::{Action, Event, Note};
use tensorpool_wire::{
    ClientId, ConnectionId, LeaseId, MonoNanos, Role, ShmLeaseKeepalive, StreamId,
};

use crate::assert_transcript;
use crate::rig::*;

#[test]
// spec: D-4.4-3, D-4.4-5
fn each_keepalive_extends_the_expiry_by_interval_times_grace() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), consume(7));
    rig.now += 2 * SECOND;
    assert_eq!(rig.keepalive(&held), []);
    let expiry = rig.status().streams[0].consumers[0].expiry;
    assert_eq!(expiry, MonoNanos(START + 5 * SECOND));
}

#[test]
// spec: D-4.4-4, D-4.9-12
fn a_lease_expires_when_its_expiry_has_passed_and_not_before() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), consume(7));
    let actions = rig.pass(3);
    assert!(
        !rig.show(&actions).contains("Revoked"),
        "at its expiry it is still valid"
    );
    rig.now += 1;
    let actions = rig.tick();
    assert_transcript!(
        rig,
        actions,
        [
            "aeron <- Revoked l1 Consumer of client 7 on 10000 Expired `no keepalive within the grace`"
        ]
    );
    assert_eq!(rig.status().leases, 0);
}

#[test]
// spec: D-4.4-3
fn a_keepalive_that_waited_in_a_queue_counts_before_its_lease_expires() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), consume(7));
    rig.pass(3);
    // The cycle is late; it polls its inputs before it ticks.
    rig.now += SECOND / 2;
    rig.keepalive(&held);
    assert_eq!(rig.tick().len(), 2, "announce and activity only");
    assert_eq!(rig.status().leases, 1);
}

#[test]
// spec: D-4.4-3
fn a_keepalive_with_any_field_that_is_not_the_leases_is_ignored() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), consume(7));
    let wrong = [
        ShmLeaseKeepalive {
            stream_id: LIDAR,
            ..held.keepalive()
        },
        ShmLeaseKeepalive {
            client_id: ClientId(8),
            ..held.keepalive()
        },
        ShmLeaseKeepalive {
            role: Role::Producer,
            ..held.keepalive()
        },
    ];
    for keepalive in wrong {
        assert_eq!(rig.send(aeron(1), keepalive), []);
    }
    assert_eq!(rig.status().counters.keepalives, 0);
    assert_eq!(
        rig.drops(),
        [("id_mismatch ShmLeaseKeepalive".to_owned(), 3)]
    );
}

#[test]
// spec: X-2-17
fn a_socket_lease_is_kept_and_detached_from_its_own_connection_only() {
    let mut rig = Rig::new();
    rig.open(1);
    rig.open(2);
    let held = rig.lease(socket(1), consume(7));
    for stranger in [aeron(1), socket(2)] {
        assert_eq!(rig.send(stranger, held.keepalive()), []);
        let answer = rig.send(stranger, held.detach());
        assert!(rig.show(&answer).contains("DetachResponse #77 Rejected"));
    }
    assert_eq!(rig.status().leases, 1);
    assert_eq!(
        rig.drops(),
        [("foreign_origin ShmLeaseKeepalive".to_owned(), 2)]
    );
    // And an Aeron lease not from a socket, but from any Aeron session.
    let held = rig.lease(aeron(1), consume(8));
    assert_eq!(rig.send(socket(1), held.keepalive()), []);
    rig.send(aeron(2), held.keepalive());
    assert_eq!(rig.status().counters.keepalives, 1);
}

#[test]
// spec: D-4.9-11, D-4.9-12
fn a_detach_revokes_answers_and_frees_in_this_order() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), consume(7));
    let actions = rig.detach(&held);
    assert_transcript!(
        rig,
        actions,
        [
            "aeron <- Revoked l1 Consumer of client 7 on 10000 Detached ``",
            "aeron:1 <- DetachResponse #77 Ok ``",
        ]
    );
    // spec: D-4.9-14
    let actions = rig.detach(&held);
    assert_transcript!(
        rig,
        actions,
        ["aeron:1 <- DetachResponse #77 Rejected `lease not found`"]
    );
}

#[test]
// spec: D-4.8-4
fn lease_ids_begin_where_they_were_told_and_are_never_used_again() {
    let mut rig = Rig::with(|spec| spec.first_lease_id = (1 << 62) + 9);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let held = rig.lease(aeron(1), consume(7));
        rig.detach(&held);
        seen.push(held.lease.get());
    }
    assert_eq!(seen, [9, 10, 11]);
    let mut rig = Rig::with(|spec| spec.first_lease_id = 0);
    assert_eq!(rig.lease(aeron(1), consume(7)).lease, LeaseId(1), "never 0");
}

#[test]
// spec: T-6.2-1
fn a_node_id_rests_after_its_lease_ended() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), consume(7));
    rig.detach(&held);
    assert_eq!(
        rig.attach(aeron(1), consume(8))
            .node_id
            .map(|node| node.get()),
        Some(2)
    );
    rig.pass(1);
    assert_eq!(
        rig.attach(aeron(1), consume(9))
            .node_id
            .map(|node| node.get()),
        Some(1)
    );
}

#[test]
// spec: X-2-21, X-2-22, X-2-20
fn a_closed_connection_ends_its_leases_at_once() {
    let mut rig = Rig::new();
    for connection in 1..=3 {
        rig.open(connection);
    }
    rig.lease(socket(1), produce(7));
    rig.lease(socket(2), consume(8));
    rig.lease(socket(3), consume(9));
    let actions = rig.close(1);
    // The consumers learn of the producer's end, the closed connection of nothing.
    assert_transcript!(
        rig,
        actions,
        [
            "aeron+c2+c3 <- Revoked l1 Producer of client 7 on 10000 Expired `connection closed`",
            "persist 10000/e1",
            "create 10000/e1",
            "refresh 10000/e1",
            "aeron+c2+c3 <- Announce 10000/e1 producer 0",
        ]
    );
    let actions = rig.close(2);
    assert_transcript!(
        rig,
        actions,
        ["aeron <- Revoked l2 Consumer of client 8 on 10000 Expired `connection closed`"]
    );
}

#[test]
// spec: X-2-22
fn a_detach_that_was_queued_before_the_close_makes_the_lease_detached() {
    let mut rig = Rig::new();
    rig.open(1);
    let held = rig.lease(socket(1), consume(7));
    let actions = rig.detach(&held);
    assert_transcript!(
        rig,
        actions,
        [
            "aeron+c1 <- Revoked l1 Consumer of client 7 on 10000 Detached ``",
            "c1 <- DetachResponse #77 Ok ``",
        ]
    );
    assert_eq!(rig.close(1), []);
}

#[test]
// spec: X-2-21
fn a_socket_lease_expires_like_any_other_since_an_open_connection_proves_no_life() {
    let mut rig = Rig::new();
    rig.open(1);
    rig.lease(socket(1), consume(7));
    rig.pass(3);
    rig.now += 1;
    let actions = rig.tick();
    assert_transcript!(
        rig,
        actions,
        [
            "aeron+c1 <- Revoked l1 Consumer of client 7 on 10000 Expired `no keepalive within the grace`"
        ]
    );
}

#[test]
// spec: X-2-23
fn a_restarted_producer_does_not_meet_its_own_corpse() {
    let mut rig = Rig::new();
    rig.open(1);
    rig.open(2);
    rig.lease(socket(1), produce(7));
    let closed = rig.raw(Event::ConnectionClosed {
        connection: ConnectionId(1),
    });
    // Its successor attaches while the epoch that the close caused is still being made.
    let waits = rig.send_raw(socket(2), produce(8));
    assert_eq!(rig.show(&waits), "mark attached c2");
    rig.raw(Event::EpochPersisted {
        op: persist_op(&closed),
    });
    let done = rig.raw(Event::RegionsReady {
        op: create_op(&closed),
    });
    let shown = rig.show(&done);
    assert!(
        shown.starts_with("c2 <- AttachResponse #80 Ok l2"),
        "{shown}"
    );
}

#[test]
// spec: X-2-33
fn a_connection_that_is_cut_off_gets_a_revoke_per_lease_and_then_the_end() {
    let mut rig = Rig::new();
    rig.open(1);
    rig.lease(socket(1), consume(7));
    let second = rig.lease(socket(1), consume(8));
    let text = "flood: 1000 packets per second allowed, 1001 seen".to_owned();
    let connection = ConnectionId(1);
    let actions = rig.event(Event::ConnectionClosing { connection, text });
    assert_transcript!(
        rig,
        actions,
        [
            "aeron+c1 <- Revoked l1 Consumer of client 7 on 10000 Revoked `flood: 1000 packets per second allowed, 1001 seen`",
            "aeron+c1 <- Revoked l2 Consumer of client 8 on 10000 Revoked `flood: 1000 packets per second allowed, 1001 seen`",
            "disconnect c1",
        ]
    );
    // Nothing that still comes from it counts.
    assert_eq!(rig.send(socket(1), second.keepalive()), []);
    assert_eq!(rig.drops(), [("unknown_connection any".to_owned(), 1)]);
    assert_eq!(rig.close(1), []);
}

#[test]
// spec: X-2-33, D-4.9-13
fn last_words_go_out_before_the_end_of_the_connection_and_the_new_epoch_after() {
    let mut rig = Rig::new();
    rig.open(1);
    rig.lease(socket(1), produce(7));
    let actions = rig.event(Event::ConnectionClosing {
        connection: ConnectionId(1),
        text: "garbage".to_owned(),
    });
    assert_transcript!(
        rig,
        actions,
        [
            "aeron+c1 <- Revoked l1 Producer of client 7 on 10000 Revoked `garbage`",
            "disconnect c1",
            "persist 10000/e1",
            "create 10000/e1",
            "refresh 10000/e1",
            "aeron <- Announce 10000/e1 producer 0",
        ]
    );
}

#[test]
fn an_asker_that_is_gone_when_its_files_are_ready_gets_no_lease() {
    let mut rig = Rig::new();
    rig.open(1);
    let begun = rig.send_raw(socket(1), with_node(produce(7), 3));
    rig.raw(Event::ConnectionClosed {
        connection: ConnectionId(1),
    });
    rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    let done = rig.raw(Event::RegionsReady {
        op: create_op(&begun),
    });
    // The epoch was raised and is announced without a producer.
    assert_transcript!(
        rig,
        done,
        ["refresh 10000/e1", "aeron <- Announce 10000/e1 producer 0"]
    );
    assert_eq!((rig.status().leases, rig.status().pending_attaches), (0, 0));
    // Client id and node id are free again.
    rig.pass(1);
    rig.lease(aeron(1), with_node(produce(7), 3));
}

#[test]
fn a_stall_extends_every_lease_by_its_length_and_is_counted() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), consume(7));
    rig.now += 10 * SECOND;
    let actions = rig.tick();
    assert!(actions.contains(&Action::Note(Note::Stalled {
        gap_ns: 10 * SECOND
    })));
    assert_eq!(
        rig.status().leases,
        1,
        "the lease did not expire in its driver's sleep"
    );
    let counters = rig.status().counters;
    assert_eq!((counters.stalls, counters.stalled_ns), (1, 10 * SECOND));
    rig.pass(3);
    assert_eq!(rig.status().leases, 1);
    rig.now += 1;
    rig.tick();
    assert_eq!(rig.status().leases, 0);
}

#[test]
// spec: D-4.4-3
fn a_keepalive_after_a_stall_never_shortens_a_lease() {
    // Found by simulation, seed 6.
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), consume(7));
    let expiry = |rig: &Rig| rig.status().streams[0].consumers[0].expiry;
    rig.now += 10 * SECOND;
    rig.tick();
    let extended = expiry(&rig);
    assert_eq!(extended, MonoNanos(START + 13 * SECOND));
    rig.now -= 2 * SECOND;
    rig.keepalive(&held);
    rig.lease(aeron(1), consume(7));
    assert_eq!(expiry(&rig), extended);
}

#[test]
fn a_gap_of_one_keepalive_interval_is_no_stall() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), consume(7));
    for _ in 0..3 {
        rig.now += SECOND;
        rig.tick();
    }
    assert_eq!(rig.status().counters.stalls, 0);
    rig.now += SECOND;
    rig.tick();
    assert_eq!(rig.status().leases, 0);
}

#[test]
fn a_clock_that_goes_back_stands_still_and_is_counted() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), consume(7));
    rig.now -= 100 * SECOND;
    rig.tick();
    assert_eq!(rig.status().now, MonoNanos(START));
    assert_eq!(rig.status().counters.clock_regressions, 1);
    assert_eq!(rig.status().leases, 1);
}

#[test]
// spec: D-4.8-3, D-2.1-1
fn a_keepalive_of_an_unknown_lease_is_told_so_at_most_once_a_second() {
    let mut rig = Rig::new();
    let stranger = Held {
        origin: aeron(3),
        lease: LeaseId(99),
        stream: CAMERA,
        client: ClientId(7),
        role: Role::Producer,
        epoch: tensorpool_wire::Epoch(1),
    };
    let actions = rig.keepalive(&stranger);
    assert_transcript!(
        rig,
        actions,
        [
            "aeron:3 <- Revoked lease 99 Producer of client 7 on 10000 Expired `unknown lease: driver restarted`"
        ]
    );
    rig.now += SECOND - 1;
    assert_eq!(rig.keepalive(&stranger), []);
    rig.now += 1;
    assert_eq!(rig.keepalive(&stranger).len(), 1);
    // Another driver's stream is not our business.
    let elsewhere = Held {
        stream: StreamId(4),
        lease: LeaseId(98),
        ..stranger
    };
    assert_eq!(rig.keepalive(&elsewhere), []);
}

#[test]
fn a_keepalive_of_a_lease_that_has_ended_is_told_so_in_other_words() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), consume(7));
    rig.detach(&held);
    let actions = rig.keepalive(&held);
    assert_transcript!(
        rig,
        actions,
        [
            "aeron:1 <- Revoked l1 Consumer of client 7 on 10000 Expired `unknown lease: it has ended`"
        ]
    );
}

#[test]
// spec: X-2-36
fn the_next_deadline_is_never_later_than_half_a_keepalive_interval() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.driver.next_deadline(),
        Some(MonoNanos(START + SECOND / 2))
    );
    rig.lease(aeron(1), produce(7));
    rig.now += SECOND / 4;
    rig.tick();
    let deadline = rig.driver.next_deadline().unwrap();
    assert!(deadline > MonoNanos(rig.now) && deadline <= MonoNanos(rig.now + SECOND / 2));
}

#[test]
// spec: D-4.5-1
fn every_message_of_the_driver_schema_travels_on_the_control_stream() {
    let mut rig = Rig::new();
    let mut actions = rig.send(aeron(1), produce(7));
    let held = rig.lease(aeron(1), produce(7));
    actions.append(&mut rig.detach(&held));
    actions.append(&mut rig.event(Event::Shutdown(tensorpool_driver_core::ShutdownMode::Drain)));
    actions.append(&mut rig.pass(3));
    let mut seen = 0;
    for action in &actions {
        if let Action::Send {
            stream, message, ..
        } = action
        {
            let is_driver_message = message.schema_id() == tensorpool_wire::SCHEMA_DRIVER;
            let on_control = *stream == tensorpool_wire::LogicalStream::Control;
            assert_eq!(is_driver_message, on_control, "{}", message.name());
            seen += usize::from(is_driver_message);
        }
    }
    assert_eq!(seen, 4, "answer, revoke, detach answer, shutdown");
}
