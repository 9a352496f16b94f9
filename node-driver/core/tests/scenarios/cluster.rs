//! What a cluster asks of a driver: several bases, classes with a size, quotas, limits of streams,
//! priorities, and attachments whose access changes.

use std::collections::BTreeMap;

use tensorpool_driver_core::config::{
    Access, Base, ClassSpec, PolicySpec, QuotaSpec, Roles, StreamLimits, StreamSpec, Visible,
};
use tensorpool_driver_core::{Action, BaseId, Damage, Event, StreamPhase, StreamStatus};
use tensorpool_wire::{
    ConnectionId, DiscoveryRequest, DiscoveryResponse, Message, ResponseCode, ShmAttachRequest,
    StreamId,
};

use crate::assert_transcript;
use crate::rig::*;

const HUGE: StreamId = StreamId(10_002);
/// One epoch of the small profile: a page and a half of ring, nine pages of payload.
const EPOCH: u64 = 40_960;
/// The same on huge pages: a page for each of the two files.
const HUGE_EPOCH: u64 = 4 << 20;

fn stream(name: &str, stream_id: StreamId, class: &str) -> StreamSpec {
    StreamSpec {
        name: name.to_owned(),
        namespace: "vision".to_owned(),
        uid: format!("uid of {name}"),
        stream_id,
        profile: "small".to_owned(),
        class: class.to_owned(),
        ..StreamSpec::default()
    }
}

fn class(base: &str, size_bytes: u64) -> ClassSpec {
    ClassSpec {
        base: base.to_owned(),
        size_bytes,
    }
}

/// Two streams on ordinary pages, one on huge ones.
fn policy() -> PolicySpec {
    PolicySpec {
        streams: vec![
            stream("camera", CAMERA, "plain"),
            stream("lidar", LIDAR, "plain"),
            stream("model", HUGE, "huge"),
        ],
        classes: BTreeMap::from([
            ("plain".to_owned(), class("4Ki", 100 * EPOCH)),
            ("huge".to_owned(), class("2Mi", 100 * HUGE_EPOCH)),
        ]),
        ..spec().policy
    }
}

fn rig(change: impl FnOnce(&mut PolicySpec)) -> Rig {
    Rig::with(|spec| {
        let base = |name: &str, hugepages, page_size_bytes| Base {
            name: name.to_owned(),
            directory: format!("/run/tensorpool/shm/{name}"),
            hugepages,
            page_size_bytes,
        };
        spec.identity.bases = vec![base("2Mi", true, 2 << 20), base("4Ki", false, 4_096)];
        spec.policy = policy();
        change(&mut spec.policy);
    })
}

fn follow(rig: &mut Rig, policy: PolicySpec) -> Vec<Action> {
    let policy = policy.validate(&[]).expect("the policy is valid");
    rig.event(Event::PolicyChanged(Box::new(policy)))
}

fn on(stream_id: StreamId, request: ShmAttachRequest) -> ShmAttachRequest {
    ShmAttachRequest {
        stream_id,
        ..request
    }
}

fn status(rig: &Rig, id: StreamId) -> StreamStatus {
    let streams = rig.status().streams;
    let found = streams.into_iter().find(|stream| stream.stream_id == id);
    found.expect("the stream is known")
}

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

// === bases ===

#[test]
// spec: W-15.21a-1, A-12
fn each_stream_lies_on_the_base_of_its_class() {
    let mut rig = rig(|_| {});
    let camera = rig.lease(aeron(1), produce(7));
    let model = rig.lease(aeron(1), on(HUGE, produce(8)));
    let (plain, huge) = (status(&rig, CAMERA), status(&rig, HUGE));
    assert_eq!(
        plain.directory,
        format!(
            "/run/tensorpool/shm/4Ki/tensorpool-ada/default/10000/{}",
            camera.epoch
        )
    );
    assert_eq!((plain.epoch_bytes, huge.epoch_bytes), (EPOCH, HUGE_EPOCH));
    assert_eq!(
        huge.uris.header,
        format!(
            "shm:file?path=/run/tensorpool/shm/2Mi/tensorpool-ada/default/10002/{}/header.ring|require_hugepages=true",
            model.epoch
        )
    );
    let used: Vec<(String, u64)> = rig
        .status()
        .bases
        .into_iter()
        .map(|base| (base.name, base.used_bytes))
        .collect();
    assert_eq!(
        used,
        [("2Mi".to_owned(), HUGE_EPOCH), ("4Ki".to_owned(), EPOCH)]
    );
}

