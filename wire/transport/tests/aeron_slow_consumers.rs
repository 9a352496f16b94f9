//! A consumer that stops, dies or never reads costs the others nothing.
//!
//! A real media driver with the product's own settings, 48-byte descriptors on 16 MiB terms, and
//! consumers in processes of their own: one healthy, one stopped (SIGSTOP), one killed (SIGKILL), and
//! one that subscribes on a plain channel as the C client does and never reads.
#![cfg(all(feature = "rusteron", feature = "media-driver"))]

mod aeron_support;

use std::ffi::CString;
use std::path::Path;
use std::time::{Duration, Instant};

use aeron_support::{LONG, Media, Peer, client, listen, role, say, until, until_connected};
use rusteron_client::{Aeron, AeronContext, Handlers};
use rustix::process::Signal;
use tensorpool_transport::aeron::media_driver::MediaDriverConfig;
use tensorpool_transport::pubsub::{MessageClient, Publication, SendError, Subscription};

const STREAM: i32 = 1100;
/// The product's channel for descriptors.
const CHANNEL: &str = "aeron:ipc?term-length=16m";
/// One descriptor of 80 bytes with its Aeron header takes 96 in the term: 87,381 fill the window.
const WINDOW: u64 = 8 * 1024 * 1024 / 96;
/// The last message: consumers report when they see it.
const END: u64 = u64::MAX;

/// How the publisher goes about it.
#[derive(Clone, Copy)]
enum Pace {
    /// So many, at this rate per second.
    Even { count: u64, rate: u64 },
    /// For so long, as fast as it goes.
    Flat(Duration),
}

/// What the publisher did.
#[derive(Debug, Default)]
struct Published {
    offered: u64,
    refused: u64,
}

/// What a consumer saw.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    first: u64,
    last: u64,
    received: u64,
    /// Numbers that it found missing between the first and the last.
    missing: u64,
}

impl Seen {
    fn parse(line: &str) -> Self {
        let mut numbers = line.split(' ').map(|n| n.parse().expect("a number"));
        let mut next = || numbers.next().expect("four numbers");
        Self {
            first: next(),
            last: next(),
            received: next(),
            missing: next(),
        }
    }
}

/// The product's settings, those of [`MediaDriverConfig::new`].
fn product(config: &mut MediaDriverConfig) {
    *config = MediaDriverConfig::new(&config.dir);
}

/// Publishes numbered descriptors, never waiting for anybody, and calls `midway` once, when
/// consumers have something to read.
fn publish(media: &Media, pace: Pace, midway: impl FnOnce()) -> Published {
    let mut client = media.client();
    let mut publication = client
        .add_publication(CHANNEL, STREAM)
        .expect("a publication");
    until_connected(&mut client, &publication);
    let mut published = Published::default();
    let mut offer = |published: &mut Published| {
        let mut descriptor = [0; 48];
        descriptor[..8].copy_from_slice(&published.offered.to_le_bytes());
        published.offered += 1;
        match publication.offer(&descriptor) {
            Ok(()) => {}
            Err(error) if error.is_retryable() => published.refused += 1,
            Err(error) => panic!("the publisher must go on: {error}"),
        }
    };
    for _ in 0..1000 {
        offer(&mut published);
    }
    midway();
    let began = Instant::now();
    let mut more = true;
    while more {
        client.do_work(&mut |_| {}).expect("a live media driver");
        let elapsed = began.elapsed();
        let due = match pace {
            Pace::Even { count, rate } => {
                let nanos = u64::try_from(elapsed.as_nanos()).expect("a short test");
                let due = u128::from(nanos) * u128::from(rate) / 1_000_000_000;
                // What a descheduled publisher missed is not made up for in one burst.
                let due = u64::try_from(due)
                    .expect("small")
                    .min(published.offered + 256);
                more = published.offered < count;
                due.min(count)
            }
            Pace::Flat(length) => {
                more = elapsed < length;
                published.offered + 256
            }
        };
        if published.offered >= due {
            std::thread::sleep(Duration::from_micros(50));
        }
        while published.offered < due {
            offer(&mut published);
        }
    }
    let mut last = [0; 48];
    last[..8].copy_from_slice(&END.to_le_bytes());
    until("room for the last message", || {
        client.do_work(&mut |_| {}).expect("a live media driver");
        publication.offer(&last).is_ok()
    });
    published
}

