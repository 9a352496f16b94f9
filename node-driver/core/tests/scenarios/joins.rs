//! What crosses between Aeron and sockets, and what does not.

use tensorpool_driver_core::Event;
use tensorpool_wire::{
    Attribute, Bool, ClientId, ClockDomain, ConsumerConfig, ConsumerHello, DataSourceAnnounce,
    DataSourceMeta, Epoch, FrameProgress, FrameProgressState, Message, MetaBlobAnnounce,
    MetaBlobChunk, MetaBlobComplete, Mode, MonoNanos, Origin, QosConsumer, QosProducer, Seq,
    ShmDriverShutdown, ShmPoolAnnounce, ShutdownReason, StreamId,
};

use crate::assert_transcript;
use crate::rig::*;

fn announce(epoch: Epoch, producer: u32) -> DataSourceAnnounce {
    DataSourceAnnounce {
        stream_id: CAMERA,
        producer_id: ClientId(producer),
        epoch,
        meta_version: 3,
        name: "front".to_owned(),
        summary: "a camera".to_owned(),
    }
}

fn meta() -> DataSourceMeta {
    DataSourceMeta {
        stream_id: CAMERA,
        meta_version: 3,
        timestamp_ns: MonoNanos(1),
        attributes: vec![Attribute {
            key: "lens".to_owned(),
            format: "text/plain".to_owned(),
            value: b"wide".to_vec(),
        }],
    }
}

/// Everything that a producer may send, in its name.
fn from_producer(epoch: Epoch, producer: u32) -> Vec<Message> {
    vec![
        announce(epoch, producer).into(),
        meta().into(),
        MetaBlobAnnounce {
            stream_id: CAMERA,
            meta_version: 3,
            blob_type: 1,
            total_len: 1,
            checksum: 0,
        }
        .into(),
        MetaBlobChunk {
            stream_id: CAMERA,
            meta_version: 3,
            chunk_offset: 0,
            bytes: vec![1],
        }
        .into(),
        MetaBlobComplete {
            stream_id: CAMERA,
            meta_version: 3,
            checksum: 0,
        }
        .into(),
        QosProducer {
            stream_id: CAMERA,
            producer_id: ClientId(producer),
            epoch,
            current_seq: Seq(42),
            watermark: None,
        }
        .into(),
        FrameProgress {
            stream_id: CAMERA,
            epoch,
            seq: Seq(42),
            payload_bytes_filled: 10,
            state: FrameProgressState::Complete,
        }
        .into(),
    ]
}

fn hello(consumer: u32) -> ConsumerHello {
    ConsumerHello {
        stream_id: CAMERA,
        consumer_id: ClientId(consumer),
        supports_shm: Bool::True,
        supports_progress: Bool::False,
        mode: Mode::Stream,
        max_rate_hz: 0,
        expected_layout_version: 0,
        progress_interval_us: None,
        progress_bytes_delta: None,
        progress_major_delta_units: None,
        descriptor_stream_id: 0,
        control_stream_id: 0,
        descriptor_channel: String::new(),
        control_channel: String::new(),
    }
}

fn qos(consumer: u32, epoch: Epoch) -> QosConsumer {
    QosConsumer {
        stream_id: CAMERA,
        consumer_id: ClientId(consumer),
        epoch,
        last_seq_seen: Seq(41),
        drops_gap: 2,
        drops_late: 1,
        mode: Mode::Stream,
    }
}

/// One producer and one consumer, each on its way, and an unrelated connection 9.
fn mixed(producer: Origin, consumer: Origin) -> (Rig, Held, Held) {
    let mut rig = Rig::new();
    for connection in [1, 2, 9] {
        rig.open(connection);
    }
    let producer = rig.lease(producer, produce(7));
    let consumer = rig.lease(consumer, consume(8));
    (rig, producer, consumer)
}

