//! Aeron in a cluster: who may attach with which client id, and what peers there hear of.

use tensorpool_driver_core::config::{Access, AeronPlace, Roles, Visible};
use tensorpool_driver_core::{Action, ClientRange, Event};
use tensorpool_wire::{DiscoveryRequest, Message, ResponseCode, ShmAttachRequest, StreamId};

use crate::assert_transcript;
use crate::rig::{CAMERA, LIDAR, Rig, aeron, consume, produce, sent, socket};

/// The ids of one attachment: 1792 to 2047.
fn clients() -> ClientRange {
    ClientRange::of_prefix(7).expect("a prefix")
}

fn consumer_of(stream: StreamId) -> Access {
    let roles = Roles {
        produce: false,
        consume: true,
    };
    Access {
        visible: Visible::Only([(stream, roles)].into()),
        leases: 8,
        aeron: Some(AeronPlace {
            clients: clients(),
            directory: "/run/tensorpool/aeron/media".to_owned(),
        }),
    }
}

/// A driver on which Aeron clients need an id of an attachment; one may consume the camera.
fn rig() -> Rig {
    let mut rig = Rig::with(|spec| spec.policy.aeron_clients_assigned = true);
    give(&mut rig, Some(consumer_of(CAMERA)));
    rig
}

fn give(rig: &mut Rig, access: Option<Access>) -> Vec<Action> {
    rig.event(Event::AeronClients {
        clients: clients(),
        access,
        text: "the pod's volume was unmounted".to_owned(),
    })
}

fn on(stream_id: StreamId, request: ShmAttachRequest) -> ShmAttachRequest {
    ShmAttachRequest {
        stream_id,
        ..request
    }
}

// spec: X-2-73
#[test]
fn on_aeron_an_id_counts_for_what_its_attachment_may_do() {
    let mut rig = rig();
    rig.lease(aeron(1), consume(1792));
    let (code, text) = rig.refused(aeron(1), produce(1793));
    assert_eq!(
        (code, text.as_str()),
        (
            ResponseCode::Rejected,
            "role not allowed for this attachment"
        )
    );
    let (_, text) = rig.refused(aeron(2), on(LIDAR, consume(1794)));
    assert_eq!(text, "stream not provisioned", "as if it were not there");
}

// spec: X-2-73
#[test]
fn on_aeron_an_id_that_nobody_was_given_is_refused_with_where_to_find_one() {
    let mut rig = rig();
    for client in [5, 1791, 2048] {
        let (code, text) = rig.refused(aeron(1), consume(client));
        assert_eq!(code, ResponseCode::Rejected);
        assert_eq!(
            text,
            format!(
                "client_id {client} was not given to any volume with `transport: aeron` on this node: take one that discovery on the volume's driver.sock names in the tag `client_ids`"
            )
        );
    }
}

// spec: X-2-73, X-2-18
#[test]
fn on_a_socket_nobody_takes_an_id_that_an_attachment_has_on_aeron() {
    let mut rig = rig();
    rig.open(1);
    let (_, text) = rig.refused(socket(1), consume(1792));
    assert!(
        text.starts_with("client_id 1792 was given to a volume"),
        "{text}"
    );
    rig.lease(socket(1), consume(5));
    rig.lease(aeron(1), consume(1792));
}

// spec: X-2-73, D-4.9-12
#[test]
fn when_the_attachment_ends_its_leases_on_aeron_are_revoked_and_its_ids_are_nobodys() {
    let mut rig = rig();
    rig.open(1);
    rig.lease(socket(1), consume(5));
    rig.lease(aeron(1), consume(1792));
    assert_transcript!(
        rig,
        give(&mut rig, None),
        [
            "aeron <- Revoked l2 Consumer of client 1792 on 10000 Revoked `the pod's volume was unmounted`",
        ]
    );
    let (_, text) = rig.refused(aeron(1), consume(1792));
    assert!(text.contains("not given to any volume"), "{text}");
}

