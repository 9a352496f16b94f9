//! Producers and consumers on a real media driver, against a scripted Tensorpool driver.

use std::time::Duration;

use tensorpool_client::{
    AeronOptions, ClientOptions, Consumer, ConsumerBuilder, DropReason, Notify, Producer,
    ProducerBuilder, ProducerDrop, Seq, TensorSpec, TraceId,
};
use tensorpool_transport::aeron::rusteron::{RusteronClient, RusteronConfig};
use tensorpool_transport::pubsub::MessageClient;
use tensorpool_wire::{Epoch, FrameDescriptor, StreamId};

use crate::peer::{Peer, STREAM, State, eventually};

const LONG: Duration = Duration::from_secs(20);
/// The shortest terms that Aeron has, so that a window is soon full: 32 KiB, 96 bytes each.
const DESCRIPTORS: &str = "aeron:ipc?term-length=64k";
const WINDOW: u64 = 341;

/// A peer on Aeron, and what its clients need.
fn start() -> (Peer, ClientOptions) {
    let peer = Peer::start();
    let dir = peer.dir.path().join("aeron");
    let media = dir.clone();
    peer.with(State::die);
    peer.with(move |state| state.listen_on_aeron(media));
    let options = ClientOptions {
        socket: None,
        aeron_dir: Some(dir),
        aeron: AeronOptions {
            descriptor_channel: DESCRIPTORS.into(),
            ..AeronOptions::default()
        },
        ..peer.options()
    };
    (peer, options)
}

fn producer(options: &ClientOptions) -> ProducerBuilder {
    Producer::builder(STREAM)
        .client_options(options.clone())
        .timeout(LONG)
}

fn consumer(options: &ClientOptions) -> ConsumerBuilder {
    Consumer::builder(STREAM)
        .client_options(options.clone())
        .timeout(LONG)
}

/// Publishes until the consumer has a frame: a subscription needs a moment to be connected.
fn connect(producer: &mut Producer, consumer: &mut Consumer) -> Seq {
    eventually("descriptors arrive", || {
        producer.publish(b"hello").unwrap();
        consumer
            .wait(Duration::from_millis(10))
            .unwrap()
            .map(|frame| frame.seq())
    })
}

// spec: X-1-3 W-10.2.1-1 W-10.2.1-2 W-10.2.1-3 T-8.1-1
#[test]
fn descriptors_are_the_default_on_aeron_and_carry_trace_ids() {
    let (peer, options) = start();
    let mut producer = producer(&options).trace_ids().build().expect("attached");
    let mut consumer = consumer(&options).build().expect("attached");
    connect(&mut producer, &mut consumer);
    while consumer.next().unwrap().is_some() {}
    let spec = TensorSpec::bytes(4).unwrap();
    let mut claim = producer.claim(&spec).unwrap();
    claim.write(b"data").unwrap();
    claim.set_trace(TraceId(77));
    let seq = claim.commit().unwrap();
    let frame = consumer.wait(LONG).unwrap().expect("a frame");
    assert_eq!((frame.seq(), frame.trace_id()), (seq, Some(TraceId(77))));
    assert_eq!(frame.to_vec().unwrap(), b"data");
    assert_eq!(peer.with(|state| state.leases.len()), 2);
}

// spec: X-1-4 X-1-5
#[test]
fn a_ring_consumer_on_aeron_reads_descriptors_away_and_never_stalls_the_producer() {
    let (_peer, options) = start();
    let mut producer = producer(&options).build().expect("attached");
    let mut consumer = consumer(&options)
        .notify(Notify::Ring)
        .build()
        .expect("attached");
    let mut seen = 0;
    // Many windows, at the consumer's pace: were nobody to read, the second window would be refused
    // for good.
    for _ in 0..WINDOW * 8 {
        producer.publish(b"x").unwrap();
        let frame = consumer.wait(LONG).unwrap().expect("a frame");
        assert_eq!(frame.trace_id(), None);
        seen += 1;
    }
    assert_eq!(consumer.stats().delivered, seen);
    let refused = producer
        .stats()
        .dropped(ProducerDrop::DescriptorBackpressure);
    eventually("the conductor has drained", || {
        let before = producer
            .stats()
            .dropped(ProducerDrop::DescriptorBackpressure);
        producer.publish(b"x").unwrap();
        let after = producer
            .stats()
            .dropped(ProducerDrop::DescriptorBackpressure);
        (after == before).then_some(())
    });
    assert!(refused < WINDOW * 7, "{refused} refused of {}", WINDOW * 8);
}

