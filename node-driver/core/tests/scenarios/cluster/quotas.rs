//! How many clients and bytes streams and quotas allow.

use tensorpool_driver_core::config::{PolicySpec, QuotaSpec, StreamLimits};
use tensorpool_wire::ResponseCode;

use super::*;
use crate::assert_transcript;

fn quota(change: impl FnOnce(&mut QuotaSpec)) -> impl FnOnce(&mut PolicySpec) {
    let mut quota = QuotaSpec::default();
    change(&mut quota);
    move |policy| {
        policy.quotas.insert("vision/small".to_owned(), quota);
        for stream in &mut policy.streams {
            stream.quotas = vec!["vision/small".to_owned()];
        }
    }
}

fn reached(what: &str, limit: u64, used: u64, asked: u64) -> (ResponseCode, String) {
    (
        ResponseCode::Rejected,
        format!(
            "quota `vision/small` reached on this node: {what}: limit {limit}, used {used}, asked {asked}"
        ),
    )
}

#[test]
// spec: D-4.6-1
fn a_stream_takes_no_more_clients_than_its_limits_say() {
    let mut rig = rig(|policy| {
        policy.streams[0].limits = StreamLimits {
            producers: Some(1),
            consumers: Some(2),
        };
        policy.streams[1].limits.producers = Some(0);
    });
    rig.lease(aeron(1), consume(7));
    let second = rig.lease(aeron(1), consume(8));
    let refusal = (
        ResponseCode::Rejected,
        "stream `vision/camera` takes no more consumers on this node: limit 2, used 2, asked 1"
            .to_owned(),
    );
    assert_eq!(rig.refused(aeron(1), consume(9)), refusal);
    rig.lease(aeron(1), produce(10));
    rig.detach(&second);
    rig.lease(aeron(1), consume(9));
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, produce(11))).1,
        "stream `vision/lidar` takes no more producers on this node: limit 0, used 0, asked 1"
    );
    let attaches = rig.status().counters.attaches;
    assert_eq!(
        (attaches["stream_consumers"], attaches["stream_producers"]),
        (1, 1)
    );
}

#[test]
fn attaches_that_wait_for_files_count_like_leases() {
    let mut rig = rig(|policy| policy.streams[0].limits.consumers = Some(1));
    let waits = rig.send_raw(aeron(1), consume(7));
    assert_eq!(answers(&waits), []);
    let second = rig.send_raw(aeron(2), consume(8));
    assert!(
        answers(&second)[0]
            .1
            .error_message
            .ends_with("limit 1, used 1, asked 1"),
        "{:?}",
        answers(&second)
    );
}

#[test]
// spec: D-4.6-1
fn a_quota_counts_clients_of_all_its_streams_and_names_limit_use_and_what_was_asked() {
    let mut rig = rig(quota(|quota| {
        quota.producers = Some(1);
        quota.consumers = Some(2);
    }));
    rig.lease(aeron(1), produce(7));
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, produce(8))),
        reached("producers", 1, 1, 1)
    );
    rig.lease(aeron(1), consume(9));
    let last = rig.lease(aeron(1), on(LIDAR, consume(10)));
    assert_eq!(
        rig.refused(aeron(1), on(HUGE, consume(11))),
        reached("consumers", 2, 2, 1)
    );
    rig.detach(&last);
    rig.lease(aeron(1), on(HUGE, consume(11)));
    let counters = rig.status().counters.attaches;
    assert_eq!(
        (counters["quota_producers"], counters["quota_consumers"]),
        (1, 1)
    );
    let used = rig.status().quotas[0].used;
    assert_eq!((used.producers, used.consumers, used.leases), (1, 2, 3));
}

#[test]
fn a_quota_of_leases_counts_both_roles_and_who_is_outside_is_not_counted() {
    let mut rig = rig(|policy| {
        quota(|quota| quota.leases = Some(2))(policy);
        policy.streams[2].quotas.clear();
    });
    rig.lease(aeron(1), produce(7));
    rig.lease(aeron(1), consume(8));
    assert_eq!(
        rig.refused(aeron(1), consume(9)),
        reached("leases", 2, 2, 1)
    );
    rig.lease(aeron(1), on(HUGE, consume(10)));
}

#[test]
fn a_quota_of_bytes_lets_a_producer_come_back_and_no_second_stream_in() {
    let mut rig = rig(|policy| {
        quota(|quota| quota.bytes = Some(EPOCH))(policy);
    });
    let held = rig.lease(aeron(1), produce(7));
    rig.lease(aeron(1), consume(8));
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, produce(9))),
        reached("bytes of memory", EPOCH, EPOCH, EPOCH)
    );
    // What was declared is enough for every restart: an epoch takes the place of the one before it.
    rig.detach(&held);
    for client in 20..24 {
        let held = rig.lease(aeron(1), produce(client));
        assert_eq!(rig.status().quotas[0].used.bytes, EPOCH);
        rig.detach(&held);
    }
    assert_eq!(rig.status().counters.epochs_failed, 1);
    assert_eq!(rig.status().counters.attaches["quota_bytes"], 1);
}

#[test]
fn old_epochs_that_still_lie_there_count_until_they_are_needed_for_something_newer() {
    let mut rig = rig(|policy| {
        quota(|quota| quota.bytes = Some(3 * EPOCH))(policy);
    });
    let held = rig.lease(aeron(1), produce(7));
    rig.detach(&held);
    assert_eq!(rig.status().quotas[0].used.bytes, 2 * EPOCH);
    rig.lease(aeron(1), produce(8));
    // Camera: the current one and two old ones; the oldest goes for the other stream's first.
    assert_eq!(rig.status().quotas[0].used.bytes, 3 * EPOCH);
    let actions = rig.send(aeron(1), on(LIDAR, produce(9)));
    let shown = rig.show(&actions);
    assert_eq!(shown.matches("(no_space)").count(), 1, "{shown}");
    assert_eq!(rig.status().quotas[0].used.bytes, 3 * EPOCH);
}

#[test]
fn a_lowered_quota_ends_nothing_and_keeps_newcomers_out() {
    let mut rig = rig(quota(|quota| quota.consumers = Some(4)));
    let held: Vec<Held> = (7..10).map(|id| rig.lease(aeron(1), consume(id))).collect();
    let mut lowered = policy();
    quota(|quota| quota.consumers = Some(1))(&mut lowered);
    assert_transcript!(rig, follow(&mut rig, lowered), []);
    assert_eq!(rig.status().leases, 3);
    assert_eq!(
        rig.refused(aeron(1), consume(20)),
        reached("consumers", 1, 3, 1)
    );
    for held in &held {
        rig.detach(held);
    }
    rig.lease(aeron(1), consume(20));
}
