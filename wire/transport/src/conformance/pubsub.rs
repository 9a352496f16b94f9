//! Cases of the lower layer: publications and subscriptions.

pub mod lifecycle;

use super::{Patience, pattern};
use crate::pubsub::{ImageEvent, MessageClient, Publication, SendError, Subscription};

/// What a way brings to the cases of this layer.
pub trait PubSubFixture {
    /// Its client.
    type Client: MessageClient;

    /// A new client of the one media driver of this fixture.
    fn client(&mut self) -> Self::Client;

    /// A channel with this term length in bytes (a power of two, 64 KiB or more).
    fn channel(&self, term_length: u32) -> String;

    /// A channel for a subscriber that is not waited for, on the same log as [`Self::channel`].
    fn untethered_channel(&self) -> String;

    /// A stream id that no case has used.
    fn fresh_stream(&mut self) -> i32;

    /// Called again and again while a case waits; `waited` counts from 0 for each wait.
    fn step(&mut self, waited: u32) -> Patience;
}

/// Smallest term length, bytes.
const TERM_SMALL: u32 = 64 * 1024;

/// A term whose longest message is 128 KiB or more.
const TERM_LARGE: u32 = 1024 * 1024;

type Publ<F> = <<F as PubSubFixture>::Client as MessageClient>::Publication;
type Subs<F> = <<F as PubSubFixture>::Client as MessageClient>::Subscription;

/// A client with the image events that it was told. Handles are made before and dropped after.
#[derive(Debug)]
struct Peer<C> {
    client: C,
    events: Vec<ImageEvent>,
}

impl<C: MessageClient> Peer<C> {
    const fn new(client: C) -> Self {
        Self {
            client,
            events: Vec::new(),
        }
    }

    fn work(&mut self) {
        let events = &mut self.events;
        self.client
            .do_work(&mut |event| events.push(event))
            .expect("the client lives");
    }
}

/// Steps until `done`, driving the clients.
fn until<F: PubSubFixture>(
    fixture: &mut F,
    peers: &mut [&mut Peer<F::Client>],
    what: &str,
    mut done: impl FnMut() -> bool,
) {
    let mut waited = 0;
    while !done() {
        peers.iter_mut().for_each(|peer| peer.work());
        assert_eq!(
            fixture.step(waited),
            Patience::GoOn,
            "waited too long for: {what}"
        );
        waited += 1;
    }
}

/// One publisher and one subscriber, connected.
struct Pair<F: PubSubFixture> {
    publication: Publ<F>,
    subscription: Subs<F>,
    sender: Peer<F::Client>,
    receiver: Peer<F::Client>,
}

impl<F: PubSubFixture> Pair<F> {
    fn connect(fixture: &mut F, term_length: u32) -> Self {
        let channel = fixture.channel(term_length);
        let stream = fixture.fresh_stream();
        let mut sender = Peer::new(fixture.client());
        let mut receiver = Peer::new(fixture.client());
        let subscription = receiver
            .client
            .add_subscription(&channel, stream)
            .expect("subscribes");
        let publication = sender
            .client
            .add_publication(&channel, stream)
            .expect("publishes");
        until(
            fixture,
            &mut [&mut sender, &mut receiver],
            "the pair to connect",
            || publication.is_connected() && subscription.image_count() == 1,
        );
        Self {
            publication,
            subscription,
            sender,
            receiver,
        }
    }

    /// Offers until it is taken, reading meanwhile.
    fn send(&mut self, fixture: &mut F, message: &[u8], received: &mut Vec<Vec<u8>>) {
        let mut waited = 0;
        loop {
            match self.publication.offer(message) {
                Ok(()) => return,
                Err(SendError::BackPressured | SendError::AdminAction) => {}
                Err(other) => panic!("offer failed: {other}"),
            }
            self.read(received);
            self.work();
            assert_eq!(
                fixture.step(waited),
                Patience::GoOn,
                "the window stays closed"
            );
            waited += 1;
        }
    }

    fn read(&mut self, received: &mut Vec<Vec<u8>>) {
        read(&mut self.subscription, received);
    }

    fn work(&mut self) {
        self.sender.work();
        self.receiver.work();
    }

    fn read_until(&mut self, fixture: &mut F, count: usize, received: &mut Vec<Vec<u8>>) {
        let mut waited = 0;
        while received.len() < count {
            self.read(received);
            self.work();
            let had = received.len();
            assert_eq!(
                fixture.step(waited),
                Patience::GoOn,
                "{had} of {count} messages arrived"
            );
            waited += 1;
        }
    }
}

