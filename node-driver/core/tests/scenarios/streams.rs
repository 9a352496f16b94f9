//! Which stream an attach gets: configured, dynamic, or none that its sender may see.

use tensorpool_driver_core::config::{Access, Profile, Roles, Visible};
use tensorpool_wire::{PublishMode, ResponseCode, ShmAttachRequest, StreamId};

use crate::rig::*;

fn on(stream: u32, client: u32) -> ShmAttachRequest {
    ShmAttachRequest {
        stream_id: StreamId(stream),
        publish_mode: Some(PublishMode::ExistingOrCreate),
        ..consume(client)
    }
}

#[test]
// spec: D-4.3-2, D-4.2-13
fn row_12_an_unknown_stream_is_not_provisioned() {
    let not_provisioned = (ResponseCode::Rejected, "stream not provisioned".to_owned());
    let mut rig = Rig::new();
    assert_eq!(
        rig.refused(aeron(1), on(20_000, 7)),
        not_provisioned,
        "dynamic streams are off"
    );
    assert_eq!(rig.refused(aeron(1), on(0, 7)), not_provisioned);
    let mut rig = Rig::with(allow_dynamic);
    assert_eq!(
        rig.refused(aeron(1), on(20_002, 7)),
        not_provisioned,
        "outside the range"
    );
    let existing = ShmAttachRequest {
        publish_mode: Some(PublishMode::RequireExisting),
        ..on(20_000, 7)
    };
    assert_eq!(rig.refused(aeron(1), existing), not_provisioned);
}

#[test]
// spec: D-11-1
fn row_13_dynamic_streams_without_a_range_are_invalid() {
    let mut rig = Rig::with(|spec| {
        allow_dynamic(spec);
        spec.policy.stream_id_range = None;
    });
    assert_eq!(
        rig.refused(aeron(1), on(0, 7)),
        (
            ResponseCode::InvalidParams,
            "stream_id_range not configured".to_owned()
        )
    );
}

#[test]
// spec: D-11-1
fn row_14_an_exhausted_range_is_invalid() {
    let mut rig = Rig::with(allow_dynamic);
    assert_eq!(rig.lease(aeron(1), on(20_001, 7)).stream, StreamId(20_001));
    assert_eq!(rig.lease(aeron(1), on(0, 8)).stream, StreamId(20_000));
    assert_eq!(
        rig.refused(aeron(1), on(0, 9)),
        (
            ResponseCode::InvalidParams,
            "no stream ids available".to_owned()
        )
    );
}

#[test]
// spec: D-4.6-1
fn row_15_a_missing_default_profile_is_invalid() {
    let mut rig = Rig::with(|spec| {
        allow_dynamic(spec);
        spec.policy.default_profile = None;
    });
    assert_eq!(
        rig.refused(aeron(1), on(20_000, 7)),
        (
            ResponseCode::InvalidParams,
            "default profile missing".to_owned()
        )
    );
}

#[test]
// spec: D-4.3-4
fn row_16_a_stream_without_pools_is_invalid() {
    let mut rig = Rig::with(|spec| {
        let empty = Profile {
            header_nslots: 8,
            pools: vec![],
        };
        spec.policy.profiles.insert("small".to_owned(), empty);
    });
    assert_eq!(
        rig.refused(aeron(1), consume(7)),
        (
            ResponseCode::InvalidParams,
            "stream has no payload pools".to_owned()
        )
    );
}

#[test]
// spec: D-4.2-13, D-11-1
fn a_dynamic_stream_is_named_by_the_answer_and_by_the_request() {
    let mut rig = Rig::with(allow_dynamic);
    let mut held = rig.lease(aeron(1), on(0, 7));
    assert_eq!(held.stream, StreamId(20_000));
    // Some clients go on with the id that they asked for (B-14).
    held.stream = StreamId(0);
    rig.keepalive(&held);
    assert_eq!(rig.status().counters.keepalives, 1);
    held.stream = StreamId(20_000);
    rig.keepalive(&held);
    assert_eq!(rig.status().counters.keepalives, 2);
    // Its retry with id 0 is the same attach.
    assert_eq!(rig.lease(aeron(1), on(0, 7)).lease, held.lease);
}

#[test]
fn a_dynamic_stream_is_forgotten_and_collected_when_nobody_came_back() {
    let mut rig = Rig::with(allow_dynamic);
    let held = rig.lease(aeron(1), on(0, 7));
    rig.detach(&held);
    assert_eq!(rig.status().streams.len(), 3);
    rig.pass(12);
    let status = rig.status();
    assert_eq!(status.streams.len(), 2);
    assert_eq!(status.memory_bytes, 0);
    rig.lease(aeron(1), on(20_000, 7));
}

#[test]
// spec: X-2-51
fn an_attachment_sees_only_its_stream_and_takes_only_its_roles() {
    let mut rig = Rig::with(allow_dynamic);
    let consume_only = Roles {
        produce: false,
        consume: true,
    };
    let access = Access {
        visible: Visible::Only([(CAMERA, consume_only)].into()),
        leases: 8,
        aeron: None,
    };
    rig.open_with(1, access);
    rig.lease(socket(1), consume(7));
    assert_eq!(
        rig.refused(socket(1), produce(8)),
        (
            ResponseCode::Rejected,
            "role not allowed for this attachment".to_owned()
        )
    );
    for stream in [LIDAR.get(), 0, 20_000] {
        assert_eq!(
            rig.refused(socket(1), on(stream, 8)),
            (ResponseCode::Rejected, "stream not provisioned".to_owned())
        );
    }
}