#[test]
fn a_class_whose_pages_are_not_mounted_refuses_in_words_and_others_go_on() {
    let mut rig = rig(|policy| {
        policy
            .classes
            .insert("huge".to_owned(), class("1Gi", 8 << 30));
    });
    rig.lease(aeron(1), produce(7));
    assert_eq!(
        rig.refused(aeron(1), on(HUGE, produce(8))),
        (
            ResponseCode::Rejected,
            "this node has no memory with pages of 1Gi for the driver".to_owned()
        )
    );
    let model = status(&rig, HUGE);
    assert_eq!(
        (model.phase, model.error_reason),
        (StreamPhase::Absent, Some("no_base"))
    );
}

#[test]
fn a_stream_whose_class_moves_to_another_base_gets_its_next_epoch_there() {
    let mut rig = rig(|_| {});
    let held = rig.lease(aeron(1), produce(7));
    let reader = rig.lease(aeron(2), consume(8));
    let mut moved = policy();
    moved.streams[0].class = "huge".to_owned();
    let actions = follow(&mut rig, moved);
    let shown = rig.show(&actions);
    assert!(shown.contains("Revoked l1 Producer"), "{shown}");
    assert!(!shown.contains("Revoked l2"), "{shown}");
    let now = status(&rig, CAMERA);
    assert!(now.epoch > Some(held.epoch) && reader.epoch == held.epoch);
    assert!(
        now.directory.starts_with("/run/tensorpool/shm/2Mi/"),
        "{}",
        now.directory
    );
    // The old files are removed from where they lie.
    let removed = rig.pass(5).into_iter().find_map(|action| match action {
        Action::RemoveEpoch {
            base, directory, ..
        } => Some((base, directory)),
        _ => None,
    });
    if let Some((base, directory)) = removed {
        assert_eq!(base, BaseId(1));
        assert!(
            directory.starts_with("/run/tensorpool/shm/4Ki/"),
            "{directory}"
        );
    }
}

// === names ===

fn find(rig: &mut Rig, connection: u64, name: &str) -> Vec<StreamId> {
    let request = DiscoveryRequest {
        request_id: 1,
        client_id: tensorpool_wire::ClientId(1),
        response_stream_id: 1,
        stream_id: None,
        producer_id: None,
        data_source_id: None,
        tags: vec![],
        response_channel: "socket".to_owned(),
        data_source_name: name.to_owned(),
    };
    let actions = rig.send(socket(connection), request);
    let answer = sent(&actions)
        .into_iter()
        .find_map(|(_, message)| match message {
            Message::DiscoveryResponse(answer) => Some(answer),
            _ => None,
        });
    let DiscoveryResponse { results, .. } = answer.expect("discovery is answered");
    for result in &results {
        assert!(
            !result.data_source_name.contains('/'),
            "the name of the TensorStream"
        );
        assert!(result.tags[0].starts_with("base=/run/tensorpool/shm/"));
    }
    results.into_iter().map(|result| result.stream_id).collect()
}

#[test]
// spec: X-2-41, X-2-51
fn a_socket_finds_a_stream_by_its_short_and_by_its_full_name_among_what_it_sees() {
    let mut rig = rig(|policy| {
        policy.streams[1].name = "camera".to_owned();
        policy.streams[1].namespace = "lab".to_owned();
    });
    rig.open(1);
    assert_eq!(find(&mut rig, 1, "camera"), [CAMERA, LIDAR]);
    assert_eq!(find(&mut rig, 1, "vision/camera"), [CAMERA]);
    assert_eq!(find(&mut rig, 1, "lab/camera"), [LIDAR]);
    for other in [
        "vision/",
        "/camera",
        "ision/camera",
        "vision/camera/",
        "lab/model",
    ] {
        assert_eq!(find(&mut rig, 1, other), [], "{other}");
    }
    rig.open_with(2, only(&[(LIDAR, false, true)]));
    assert_eq!(find(&mut rig, 2, "camera"), [LIDAR]);
    assert_eq!(find(&mut rig, 2, "vision/camera"), []);
}

// === limits of a stream ===

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

// === quotas ===

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

