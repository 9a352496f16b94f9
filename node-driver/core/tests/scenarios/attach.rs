//! One test per attach check, in the order of the checks, with the codes and texts that clients see.

use tensorpool_driver_core::Event;
use tensorpool_wire::{
    ClientId, CorrelationId, HugepagesPolicy, LeaseId, LogicalStream, Message, MonoNanos, NodeId,
    PublishMode, ResponseCode, Role, ShmAttachRequest, ShmDetachRequest, StreamId,
};

use crate::assert_transcript;
use crate::rig::*;

fn too_new(message: impl Into<Message>) -> Vec<u8> {
    let mut bytes = message.into().encode();
    bytes[6..8].copy_from_slice(&2u16.to_le_bytes());
    bytes
}

#[test]
// spec: D-4.2-9, D-4.2-10, D-4.1-1, D-4.2-8, W-15.21a-1
fn an_accepted_attach_is_answered_with_lease_epoch_layout_and_every_region() {
    let mut rig = Rig::new();
    let answer = rig.attach(aeron(1), produce(7));
    let epoch = answer.epoch.unwrap();
    let directory = format!("/dev/shm/tensorpool-ada/default/10000/{epoch}");
    assert_eq!(answer.correlation_id, CorrelationId(70));
    assert_eq!(answer.code, ResponseCode::Ok);
    assert_eq!(answer.lease_id, Some(LeaseId(FIRST_LEASE)));
    assert_eq!(
        answer.lease_expiry_timestamp_ns,
        Some(MonoNanos(START + 3 * SECOND))
    );
    assert_eq!(answer.stream_id, Some(CAMERA));
    assert_eq!(answer.layout_version, Some(1));
    assert_eq!(answer.header_nslots, Some(8));
    assert_eq!(answer.header_slot_bytes, Some(256));
    assert_eq!(answer.node_id, Some(NodeId(1)));
    assert_eq!(
        answer.header_region_uri,
        format!("shm:file?path={directory}/header.ring")
    );
    assert_eq!(answer.payload_pools.len(), 1);
    let pool = &answer.payload_pools[0];
    assert_eq!(
        (pool.pool_id.get(), pool.pool_nslots, pool.stride_bytes),
        (1, 8, 4_096)
    );
    assert_eq!(pool.region_uri, format!("shm:file?path={directory}/1.pool"));
    assert_eq!(answer.error_message, "");
}

#[test]
// spec: D-4.2-18
fn uris_of_hugepages_say_so() {
    let mut rig = Rig::with(|spec| {
        spec.identity.bases[0].hugepages = true;
        spec.identity.bases[0].page_size_bytes = 2 << 20;
    });
    let answer = rig.attach(aeron(1), consume(7));
    assert!(
        answer
            .header_region_uri
            .ends_with("/header.ring|require_hugepages=true")
    );
    assert!(
        answer.payload_pools[0]
            .region_uri
            .ends_with("/1.pool|require_hugepages=true")
    );
}

#[test]
// spec: D-4.4a-2, D-4.6-1
fn row_01_a_request_of_a_newer_schema_is_answered_unsupported() {
    let mut rig = Rig::new();
    let bytes = too_new(consume(7));
    let actions = rig.event(Event::Message {
        origin: aeron(1),
        stream: LogicalStream::Control,
        bytes: &bytes,
    });
    assert_transcript!(
        rig,
        actions,
        ["aeron:1 <- AttachResponse #70 Unsupported `unsupported driver schema version`"]
    );
    let detach = ShmDetachRequest {
        correlation_id: CorrelationId(9),
        lease_id: LeaseId(1),
        stream_id: CAMERA,
        client_id: ClientId(7),
        role: Role::Consumer,
    };
    let bytes = too_new(detach);
    let actions = rig.event(Event::Message {
        origin: aeron(1),
        stream: LogicalStream::Control,
        bytes: &bytes,
    });
    assert_transcript!(
        rig,
        actions,
        ["aeron:1 <- DetachResponse #9 Unsupported `unsupported driver schema version`"]
    );
    assert_eq!(
        rig.drops(),
        [
            ("undecodable ShmAttachRequest".to_owned(), 1),
            ("undecodable ShmDetachRequest".to_owned(), 1)
        ]
    );
}

