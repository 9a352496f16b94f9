//! Frames from one producer to its consumers, in one process.

use std::time::Duration;

use tensorpool_client::{
    ClaimError, Consumer, ConsumerBuilder, DropReason, Dtype, Metadata, MonoNanos, Producer,
    ProducerDrop, Seq, Start, TensorSpec,
};

use crate::peer::{NAME, NSLOTS, Peer, STREAM, STRIDES, eventually, now};

const LONG: Duration = Duration::from_secs(10);

pub(crate) fn producer(peer: &Peer) -> Producer {
    let builder = Producer::builder(NAME)
        .client_options(peer.options())
        .timeout(LONG);
    builder.build().expect("attached")
}

pub(crate) fn consumer(peer: &Peer) -> ConsumerBuilder {
    Consumer::builder(NAME)
        .client_options(peer.options())
        .timeout(LONG)
}

pub(crate) fn seqs(consumer: &mut Consumer) -> Vec<u64> {
    let mut seqs = Vec::new();
    while let Some(frame) = consumer.next().expect("the lease holds") {
        seqs.push(frame.seq().get());
    }
    seqs
}

// spec: D-2.2-1 D-2.3-1 W-8.2-12 W-10.2.1-8 W-10.2.1-9 X-2-8 X-2-9 X-1-8 X-1-9 X-1-12
#[test]
fn a_frame_arrives_with_all_that_it_was_given() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    assert_eq!(producer.stream(), STREAM);
    let spec = TensorSpec::new(Dtype::Uint16, &[3, 5]).unwrap();
    let bytes: Vec<u8> = (0..30).collect();
    let mut claim = producer.claim(&spec).unwrap();
    claim.write(&bytes).unwrap();
    claim.set_timestamp(Some(MonoNanos(77)));
    assert_eq!(claim.commit(), Ok(Seq(0)));

    let frame = consumer.wait(LONG).unwrap().expect("a frame");
    assert_eq!(frame.seq(), Seq(0));
    assert_eq!(frame.dtype(), Dtype::Uint16);
    assert_eq!(frame.shape(), [3, 5]);
    assert_eq!(frame.strides(), [10, 2]);
    assert_eq!(frame.timestamp_ns(), Some(MonoNanos(77)));
    assert_eq!(frame.trace_id(), None);
    assert_eq!(frame.to_vec().unwrap(), bytes);
    assert!(frame.still_valid());
    assert_eq!(frame.frames_until_overwrite(), u64::from(NSLOTS) - 1);
    assert!(consumer.next().unwrap().is_none());
    assert_eq!(producer.publish(&[]), Ok(Seq(1)));
    let empty = consumer
        .next()
        .unwrap()
        .expect("a frame without payload is a frame");
    assert_eq!(empty.to_vec().unwrap(), []);
    assert!(
        empty.timestamp_ns().is_some(),
        "the capture time is filled in by default"
    );
}

// spec: W-9-3 W-9-4
#[test]
fn the_smallest_pool_that_fits_is_taken_and_too_large_is_an_error_and_a_count() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    let largest = STRIDES[1];
    for (len, pool) in [(1, 1), (256, 1), (257, 2), (4_096, 2)] {
        producer.publish(&vec![7; len]).unwrap();
        let frame = consumer.next().unwrap().expect("a frame");
        assert_eq!(frame.pool().get(), pool, "{len} bytes");
    }
    assert_eq!(
        producer.publish(&vec![7; 4_097]),
        Err(ClaimError::TooLarge {
            len_bytes: 4_097,
            largest_bytes: largest
        })
    );
    assert_eq!(producer.stats().dropped(ProducerDrop::TooLarge), 1);
    assert_eq!(
        producer.publish(&[1]),
        Ok(Seq(4)),
        "the number was not used up"
    );
}

// spec: X-1-18
#[test]
fn an_abandoned_claim_leaves_no_hole() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    let spec = TensorSpec::bytes(4).unwrap();
    let mut claim = producer.claim(&spec).unwrap();
    claim.write(b"lost").unwrap();
    drop(claim);
    assert!(consumer.next().unwrap().is_none());
    assert_eq!(producer.publish(b"kept"), Ok(Seq(0)));
    assert_eq!(
        consumer.next().unwrap().map(|frame| frame.to_vec()),
        Some(Ok(b"kept".to_vec()))
    );
    assert_eq!(producer.stats().dropped(ProducerDrop::Abandoned), 1);
    assert_eq!(consumer.stats().drops().count(), 0);
}