// === classes and priorities ===

fn small_class(policy: &mut PolicySpec, epochs: u64) {
    let size = epochs * EPOCH;
    policy
        .classes
        .insert("plain".to_owned(), class("4Ki", size));
}

#[test]
fn a_full_class_refuses_with_what_is_needed_what_is_free_and_who_holds_it() {
    let mut rig = rig(|policy| small_class(policy, 1));
    rig.lease(aeron(1), consume(7));
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, consume(8))),
        (
            ResponseCode::Rejected,
            "class `plain` has too little memory on this node: 40960 bytes (10 pages of 4096) needed, 0 of 40960 bytes free; held by vision/camera (40960)".to_owned()
        )
    );
    let lidar = status(&rig, LIDAR);
    assert!(lidar.waits_for_memory);
    assert_eq!(lidar.error_reason, Some("class_full"));
    // Another class has memory of its own.
    rig.lease(aeron(1), on(HUGE, consume(9)));
}

#[test]
// spec: GC-2
fn a_class_is_never_exceeded_and_its_old_epochs_go_first() {
    let mut rig = rig(|policy| small_class(policy, 2));
    for client in 7..12 {
        let held = rig.lease(aeron(1), produce(client));
        let class = rig.status().classes[1].clone();
        assert_eq!(class.name, "plain");
        assert!(
            class.current_bytes + class.old_bytes <= 2 * EPOCH,
            "{class:?}"
        );
        rig.detach(&held);
    }
}

#[test]
// spec: X-2-72
fn a_stream_that_fills_its_class_can_be_produced_again_and_again_with_consumers_or_without() {
    let mut rig = rig(|policy| small_class(policy, 1));
    let mut last = None;
    for client in 7..10 {
        let held = rig.lease(aeron(1), produce(client));
        assert!(Some(held.epoch) > last, "no two producers share an epoch");
        last = Some(held.epoch);
        rig.detach(&held);
    }
    let reader = rig.lease(aeron(2), consume(20));
    let actions = rig.send(aeron(1), produce(10));
    let (_, answer) = &answers(&actions)[0];
    assert_eq!(answer.code, ResponseCode::Ok, "{}", answer.error_message);
    assert_eq!(
        answer.epoch,
        Some(reader.epoch),
        "what the consumer mapped is what it gets"
    );
    let shown = rig.show(&actions);
    assert!(shown.ends_with("producer 10"), "{shown}");
    let camera = status(&rig, CAMERA);
    assert_eq!((camera.error, camera.waits_for_memory), (None, false));
}

#[test]
fn a_stream_that_waits_for_memory_keeps_lower_ones_from_what_becomes_free() {
    let mut rig = rig(|policy| {
        small_class(policy, 1);
        policy.streams[1].priority = 100;
        policy.streams.push(StreamSpec {
            priority: 50,
            ..stream("sonar", StreamId(10_003), "plain")
        });
    });
    let low = rig.lease(aeron(1), consume(7));
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, consume(8))).0,
        ResponseCode::Rejected
    );
    // The camera goes, and with it its memory.
    rig.detach(&low);
    let mut without = policy();
    small_class(&mut without, 1);
    without.streams.remove(0);
    without.streams[0].priority = 100;
    without.streams.push(StreamSpec {
        priority: 50,
        ..stream("sonar", StreamId(10_003), "plain")
    });
    follow(&mut rig, without);
    let text = "memory is short on this node: `vision/lidar` with priority 100 waits for 40960 bytes and comes before priority 50; 40960 bytes needed";
    assert_eq!(
        rig.refused(aeron(1), on(StreamId(10_003), consume(9))),
        (ResponseCode::Rejected, text.to_owned())
    );
    rig.lease(aeron(1), on(LIDAR, consume(8)));
}

#[test]
fn a_claim_that_nobody_renews_ends() {
    let mut rig = rig(|policy| {
        small_class(policy, 1);
        policy.streams[1].priority = 100;
    });
    rig.lease(aeron(1), consume(7));
    rig.refused(aeron(1), on(LIDAR, consume(8)));
    assert!(status(&rig, LIDAR).waits_for_memory);
    rig.pass(11);
    assert!(!status(&rig, LIDAR).waits_for_memory);
}