#[test]
// spec: D-4.6-1
fn a_malformed_request_that_names_its_asker_is_answered_invalid_params() {
    let mut rig = Rig::new();
    let mut bytes = Message::from(consume(7)).encode();
    bytes.push(0);
    let actions = rig.event(Event::Message {
        origin: aeron(1),
        stream: LogicalStream::Control,
        bytes: &bytes,
    });
    let (_, answer) = &answers(&actions)[0];
    assert_eq!(answer.code, ResponseCode::InvalidParams);
    assert_eq!(answer.correlation_id, CorrelationId(70));
    assert!(
        answer.error_message.starts_with("malformed request: "),
        "{}",
        answer.error_message
    );
    // Too short to name an asker: nobody to answer.
    let actions = rig.event(Event::Message {
        origin: aeron(1),
        stream: LogicalStream::Control,
        bytes: &bytes[..10],
    });
    assert_eq!(actions, []);
}

#[test]
// spec: D-4.6-1
fn row_02_an_unknown_role_is_invalid() {
    let mut rig = Rig::new();
    for raw in [0, 3, 255] {
        let request = ShmAttachRequest {
            role: Role::Unknown(raw),
            ..consume(7)
        };
        assert_eq!(
            rig.refused(aeron(1), request),
            (ResponseCode::InvalidParams, "invalid role".to_owned())
        );
    }
}

#[test]
// spec: D-4.6-1
fn row_03_client_id_0_is_invalid() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.refused(aeron(1), consume(0)),
        (
            ResponseCode::InvalidParams,
            "client_id must be non-zero".to_owned()
        )
    );
}

#[test]
// spec: D-4.8-6, D-4.2-8
fn row_04_a_retry_from_the_same_origin_gets_the_same_lease_with_its_own_correlation_id() {
    for origin in [aeron(1), socket(1)] {
        let mut rig = Rig::new();
        rig.open(1);
        let first = rig.attach(origin, produce(7));
        rig.now += SECOND;
        let again = rig.attach(origin, produce(7));
        assert_eq!(again.lease_id, first.lease_id);
        assert_eq!(again.epoch, first.epoch, "no epoch is raised");
        assert_eq!(
            again.lease_expiry_timestamp_ns,
            Some(MonoNanos(rig.now + 3 * SECOND)),
            "the expiry is renewed"
        );
    }
}

#[test]
// spec: D-4.8-6
fn row_04_a_consumer_may_renumber_its_retry_until_its_first_keepalive() {
    let mut rig = Rig::new();
    let held = rig.lease(aeron(1), consume(7));
    let renumbered = ShmAttachRequest {
        correlation_id: CorrelationId(71),
        ..consume(7)
    };
    let again = rig.attach(aeron(1), renumbered.clone());
    assert_eq!(again.lease_id, Some(held.lease));
    rig.keepalive(&held);
    assert_eq!(
        rig.refused(aeron(1), renumbered),
        (
            ResponseCode::Rejected,
            "client_id already attached".to_owned()
        )
    );
}

#[test]
// spec: D-4.8-5, D-4.8-6, D-5-1
fn row_04_two_processes_with_one_client_id_never_share_a_producer_lease() {
    // Started together: equal requests, the second one while the first still waits, on each way in.
    for (first, second) in [
        (aeron(1), aeron(2)),
        (socket(1), socket(2)),
        (aeron(1), socket(1)),
    ] {
        let mut rig = Rig::new();
        rig.open(1);
        rig.open(2);
        let begun = rig.send_raw(first, produce(7));
        assert_eq!(
            rig.refused(second, produce(7)),
            (
                ResponseCode::Rejected,
                "client_id already attached".to_owned()
            )
        );
        rig.raw(Event::EpochPersisted {
            op: persist_op(&begun),
        });
        let granted = rig.raw(Event::RegionsReady {
            op: create_op(&begun),
        });
        assert_eq!(answers(&granted).len(), 1);
        assert_eq!(
            rig.refused(second, produce(7)),
            (
                ResponseCode::Rejected,
                "client_id already attached".to_owned()
            )
        );
        assert_eq!(rig.status().leases, 1);
    }
}

#[test]
// spec: D-4.8-6
fn row_04_a_retry_while_the_files_are_made_is_answered_once_with_the_newest_number() {
    let mut rig = Rig::new();
    let begun = rig.send_raw(aeron(1), consume(7));
    assert_eq!(rig.send_raw(aeron(1), consume(7)), []);
    let renumbered = ShmAttachRequest {
        correlation_id: CorrelationId(71),
        ..consume(7)
    };
    assert_eq!(rig.send_raw(aeron(1), renumbered), []);
    rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    let done = rig.raw(Event::RegionsReady {
        op: create_op(&begun),
    });
    let answers = answers(&done);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1.correlation_id, CorrelationId(71));
    assert_eq!(
        rig.drops(),
        [("attach_pending ShmAttachRequest".to_owned(), 2)]
    );
}