// spec: X-2-73
#[test]
fn an_attachment_that_loses_its_permission_keeps_its_ids_and_nothing_else() {
    let mut rig = rig();
    rig.lease(aeron(1), consume(1792));
    let nothing = Access {
        visible: Visible::Only([].into()),
        ..consumer_of(CAMERA)
    };
    let revoked = sent(&give(&mut rig, Some(nothing)));
    assert!(
        matches!(revoked.as_slice(), [(_, Message::ShmLeaseRevoked(_))]),
        "{revoked:?}"
    );
    let (_, text) = rig.refused(aeron(1), consume(1792));
    assert_eq!(text, "stream not provisioned");
    give(&mut rig, Some(consumer_of(CAMERA)));
    rig.lease(aeron(1), consume(1792));
}

// spec: X-2-73
#[test]
fn an_attach_that_waits_for_its_files_is_refused_when_its_attachment_ends() {
    let mut rig = rig();
    rig.send_raw(aeron(1), consume(1792));
    let event = Event::AeronClients {
        clients: clients(),
        access: None,
        text: String::new(),
    };
    let actions = rig.raw(event);
    assert_transcript!(
        rig,
        actions,
        ["aeron:1 <- AttachResponse #17920 Rejected `role not allowed for this attachment`"]
    );
}

// spec: X-2-75
#[test]
fn discovery_on_the_attachments_socket_names_its_ids_and_the_directory() {
    let mut rig = rig();
    rig.open_with(1, consumer_of(CAMERA));
    assert_eq!(
        tags(&mut rig, 1),
        [
            "base=/dev/shm",
            "client_ids=1792-2047",
            "aeron_dir=/run/tensorpool/aeron/media",
        ]
    );
    rig.open(2);
    assert_eq!(tags(&mut rig, 2), ["base=/dev/shm"]);
}

fn tags(rig: &mut Rig, connection: u64) -> Vec<String> {
    let actions = rig.send(socket(connection), find(CAMERA));
    match sent(&actions).as_slice() {
        [(_, Message::DiscoveryResponse(answer))] => answer.results[0].tags.clone(),
        other => panic!("{other:?}"),
    }
}

fn find(stream: StreamId) -> DiscoveryRequest {
    DiscoveryRequest {
        request_id: 1,
        client_id: tensorpool_wire::ClientId(0),
        response_stream_id: 7_004,
        stream_id: Some(stream),
        producer_id: None,
        data_source_id: None,
        tags: vec![],
        response_channel: "aeron:ipc".to_owned(),
        data_source_name: String::new(),
    }
}

// spec: X-2-74
#[test]
fn a_stream_that_is_not_for_aeron_is_neither_announced_nor_found_there() {
    let mut rig = Rig::with(|spec| spec.policy.streams[0].on_aeron = false);
    rig.open(1);
    let attached = rig.send(socket(1), consume(5));
    let heard = |sent: &[(String, Message)]| {
        let on_aeron = sent.iter().filter(|(to, _)| to.starts_with("aeron"));
        on_aeron.count()
    };
    assert_eq!(heard(&sent(&attached)), 0);
    assert_eq!(heard(&sent(&rig.pass(3))), 0);
    let actions = rig.send(aeron(1), find(CAMERA));
    match sent(&actions).as_slice() {
        [(_, Message::DiscoveryResponse(answer))] => assert_eq!(answer.results, []),
        other => panic!("{other:?}"),
    }
    rig.lease(socket(1), on(LIDAR, consume(6)));
    assert!(heard(&sent(&rig.pass(2))) > 0, "another one is");
}

// spec: X-2-74
#[test]
fn a_stream_whose_class_begins_to_allow_aeron_gets_files_of_another_mode() {
    let mut rig = Rig::with(|spec| spec.policy.streams[0].on_aeron = false);
    rig.open(1);
    rig.lease(socket(1), consume(5));
    let policy = crate::rig::spec()
        .policy
        .validate(&[])
        .expect("it is valid");
    let actions = rig.event(Event::PolicyChanged(Box::new(policy)));
    let created: Vec<bool> = actions
        .iter()
        .filter_map(|action| match action {
            Action::CreateRegions { regions, .. } => Some(regions.on_aeron),
            _ => None,
        })
        .collect();
    assert_eq!(created, [true]);
}