#[test]
fn a_claim_takes_no_more_bytes_than_its_tensor() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let spec = TensorSpec::bytes(4).unwrap();
    let mut claim = producer.claim(&spec).unwrap();
    let length = |found_bytes| ClaimError::Length {
        expected_bytes: 4,
        found_bytes,
    };
    assert_eq!(claim.write(b"123"), Err(length(3)));
    assert_eq!(claim.write_at(2, b"345"), Err(length(5)));
    assert_eq!(claim.write_at(usize::MAX, b"3"), Err(length(usize::MAX)));
    assert_eq!(claim.progress(5), Err(length(5)));
    assert_eq!(claim.write_at(1, b"234"), Ok(()));
    drop(claim);
    assert_eq!(producer.publish_tensor(&spec, b"12345"), Err(length(5)));
}

// spec: X-1-19
#[test]
fn a_consumer_starts_where_it_wants() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    for _ in 0..5 {
        producer.publish(b"x").unwrap();
    }
    let mut newest = consumer(&peer).build().expect("attached");
    let mut next = consumer(&peer).from(Start::Next).build().expect("attached");
    let mut at_once = consumer(&peer).from(Start::Next).build().expect("attached");
    assert_eq!(seqs(&mut newest), [4]);
    assert_eq!(seqs(&mut next), []);
    producer.publish(b"x").unwrap();
    assert_eq!(seqs(&mut newest), [5]);
    assert_eq!(seqs(&mut next), [5]);
    // It begins when it is built, not when it is first asked.
    assert_eq!(seqs(&mut at_once), [5]);
}

// spec: W-15.4-1 W-15.4-2 W-15.4-3 X-1-10 X-1-13 X-1-14 X-1-15
#[test]
fn a_slow_consumer_loses_frames_and_each_is_counted() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    producer.publish(b"x").unwrap();
    assert_eq!(seqs(&mut consumer), [0]);
    for _ in 0..100 {
        producer.publish(b"x").unwrap();
    }
    let seen = seqs(&mut consumer);
    assert_eq!(seen.last(), Some(&100));
    let stats = consumer.stats();
    let dropped: u64 = stats.drops().map(|(_, frames)| frames).sum();
    assert_eq!(stats.delivered + dropped, 101);
    assert!(stats.dropped(DropReason::Lapped) + stats.dropped(DropReason::Lagged) > 0);
    assert!(stats.largest_lag > u64::from(NSLOTS / 2));
}

#[test]
fn latest_passes_over_what_came_before_and_counts_it_apart() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    for _ in 0..4 {
        producer.publish(b"x").unwrap();
    }
    assert_eq!(
        consumer.latest().unwrap().map(|frame| frame.seq()),
        Some(Seq(3))
    );
    assert!(consumer.latest().unwrap().is_none());
    let stats = consumer.stats();
    assert_eq!(
        stats.drops().collect::<Vec<_>>(),
        [(DropReason::PassedOver, 3)]
    );
    assert_eq!(stats.counted(tensorpool_client::DropCounter::Gap), 0);
}

// spec: W-8.3-7
#[test]
fn a_frame_that_was_overwritten_says_so() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    producer.publish(b"old").unwrap();
    let held = consumer.next().unwrap().expect("a frame").hold();
    for left in (0..NSLOTS - 1).rev() {
        assert!(held.frame().still_valid());
        producer.publish(b"new").unwrap();
        assert_eq!(held.frame().frames_until_overwrite(), u64::from(left));
    }
    producer.publish(b"new").unwrap();
    assert!(!held.frame().still_valid());
    assert!(held.frame().to_vec().is_err());
    assert_eq!(held.frame().frames_until_overwrite(), 0);
}

// spec: W-10.3.1-1 W-10.3.2-1 W-10.3.2-2 W-15.11-1
#[test]
fn a_description_arrives_and_frames_refer_to_it() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    producer.publish(b"x").unwrap();
    assert_eq!(
        consumer
            .next()
            .unwrap()
            .and_then(|frame| frame.meta_version()),
        None
    );
    let version = producer.set_metadata(Metadata::default().with("fps", "text/plain", "30"));
    assert_eq!(version, 1);
    // It comes in two messages.
    eventually("the description", || {
        let metadata = consumer.metadata();
        (metadata.name == NAME && metadata.get("fps").is_some()).then_some(())
    });
    producer.publish(b"x").unwrap();
    let frame = consumer.next().unwrap().expect("a frame");
    assert_eq!(frame.meta_version(), Some(1));
    let metadata = frame.metadata().expect("it has arrived");
    assert_eq!(metadata.get("fps"), Some(b"30".as_slice()));
    assert_eq!(metadata.name, NAME);
}

