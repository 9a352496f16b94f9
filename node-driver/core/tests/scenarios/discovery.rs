//! Discovery: what is found by what, and how answers are bounded.

use tensorpool_driver_core::ShutdownMode;
use tensorpool_driver_core::config::{Access, Roles, Visible};
use tensorpool_wire::{
    ClientId, DataSourceAnnounce, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, Message,
    Origin, StreamId,
};

use crate::rig::*;

fn request() -> DiscoveryRequest {
    DiscoveryRequest {
        request_id: 5,
        client_id: ClientId(0),
        response_stream_id: 7_004,
        stream_id: None,
        producer_id: None,
        data_source_id: None,
        tags: vec![],
        response_channel: "aeron:ipc".to_owned(),
        data_source_name: String::new(),
    }
}

/// Camera with a producer, lidar with a consumer only; both announced.
fn rig() -> Rig {
    let mut rig = Rig::with(|spec| {
        spec.policy.streams[0].tags = vec!["Front".to_owned(), "rgb".to_owned()];
        spec.policy.streams[0].data_source_id = Some(77);
        spec.policy.streams[1].tags = vec!["rgb".to_owned()];
    });
    rig.lease(aeron(1), produce(7));
    let lidar = tensorpool_wire::ShmAttachRequest {
        stream_id: LIDAR,
        ..consume(8)
    };
    rig.lease(aeron(1), lidar);
    rig.open(1);
    rig
}

fn ask(rig: &mut Rig, origin: Origin, request: DiscoveryRequest) -> (String, DiscoveryResponse) {
    let actions = rig.send(origin, request);
    let mut sent = sent(&actions);
    assert_eq!(sent.len(), 1);
    match sent.remove(0) {
        (to, Message::DiscoveryResponse(response)) => (to, response),
        (_, other) => panic!("{other:?}"),
    }
}

fn found(rig: &mut Rig, request: DiscoveryRequest) -> Vec<StreamId> {
    let (_, response) = ask(rig, aeron(1), request);
    assert_eq!(response.status, DiscoveryStatus::Ok);
    response
        .results
        .iter()
        .map(|result| result.stream_id)
        .collect()
}

#[test]
// spec: DI-4.3-1, DI-5.2-1, DI-5.2-2, DI-5.2-3, DI-5.2-4, DI-6.1-1, DI-6.4-1, DI-8-1, DI-3-1
fn an_answer_has_everything_to_attach_with_and_goes_only_where_it_was_asked_for() {
    let mut rig = rig();
    let (to, response) = ask(&mut rig, aeron(1), request());
    assert_eq!(to, "aeron:ipc|7004");
    assert_eq!(
        (response.request_id, response.status),
        (5, DiscoveryStatus::Ok)
    );
    assert_eq!(response.results.len(), 2);
    let camera = &response.results[0];
    let stream = &rig.status().streams[0];
    assert_eq!(camera.stream_id, CAMERA);
    assert_eq!(camera.producer_id, ClientId(7));
    assert_eq!(Some(camera.epoch), stream.epoch);
    assert_eq!((camera.layout_version, camera.header_nslots), (1, 8));
    assert_eq!((camera.header_slot_bytes, camera.max_dims), (256, 8));
    assert_eq!(camera.data_source_id, Some(77));
    assert_eq!(camera.driver_instance_id, "driver-01");
    assert_eq!(camera.driver_control_channel, "aeron:ipc");
    assert_eq!(camera.driver_control_stream_id, 1_000);
    assert_eq!(
        camera.header_region_uri,
        format!("shm:file?path={}/header.ring", stream.directory)
    );
    assert_eq!(camera.payload_pools[0].pool_nslots, 8);
    assert_eq!(camera.tags, ["Front", "rgb"]);
    assert_eq!(camera.data_source_name, "camera");
    assert_eq!(response.results[1].producer_id, ClientId(0));
}

