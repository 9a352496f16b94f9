//! Finding streams by name.

use tensorpool_wire::{DiscoveryRequest, DiscoveryResponse, Message, StreamId};

use super::*;

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
