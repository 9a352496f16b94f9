//! Media drivers that die, clients that time out, subscribers that stop.

use super::*;
use crate::pubsub::{Dead, ImageEvent, MessageClient, Publication, SendError, Subscription};

const SECOND: u64 = 1_000 * MS;
const CHANNEL: &str = "aeron:ipc?term-length=64k";

/// Offers 1,000-byte messages until one is refused; returns how many were taken.
fn fill(publication: &mut BusPublication) -> (usize, SendError) {
    for taken in 0..100 {
        if let Err(refused) = publication.offer(&[0; 1_000]) {
            return (taken, refused);
        }
    }
    panic!("a window of 32 KiB took 100 messages of 1,000 bytes");
}

#[test]
fn a_dead_media_driver_is_noticed_after_the_timeout_and_by_everything() {
    let bus = Bus::new(1);
    let mut client = bus.client().unwrap();
    let mut subscription = client.add_subscription(CHANNEL, 1).unwrap();
    let mut publication = client.add_publication(CHANNEL, 1).unwrap();
    bus.kill_media_driver();
    bus.advance(2 * SECOND - 1);
    // Until then the logs still work between those who have them.
    publication.offer(b"still passes").unwrap();
    assert_eq!(subscription.poll(1, &mut |_, _| {}), Ok(1));
    assert!(matches!(
        client.add_publication(CHANNEL, 2),
        Err(Dead::MediaDriver(_))
    ));
    assert!(client.do_work(&mut |_| {}).is_ok());
    bus.advance(1);
    assert!(matches!(
        client.do_work(&mut |_| {}),
        Err(Dead::MediaDriver(_))
    ));
    assert!(matches!(
        subscription.poll(1, &mut |_, _| {}),
        Err(Dead::MediaDriver(_))
    ));
    assert!(matches!(publication.offer(b"x"), Err(SendError::Closed(_))));
    assert!(matches!(bus.client(), Err(Dead::MediaDriver(_))));
}

#[test]
fn clients_of_a_media_driver_that_was_restarted_stay_dead_and_new_ones_start_afresh() {
    let bus = Bus::new(1);
    let mut old = bus.client().unwrap();
    let mut old_subscription = old.add_subscription(CHANNEL, 1).unwrap();
    bus.kill_media_driver();
    bus.restart_media_driver();
    let mut new = bus.client().unwrap();
    let mut publication = new.add_publication(CHANNEL, 1).unwrap();
    assert_eq!(
        publication.offer(b"x"),
        Err(SendError::NotConnected),
        "the old one is not heard"
    );
    assert!(matches!(
        old.do_work(&mut |_| {}),
        Err(Dead::MediaDriver(_))
    ));
    assert!(matches!(
        old_subscription.poll(1, &mut |_, _| {}),
        Err(Dead::MediaDriver(_))
    ));
    let mut subscription = new.add_subscription(CHANNEL, 1).unwrap();
    publication.offer(b"x").unwrap();
    assert_eq!(subscription.poll(1, &mut |_, _| {}), Ok(1));
}

#[test]
fn a_client_that_is_not_driven_is_given_up_and_what_it_had_is_gone() {
    let bus = Bus::new(1);
    let (mut driven, mut silent) = (bus.client().unwrap(), bus.client().unwrap());
    let mut lost = silent.add_subscription(CHANNEL, 1).unwrap();
    let publication = driven.add_publication(CHANNEL, 1).unwrap();
    for _ in 0..50 {
        bus.advance(100 * MS);
        driven.do_work(&mut |_| {}).unwrap();
    }
    assert!(publication.is_connected(), "five seconds are allowed");
    bus.advance(1);
    assert!(!publication.is_connected());
    assert!(matches!(lost.poll(1, &mut |_, _| {}), Err(Dead::Closed(_))));
    assert!(matches!(
        silent.do_work(&mut |_| {}),
        Err(Dead::ClientTimeout(_))
    ));
    assert!(driven.do_work(&mut |_| {}).is_ok());
}