#[test]
// spec: DI-5.1-1, DI-5.1-4, DI-5.1-5
fn filters_combine_with_and() {
    let mut rig = rig();
    let by = |change: &dyn Fn(&mut DiscoveryRequest)| {
        let mut request = request();
        change(&mut request);
        request
    };
    let both = vec![CAMERA, LIDAR];
    let none: Vec<StreamId> = vec![];
    let cases: Vec<(DiscoveryRequest, Vec<StreamId>)> = vec![
        (by(&|_| {}), both.clone()),
        (by(&|r| r.stream_id = Some(LIDAR)), vec![LIDAR]),
        (by(&|r| r.stream_id = Some(StreamId(4))), none.clone()),
        (by(&|r| r.producer_id = Some(ClientId(7))), vec![CAMERA]),
        (by(&|r| r.data_source_id = Some(77)), vec![CAMERA]),
        (
            by(&|r| r.data_source_name = "camera".to_owned()),
            vec![CAMERA],
        ),
        (
            by(&|r| r.data_source_name = "Camera".to_owned()),
            none.clone(),
        ),
        (
            by(&|r| r.tags = vec!["rgb".to_owned(), "rgb".to_owned()]),
            both,
        ),
        (
            by(&|r| r.tags = vec!["rgb".to_owned(), "Front".to_owned()]),
            vec![CAMERA],
        ),
        (by(&|r| r.tags = vec!["front".to_owned()]), none.clone()),
        (
            by(&|r| {
                r.stream_id = Some(LIDAR);
                r.producer_id = Some(ClientId(7));
            }),
            none,
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(found(&mut rig, request.clone()), expected, "{request:?}");
    }
}

#[test]
// spec: DI-6.4-1, DI-5.1-4
fn the_announced_name_is_returned_and_found_exactly_as_it_was_announced() {
    let mut rig = rig();
    let epoch = rig.status().streams[0].epoch.unwrap();
    let announce = DataSourceAnnounce {
        stream_id: CAMERA,
        producer_id: ClientId(7),
        epoch,
        meta_version: 1,
        name: "Front Left".to_owned(),
        summary: String::new(),
    };
    rig.send(aeron(1), announce);
    let by_name = DiscoveryRequest {
        data_source_name: "Front Left".to_owned(),
        ..request()
    };
    let (_, response) = ask(&mut rig, aeron(1), by_name.clone());
    assert_eq!(response.results[0].data_source_name, "Front Left");
    // spec: X-2-41: on a socket it is the configured one.
    let (_, response) = ask(&mut rig, socket(1), by_name);
    assert_eq!(response.results.len(), 0);
}

#[test]
// spec: X-2-40, X-2-41
fn on_a_socket_the_answer_comes_back_on_the_connection_and_names_the_base_directory() {
    let mut rig = rig();
    let plain = DiscoveryRequest {
        response_channel: "socket".to_owned(),
        response_stream_id: 1,
        ..request()
    };
    let ignored = DiscoveryRequest {
        response_channel: String::new(),
        response_stream_id: 0,
        ..request()
    };
    for request in [plain, ignored] {
        let (to, response) = ask(&mut rig, socket(1), request);
        assert_eq!(to, "c1");
        let camera = &response.results[0];
        assert_eq!(camera.tags, ["base=/dev/shm", "Front", "rgb"]);
        assert_eq!(camera.driver_control_channel, "socket");
        assert_eq!(camera.driver_control_stream_id, 1);
    }
}

#[test]
// spec: DI-5.1-2, DI-5.1-3, DI-5.2-7
fn a_request_that_names_no_endpoint_is_not_processed() {
    let mut rig = rig();
    let no_channel = DiscoveryRequest {
        response_channel: String::new(),
        ..request()
    };
    assert_eq!(rig.send(aeron(1), no_channel), []);
    let too_high = DiscoveryRequest {
        response_stream_id: 1 << 31,
        ..request()
    };
    assert_eq!(rig.send(aeron(1), too_high), []);
    assert_eq!(
        rig.drops(),
        [("no_endpoint DiscoveryRequest".to_owned(), 2)]
    );
    let no_id = DiscoveryRequest {
        response_stream_id: 0,
        ..request()
    };
    let (to, response) = ask(&mut rig, aeron(1), no_id);
    assert_eq!(to, "aeron:ipc|0");
    assert_eq!(response.status, DiscoveryStatus::Error);
    assert_eq!(response.results, []);
    assert_eq!(response.error_message, "invalid response_stream_id");
}

#[test]
// spec: DI-5.2-5, DI-5.2-7
fn more_results_than_the_limit_are_an_error_with_both_numbers() {
    let mut rig = Rig::with(|spec| spec.limits.discovery_results = 1);
    rig.lease(aeron(1), consume(7));
    assert_eq!(found(&mut rig, request()), [CAMERA]);
    let lidar = tensorpool_wire::ShmAttachRequest {
        stream_id: LIDAR,
        ..consume(8)
    };
    rig.lease(aeron(1), lidar);
    let (_, response) = ask(&mut rig, aeron(1), request());
    assert_eq!(response.status, DiscoveryStatus::Error);
    assert_eq!(response.results, []);
    assert_eq!(
        response.error_message,
        "result limit exceeded: 2 results, the limit is 1"
    );
}

#[test]
// spec: X-2-42
fn an_answer_that_does_not_fit_is_an_error_with_both_numbers() {
    let mut one = rig();
    let (_, response) = ask(&mut one, aeron(1), request());
    let bytes = u32::try_from(response.encoded_len()).unwrap();
    for (limit, fits) in [(bytes, true), (bytes - 1, false)] {
        let mut rig = Rig::with(|spec| {
            spec.limits.discovery_bytes = limit;
            spec.policy.streams[0].tags = vec!["Front".to_owned(), "rgb".to_owned()];
            spec.policy.streams[1].tags = vec!["rgb".to_owned()];
        });
        rig.lease(aeron(1), produce(7));
        let lidar = tensorpool_wire::ShmAttachRequest {
            stream_id: LIDAR,
            ..consume(8)
        };
        rig.lease(aeron(1), lidar);
        let (_, response) = ask(&mut rig, aeron(1), request());
        assert_eq!(response.status == DiscoveryStatus::Ok, fits);
        if !fits {
            let expected = format!("result limit exceeded: {bytes} bytes, the limit is {limit}");
            assert_eq!(response.error_message, expected);
        }
    }
}

#[test]
// spec: DI-6.2-1, DI-5.2-6, DI-6.3-1
fn a_stream_is_found_only_while_its_epoch_is_announced() {
    let mut rig = Rig::new();
    assert_eq!(
        found(&mut rig, request()),
        [],
        "configured, and never announced"
    );
    let held = rig.lease(aeron(1), produce(7));
    assert_eq!(found(&mut rig, request()), [CAMERA]);
    // Between the end of its producer and the next epoch it is not there.
    let begun = rig.send_raw(aeron(1), held.detach());
    let (_, response) = ask(&mut rig, aeron(1), request());
    assert_eq!(response.results, []);
    rig.raw(tensorpool_driver_core::Event::EpochPersisted {
        op: persist_op(&begun),
    });
    rig.raw(tensorpool_driver_core::Event::RegionsReady {
        op: create_op(&begun),
    });
    let (_, response) = ask(&mut rig, aeron(1), request());
    assert!(
        response.results[0].epoch > held.epoch,
        "the newest epoch replaces"
    );
}

#[test]
// spec: X-2-41
fn a_socket_names_a_configured_stream_before_its_first_epoch() {
    let mut rig = Rig::new();
    rig.open(1);
    let (_, response) = ask(&mut rig, socket(1), request());
    let camera = &response.results[0];
    assert_eq!((camera.stream_id, camera.epoch.get()), (CAMERA, 0));
    assert_eq!((camera.header_nslots, camera.payload_pools.len()), (0, 0));
    assert_eq!(found(&mut rig, request()), [], "Aeron's discovery does not");
}

#[test]
// spec: DI-12-1, DI-5.2-6, DI-5.2-7, X-2-51
fn an_attachment_is_told_not_found_of_what_it_may_not_see() {
    let mut rig = rig();
    let roles = Roles {
        produce: false,
        consume: true,
    };
    let access = Access {
        visible: Visible::Only([(CAMERA, roles)].into()),
        leases: 1,
        aeron: None,
    };
    rig.open_with(2, access);
    let (_, response) = ask(&mut rig, socket(2), request());
    assert_eq!(response.results.len(), 1);
    let lidar = DiscoveryRequest {
        stream_id: Some(LIDAR),
        ..request()
    };
    let (_, response) = ask(&mut rig, socket(2), lidar);
    assert_eq!(
        (response.status, response.results),
        (DiscoveryStatus::NotFound, vec![])
    );
}

#[test]
// spec: DI-13-1
fn a_draining_driver_still_answers() {
    let mut rig = rig();
    rig.event(tensorpool_driver_core::Event::Shutdown(ShutdownMode::Drain));
    assert_eq!(found(&mut rig, request()), [CAMERA, LIDAR]);
}
