//! What happens to frames when leases, epochs and drivers come and go.

use std::time::Duration;

use tensorpool_client::lease::{AttachFailure, LeaseEnd, LeaseTimings};
use tensorpool_client::{AttachError, BuildError, ClaimError, Consumer, PollError, Producer, Seq};
use tensorpool_wire::{LeaseRevokeReason, Message, Role};

use crate::peer::{NAME, Peer, State, eventually};
use crate::stream::{consumer, producer, seqs};

/// Polls until the lease's end is told, and says it.
fn end_of(consumer: &mut Consumer) -> LeaseEnd {
    eventually("the consumer's lease ends", || match consumer.next() {
        Ok(_) => None,
        Err(PollError::LeaseEnded(end)) => Some(end),
        Err(error) => panic!("{error}"),
    })
}

fn end_of_producer(producer: &mut Producer) -> LeaseEnd {
    eventually("the producer's lease ends", || {
        match producer.publish(b"x") {
            Ok(_) | Err(ClaimError::NotAttached) => None,
            Err(ClaimError::LeaseEnded(end)) => Some(end),
            Err(error) => panic!("{error}"),
        }
    })
}

/// Publishes until it works again, and returns the number.
fn publish_again(producer: &mut Producer) -> Seq {
    eventually("the producer is attached again", || {
        producer.publish(b"again").ok()
    })
}

// spec: D-4.9-1 D-4.9-10 D-4.7-1 X-2-66 W-15.2-3
#[test]
fn a_revoked_producer_stops_at_once_and_comes_back_with_a_new_epoch_from_zero() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    producer.publish(b"x").unwrap();
    let spec = tensorpool_client::TensorSpec::bytes(1).unwrap();
    let mut claim = producer.claim(&spec).unwrap();
    peer.with(|state| {
        let (id, _) = state.lease_of(Role::Producer).unwrap();
        state.end(id, LeaseRevokeReason::Revoked, "for the test");
    });
    // A claim in hand turns useless too.
    eventually("the claim is refused", || claim.write(b"y").err());
    let refused = claim.commit();
    let end = LeaseEnd::Revoked {
        text: "for the test".into(),
    };
    assert_eq!(refused, Err(ClaimError::LeaseEnded(end)));
    assert_eq!(publish_again(&mut producer), Seq(0));
}

// spec: D-4.9-7 W-10.1.1-5 W-15.18-1 W-15.2-1 X-1-19 W-15.21-2
#[test]
fn a_consumer_follows_its_producers_restart_without_losing_its_lease() {
    let peer = Peer::start();
    let mut first = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    first.publish(b"old").unwrap();
    let held = consumer.next().unwrap().expect("a frame").hold();
    let epoch = held.frame().epoch();
    drop(first);
    eventually("the old epoch's frame is over", || {
        (!held.frame().still_valid()).then_some(())
    });
    let mut second = producer(&peer);
    for _ in 0..3 {
        second.publish(b"new").unwrap();
    }
    let seen = eventually("the new epoch", || {
        let frame = consumer.next().expect("the consumer's own lease holds")?;
        Some((frame.epoch(), frame.seq(), frame.to_vec().unwrap()))
    });
    assert!(seen.0 > epoch);
    assert_eq!(
        (seen.1, seen.2),
        (Seq(0), b"new".to_vec()),
        "from the first frame of the epoch"
    );
    assert_eq!(seqs(&mut consumer), [1, 2]);
    let attaches = peer.with(|state| count_attaches(state, Role::Consumer));
    assert_eq!(attaches, 1);
}

fn count_attaches(state: &State, role: Role) -> usize {
    let is_one = |message: &&Message| match message {
        Message::ShmAttachRequest(request) => request.role == role,
        _ => false,
    };
    state.heard.iter().filter(is_one).count()
}

// spec: D-4.9-1 X-2-66
#[test]
fn a_revoked_consumer_hears_of_it_once_and_reads_on() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    peer.with(|state| {
        let (id, _) = state.lease_of(Role::Consumer).unwrap();
        state.end(id, LeaseRevokeReason::Revoked, "for the test");
    });
    assert_eq!(
        end_of(&mut consumer),
        LeaseEnd::Revoked {
            text: "for the test".into()
        }
    );
    eventually("the consumer is attached again", || {
        producer.publish(b"x").unwrap();
        consumer.next().expect("told once").map(drop)
    });
}