#[test]
fn where_pages_run_out_the_higher_priority_comes_first_on_that_base_only() {
    let mut rig = rig(|policy| policy.streams[1].priority = 1);
    let begun = rig.send_raw(aeron(1), on(LIDAR, consume(7)));
    let refused = rig.event(Event::RegionsFailed {
        op: create_op(&begun),
        error: no_space(),
    });
    assert_eq!(
        answers(&refused)[0].1.error_message,
        "shm creation failed: pages of 4Ki for class `plain` are used up: 49152 bytes needed, 100 bytes free, 0 bytes held by old epochs"
    );
    assert!(
        rig.refused(aeron(1), consume(8))
            .1
            .starts_with("memory is short on this node: `vision/lidar`")
    );
    rig.lease(aeron(1), on(HUGE, consume(9)));
    rig.lease(aeron(1), on(LIDAR, consume(7)));
    rig.lease(aeron(1), consume(8));
}

// === cordon ===

#[test]
fn a_cordoned_node_takes_no_memory_for_streams_that_have_none() {
    let mut rig = rig(|_| {});
    let held = rig.lease(aeron(1), produce(7));
    let mut cordoned = policy();
    cordoned.cordoned = true;
    assert_transcript!(rig, follow(&mut rig, cordoned), []);
    assert_eq!(
        rig.refused(aeron(1), on(LIDAR, consume(8))).1,
        "node is cordoned: no memory is taken for streams that have none here"
    );
    rig.lease(aeron(1), consume(9));
    rig.detach(&held);
    rig.lease(aeron(1), produce(10));
}

// === access ===

fn only(streams: &[(StreamId, bool, bool)]) -> Access {
    let roles = streams.iter().map(|(id, produce, consume)| {
        let roles = Roles {
            produce: *produce,
            consume: *consume,
        };
        (*id, roles)
    });
    Access {
        visible: Visible::Only(roles.collect()),
        leases: 8,
        aeron: None,
    }
}

fn change_access(rig: &mut Rig, connection: u64, access: Access) -> Vec<Action> {
    rig.event(Event::AccessChanged {
        connection: ConnectionId(connection),
        access,
        text: "service account lab/robot may no longer `consume` vision/camera".to_owned(),
    })
}

#[test]
// spec: D-4.9-12, X-2-20
fn access_that_is_taken_away_revokes_what_it_allowed_with_the_reason_and_nothing_else() {
    let mut rig = rig(|_| {});
    rig.open_with(1, only(&[(CAMERA, false, true), (LIDAR, true, false)]));
    rig.lease(socket(1), consume(7));
    rig.lease(socket(1), on(LIDAR, produce(8)));
    rig.open_with(2, only(&[(CAMERA, false, true)]));
    rig.lease(socket(2), consume(9));
    let actions = change_access(&mut rig, 1, only(&[(LIDAR, true, false)]));
    assert_transcript!(
        rig,
        actions,
        [
            "aeron+c1 <- Revoked l1 Consumer of client 7 on 10000 Revoked `service account lab/robot may no longer `consume` vision/camera`",
        ]
    );
    assert_eq!(rig.status().leases, 2);
    assert_eq!(
        rig.refused(socket(1), consume(7)).1,
        "stream not provisioned"
    );
    assert_eq!(
        change_access(&mut rig, 1, only(&[(LIDAR, true, false)])),
        []
    );
    // Given back, it counts again.
    change_access(&mut rig, 1, only(&[(CAMERA, false, true)]));
    assert_eq!(rig.status().leases, 1);
    rig.lease(socket(1), consume(7));
}

#[test]
fn whoever_waits_for_what_it_may_no_longer_have_is_told() {
    let mut rig = rig(|_| {});
    rig.open_with(1, only(&[(CAMERA, true, true)]));
    rig.send_raw(socket(1), produce(7));
    rig.send_raw(socket(1), consume(8));
    let actions = change_access(&mut rig, 1, only(&[(CAMERA, false, true)]));
    let answered = answers(&actions);
    assert_eq!(answered.len(), 1);
    assert_eq!(
        answered[0].1.error_message,
        "role not allowed for this attachment"
    );
    assert_eq!(rig.status().pending_attaches, 1);
}

// === whole policies ===