// spec: W-10.2.2-1 W-10.2.2-2 W-10.2.2-3 W-10.2.2-5 W-10.2.2-6
#[test]
fn progress_is_told_to_who_asked_and_the_prefix_waits_for_the_commit() {
    use tensorpool_client::FrameProgressState::{Complete, Started};
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).progress().build().expect("attached");
    let spec = TensorSpec::bytes(100).unwrap();
    // The hello has to arrive before anything is told.
    eventually("somebody listens", || {
        let mut claim = producer.claim(&spec).unwrap();
        claim.write(&[7; 100]).unwrap();
        claim.progress(50).unwrap();
        drop(claim);
        consumer.progress()
    });
    // The claims before may have used up the rate limit, and what it holds back is lost.
    let deadline = now().saturating_add(10_000_000_000);
    let (claim, started) = loop {
        assert!(
            now() < deadline,
            "no frame's beginning was told within 10 s"
        );
        let mut claim = producer.claim(&spec).unwrap();
        let seq = claim.seq();
        claim.write(&[7; 100]).unwrap();
        claim.progress(50).unwrap();
        let told = (0..10_000).find_map(|_| {
            std::thread::yield_now();
            consumer.progress().filter(|progress| progress.seq == seq)
        });
        if let Some(started) = told {
            break (claim, started);
        }
    };
    let seq = started.seq;
    assert_eq!((started.state, started.payload_bytes_filled), (Started, 50));
    assert!(
        consumer.prefix(&started).unwrap().is_none(),
        "not committed: not the frame's bytes"
    );
    claim.commit().unwrap();
    let complete = eventually("complete", || consumer.progress());
    assert_eq!((complete.seq, complete.state), (seq, Complete));
    let frame = consumer.prefix(&complete).unwrap().expect("committed");
    assert_eq!(frame.to_vec().unwrap(), [7; 100]);
}

// spec: X-1-18
#[test]
fn a_number_that_progress_has_named_is_not_used_again() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).progress().build().expect("attached");
    let spec = TensorSpec::bytes(1).unwrap();
    let named = eventually("somebody listens", || {
        let mut claim = producer.claim(&spec).unwrap();
        let seq = claim.seq();
        claim.progress(1).unwrap();
        drop(claim);
        consumer.progress().map(|_| seq)
    });
    let next = producer.publish(b"x").unwrap();
    assert!(next > named);
}

// spec: W-11-1 W-11-2
#[test]
fn a_rate_that_was_asked_for_is_kept_by_the_frames_own_times() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).max_rate_hz(100).build().expect("attached");
    let spec = TensorSpec::bytes(1).unwrap();
    let mut seen = Vec::new();
    for millis in 1..=12_u64 {
        let mut claim = producer.claim(&spec).unwrap();
        claim.set_timestamp(Some(MonoNanos(millis * 4_000_000)));
        claim.commit().unwrap();
        seen.extend(seqs(&mut consumer));
    }
    // 4 ms apart, at least 10 ms wanted.
    assert_eq!(seen, [0, 3, 6, 9]);
    let stats = consumer.stats();
    assert_eq!(stats.dropped(DropReason::RateLimited), 8);
    assert_eq!(stats.delivered, 4, "what is left out is not delivered");
    peer.until("the wish in its hello", |state| {
        use tensorpool_wire::{Message, Mode};
        let is_it = |message: &Message| match message {
            Message::ConsumerHello(hello) => {
                (hello.mode, hello.max_rate_hz) == (Mode::RateLimited, 100)
            }
            _ => false,
        };
        state.heard.iter().any(is_it).then_some(())
    });
}

// spec: X-1-22 X-1-23
#[test]
fn a_consumer_that_sleeps_is_woken_by_a_frame() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    // Long after any spinning: the first wait ends without a frame.
    assert!(consumer.wait(Duration::from_millis(5)).unwrap().is_none());
    let (waiting, is_waiting) = std::sync::mpsc::channel();
    let sleeper = std::thread::spawn(move || {
        waiting.send(()).unwrap();
        consumer.wait(LONG).unwrap().map(|frame| frame.seq())
    });
    is_waiting.recv().unwrap();
    producer.publish(b"wake").unwrap();
    assert_eq!(sleeper.join().unwrap(), Some(Seq(0)));
}