/// A consumer in this process's role: reads until the last message, then reports.
fn consume(dir: &Path) {
    let mut client = client(dir);
    let mut subscription = client
        .add_subscription(CHANNEL, STREAM)
        .expect("a subscription");
    say("ready");
    let mut seen = Seen {
        first: 0,
        last: 0,
        received: 0,
        missing: 0,
    };
    let mut ended = false;
    let deadline = Instant::now() + 3 * LONG;
    while !ended {
        assert!(Instant::now() < deadline, "the last message never came");
        client.do_work(&mut |_| {}).expect("a live media driver");
        let polled = subscription
            .poll(256, &mut |bytes, _| {
                let number = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
                if number == END {
                    ended = true;
                    return;
                }
                if seen.received == 0 {
                    say("reading");
                    seen.first = number;
                } else {
                    assert!(number > seen.last, "in order, and once");
                    seen.missing += number - seen.last - 1;
                }
                seen.received += 1;
                seen.last = number;
            })
            .expect("a live media driver");
        if polled == 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    say(&format!(
        "{} {} {} {}",
        seen.first, seen.last, seen.received, seen.missing
    ));
}

/// As the C client does: a plain channel, and nobody ever reads.
fn never_read(dir: &Path, channel: &str) {
    let context = AeronContext::new().expect("a context");
    let dir = CString::new(dir.to_str().expect("a plain path")).expect("a plain path");
    context.set_dir(&dir).expect("a directory");
    let aeron = Aeron::new(&context).expect("a live media driver");
    aeron.start().expect("its own conductor thread");
    let channel = CString::new(channel).expect("a plain channel");
    let pending = aeron
        .async_add_subscription(&channel, STREAM, Handlers::NONE, Handlers::NONE)
        .expect("a subscription");
    let subscription = pending.poll_blocking(LONG).expect("a subscription");
    say("ready");
    assert_eq!(listen(), "end");
    drop(subscription);
}

/// One run with all four consumers; one is stopped and one killed while they read.
fn run(pace: Pace) -> (Published, Seen) {
    let media = Media::with(product);
    let mut healthy = Peer::start("consumer", &media.dir);
    let mut stopped = Peer::start("consumer", &media.dir);
    let mut killed = Peer::start("consumer", &media.dir);
    let mut deaf = Peer::start("never_reads", &media.dir);
    for peer in [&mut healthy, &mut stopped, &mut killed, &mut deaf] {
        assert_eq!(peer.line(), "ready");
    }
    let stopped_ref = &mut stopped;
    let published = publish(&media, pace, || {
        for peer in [&mut healthy, &mut *stopped_ref, &mut killed] {
            assert_eq!(peer.line(), "reading");
        }
        stopped_ref.signal(Signal::STOP);
        killed.kill();
    });
    let seen = Seen::parse(&healthy.line());
    healthy.finish();
    stopped.kill();
    deaf.tell("end");
    deaf.finish();
    (published, seen)
}

/// A quarter of what the settings promise, so that a busy machine that lets the media driver wait
/// for its turn does not decide the outcome.
#[test]
fn media_driver_keeps_a_healthy_consumer_whole_beside_a_stopped_a_killed_and_a_deaf_one() {
    let rate = MediaDriverConfig::new("").lossless_rate(16 * 1024 * 1024, 48) / 4;
    let count = 3 * WINDOW;
    let (published, seen) = run(Pace::Even { count, rate });
    assert_eq!(published.refused, 0, "the publisher never had to wait");
    assert_eq!(
        seen,
        Seen {
            first: 0,
            last: count - 1,
            received: count,
            missing: 0
        }
    );
}

/// How far the promise reaches on this machine: the same with ever higher rates, two seconds each.
/// `cargo test --release -p tensorpool-transport --all-features --test aeron_slow_consumers --
/// --ignored --nocapture rate` prints it; docs/performance.md has the numbers.
#[test]
#[ignore = "a measurement for an idle machine"]
fn media_driver_carries_a_healthy_consumer_up_to_this_rate() {
    let promised = MediaDriverConfig::new("").lossless_rate(16 * 1024 * 1024, 48);
    println!("per second | offered | refused | not received by the healthy one");
    let mut lossless = 0;
    for quarters in [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32] {
        let rate = promised * quarters / 4;
        let count = (2 * rate).max(3 * WINDOW);
        let (published, seen) = run(Pace::Even { count, rate });
        let lost = published.offered - seen.received;
        println!(
            "{rate} | {} | {} | {lost}",
            published.offered, published.refused
        );
        if lost > 0 {
            break;
        }
        lossless = rate;
    }
    println!("lossless up to {lossless} per second, {promised} are promised");
    assert!(lossless > 0, "nothing at all got through");
}

#[test]
fn media_driver_goes_on_above_the_promised_rate_and_every_loss_is_counted() {
    let (published, seen) = run(Pace::Flat(Duration::from_secs(3)));
    let taken = published.offered - published.refused;
    println!("{published:?} {seen:?}");
    assert!(taken > 5 * WINDOW, "nobody stops the publisher: {taken}");
    assert!(seen.received > 2 * WINDOW, "and it is heard: {seen:?}");
    assert!(seen.received <= taken);
    let lost = published.offered - seen.received;
    let at_the_end = published.offered - 1 - seen.last;
    assert_eq!(lost, seen.first + seen.missing + at_the_end);
    assert!(lost >= published.refused, "a refused offer was not sent");
}

#[test]
fn media_driver_stops_a_publisher_whose_tethered_subscriber_never_reads() {
    // What the settings above prevent, so that the tests above are known to be able to fail.
    let media = Media::with(product);
    let mut deaf = Peer::start("never_reads_tethered", &media.dir);
    assert_eq!(deaf.line(), "ready");
    let mut client = media.client();
    let mut publication = client
        .add_publication("aeron:ipc?term-length=64k", STREAM)
        .expect("a publication");
    until_connected(&mut client, &publication);
    let mut taken = 0_u32;
    while publication.offer(&[0; 48]) != Err(SendError::BackPressured) {
        taken += 1;
    }
    assert!(taken < 2 * 65_536 / 96, "one window at most: {taken}");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        client.do_work(&mut |_| {}).expect("a live media driver");
        assert_eq!(
            publication.offer(&[0; 48]),
            Err(SendError::BackPressured),
            "for as long as that subscriber lives"
        );
    }
    deaf.tell("end");
    until("room again", || {
        client.do_work(&mut |_| {}).expect("a live media driver");
        publication.offer(&[0; 48]) != Err(SendError::BackPressured)
    });
    deaf.finish();
}

#[test]
#[ignore = "the other processes of these tests"]
fn peer_process() {
    let (role, dir) = role().expect("started by a test of this file");
    match role.as_str() {
        "consumer" => consume(&dir),
        "never_reads" => never_read(&dir, "aeron:ipc"),
        "never_reads_tethered" => never_read(&dir, "aeron:ipc?tether=true"),
        other => panic!("unknown role {other}"),
    }
}