// spec: W-15.4-1 W-10.2.1-1
#[test]
fn descriptors_that_nobody_reads_cost_descriptors_and_no_frame() {
    let (_peer, options) = start();
    let mut producer = producer(&options).build().expect("attached");
    let mut ring = consumer(&options)
        .notify(Notify::Ring)
        .build()
        .expect("attached");
    // As the C client has one: subscribed and never polled.
    let dir = options.aeron_dir.clone().unwrap();
    let mut deaf = RusteronClient::connect(&RusteronConfig::new(dir)).unwrap();
    let _unread = deaf.add_subscription(DESCRIPTORS, 1_100).unwrap();
    let mut frames = 0_u64;
    eventually("the window is full", || {
        let seq = producer.publish(b"x").expect("a frame is always committed");
        assert_eq!(seq.get(), frames);
        frames += 1;
        let frame = ring.wait(LONG).unwrap().expect("the ring shows each");
        assert_eq!(frame.seq(), seq);
        let refused = producer
            .stats()
            .dropped(ProducerDrop::DescriptorBackpressure);
        (refused > 0).then_some(())
    });
    assert_eq!(ring.stats().delivered, frames);
    assert_eq!(ring.stats().drops().count(), 0);
}

// spec: W-10.1.3-2 W-10.1.3-5
#[test]
fn a_consumer_that_is_declined_stays_on_the_shared_descriptors() {
    use tensorpool_wire::{Bool, ConsumerConfig, Mode, Role};
    let (peer, options) = start();
    let mut producer = producer(&options).build().expect("attached");
    let mut consumer = consumer(&options)
        .own_streams(31_008, 32_008)
        .build()
        .expect("attached");
    peer.with(|state| {
        let (_, lease) = state.lease_of(Role::Consumer).unwrap();
        let config = ConsumerConfig {
            stream_id: STREAM,
            consumer_id: lease.client,
            use_shm: Bool::True,
            mode: Mode::Stream,
            descriptor_stream_id: 0,
            control_stream_id: 0,
            payload_fallback_uri: String::new(),
            descriptor_channel: String::new(),
            control_channel: String::new(),
        };
        state.send(
            lease.connection,
            tensorpool_transport::LogicalStream::Control,
            config,
        );
    });
    connect(&mut producer, &mut consumer);
}

/// Assigns descriptors of its own to the peer's consumer, on a stream that nobody publishes to.
fn assign_silence(peer: &Peer) {
    use tensorpool_wire::{Bool, ConsumerConfig, Mode, Role};
    peer.with(|state| {
        let (_, lease) = state.lease_of(Role::Consumer).unwrap();
        let config = ConsumerConfig {
            stream_id: STREAM,
            consumer_id: lease.client,
            use_shm: Bool::True,
            mode: Mode::Stream,
            descriptor_stream_id: 31_009,
            control_stream_id: 0,
            payload_fallback_uri: String::new(),
            descriptor_channel: "aeron:ipc".into(),
            control_channel: String::new(),
        };
        state.send(
            lease.connection,
            tensorpool_transport::LogicalStream::Control,
            config,
        );
    });
}

// spec: W-5-1 W-10.1.3-2
#[test]
fn a_consumer_whose_own_stream_stays_silent_goes_back_to_the_shared_one() {
    let (peer, options) = start();
    let mut consumer = consumer(&options)
        .own_streams(31_009, 0)
        .build()
        .expect("attached");
    assign_silence(&peer);
    // A producer that had heard of the assignment would obey it.
    let mut producer = producer(&options).build().expect("attached");
    let mut silent = 0;
    eventually("nothing comes any more", || {
        producer.publish(b"x").unwrap();
        let frame = consumer.wait(Duration::from_millis(5)).unwrap();
        silent = if frame.is_some() { 0 } else { silent + 1 };
        (silent == 100).then_some(())
    });
    // The producer's QoS goes on, and five seconds of it without a frame are enough.
    eventually("frames again", || {
        producer.publish(b"x").unwrap();
        let frame = consumer.wait(Duration::from_millis(5)).unwrap();
        frame.map(drop)
    });
    // The same assignment is not taken twice.
    assign_silence(&peer);
    let mut frames = 0;
    eventually("frames go on", || {
        producer.publish(b"x").unwrap();
        let frame = consumer.wait(Duration::from_millis(5)).unwrap();
        frames += u32::from(frame.is_some());
        (frames == 200).then_some(())
    });
    let stats = consumer.stats();
    let lost = stats.dropped(DropReason::Gap) + stats.dropped(DropReason::MissedStart);
    assert!(lost > 100, "what came meanwhile is counted: {stats:?}");
}