#[test]
// spec: X-2-53
fn a_socket_producers_messages_go_to_aeron_and_to_the_sockets_of_its_consumers() {
    let (mut rig, producer, _) = mixed(socket(1), socket(2));
    for message in from_producer(producer.epoch, 7) {
        let actions = rig.send(socket(1), message.clone());
        assert_eq!(sent(&actions), [("aeron+c2".to_owned(), message)]);
    }
}

#[test]
// spec: X-2-53
fn an_aeron_producers_messages_go_to_the_sockets_of_its_consumers_only() {
    let (mut rig, producer, _) = mixed(aeron(1), socket(2));
    for message in from_producer(producer.epoch, 7) {
        let actions = rig.send(aeron(1), message.clone());
        assert_eq!(sent(&actions), [("c2".to_owned(), message)]);
    }
    let (mut rig, producer, _) = mixed(aeron(1), aeron(2));
    for message in from_producer(producer.epoch, 7) {
        assert_eq!(rig.send(aeron(1), message), [], "everybody has heard it");
    }
}

#[test]
// spec: X-2-53, X-2-55
fn what_only_the_producer_may_send_is_dropped_from_anybody_else() {
    let (mut rig, producer, _) = mixed(socket(1), socket(2));
    for stranger in [socket(2), socket(9), aeron(1)] {
        for message in from_producer(producer.epoch, 7) {
            let name = message.name();
            assert_eq!(rig.send(stranger, message), [], "{name} from {stranger:?}");
        }
    }
    let drops = rig.drops();
    assert!(
        drops
            .iter()
            .all(|(label, count)| label.starts_with("no_lease ") && *count == 3)
    );
    assert_eq!(drops.len(), 7, "counted by template: {drops:?}");
}

#[test]
// spec: X-2-55
fn ids_and_epoch_must_be_those_of_the_lease() {
    let (mut rig, producer, consumer) = mixed(socket(1), socket(2));
    assert_eq!(rig.send(socket(1), announce(producer.epoch, 8)), []);
    assert_eq!(rig.send(socket(1), announce(Epoch(1), 7)), []);
    assert_eq!(rig.send(socket(2), qos(7, producer.epoch)), []);
    // Another consumer's id from the wrong connection.
    assert_eq!(rig.send(socket(9), qos(8, consumer.epoch)), []);
    assert_eq!(
        rig.drops(),
        [
            ("no_lease QosConsumer".to_owned(), 1),
            ("id_mismatch DataSourceAnnounce".to_owned(), 1),
            ("id_mismatch QosConsumer".to_owned(), 1),
            ("stale_epoch DataSourceAnnounce".to_owned(), 1),
        ]
    );
}

#[test]
// spec: X-2-53
fn a_consumers_hello_and_qos_go_to_the_producer_on_its_way() {
    let cases = [
        (socket(1), socket(2), Some("c1")),
        (aeron(1), socket(2), Some("aeron")),
        (socket(1), aeron(2), Some("c1")),
        (aeron(1), aeron(2), None),
    ];
    for (producer, consumer, to) in cases {
        let (mut rig, _, held) = mixed(producer, consumer);
        let messages: [Message; 2] = [hello(8).into(), qos(8, held.epoch).into()];
        for message in messages {
            let actions = rig.send(consumer, message.clone());
            let expected: Vec<_> = to.map(|to| (to.to_owned(), message)).into_iter().collect();
            assert_eq!(sent(&actions), expected, "{producer:?} {consumer:?}");
        }
    }
}

