//! Each frame is delivered or counted, also where epochs and leases end.

use tensorpool_client::{Consumer, DropReason, PollError, Producer};
use tensorpool_wire::{LeaseRevokeReason, Role};

use crate::peer::{Peer, eventually};
use crate::stream::{consumer, producer, seqs};

fn publish(producer: &mut Producer, frames: u32) {
    for _ in 0..frames {
        producer.publish(b"x").unwrap();
    }
}

/// Delivered and dropped together, and what was dropped.
fn account(consumer: &Consumer) -> (u64, Vec<(DropReason, u64)>) {
    let stats = consumer.stats();
    let drops: Vec<_> = stats.drops().collect();
    let dropped: u64 = drops.iter().map(|(_, frames)| frames).sum();
    (stats.delivered + dropped, drops)
}

/// Ends the producer; its consumer is unmapped when this returns, and no epoch is announced.
fn end(peer: &Peer, producer: Producer, consumer: &Consumer) {
    peer.with(|state| state.is_announcing = false);
    drop(producer);
    eventually("unmapped", || (!consumer.status().is_mapped).then_some(()));
}

/// Lets the consumer know of the current epoch.
fn announce(peer: &Peer, consumer: &Consumer) {
    peer.with(|state| state.is_announcing = true);
    eventually("mapped", || consumer.status().is_mapped.then_some(()));
}

// spec: X-2-69
#[test]
fn frames_that_an_epoch_had_left_when_it_ended_are_counted() {
    let peer = Peer::start();
    let mut first = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    publish(&mut first, 5);
    assert_eq!(consumer.next().unwrap().map(|it| it.seq().get()), Some(0));
    end(&peer, first, &consumer);
    assert_eq!(seqs(&mut consumer), []);
    let lost = vec![(DropReason::EpochEnded, 4)];
    assert_eq!(account(&consumer), (5, lost.clone()), "at once");
    let mut second = producer(&peer);
    announce(&peer, &consumer);
    publish(&mut second, 3);
    assert_eq!(seqs(&mut consumer), [0, 1, 2]);
    assert_eq!(account(&consumer), (8, lost), "and once");
}

// spec: X-1-19
#[test]
fn frames_of_a_new_epoch_that_were_gone_before_it_was_seen_are_counted() {
    let peer = Peer::start();
    let first = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    assert_eq!(seqs(&mut consumer), []);
    end(&peer, first, &consumer);
    let mut second = producer(&peer);
    publish(&mut second, 100);
    announce(&peer, &consumer);
    assert_eq!(seqs(&mut consumer), [99]);
    let missed = vec![(DropReason::MissedStart, 99)];
    assert_eq!(account(&consumer), (100, missed));
}

// spec: X-2-69
#[test]
fn epochs_that_nobody_polled_for_are_counted_whole() {
    let peer = Peer::start();
    let mut first = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    publish(&mut first, 3);
    end(&peer, first, &consumer);
    let mut second = producer(&peer);
    publish(&mut second, 4);
    announce(&peer, &consumer);
    end(&peer, second, &consumer);
    let mut third = producer(&peer);
    announce(&peer, &consumer);
    publish(&mut third, 2);
    assert_eq!(seqs(&mut consumer), [0, 1]);
    let lost = vec![(DropReason::EpochEnded, 7)];
    assert_eq!(account(&consumer), (9, lost));
}

// spec: X-2-69
#[test]
fn a_consumer_that_comes_back_to_the_same_epoch_reads_on_where_it_was() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    publish(&mut producer, 6);
    assert_eq!(seqs(&mut consumer), [0, 1, 2, 3, 4, 5]);
    peer.with(|state| {
        let (id, _) = state.lease_of(Role::Consumer).unwrap();
        state.end(id, LeaseRevokeReason::Revoked, "for the test");
    });
    eventually("the end is told", || match consumer.next() {
        Ok(frame) => frame.map(|frame| panic!("frame {} came twice", frame.seq())),
        Err(PollError::LeaseEnded(_)) => Some(()),
        Err(error) => panic!("{error}"),
    });
    publish(&mut producer, 4);
    eventually("attached again", || {
        consumer.status().is_mapped.then_some(())
    });
    assert_eq!(seqs(&mut consumer), [6, 7, 8, 9]);
    assert_eq!(account(&consumer), (10, vec![]));
}