// spec: W-5-1 W-5-2 W-5-5 W-10.1.2-5 W-10.1.3-3 W-5-4
#[test]
fn a_consumer_that_asks_gets_descriptors_of_its_own() {
    let (_peer, options) = start();
    let mut producer = producer(&options)
        .assign_streams()
        .build()
        .expect("attached");
    let mut own = consumer(&options)
        .own_streams(31_007, 32_007)
        .progress()
        .build()
        .expect("attached");
    connect(&mut producer, &mut own);
    // The shared stream is shut: what still arrives comes on its own.
    let spec = TensorSpec::bytes(1).unwrap();
    eventually("progress on its own control stream", || {
        let mut claim = producer.claim(&spec).unwrap();
        claim.progress(1).unwrap();
        claim.commit().unwrap();
        let _ = own.next().unwrap();
        own.progress()
    });
    let dir = options.aeron_dir.clone().unwrap();
    let mut client = RusteronClient::connect(&RusteronConfig::new(dir)).unwrap();
    let mut listening = client.add_subscription("aeron:ipc", 31_007).unwrap();
    eventually("descriptors on the stream that was asked for", || {
        use tensorpool_transport::pubsub::Subscription;
        client.do_work(&mut |_| {}).unwrap();
        producer.publish(b"x").unwrap();
        let _ = own.next().unwrap();
        let heard = listening.poll(16, &mut |_, _| {}).unwrap();
        (heard > 0).then_some(())
    });
}

// spec: W-10.2.1-8 W-15.7-2
#[test]
fn descriptors_carry_no_time_and_the_slots_times_never_fall() {
    use tensorpool_transport::pubsub::Subscription;
    let (_peer, options) = start();
    let dir = options.aeron_dir.clone().unwrap();
    let mut client = RusteronClient::connect(&RusteronConfig::new(dir)).unwrap();
    let mut witness = client.add_subscription(DESCRIPTORS, 1_100).unwrap();
    let mut producer = producer(&options).build().expect("attached");
    let mut consumer = consumer(&options).build().expect("attached");
    let mut seen = Vec::new();
    let mut last = None;
    eventually("eight descriptors are read", || {
        client.do_work(&mut |_| {}).unwrap();
        producer.publish(b"hello").unwrap();
        let mut take = |bytes: &[u8], _| seen.push(FrameDescriptor::decode(bytes).unwrap());
        witness.poll(64, &mut take).unwrap();
        while let Some(frame) = consumer.next().unwrap() {
            let captured = frame.timestamp_ns().expect("captured at the claim");
            assert!(last <= Some(captured), "{last:?} before {captured}");
            last = Some(captured);
        }
        (seen.len() >= 8 && last.is_some()).then_some(())
    });
    assert!(
        seen.iter()
            .all(|descriptor| descriptor.timestamp_ns.is_none())
    );
}

// spec: W-10.2.1-2 W-10.2.1-4 W-15.3-1
#[test]
fn foreign_descriptors_are_passed_over_and_false_ones_counted() {
    use tensorpool_transport::pubsub::Publication;
    let (_peer, options) = start();
    let mut producer = producer(&options).build().expect("attached");
    let mut consumer = consumer(&options).build().expect("attached");
    connect(&mut producer, &mut consumer);
    let epoch = consumer.memory().unwrap().map(|_| ()).and_then(|()| {
        producer.publish(b"x").unwrap();
        consumer.wait(LONG).unwrap().map(|frame| frame.epoch())
    });
    let epoch = epoch.expect("a frame");
    let dir = options.aeron_dir.clone().unwrap();
    let mut client = RusteronClient::connect(&RusteronConfig::new(dir)).unwrap();
    let mut liar = client.add_publication(DESCRIPTORS, 1_100).unwrap();
    let truth = FrameDescriptor {
        stream_id: STREAM,
        epoch,
        seq: Seq(1 << 40),
        timestamp_ns: None,
        meta_version: None,
        trace_id: None,
    };
    let mut say = |descriptor: FrameDescriptor| {
        eventually("said", || {
            client.do_work(&mut |_| {}).unwrap();
            liar.offer(&descriptor.encode_array()).ok()
        });
    };
    say(FrameDescriptor {
        stream_id: StreamId(1),
        ..truth
    });
    say(FrameDescriptor {
        epoch: Epoch(1),
        ..truth
    });
    say(truth);
    eventually("both are counted", || {
        assert!(
            consumer.next().unwrap().is_none(),
            "no frame comes of a false descriptor"
        );
        let stats = consumer.stats();
        let counted = [DropReason::OtherEpoch, DropReason::NotCommitted].map(|r| stats.dropped(r));
        (counted == [1, 1]).then_some(())
    });
}

#[test]
fn a_media_driver_that_is_not_there_is_an_error_with_its_directory() {
    let options = ClientOptions {
        aeron_dir: Some("/dev/shm/no-such-media-driver".into()),
        ..ClientOptions::default()
    };
    let built = consumer(&options)
        .timeout(Duration::from_millis(300))
        .build();
    let words = built.expect_err("there is none").to_string();
    assert!(words.contains("/dev/shm/no-such-media-driver"), "{words}");
}
