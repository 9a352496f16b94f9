//! The authority over consumers: ConsumerHello and ConsumerConfig.

use tensorpool_driver_core::config::{ConfigSpec, IdRange};
use tensorpool_wire::{
    Bool, ClientId, ConsumerConfig, ConsumerHello, Message, Mode, Origin, QosConsumer, Seq,
    StreamId,
};

use crate::rig::*;

fn ranges(spec: &mut ConfigSpec) {
    spec.policy.descriptor_stream_id_range = Some(IdRange {
        start: 31_000,
        end: 31_001,
    });
    spec.policy.control_stream_id_range = Some(IdRange {
        start: 32_000,
        end: 32_000,
    });
}

fn hello(consumer: u32) -> ConsumerHello {
    ConsumerHello {
        stream_id: CAMERA,
        consumer_id: ClientId(consumer),
        supports_shm: Bool::True,
        supports_progress: Bool::True,
        mode: Mode::Stream,
        max_rate_hz: 0,
        expected_layout_version: 0,
        progress_interval_us: None,
        progress_bytes_delta: None,
        progress_major_delta_units: None,
        descriptor_stream_id: 31_001,
        control_stream_id: 32_000,
        descriptor_channel: "aeron:ipc?term-length=4m".to_owned(),
        control_channel: "aeron:ipc".to_owned(),
    }
}

/// Sends a hello; the one answer, and that it went where it belongs.
fn ask(rig: &mut Rig, origin: Origin, hello: ConsumerHello) -> ConsumerConfig {
    let actions = rig.send(origin, hello);
    let mut configs: Vec<(String, ConsumerConfig)> = sent(&actions)
        .into_iter()
        .filter_map(|(to, message)| match message {
            Message::ConsumerConfig(config) => Some((to, config)),
            _ => None,
        })
        .collect();
    assert_eq!(configs.len(), 1);
    let (to, config) = configs.remove(0);
    match origin {
        Origin::Aeron { .. } => assert_eq!(to, "aeron"),
        Origin::Socket { connection } => assert_eq!(to, format!("c{}", connection.0)),
    }
    config
}

fn ids(config: &ConsumerConfig) -> (u32, &str, u32, &str) {
    (
        config.descriptor_stream_id,
        &config.descriptor_channel,
        config.control_stream_id,
        &config.control_channel,
    )
}

#[test]
// spec: D-11-2, W-10.1.2-5, W-10.1.3-7
fn a_requested_id_in_the_range_is_given_and_given_again() {
    let mut rig = Rig::with(ranges);
    rig.lease(aeron(1), consume(7));
    let config = ask(&mut rig, aeron(1), hello(7));
    assert_eq!(
        ids(&config),
        (31_001, "aeron:ipc?term-length=4m", 32_000, "aeron:ipc")
    );
    assert_eq!((config.use_shm, config.mode), (Bool::True, Mode::Stream));
    assert_eq!(config.payload_fallback_uri, "");
    assert_eq!(
        ask(&mut rig, aeron(1), hello(7)),
        config,
        "hellos repeat every second"
    );
}

#[test]
// spec: D-11-2, D-11-6, W-10.1.3-5
fn a_taken_id_gets_the_next_free_one_and_an_exhausted_range_declines() {
    let mut rig = Rig::with(ranges);
    for client in [7, 8, 9] {
        rig.lease(aeron(1), consume(client));
    }
    ask(&mut rig, aeron(1), hello(7));
    let second = ask(&mut rig, aeron(1), hello(8));
    assert_eq!(ids(&second), (31_000, "aeron:ipc?term-length=4m", 0, ""));
    let third = ask(&mut rig, aeron(1), hello(9));
    assert_eq!(ids(&third), (0, "", 0, ""));
}

#[test]
// spec: D-11-2, D-11-6, W-10.1.3-5
fn without_a_range_every_request_is_declined() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), consume(7));
    assert_eq!(ids(&ask(&mut rig, aeron(1), hello(7))), (0, "", 0, ""));
}

#[test]
// spec: W-10.1.2-4, W-10.1.3-3, W-10.1.3-4, W-5-6
fn each_half_is_judged_by_itself() {
    let cases = [
        // channel without id
        (
            ConsumerHello {
                descriptor_stream_id: 0,
                ..hello(7)
            },
            (0, "", 32_000, "aeron:ipc"),
        ),
        // id without channel
        (
            ConsumerHello {
                control_channel: String::new(),
                ..hello(7)
            },
            (31_001, "aeron:ipc?term-length=4m", 0, ""),
        ),
        // a channel that is not ours to give
        (
            ConsumerHello {
                descriptor_channel: "aeron:udp?endpoint=a:1".to_owned(),
                ..hello(7)
            },
            (0, "", 32_000, "aeron:ipc"),
        ),
        (
            ConsumerHello {
                descriptor_channel: "aeron:ipc?a b".to_owned(),
                ..hello(7)
            },
            (0, "", 32_000, "aeron:ipc"),
        ),
        (
            ConsumerHello {
                descriptor_channel: format!("aeron:ipc?{}", "x".repeat(247)),
                ..hello(7)
            },
            (0, "", 32_000, "aeron:ipc"),
        ),
    ];
    for (hello, expected) in cases {
        let mut rig = Rig::with(ranges);
        rig.lease(aeron(1), consume(7));
        assert_eq!(ids(&ask(&mut rig, aeron(1), hello)), expected);
    }
}