// spec: D-4.13-5
#[test]
fn a_shutdown_ends_every_lease_and_clients_come_back_by_themselves() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    peer.with(State::shut_down);
    assert_eq!(end_of_producer(&mut producer), LeaseEnd::DriverShutdown);
    assert_eq!(end_of(&mut consumer), LeaseEnd::DriverShutdown);
    publish_again(&mut producer);
    eventually("the consumer is attached again", || {
        consumer.next().unwrap().map(drop)
    });
}

// spec: X-2-25 X-2-26 D-10-1
#[test]
fn a_driver_that_dies_and_comes_back_in_time_costs_no_error() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    peer.with(State::die);
    eventually("both have noticed", || {
        let noticed = |status: tensorpool_client::Status| status.failures > 0;
        (noticed(producer.status()) && noticed(consumer.status())).then_some(())
    });
    assert_eq!(
        producer.publish(b"alone"),
        Ok(Seq(0)),
        "the memory outlives the driver"
    );
    let alone = consumer
        .next()
        .unwrap()
        .map(|frame| frame.to_vec().unwrap());
    assert_eq!(alone, Some(b"alone".to_vec()));
    peer.with(State::listen);
    let epoch = peer.until("both attached", |state| {
        let both = state.leases.len() == 2;
        both.then(|| state.current.as_ref().unwrap().layout().epoch())
    });
    eventually("frames of the new epoch", || {
        producer.publish(b"x").expect("no lease ended");
        let frame = consumer.next().expect("no lease ended")?;
        (frame.epoch() == epoch).then_some(())
    });
}

// spec: X-2-25 D-4.2-7
#[test]
fn past_the_leases_own_deadline_a_lost_drivers_memory_is_over() {
    let peer = Peer::start();
    peer.with(|state| state.grant_ns = 300_000_000);
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    peer.with(State::die);
    let end = end_of_producer(&mut producer);
    assert!(
        matches!(end, LeaseEnd::DriverLost | LeaseEnd::DeadlinePassed),
        "{end}"
    );
    assert_eq!(end_of(&mut consumer), LeaseEnd::DriverLost);
}

// spec: D-4.4-1
#[test]
fn keepalives_hold_a_short_lease_far_beyond_its_first_expiry() {
    let peer = Peer::start();
    peer.with(|state| state.grant_ns = 150_000_000);
    let mut producer = producer(&peer);
    peer.until("ten keepalives", |state| {
        let is_one = |message: &&Message| matches!(message, Message::ShmLeaseKeepalive(_));
        (state.heard.iter().filter(is_one).count() >= 10).then_some(())
    });
    assert_eq!(producer.publish(b"x"), Ok(Seq(0)));
}

// spec: D-4.9-11
#[test]
fn dropping_a_handle_gives_the_lease_back() {
    let peer = Peer::start();
    drop(producer(&peer));
    let detached = peer.with(|state| {
        let is_one = |message: &Message| matches!(message, Message::ShmDetachRequest(_));
        (state.heard.iter().any(is_one), state.leases.len())
    });
    assert_eq!(detached, (true, 0), "before the drop returns");
}

// spec: W-10.1.3-1
#[test]
fn a_consumer_that_is_sent_elsewhere_says_where_and_that_it_cannot() {
    use tensorpool_transport::LogicalStream;
    use tensorpool_wire::{Bool, ConsumerConfig, Mode};
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    let send = |use_shm: Bool| {
        peer.with(move |state| {
            let (_, lease) = state.lease_of(Role::Consumer).unwrap();
            let config = ConsumerConfig {
                stream_id: crate::peer::STREAM,
                consumer_id: lease.client,
                use_shm,
                mode: Mode::Stream,
                descriptor_stream_id: 0,
                control_stream_id: 0,
                payload_fallback_uri: "bridge://7".into(),
                descriptor_channel: String::new(),
                control_channel: String::new(),
            };
            state.send(lease.connection, LogicalStream::Control, config);
        });
    };
    send(Bool::False);
    let failure = eventually("it says so", || consumer.status().last_failure);
    assert!(failure.to_string().contains("bridge://7"), "{failure}");
    assert_eq!(failure.reason(), "fallback");
    eventually("it is unmapped", || {
        (!consumer.status().is_mapped).then_some(())
    });
    send(Bool::True);
    eventually("it reads again", || {
        producer.publish(b"x").unwrap();
        consumer.next().unwrap().map(drop)
    });
}