fn read<S: Subscription>(subscription: &mut S, received: &mut Vec<Vec<u8>>) {
    let taken = subscription.poll(16, &mut |bytes, _| received.push(bytes.to_vec()));
    taken.expect("the subscription lives");
}

/// A thousand messages of many lengths arrive once, whole, in order, through many rotations of a
/// small log.
pub fn messages_arrive_once_whole_and_in_order<F: PubSubFixture>(fixture: &mut F) {
    let mut pair = Pair::connect(fixture, TERM_SMALL);
    let sent: Vec<_> = (0..1_000).map(|n| pattern(n, n * 7 % 1_300)).collect();
    let mut received = Vec::new();
    for message in &sent {
        pair.send(fixture, message, &mut received);
    }
    pair.read_until(fixture, sent.len(), &mut received);
    assert_eq!(received, sent);
    pair.read(&mut received);
    assert_eq!(received.len(), sent.len(), "nothing comes twice");
}

/// Messages beyond one fragment, up to the longest, arrive whole in either direction.
pub fn long_messages_pass_both_ways<F: PubSubFixture>(fixture: &mut F) {
    for direction in 0..2 {
        let mut pair = Pair::connect(fixture, TERM_LARGE);
        let max = pair.publication.max_message_len();
        assert!(
            max >= 64 * 1024 + 128,
            "a 64 KiB metadata chunk must fit, {max} bytes do"
        );
        let lengths = [1_375, 1_376, 1_377, 2_752, 65_536, max - 1, max];
        let sent: Vec<_> = lengths
            .iter()
            .map(|len| pattern(direction + 1, *len))
            .collect();
        let mut received = Vec::new();
        for message in &sent {
            pair.send(fixture, message, &mut received);
        }
        pair.read_until(fixture, sent.len(), &mut received);
        assert!(received == sent, "a long message was changed");
    }
}

/// A message beyond the longest is refused with the limit, and the next one still passes.
pub fn too_long_is_refused_with_the_limit<F: PubSubFixture>(fixture: &mut F) {
    let mut pair = Pair::connect(fixture, TERM_SMALL);
    let max = pair.publication.max_message_len();
    let refused = pair.publication.offer(&vec![0; max + 1]);
    assert_eq!(refused, Err(SendError::TooLong { len: max + 1, max }));
    let mut received = Vec::new();
    pair.send(fixture, b"short", &mut received);
    pair.read_until(fixture, 1, &mut received);
    assert_eq!(received, [b"short".to_vec()]);
}

/// Without a subscriber an offer says so, and so does `is_connected`.
pub fn without_a_subscriber_nothing_is_sent<F: PubSubFixture>(fixture: &mut F) {
    let channel = fixture.channel(TERM_SMALL);
    let stream = fixture.fresh_stream();
    let mut sender = Peer::new(fixture.client());
    let mut publication = sender
        .client
        .add_publication(&channel, stream)
        .expect("publishes");
    sender.work();
    assert!(!publication.is_connected());
    assert_eq!(
        publication.offer(b"nobody listens"),
        Err(SendError::NotConnected)
    );
}

/// A subscriber that does not read stops the publisher at the window; what was taken is not lost.
pub fn a_full_window_pushes_back_and_opens_again<F: PubSubFixture>(fixture: &mut F) {
    let mut pair = Pair::connect(fixture, TERM_SMALL);
    let mut sent = Vec::new();
    let refused = loop {
        let message = pattern(sent.len(), 1_000);
        match pair.publication.offer(&message) {
            Ok(()) => sent.push(message),
            Err(SendError::AdminAction) => {}
            Err(other) => break other,
        }
        assert!(
            sent.len() < 1_000,
            "a window of half a term holds 32 such messages"
        );
    };
    assert_eq!(refused, SendError::BackPressured);
    assert!(refused.is_retryable());
    let mut received = Vec::new();
    let last = pattern(sent.len(), 1_000);
    sent.push(last.clone());
    pair.send(fixture, &last, &mut received);
    pair.read_until(fixture, sent.len(), &mut received);
    assert_eq!(received, sent);
}