#[test]
// spec: D-4.8-5, D-B.2-2
fn row_05_a_client_id_is_unique_over_all_streams_roles_and_ways() {
    let mut rig = Rig::new();
    rig.open(1);
    rig.lease(aeron(1), consume(7));
    let busy = (
        ResponseCode::Rejected,
        "client_id already attached".to_owned(),
    );
    let elsewhere = ShmAttachRequest {
        stream_id: LIDAR,
        ..consume(7)
    };
    assert_eq!(rig.refused(aeron(1), produce(7)), busy);
    assert_eq!(rig.refused(aeron(1), elsewhere), busy);
    // spec: X-2-18
    assert_eq!(rig.refused(socket(1), consume(7)), busy);
}

#[test]
// spec: D-4.2-16, D-4.2-13
fn row_06_an_absent_publish_mode_means_require_existing() {
    let mut rig = Rig::with(allow_dynamic);
    let request = ShmAttachRequest {
        publish_mode: None,
        ..consume(7)
    };
    rig.lease(aeron(1), request);
    let dynamic = ShmAttachRequest {
        publish_mode: None,
        stream_id: StreamId(20_000),
        ..consume(8)
    };
    assert_eq!(
        rig.refused(aeron(1), dynamic),
        (ResponseCode::Rejected, "stream not provisioned".to_owned())
    );
}

#[test]
// spec: D-4.6-1
fn row_07_any_other_publish_mode_is_unsupported() {
    let mut rig = Rig::new();
    for raw in [0, 3, 254] {
        let request = ShmAttachRequest {
            publish_mode: Some(PublishMode::Unknown(raw)),
            ..consume(7)
        };
        assert_eq!(
            rig.refused(aeron(1), request),
            (
                ResponseCode::Unsupported,
                "unsupported publish_mode".to_owned()
            )
        );
    }
    let request = ShmAttachRequest {
        publish_mode: Some(PublishMode::ExistingOrCreate),
        ..consume(7)
    };
    rig.lease(aeron(1), request);
}

#[test]
// spec: D-4.3-1
fn row_08_another_layout_version_is_rejected_and_none_is_accepted() {
    let mut rig = Rig::new();
    for expected in [2, u32::MAX - 1] {
        let request = ShmAttachRequest {
            expected_layout_version: expected,
            ..consume(7)
        };
        assert_eq!(
            rig.refused(aeron(1), request),
            (ResponseCode::Rejected, "layout version mismatch".to_owned())
        );
    }
    for (client, expected) in [(7, 0), (8, 1), (9, u32::MAX)] {
        let request = ShmAttachRequest {
            expected_layout_version: expected,
            ..consume(client)
        };
        assert_eq!(rig.attach(aeron(1), request).layout_version, Some(1));
    }
}

fn with_pages(policy: HugepagesPolicy) -> ShmAttachRequest {
    ShmAttachRequest {
        require_hugepages: policy,
        ..consume(7)
    }
}

#[test]
// spec: D-4.3-3
fn row_09_an_unknown_hugepages_policy_is_invalid() {
    let mut rig = Rig::new();
    for raw in [3, 255] {
        assert_eq!(
            rig.refused(aeron(1), with_pages(HugepagesPolicy::Unknown(raw))),
            (
                ResponseCode::InvalidParams,
                "invalid hugepages policy".to_owned()
            )
        );
    }
}

#[test]
// spec: D-4.3-3
fn row_10_hugepages_that_are_not_there_are_rejected() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.refused(aeron(1), with_pages(HugepagesPolicy::Hugepages)),
        (ResponseCode::Rejected, "hugepages not available".to_owned())
    );
    rig.lease(aeron(1), with_pages(HugepagesPolicy::Standard));
}

#[test]
// spec: D-4.3-3
fn row_11_standard_pages_on_a_hugepage_driver_are_rejected() {
    let mut rig = Rig::with(|spec| spec.identity.bases[0].hugepages = true);
    assert_eq!(
        rig.refused(aeron(1), with_pages(HugepagesPolicy::Standard)),
        (
            ResponseCode::Rejected,
            "standard pages requested".to_owned()
        )
    );
    rig.lease(aeron(1), with_pages(HugepagesPolicy::Hugepages));
}

#[test]
// spec: D-5-1
fn row_17_a_second_producer_is_rejected_while_consumers_are_not() {
    let mut rig = Rig::new();
    rig.lease(aeron(1), produce(7));
    assert_eq!(
        rig.refused(aeron(2), produce(8)),
        (
            ResponseCode::Rejected,
            "producer already attached".to_owned()
        )
    );
    for client in 10..20 {
        rig.lease(aeron(2), consume(client));
    }
}

