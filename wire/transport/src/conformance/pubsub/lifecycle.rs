//! Cases of coming, going and being left behind.

use super::{Pair, Peer, PubSubFixture, TERM_SMALL, read, until};
use crate::conformance::pattern;
use crate::pubsub::{ImageEvent, MessageClient, Publication, SendError, Subscription};

/// A publication that comes and goes is reported as an image that does, with its session.
pub fn images_are_reported_up_and_down<F: PubSubFixture>(fixture: &mut F) {
    let channel = fixture.channel(TERM_SMALL);
    let stream = fixture.fresh_stream();
    let mut sender = Peer::new(fixture.client());
    let mut receiver = Peer::new(fixture.client());
    let mut subscription = receiver
        .client
        .add_subscription(&channel, stream)
        .expect("subscribes");
    let publication = sender
        .client
        .add_publication(&channel, stream)
        .expect("publishes");
    let session = publication.session();
    until(
        fixture,
        &mut [&mut sender, &mut receiver],
        "the image",
        || subscription.image_count() == 1,
    );
    drop(publication);
    until(
        fixture,
        &mut [&mut sender, &mut receiver],
        "the image to go",
        || {
            read(&mut subscription, &mut Vec::new());
            subscription.image_count() == 0
        },
    );
    receiver.work();
    let own = |event: &&ImageEvent| match event {
        ImageEvent::Up { stream: of, .. } | ImageEvent::Down { stream: of, .. } => *of == stream,
    };
    let events: Vec<_> = receiver.events.iter().filter(own).copied().collect();
    assert_eq!(
        events,
        [
            ImageEvent::Up { stream, session },
            ImageEvent::Down { stream, session }
        ]
    );
}

/// What was sent before a publication closed is still delivered.
pub fn a_close_loses_nothing<F: PubSubFixture>(fixture: &mut F) {
    let pair = Pair::connect(fixture, TERM_SMALL);
    let Pair {
        mut publication,
        mut subscription,
        mut sender,
        mut receiver,
    } = pair;
    let sent: Vec<_> = (0..5).map(|n| pattern(n, 200)).collect();
    sent.iter()
        .for_each(|message| publication.offer(message).expect("five messages fit"));
    drop(publication);
    let mut received = Vec::new();
    until(
        fixture,
        &mut [&mut sender, &mut receiver],
        "the last messages",
        || {
            read(&mut subscription, &mut received);
            received.len() >= sent.len()
        },
    );
    assert_eq!(received, sent);
}

/// When the last subscriber has gone, the publication is not connected any more.
pub fn the_last_subscriber_to_go_disconnects<F: PubSubFixture>(fixture: &mut F) {
    let pair = Pair::connect(fixture, TERM_SMALL);
    let Pair {
        mut publication,
        subscription,
        mut sender,
        mut receiver,
    } = pair;
    drop(subscription);
    until(
        fixture,
        &mut [&mut sender, &mut receiver],
        "the subscriber to be gone",
        || !publication.is_connected(),
    );
    assert_eq!(
        publication.offer(b"nobody listens"),
        Err(SendError::NotConnected)
    );
}

/// An untethered subscriber that never reads is left behind; the publisher goes on, and a subscriber
/// that reads loses nothing.
pub fn an_untethered_subscriber_cannot_stall_the_others<F: PubSubFixture>(fixture: &mut F) {
    let mut pair = Pair::connect(fixture, TERM_SMALL);
    let (channel, stream) = (fixture.channel(TERM_SMALL), fixture.fresh_stream());
    let untethered = fixture.untethered_channel();
    let mut stalled = pair
        .sender
        .client
        .add_subscription(&untethered, stream)
        .expect("subscribes");
    let mut reading = pair
        .receiver
        .client
        .add_subscription(&channel, stream)
        .expect("subscribes");
    let mut publication = pair
        .sender
        .client
        .add_publication(&channel, stream)
        .expect("publishes");
    until(
        fixture,
        &mut [&mut pair.sender, &mut pair.receiver],
        "both to connect",
        || stalled.image_count() == 1 && reading.image_count() == 1,
    );
    let mut sent = Vec::new();
    let mut received = Vec::new();
    // Four windows, so that it cannot be the window alone that lets them pass.
    until(
        fixture,
        &mut [&mut pair.sender, &mut pair.receiver],
        "four windows to pass",
        || {
            let message = pattern(sent.len(), 1_000);
            match publication.offer(&message) {
                Ok(()) => sent.push(message),
                Err(SendError::BackPressured | SendError::AdminAction) => {}
                Err(other) => panic!("offer failed: {other}"),
            }
            read(&mut reading, &mut received);
            sent.len() == 128
        },
    );
    until(
        fixture,
        &mut [&mut pair.sender, &mut pair.receiver],
        "the rest",
        || {
            read(&mut reading, &mut received);
            received.len() >= sent.len()
        },
    );
    assert!(received == sent, "the subscriber that reads lost something");
    let mut late = Vec::new();
    read(&mut stalled, &mut late);
    assert!(late.len() < sent.len(), "the stalled one was left behind");
}