#[test]
// spec: W-10.1.3-3
fn a_hello_that_asks_for_nothing_is_not_answered() {
    let mut rig = Rig::with(ranges);
    rig.lease(aeron(1), consume(7));
    let plain = ConsumerHello {
        descriptor_stream_id: 0,
        control_stream_id: 0,
        descriptor_channel: String::new(),
        control_channel: String::new(),
        ..hello(7)
    };
    assert_eq!(rig.send(aeron(1), plain), []);
}

#[test]
// spec: X-2-55
fn only_the_holder_of_the_consumer_lease_is_answered() {
    let mut rig = Rig::with(ranges);
    rig.open(1);
    rig.lease(aeron(1), consume(7));
    rig.lease(aeron(1), produce(8));
    let other_stream = ConsumerHello {
        stream_id: LIDAR,
        ..hello(7)
    };
    let foreign = ConsumerHello {
        stream_id: StreamId(4),
        ..hello(7)
    };
    for (origin, hello) in [
        (aeron(1), hello(8)),
        (aeron(1), hello(9)),
        (socket(1), hello(7)),
        (aeron(1), other_stream),
        (aeron(1), foreign),
    ] {
        assert_eq!(rig.send(origin, hello), []);
    }
    assert_eq!(rig.drops().iter().map(|(_, count)| count).sum::<u64>(), 5);
}

#[test]
// spec: X-2-57, W-10.1.3-5
fn streams_of_ones_own_and_rate_caps_are_declined_where_a_socket_is_involved() {
    let mut rig = Rig::with(ranges);
    rig.open(1);
    rig.open(2);
    rig.lease(socket(1), produce(6));
    rig.lease(aeron(1), consume(7));
    rig.lease(socket(2), consume(8));
    let capped = |consumer| ConsumerHello {
        mode: Mode::RateLimited,
        max_rate_hz: 10,
        ..hello(consumer)
    };
    for (origin, consumer) in [(aeron(1), 7), (socket(2), 8)] {
        let config = ask(&mut rig, origin, capped(consumer));
        assert_eq!(ids(&config), (0, "", 0, ""));
        assert_eq!(config.mode, Mode::Stream);
    }
}

#[test]
// spec: X-2-53
fn a_forwarded_hello_carries_no_channels_that_the_other_way_cannot_use() {
    let mut rig = Rig::with(ranges);
    rig.open(1);
    rig.lease(socket(1), produce(6));
    rig.lease(aeron(1), consume(7));
    let actions = rig.send(aeron(1), hello(7));
    let forwarded = sent(&actions)
        .into_iter()
        .find_map(|(to, message)| match message {
            Message::ConsumerHello(hello) if to == "c1" => Some(hello),
            _ => None,
        })
        .expect("the producer hears of it");
    assert_eq!(forwarded.descriptor_channel, "");
    assert_eq!(
        (forwarded.descriptor_stream_id, forwarded.control_stream_id),
        (0, 0)
    );
}

#[test]
// spec: W-10.1.3-6, W-15.14-6
fn ids_come_back_when_the_lease_ends_or_its_consumer_is_silent() {
    let mut rig = Rig::with(ranges);
    let first = rig.lease(aeron(1), consume(7));
    let second = rig.lease(aeron(1), consume(8));
    ask(&mut rig, aeron(1), hello(7));
    rig.detach(&first);
    assert_eq!(ask(&mut rig, aeron(1), hello(8)).control_stream_id, 32_000);
    // QosConsumer keeps them as a hello does.
    for _ in 0..4 {
        rig.pass(2);
        rig.keepalive(&second);
        rig.send(
            aeron(1),
            QosConsumer {
                stream_id: CAMERA,
                consumer_id: ClientId(8),
                epoch: second.epoch,
                last_seq_seen: Seq(1),
                drops_gap: 0,
                drops_late: 0,
                mode: Mode::Stream,
            },
        );
    }
    let own = |rig: &Rig| rig.status().streams[0].consumers[0].control_stream_id;
    assert_eq!(own(&rig), Some(32_000));
    for _ in 0..3 {
        rig.pass(2);
        rig.keepalive(&second);
    }
    assert_eq!(own(&rig), None);
    assert_eq!(
        rig.status().leases,
        1,
        "silence costs the stream, not the lease"
    );
}

#[test]
// spec: W-10.1.3-7
fn rules_of_the_policy_are_told_to_every_consumer() {
    let mut rig = Rig::with(|spec| {
        spec.policy.consumers.use_shm = false;
        spec.policy.consumers.force_mode = Some(Mode::RateLimited);
        spec.policy.consumers.payload_fallback_uri = "bridge://1".to_owned();
    });
    rig.lease(aeron(1), consume(7));
    let plain = ConsumerHello {
        descriptor_stream_id: 0,
        control_stream_id: 0,
        descriptor_channel: String::new(),
        control_channel: String::new(),
        ..hello(7)
    };
    let config = ask(&mut rig, aeron(1), plain);
    assert_eq!(config.use_shm, Bool::False);
    assert_eq!(config.mode, Mode::RateLimited);
    assert_eq!(config.payload_fallback_uri, "bridge://1");
}