// spec: X-1-24
#[test]
fn a_wait_ends_with_its_time_and_not_before() {
    let peer = Peer::start();
    let _producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    let began = now();
    assert!(consumer.wait(Duration::from_millis(20)).unwrap().is_none());
    assert!(now().saturating_since(began) >= 20_000_000);
}

// spec: X-1-20
#[test]
fn a_producer_that_goes_back_twice_in_one_epoch_makes_its_consumer_map_anew() {
    use tensorpool_transport::LogicalStream;
    use tensorpool_wire::{QosProducer, Role};
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    for _ in 0..5 {
        producer.publish(b"x").unwrap();
    }
    assert_eq!(seqs(&mut consumer), [0, 1, 2, 3, 4]);
    let memory = consumer.memory().unwrap().expect("mapped");
    peer.with(|state| {
        let (_, lease) = state.lease_of(Role::Consumer).unwrap();
        let qos = QosProducer {
            stream_id: STREAM,
            producer_id: state.lease_of(Role::Producer).unwrap().1.client,
            epoch: state.current.as_ref().unwrap().layout().epoch(),
            current_seq: Seq(1),
            watermark: None,
        };
        for _ in 0..3 {
            state.send(lease.connection, LogicalStream::Qos, qos);
        }
    });
    eventually("mapped anew", || (!memory.is_current()).then_some(()));
    eventually("reading on", || {
        consumer.next().expect("the lease holds").map(drop)
    });
}

// spec: W-5-3 W-10.2.2-6
#[test]
fn a_consumer_that_is_gone_is_forgotten_and_nothing_is_told_any_more() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut listener = consumer(&peer).progress().build().expect("attached");
    let spec = TensorSpec::bytes(1).unwrap();
    let mut claim_and_tell = || {
        let mut claim = producer.claim(&spec).unwrap();
        claim.progress(1).unwrap();
        claim.seq()
    };
    eventually("somebody listens", || {
        claim_and_tell();
        listener.progress()
    });
    drop(listener);
    // A number is used again only if nothing was told about it.
    eventually("nobody is told", || {
        std::thread::sleep(Duration::from_millis(100));
        (claim_and_tell() == claim_and_tell()).then_some(())
    });
}

// spec: W-10.4.1-1 W-15.4-2 W-10.1.2-2 W-10.1-6 W-10.1.1-6
#[test]
fn a_consumer_says_hello_and_reports_what_it_saw() {
    use tensorpool_wire::{Bool, Message, Mode};
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    for _ in 0..3 {
        producer.publish(b"x").unwrap();
    }
    assert_eq!(seqs(&mut consumer), [0, 1, 2]);
    let hello = peer.until("a hello", |state| {
        state.heard.iter().find_map(|message| match message {
            Message::ConsumerHello(hello) => Some(hello.clone()),
            _ => None,
        })
    });
    assert_eq!(
        (hello.stream_id, hello.mode, hello.max_rate_hz),
        (STREAM, Mode::Stream, 0)
    );
    assert_eq!(
        (hello.supports_shm, hello.supports_progress),
        (Bool::True, Bool::False)
    );
    assert_eq!(
        (
            hello.descriptor_stream_id,
            hello.descriptor_channel.as_str()
        ),
        (0, "")
    );
    let qos = peer.until("a report of the last frame", |state| {
        state.heard.iter().find_map(|message| match message {
            Message::QosConsumer(qos) if qos.last_seq_seen == Seq(2) => Some(*qos),
            _ => None,
        })
    });
    assert_eq!((qos.drops_gap, qos.drops_late), (0, 0));
    let announces = peer.with(|state| {
        let is_one = |message: &&Message| matches!(message, Message::ShmPoolAnnounce(_));
        state.heard.iter().filter(is_one).count()
    });
    assert_eq!(announces, 0, "announcing is the driver's");
    assert_eq!(qos.consumer_id, hello.consumer_id);
    // The producer's own: how many frames there are.
    peer.until("the producer's report", |state| {
        state.heard.iter().find_map(|message| match message {
            Message::QosProducer(qos) if qos.current_seq == Seq(3) => Some(()),
            _ => None,
        })
    });
}