#[test]
// spec: X-2-53
fn what_only_the_driver_sends_is_taken_from_nobody() {
    let (mut rig, producer, _) = mixed(socket(1), socket(2));
    let forged: [Message; 3] = [
        ConsumerConfig {
            stream_id: CAMERA,
            consumer_id: ClientId(8),
            use_shm: Bool::False,
            mode: Mode::Stream,
            descriptor_stream_id: 0,
            control_stream_id: 0,
            payload_fallback_uri: String::new(),
            descriptor_channel: String::new(),
            control_channel: String::new(),
        }
        .into(),
        ShmDriverShutdown {
            timestamp_ns: MonoNanos(1),
            reason: ShutdownReason::Normal,
            error_message: String::new(),
        }
        .into(),
        ShmPoolAnnounce {
            stream_id: CAMERA,
            producer_id: ClientId(7),
            epoch: producer.epoch,
            announce_timestamp_ns: MonoNanos(0),
            announce_clock_domain: ClockDomain::Monotonic,
            layout_version: 1,
            header_nslots: 8,
            header_slot_bytes: 256,
            payload_pools: vec![],
            header_region_uri: String::new(),
        }
        .into(),
    ];
    for origin in [socket(1), aeron(5)] {
        for message in &forged {
            assert_eq!(rig.send(origin, message.clone()), []);
        }
    }
    let drops = rig.drops();
    assert!(
        drops
            .iter()
            .all(|(label, _)| label.starts_with("driver_message ")),
        "{drops:?}"
    );
    assert_eq!(drops.iter().map(|(_, count)| count).sum::<u64>(), 6);
}

#[test]
// spec: X-2-54
fn what_came_from_the_drivers_own_aeron_session_is_not_even_read() {
    let (mut rig, producer, _) = mixed(aeron(1), socket(2));
    rig.event(Event::OwnSessions(vec![50, 51]));
    let message = announce(producer.epoch, 7);
    assert_eq!(rig.send(aeron(51), message.clone()), []);
    assert_eq!(rig.drops(), [("own_session any".to_owned(), 1)]);
    assert_eq!(rig.send(aeron(1), message).len(), 1);
}

#[test]
// spec: X-2-56
fn the_last_metadata_follows_the_attach_answer_of_a_socket_consumer() {
    let (mut rig, producer, _) = mixed(aeron(1), aeron(2));
    rig.epoch_name(producer.epoch);
    rig.send(aeron(1), announce(producer.epoch, 7));
    rig.send(aeron(1), meta());
    let actions = rig.send(socket(2), consume(10));
    assert_transcript!(
        rig,
        actions,
        [
            "mark attached c2",
            "c2 <- AttachResponse #100 Ok l3 on 10000/e1",
            "c2 <- DataSourceAnnounce",
            "c2 <- DataSourceMeta",
            "hold descriptors 10000",
        ]
    );
    // They go with their producer.
    rig.detach(&producer);
    let actions = rig.send(socket(2), consume(11));
    assert!(!rig.show(&actions).contains("DataSource"));
}

#[test]
// spec: X-1-6
fn descriptors_are_held_while_an_aeron_producer_has_consumers_on_sockets() {
    let (mut rig, producer, _) = mixed(aeron(1), aeron(2));
    let attached = rig.send(socket(1), consume(20));
    assert!(rig.show(&attached).ends_with("hold descriptors 10000"));
    let second = rig.send(socket(2), consume(21));
    assert!(!rig.show(&second).contains("hold"));
    rig.close(2);
    let last = rig.close(1);
    assert!(rig.show(&last).ends_with("release descriptors 10000"));
    rig.send(socket(9), consume(22));
    let ended = rig.detach(&producer);
    assert!(rig.show(&ended).contains("release descriptors 10000"));
}

#[test]
// spec: X-2-58, X-2-62
fn a_relay_runs_while_a_socket_producer_has_consumers_on_aeron() {
    let (mut rig, _, consumer) = mixed(socket(1), socket(2));
    let on_a_socket = rig.send(socket(9), consume(9));
    assert!(!rig.show(&on_a_socket).contains("relay"));
    let first = rig.send(aeron(5), consume(20));
    assert!(rig.show(&first).contains("start relay 10000/e1"));
    let second = rig.send(aeron(6), consume(21));
    assert!(!rig.show(&second).contains("relay"));
    let first = rig.lease(aeron(5), consume(20));
    let second = rig.lease(aeron(6), consume(21));
    let gone = rig.detach(&first);
    assert!(!rig.show(&gone).contains("relay"));
    let gone = rig.detach(&consumer);
    assert!(!rig.show(&gone).contains("relay"));
    let gone = rig.detach(&second);
    assert!(rig.show(&gone).contains("stop relay 10000"));
}