// spec: X-2-52
#[test]
fn a_second_producer_is_told_who_is_in_the_way_and_what_to_do() {
    let peer = Peer::start();
    let _first = producer(&peer);
    let second = Producer::builder(NAME)
        .client_options(peer.options())
        .timeout(Duration::from_millis(300))
        .build();
    let error = second.expect_err("there is one already").to_string();
    assert!(error.contains("producer already attached"), "{error}");
    let client = peer.with(|state| state.lease_of(Role::Producer).unwrap().1.client);
    let who = format!(
        "that is client {client} in process {}: stop it",
        std::process::id()
    );
    assert!(error.contains(&who), "{error}");
}

// spec: DI-3-2 DI-4.3-2 DI-7-2
#[test]
fn an_unknown_stream_is_an_error_at_once_that_names_the_driver_asked() {
    let peer = Peer::start();
    let unknown = Consumer::builder("no/such")
        .client_options(peer.options())
        .build();
    match unknown {
        Err(BuildError::Attach(error)) => {
            assert!(matches!(&*error, AttachError::NoSuchStream { .. }));
            let socket = peer.socket().display().to_string();
            assert!(error.to_string().contains(&socket), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

// spec: DI-5.2-8
#[test]
fn discovery_results_that_cannot_be_used_count_for_nothing() {
    use tensorpool_wire::{DiscoveryResponse, DiscoveryStatus};
    type Spoil = fn(&mut DiscoveryResponse);
    let cases: [(&str, Spoil); 6] = [
        ("no_such_stream", |r| {
            r.results[0].driver_control_channel.clear()
        }),
        ("no_such_stream", |r| {
            r.results[0].driver_control_stream_id = 0
        }),
        ("no_such_stream", |r| {
            r.results[0].payload_pools[0].pool_nslots = 1
        }),
        ("no_such_stream", |r| {
            r.results[0].data_source_name = "Camera/Front".into()
        }),
        ("no_such_stream", |r| r.status = DiscoveryStatus::Error),
        ("silent", |r| r.request_id ^= 1),
    ];
    let peer = Peer::start();
    for (reason, spoil) in cases {
        peer.with(move |state| state.spoil_discovery = Some(spoil));
        let built = Consumer::builder(NAME)
            .client_options(peer.options())
            .timeout(Duration::from_millis(2_500))
            .build();
        match built {
            Err(BuildError::Attach(error)) => assert_eq!(error.reason(), reason),
            Err(BuildError::TimedOut {
                last: Some(error), ..
            }) => {
                assert_eq!(error.reason(), reason);
            }
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[test]
fn an_impossible_answer_is_reported_with_its_field_and_the_lease_given_back() {
    let peer = Peer::start();
    peer.with(|state| state.spoil = Some(|response| response.epoch = None));
    let timings = LeaseTimings {
        backoff_min_ns: 1_000_000,
        ..LeaseTimings::DEFAULT
    };
    let built = Consumer::builder(NAME)
        .client_options(peer.options())
        .timings(timings)
        .timeout(Duration::from_millis(300))
        .build();
    match built {
        Err(BuildError::TimedOut {
            last: Some(last), ..
        }) => match &*last {
            AttachError::Attach {
                source: AttachFailure::Malformed(error),
                ..
            } => {
                assert!(error.to_string().contains("epoch"), "{error}");
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    peer.until("the lease came back", |state| {
        let is_one = |message: &Message| matches!(message, Message::ShmDetachRequest(_));
        state.heard.iter().any(is_one).then_some(())
    });
}

// spec: X-1-2 X-2-64
#[test]
fn what_needs_aeron_is_refused_on_a_socket_when_it_is_built() {
    let peer = Peer::start();
    let consumer = Consumer::builder(NAME)
        .client_options(peer.options())
        .notify(tensorpool_client::Notify::Descriptor)
        .build();
    match consumer {
        Err(BuildError::Attach(error)) => assert_eq!(error.reason(), "descriptors_need_aeron"),
        other => panic!("{other:?}"),
    }
    let producer = Producer::builder(NAME)
        .client_options(peer.options())
        .trace_ids()
        .build();
    match producer {
        Err(BuildError::Attach(error)) => assert_eq!(error.reason(), "trace_needs_aeron"),
        other => panic!("{other:?}"),
    }
}

// spec: X-2-68
#[test]
fn an_application_can_drive_the_conductor_itself() {
    let peer = Peer::start();
    let (client, mut agent) = tensorpool_client::Client::agent(peer.options()).unwrap();
    let mut producer = Producer::builder(NAME).client(&client).start().unwrap();
    assert_eq!(producer.publish(b"x"), Err(ClaimError::NotAttached));
    eventually("attached", || {
        agent.do_work();
        producer.publish(b"x").ok()
    });
    assert_eq!(agent.do_work().late_by, None);
    drop(producer);
    drop(client);
    eventually("detached", || {
        agent.do_work();
        agent.is_finished().then_some(())
    });
    assert_eq!(peer.with(|state| state.leases.len()), 0);
}

#[test]
fn what_cannot_be_sent_is_counted_with_its_reason() {
    use tensorpool_client::{Metadata, Unsent};
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let consumer = consumer(&peer).build().expect("attached");
    assert_eq!(producer.stats().messages.unsent(Unsent::TooLong), 0);
    // More than a packet takes.
    producer.set_metadata(Metadata::default().with("blob", "", vec![0; 200_000]));
    eventually("the description is too long", || {
        let unsent = producer.stats().messages.unsent(Unsent::TooLong);
        (unsent > 0).then_some(())
    });
    peer.with(State::die);
    eventually("both have nobody to report to", || {
        let unsent = [producer.stats().messages, consumer.stats().messages]
            .map(|messages| messages.unsent(Unsent::NotConnected));
        unsent.iter().all(|count| *count > 0).then_some(())
    });
}

// spec: D-4.4a-1 D-4.4a-3
#[test]
fn garbage_on_any_stream_changes_nothing_and_is_counted() {
    use tensorpool_wire::LogicalStream::{Announce, Control, Discovery, Metadata, Qos, Status};
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    let whole = peer.with(|state| Message::from(state.announce()).encode());
    let garbage = move |state: &mut State| {
        let connections: Vec<_> = state.leases.values().map(|it| it.connection).collect();
        let cuts = (0..whole.len()).step_by(7);
        // Status is no SBE: what is no document there is passed over.
        let per_client = 5 * (cuts.len() + 2);
        for connection in connections {
            for stream in [Control, Announce, Qos, Metadata, Discovery, Status] {
                // Cut off anywhere, of a foreign schema, and longer than it says.
                for len in cuts.clone() {
                    state.send_raw(connection, stream, &whole[..len]);
                }
                let mut foreign = whole.clone();
                foreign[4] ^= 0xFF;
                state.send_raw(connection, stream, &foreign);
                let mut longer = whole.clone();
                longer.push(0);
                state.send_raw(connection, stream, &longer);
            }
        }
        u64::try_from(per_client).unwrap()
    };
    let sent = peer.with(garbage);
    assert!(sent > 100);
    eventually("all of it is counted", || {
        let counts = [producer.stats().messages, consumer.stats().messages];
        counts.iter().all(|it| it.undecodable == sent).then_some(())
    });
    assert_eq!(producer.publish(b"unharmed"), Ok(Seq(0)));
    let frame = consumer.next().unwrap().expect("a frame");
    assert_eq!(frame.to_vec().unwrap(), b"unharmed");
    assert_eq!(consumer.status().failures, 0);
}