#[test]
// spec: D-4.9-12
fn another_stream_under_the_same_id_revokes_and_unaffected_leases_live_on() {
    let mut rig = rig(|_| {});
    let old = rig.lease(aeron(1), produce(7));
    let kept = rig.lease(aeron(1), on(LIDAR, produce(8)));
    let mut other = policy();
    other.streams[0].uid = "another".to_owned();
    other.streams[1].priority = 7;
    other.streams[1].limits.consumers = Some(3);
    other.streams.retain(|stream| stream.stream_id != HUGE);
    let actions = follow(&mut rig, other);
    rig.epoch_name(old.epoch);
    assert_transcript!(
        rig,
        actions,
        ["aeron <- Revoked l1 Producer of client 7 on 10000 Revoked `stream was removed`"]
    );
    assert_eq!(status(&rig, LIDAR).epoch, Some(kept.epoch));
    let again = rig.lease(aeron(1), produce(7));
    assert!(again.epoch > old.epoch);
}

#[test]
fn an_empty_policy_serves_nothing_and_the_first_one_everything() {
    let mut rig = rig(|policy| *policy = PolicySpec::default());
    assert_eq!(
        rig.refused(aeron(1), consume(7)).1,
        "stream not provisioned"
    );
    follow(&mut rig, policy());
    rig.lease(aeron(1), consume(7));
}

#[test]
fn a_policy_that_names_a_class_or_quota_that_is_not_there_is_not_followed() {
    let error = |change: fn(&mut PolicySpec)| {
        let mut policy = policy();
        change(&mut policy);
        policy.validate(&[]).unwrap_err().to_string()
    };
    assert_eq!(
        error(|policy| drop(policy.classes.remove("huge"))),
        "stream `vision/model` names the class `huge`, which is not defined"
    );
    assert_eq!(
        error(|policy| policy.streams[0].quotas = vec!["vision/none".to_owned()]),
        "stream `vision/camera` names the quota `vision/none`, which is not defined"
    );
    assert_eq!(
        error(|policy| policy.streams[1].name = "camera".to_owned()),
        "stream name `vision/camera` is configured twice"
    );
}

#[test]
fn an_eager_stream_has_memory_before_anybody_asks_and_the_higher_priority_gets_it_first() {
    let mut rig = rig(|policy| *policy = PolicySpec::default());
    let mut eager = policy();
    small_class(&mut eager, 1);
    for stream in &mut eager.streams {
        stream.eager = true;
    }
    eager.streams[1].priority = 1;
    follow(&mut rig, eager.clone());
    let phase = |rig: &Rig, id| status(rig, id).phase;
    assert_eq!(phase(&rig, LIDAR), StreamPhase::Ready);
    assert_eq!(phase(&rig, HUGE), StreamPhase::Ready);
    assert_eq!(phase(&rig, CAMERA), StreamPhase::Failed, "it waits");
    assert_eq!(rig.status().counters.epochs["eager"], 2);
    // As soon as there is memory it is made, without anybody asking.
    small_class(&mut eager, 2);
    follow(&mut rig, eager);
    rig.pass(2);
    assert_eq!(phase(&rig, CAMERA), StreamPhase::Ready);
}

#[test]
fn a_stream_that_left_the_policy_is_named_until_its_memory_is_free() {
    let mut rig = rig(|_| {});
    rig.lease(aeron(1), produce(7));
    let mut without = policy();
    without.streams.remove(0);
    follow(&mut rig, without);
    let departed = rig.status().departed;
    assert_eq!(departed.len(), 1);
    assert_eq!(departed[0].uid, "uid of camera");
    assert_eq!((departed[0].stream_id, departed[0].bytes), (CAMERA, EPOCH));
    rig.pass(5);
    assert_eq!(rig.status().departed, []);
}

// === regions that grow ===

#[test]
// spec: X-1-30, X-1-31
fn a_region_that_was_made_longer_revokes_its_producer_and_says_so() {
    let mut rig = rig(|_| {});
    let held = rig.lease(aeron(1), produce(7));
    let actions = rig.event(Event::RegionPoisoned {
        stream: CAMERA,
        epoch: held.epoch,
        damage: Damage::Grew,
    });
    let shown = rig.show(&actions);
    assert!(
        shown.starts_with("aeron <- Revoked l1 Producer of client 7 on 10000 Revoked `region was made longer than it may be`"),
        "{shown}"
    );
    assert!(status(&rig, CAMERA).epoch > Some(held.epoch));
}