#[test]
// spec: D-5-1
fn row_17_a_producer_whose_files_are_being_made_counts_as_attached() {
    let mut rig = Rig::new();
    rig.send_raw(aeron(1), produce(7));
    assert_eq!(
        rig.refused(aeron(2), produce(8)),
        (
            ResponseCode::Rejected,
            "producer already attached".to_owned()
        )
    );
}

#[test]
// spec: D-4.2-15, D-4.2-14
fn row_18_a_node_id_in_use_is_rejected_before_the_epoch_is_raised() {
    let mut rig = Rig::new();
    let answer = rig.attach(aeron(1), with_node(consume(7), 5));
    assert_eq!(answer.node_id, Some(NodeId(5)));
    let epoch = rig.status().streams[0].epoch;
    for node in [5, 0, 1_024] {
        assert_eq!(
            rig.refused(aeron(2), with_node(produce(8), node)),
            (
                ResponseCode::Rejected,
                "desired node_id unavailable".to_owned()
            )
        );
    }
    assert_eq!(rig.status().streams[0].epoch, epoch);
    assert_eq!(
        rig.attach(aeron(2), with_node(produce(8), 6)).node_id,
        Some(NodeId(6))
    );
}

#[test]
// spec: D-4.6-1
fn row_19_files_that_cannot_be_made_are_an_internal_error_and_leave_no_trace() {
    let mut rig = Rig::new();
    let begun = rig.send_raw(aeron(1), produce(7));
    rig.raw(Event::EpochPersisted {
        op: persist_op(&begun),
    });
    let failed = rig.raw(Event::RegionsFailed {
        op: create_op(&begun),
        error: no_space(),
    });
    assert_transcript!(
        rig,
        failed,
        [
            "aeron:1 <- AttachResponse #70 InternalError `shm creation failed: 49152 bytes needed, 100 bytes free, 0 bytes held by old epochs`"
        ]
    );
    let status = rig.status();
    assert_eq!(
        (status.leases, status.pending_attaches, status.memory_bytes),
        (0, 0, 0)
    );
    // The same client can come again at once.
    rig.lease(aeron(1), produce(7));
}

#[test]
// spec: D-4.6-1
fn row_20_one_lease_too_many_is_an_internal_error() {
    let mut rig = Rig::with(|spec| spec.limits.leases = 2);
    rig.lease(aeron(1), consume(7));
    let last = rig.lease(aeron(1), consume(8));
    assert_eq!(
        rig.refused(aeron(1), consume(9)),
        (
            ResponseCode::InternalError,
            "lease allocation failed: limit of 2 leases reached".to_owned()
        )
    );
    rig.detach(&last);
    rig.lease(aeron(1), consume(9));
}

#[test]
// spec: D-4.2-14
fn node_ids_that_are_used_up_leave_the_field_null() {
    let mut rig = Rig::with(|spec| spec.limits.node_ids = 1);
    assert_eq!(rig.attach(aeron(1), consume(7)).node_id, Some(NodeId(1)));
    assert_eq!(rig.attach(aeron(1), consume(8)).node_id, None);
}

#[test]
// spec: D-4.13-3
fn a_draining_driver_refuses_attaches() {
    let mut rig = Rig::new();
    rig.event(Event::Shutdown(tensorpool_driver_core::ShutdownMode::Drain));
    assert_eq!(
        rig.refused(aeron(1), consume(7)),
        (ResponseCode::Rejected, "driver draining".to_owned())
    );
}

#[test]
// spec: X-2-8, X-2-19, X-2-36, X-2-56
fn a_socket_producer_gets_its_regions_as_descriptors_and_a_consumer_does_not() {
    let mut rig = Rig::new();
    rig.open(1);
    rig.open(2);
    let producer = rig.send(socket(1), produce(7));
    assert_transcript!(
        rig,
        producer,
        [
            "mark attached c1",
            "persist 10000/e1",
            "create 10000/e1",
            "c1 <- AttachResponse #70 Ok l1 on 10000/e1 +fds",
            "refresh 10000/e1",
            "aeron+c1 <- Announce 10000/e1 producer 7",
        ]
    );
    let consumer = rig.send(socket(2), consume(8));
    assert_transcript!(
        rig,
        consumer,
        [
            "mark attached c2",
            "c2 <- AttachResponse #80 Ok l2 on 10000/e1",
        ]
    );
}