#[test]
// spec: X-2-58, X-2-62
fn the_relay_of_a_socket_producer_starts_with_its_lease_and_stops_before_its_revoke() {
    let mut rig = Rig::new();
    rig.send(aeron(1), consume(8));
    rig.open(1);
    let attached = rig.send(socket(1), produce(7));
    assert!(rig.show(&attached).contains("start relay 10000/"));
    let lease = rig.lease(socket(1), produce(7));
    let ended = rig.send_raw(socket(1), lease.detach());
    let shown = rig.show(&ended);
    assert!(
        shown.starts_with("stop relay 10000\naeron+c1 <- Revoked"),
        "{shown}"
    );
}

#[test]
// spec: X-2-20
fn a_producers_revoke_reaches_its_consumers_sockets_and_a_consumers_only_its_own() {
    let (mut rig, producer, consumer) = mixed(aeron(1), socket(2));
    let ended = rig.detach(&consumer);
    assert!(
        rig.show(&ended)
            .starts_with("aeron+c2 <- Revoked l2 Consumer")
    );
    rig.lease(socket(9), consume(12));
    let ended = rig.send_raw(aeron(1), producer.detach());
    assert!(rig.show(&ended).contains("aeron+c9 <- Revoked l1 Producer"));
}

#[test]
// spec: W-10.5-1
fn qos_is_kept_for_status() {
    let (mut rig, producer, consumer) = mixed(socket(1), aeron(2));
    for message in from_producer(producer.epoch, 7) {
        rig.send(socket(1), message);
    }
    rig.send(aeron(2), qos(8, consumer.epoch));
    let stream = rig.status().streams.remove(0);
    let status = stream.producer.unwrap();
    assert_eq!(status.frames, Some(42));
    assert_eq!(
        status.way,
        tensorpool_driver_core::Way::Socket {
            connection: tensorpool_wire::ConnectionId(1),
            pid: 4_001
        }
    );
    let qos = stream.consumers[0].qos.unwrap();
    assert_eq!((qos.last_seq, qos.drops_gap, qos.drops_late), (41, 2, 1));
}

#[test]
// spec: X-2-50, X-2-51, X-2-52
fn a_status_request_is_answered_with_what_its_connection_may_see() {
    use tensorpool_driver_core::Action;
    use tensorpool_driver_core::config::{Access, Roles, Visible};
    let (mut rig, _, _) = mixed(socket(1), aeron(2));
    let roles = Roles {
        produce: false,
        consume: true,
    };
    let access = Access {
        visible: Visible::Only([(LIDAR, roles)].into()),
        leases: 1,
        aeron: None,
    };
    rig.open_with(5, access);
    let ask = |rig: &mut Rig, origin, body: &[u8]| {
        let actions = rig.event(Event::Message {
            origin,
            stream: tensorpool_wire::LogicalStream::Status,
            bytes: body,
        });
        actions
            .into_iter()
            .map(|action| match action {
                Action::AnswerStatus { snapshot, .. } => snapshot
                    .streams
                    .iter()
                    .map(|s| s.stream_id)
                    .collect::<Vec<StreamId>>(),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(ask(&mut rig, socket(9), b""), [vec![CAMERA, LIDAR]]);
    assert_eq!(ask(&mut rig, socket(5), b""), [vec![LIDAR]]);
    assert!(ask(&mut rig, socket(5), b"x").is_empty());
    assert!(ask(&mut rig, aeron(1), b"").is_empty());
    let limited = rig.driver.status_for(tensorpool_wire::ConnectionId(5));
    assert_eq!(
        limited.counters,
        tensorpool_driver_core::Counters::default()
    );
}