#[test]
fn a_crashed_subscriber_stalls_its_publisher_until_it_is_given_up() {
    let bus = Bus::new(1);
    let (mut driven, mut doomed) = (bus.client().unwrap(), bus.client().unwrap());
    let mut reading = driven.add_subscription(CHANNEL, 1).unwrap();
    let crashed = doomed.add_subscription(CHANNEL, 1).unwrap();
    let mut publication = driven.add_publication(CHANNEL, 1).unwrap();
    doomed.crash();
    drop(crashed);
    assert_eq!(fill(&mut publication), (32, SendError::BackPressured));
    let mut read = 0;
    for _ in 0..50 {
        bus.advance(100 * MS);
        driven.do_work(&mut |_| {}).unwrap();
        read += reading.poll(100, &mut |_, _| {}).unwrap();
        assert_eq!(publication.offer(b"x"), Err(SendError::BackPressured));
    }
    assert_eq!(read, 32, "who reads is held up all the same");
    bus.advance(MS);
    driven.do_work(&mut |_| {}).unwrap();
    assert_eq!(publication.offer(b"x"), Ok(()));
}

#[test]
fn a_crashed_publisher_is_gone_when_it_is_given_up() {
    let bus = Bus::new(1);
    let (mut driven, mut doomed) = (bus.client().unwrap(), bus.client().unwrap());
    let mut subscription = driven.add_subscription(CHANNEL, 1).unwrap();
    let mut publication = doomed.add_publication(CHANNEL, 1).unwrap();
    publication.offer(b"last").unwrap();
    let session = publication.session();
    doomed.crash();
    drop(publication);
    let mut events = Vec::new();
    for _ in 0..51 {
        bus.advance(100 * MS);
        driven
            .do_work(&mut |event| events.push((bus.now(), event)))
            .unwrap();
        subscription.poll(1, &mut |_, _| {}).unwrap();
    }
    let [(_, up), (down_at, down)] = events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(up, ImageEvent::Up { stream: 1, session });
    assert_eq!(down, ImageEvent::Down { stream: 1, session });
    assert_eq!(down_at, MonoNanos(6 * SECOND + 100 * MS));
}

#[test]
fn an_untethered_subscriber_rests_loses_and_comes_back_at_the_newest() {
    let bus = Bus::new(1);
    let mut client = bus.client().unwrap();
    let mut reading = client.add_subscription(CHANNEL, 1).unwrap();
    let mut stopped = client
        .add_subscription("aeron:ipc?tether=false", 1)
        .unwrap();
    let mut publication = client.add_publication(CHANNEL, 1).unwrap();
    let session = publication.session();
    let mut events = Vec::new();
    client.do_work(&mut |event| events.push(event)).unwrap();
    assert_eq!(events.len(), 2, "both subscriptions have an image");
    events.clear();
    assert_eq!(fill(&mut publication), (32, SendError::BackPressured));
    bus.advance(MS);
    assert_eq!(reading.poll(100, &mut |_, _| {}), Ok(32));
    bus.advance(198 * MS);
    assert_eq!(
        publication.offer(b"x"),
        Err(SendError::BackPressured),
        "200 ms are allowed"
    );
    bus.advance(MS);
    assert_eq!(publication.offer(b"while it rests"), Ok(()));
    assert_eq!(stopped.image_count(), 0);
    assert_eq!(
        stopped.poll(100, &mut |_, _| {}),
        Ok(0),
        "what it had not read is lost"
    );
    bus.advance(200 * MS);
    assert_eq!(stopped.image_count(), 1);
    publication.offer(b"when it is back").unwrap();
    let mut heard = Vec::new();
    stopped
        .poll(100, &mut |bytes, _| heard.push(bytes.to_vec()))
        .unwrap();
    assert_eq!(heard, [b"when it is back".to_vec()]);
    client.do_work(&mut |event| events.push(event)).unwrap();
    let stream = 1;
    assert_eq!(
        events,
        [
            ImageEvent::Down { stream, session },
            ImageEvent::Up { stream, session }
        ]
    );
}

#[test]
fn logs_of_other_channels_and_streams_are_other_logs() {
    let bus = Bus::new(1);
    let mut client = bus.client().unwrap();
    let _other_stream = client.add_subscription(CHANNEL, 2).unwrap();
    let _other_channel = client.add_subscription("aeron:udp?endpoint=x", 1).unwrap();
    let publication = client.add_publication(CHANNEL, 1).unwrap();
    assert!(!publication.is_connected());
    let _same = client.add_subscription("aeron:ipc?tether=true", 1).unwrap();
    assert!(
        publication.is_connected(),
        "parameters do not make another log"
    );
}
