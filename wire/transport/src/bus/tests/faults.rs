//! Loss, duplication, reordering, delay: as asked for, and the same for the same seed.

use super::*;
use crate::pubsub::{MessageClient, Publication, SendError, Subscription};

const ALWAYS: u32 = 1_000_000;

/// What one subscriber got of two hundred numbered messages, one sent each millisecond.
fn two_hundred(seed: u64, faults: Faults) -> Vec<u32> {
    let bus = Bus::new(seed);
    let mut client = bus.client().unwrap();
    let mut subscription = client.add_subscription("aeron:ipc", 1).unwrap();
    let mut publication = client.add_publication("aeron:ipc", 1).unwrap();
    bus.set_faults(faults);
    let mut received = Vec::new();
    let mut keep = |bytes: &[u8], _| received.push(u32::from_le_bytes(bytes.try_into().unwrap()));
    for number in 0..200_u32 {
        while publication.offer(&number.to_le_bytes()) == Err(SendError::AdminAction) {}
        bus.advance(MS);
        while subscription.poll(10, &mut keep).unwrap() > 0 {}
    }
    while let Some(next) = bus.next_arrival() {
        bus.advance_to(next);
        while subscription.poll(10, &mut keep).unwrap() > 0 {}
    }
    received
}

fn mixed() -> Faults {
    Faults {
        loss_ppm: 100_000,
        duplicate_ppm: 100_000,
        reorder_ppm: 200_000,
        admin_action_ppm: 50_000,
        delay_min_ns: 0,
        delay_max_ns: 10 * MS,
    }
}

#[test]
fn the_same_seed_gives_the_same_deliveries_and_another_seed_others() {
    assert_eq!(two_hundred(7, mixed()), two_hundred(7, mixed()));
    assert_ne!(two_hundred(7, mixed()), two_hundred(8, mixed()));
}

#[test]
fn without_faults_everything_arrives_in_order() {
    assert_eq!(
        two_hundred(7, Faults::default()),
        (0..200).collect::<Vec<_>>()
    );
}

#[test]
fn a_delay_alone_keeps_order_and_loses_nothing() {
    let delay = Faults {
        delay_min_ns: MS,
        delay_max_ns: 20 * MS,
        ..Faults::default()
    };
    assert_eq!(two_hundred(7, delay), (0..200).collect::<Vec<_>>());
}

#[test]
fn lost_messages_are_missing_and_the_rest_is_in_order() {
    let received = two_hundred(
        7,
        Faults {
            loss_ppm: 300_000,
            ..Faults::default()
        },
    );
    assert!(received.is_sorted() && received.len() < 200 && !received.is_empty());
    assert_eq!(
        two_hundred(
            7,
            Faults {
                loss_ppm: ALWAYS,
                ..Faults::default()
            }
        ),
        []
    );
}

#[test]
fn duplicated_messages_come_twice() {
    let received = two_hundred(
        7,
        Faults {
            duplicate_ppm: ALWAYS,
            ..Faults::default()
        },
    );
    let expected: Vec<_> = (0..200).flat_map(|number| [number, number]).collect();
    assert_eq!(received, expected);
}

#[test]
fn reordered_messages_overtake_each_other_and_none_is_lost() {
    let faults = Faults {
        reorder_ppm: 500_000,
        delay_max_ns: 10 * MS,
        ..Faults::default()
    };
    let mut received = two_hundred(7, faults);
    assert!(!received.is_sorted());
    received.sort_unstable();
    assert_eq!(received, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_message_arrives_when_its_delay_has_passed_and_not_before() {
    let bus = Bus::new(1);
    let mut client = bus.client().unwrap();
    let mut subscription = client.add_subscription("aeron:ipc", 1).unwrap();
    let mut publication = client.add_publication("aeron:ipc", 1).unwrap();
    bus.set_faults(Faults {
        delay_min_ns: 3 * MS,
        delay_max_ns: 3 * MS,
        ..Faults::default()
    });
    assert_eq!(bus.next_arrival(), None);
    let sent_at = bus.now();
    publication.offer(b"x").unwrap();
    let arrives = bus.next_arrival().unwrap();
    assert_eq!(arrives.saturating_since(sent_at), 3 * MS);
    bus.advance(3 * MS - 1);
    assert_eq!(subscription.poll(1, &mut |_, _| {}), Ok(0));
    bus.advance_to(arrives);
    assert_eq!(subscription.poll(1, &mut |_, _| {}), Ok(1));
    assert_eq!(bus.next_arrival(), None);
}

#[test]
fn a_rotating_log_is_reported_and_the_next_offer_passes() {
    let bus = Bus::new(1);
    let mut client = bus.client().unwrap();
    let _subscription = client.add_subscription("aeron:ipc", 1).unwrap();
    let mut publication = client.add_publication("aeron:ipc", 1).unwrap();
    bus.set_faults(Faults {
        admin_action_ppm: ALWAYS,
        ..Faults::default()
    });
    assert_eq!(publication.offer(b"x"), Err(SendError::AdminAction));
    bus.set_faults(Faults::default());
    assert_eq!(publication.offer(b"x"), Ok(()));
}