/// Two publishers of one stream are told apart by their sessions.
pub fn sessions_tell_publishers_apart<F: PubSubFixture>(fixture: &mut F) {
    let mut pair = Pair::connect(fixture, TERM_SMALL);
    let (channel, stream) = (fixture.channel(TERM_SMALL), fixture.fresh_stream());
    let mut both = pair
        .receiver
        .client
        .add_subscription(&channel, stream)
        .expect("subscribes");
    let mut first = pair
        .sender
        .client
        .add_publication(&channel, stream)
        .expect("publishes");
    let mut second = pair
        .receiver
        .client
        .add_publication(&channel, stream)
        .expect("publishes");
    assert_ne!(first.session(), second.session());
    until(
        fixture,
        &mut [&mut pair.sender, &mut pair.receiver],
        "two images",
        || first.is_connected() && second.is_connected() && both.image_count() == 2,
    );
    first.offer(b"from the first").expect("offers");
    second.offer(b"from the second").expect("offers");
    let mut received = Vec::new();
    until(
        fixture,
        &mut [&mut pair.sender, &mut pair.receiver],
        "both messages",
        || {
            let taken = both.poll(16, &mut |bytes, from| {
                received.push((from.session, bytes.to_vec()))
            });
            taken.expect("the subscription lives");
            received.len() == 2
        },
    );
    received.sort_by_key(|(session, _)| *session != first.session());
    let expected = [
        (first.session(), b"from the first".to_vec()),
        (second.session(), b"from the second".to_vec()),
    ];
    assert_eq!(received, expected);
}

/// Every subscriber gets every message.
pub fn all_subscribers_get_everything<F: PubSubFixture>(fixture: &mut F) {
    let mut pair = Pair::connect(fixture, TERM_SMALL);
    let (channel, stream) = (fixture.channel(TERM_SMALL), fixture.fresh_stream());
    let mut one = pair
        .sender
        .client
        .add_subscription(&channel, stream)
        .expect("subscribes");
    let mut two = pair
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
        || one.image_count() == 1 && two.image_count() == 1,
    );
    let sent: Vec<_> = (0..10).map(|n| pattern(n, 100)).collect();
    sent.iter()
        .for_each(|message| publication.offer(message).expect("ten messages fit"));
    for subscription in [&mut one, &mut two] {
        let mut received = Vec::new();
        until(
            fixture,
            &mut [&mut pair.sender, &mut pair.receiver],
            "ten messages",
            || {
                read(subscription, &mut received);
                received.len() >= sent.len()
            },
        );
        assert_eq!(received, sent);
    }
}

/// A poll hands out at most what was asked for, and the rest later.
pub fn a_poll_keeps_its_limit<F: PubSubFixture>(fixture: &mut F) {
    let mut pair = Pair::connect(fixture, TERM_SMALL);
    for n in 0..5 {
        pair.publication
            .offer(&pattern(n, 40))
            .expect("five messages fit");
    }
    let mut received = Vec::new();
    let Pair {
        subscription,
        sender,
        receiver,
        ..
    } = &mut pair;
    until(fixture, &mut [sender, receiver], "five messages", || {
        let before = received.len();
        let taken = subscription.poll(2, &mut |bytes, _| received.push(bytes.to_vec()));
        let taken = taken.expect("the subscription lives");
        assert!(
            taken <= 2,
            "{taken} messages were handed out, 2 were asked for"
        );
        assert_eq!(received.len() - before, taken);
        received.len() == 5
    });
    assert_eq!(received, (0..5).map(|n| pattern(n, 40)).collect::<Vec<_>>());
}

/// One `#[test]` for each case of the data path: what any client of Aeron has to hold.
#[macro_export]
macro_rules! pubsub_data_conformance {
    ($fixture:expr) => {
        $crate::conformance_tests!($crate::conformance::pubsub, $fixture;
            messages_arrive_once_whole_and_in_order,
            long_messages_pass_both_ways,
            too_long_is_refused_with_the_limit,
            without_a_subscriber_nothing_is_sent,
            a_full_window_pushes_back_and_opens_again,
            sessions_tell_publishers_apart,
            all_subscribers_get_everything,
            a_poll_keeps_its_limit,
        );
    };
}

/// One `#[test]` for each case of coming, going and being left behind.
#[macro_export]
macro_rules! pubsub_lifecycle_conformance {
    ($fixture:expr) => {
        $crate::conformance_tests!($crate::conformance::pubsub::lifecycle, $fixture;
            images_are_reported_up_and_down,
            a_close_loses_nothing,
            the_last_subscriber_to_go_disconnects,
            an_untethered_subscriber_cannot_stall_the_others,
        );
    };
}

/// One `#[test]` for each named case of a module, over a fixture that is made anew for each.
#[macro_export]
macro_rules! conformance_tests {
    ($module:path, $fixture:expr; $($case:ident,)+) => {
        $(
            #[test]
            fn $case() {
                use $module as cases;
                cases::$case(&mut $fixture);
            }
        )+
    };
}
