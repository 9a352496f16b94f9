//! Everything that a peer can make grow, at its bound and one past it.

use tensorpool_driver_core::config::{Access, Visible};
use tensorpool_driver_core::{Action, Event};
use tensorpool_wire::{
    ClientId, ConnectionId, Epoch, FrameProgress, FrameProgressState, LeaseId, LogicalStream,
    PublishMode, ResponseCode, Role, Seq, ShmAttachRequest, StreamId,
};

use crate::rig::*;

fn on(stream: u32, client: u32) -> ShmAttachRequest {
    ShmAttachRequest {
        stream_id: StreamId(stream),
        publish_mode: Some(PublishMode::ExistingOrCreate),
        ..consume(client)
    }
}

#[test]
fn leases_of_one_connection() {
    let mut rig = Rig::with(|spec| spec.limits.leases_per_connection = 2);
    rig.open(1);
    rig.lease(socket(1), consume(7));
    rig.lease(socket(1), consume(8));
    assert_eq!(
        rig.refused(socket(1), consume(9)),
        (
            ResponseCode::Rejected,
            "lease limit of this connection reached: 2".to_owned()
        )
    );
    rig.open(2);
    rig.lease(socket(2), consume(9));
    // An attachment can have a limit of its own; attaches under way count.
    let access = Access {
        visible: Visible::All,
        leases: 1,
        aeron: None,
    };
    rig.open_with(3, access);
    rig.send_raw(socket(3), produce(10));
    let (code, text) = rig.refused(socket(3), consume(11));
    assert_eq!(code, ResponseCode::Rejected);
    assert_eq!(text, "lease limit of this connection reached: 1");
}

#[test]
fn consumers_of_one_stream() {
    let mut rig = Rig::with(|spec| spec.limits.consumers_per_stream = 2);
    rig.lease(aeron(1), consume(7));
    rig.lease(aeron(1), consume(8));
    assert_eq!(
        rig.refused(aeron(1), consume(9)),
        (
            ResponseCode::Rejected,
            "consumer limit of this stream reached: 2".to_owned()
        )
    );
    rig.lease(aeron(1), produce(9));
}

#[test]
fn attaches_that_wait_for_one_stream() {
    let mut rig = Rig::with(|spec| spec.limits.pending_attaches_per_stream = 2);
    rig.send_raw(aeron(1), consume(7));
    rig.send_raw(aeron(1), consume(8));
    assert_eq!(
        rig.refused(aeron(1), consume(9)),
        (
            ResponseCode::Rejected,
            "too many attaches wait for this stream: 2".to_owned()
        )
    );
    rig.lease(
        aeron(1),
        ShmAttachRequest {
            stream_id: LIDAR,
            ..consume(9)
        },
    );
}

#[test]
fn streams_in_total() {
    let mut rig = Rig::with(|spec| {
        allow_dynamic(spec);
        spec.limits.streams = 3;
    });
    rig.lease(aeron(1), on(20_000, 7));
    assert_eq!(
        rig.refused(aeron(1), on(20_001, 8)),
        (ResponseCode::Rejected, "stream limit reached: 3".to_owned())
    );
}

#[test]
fn leases_and_attaches_under_way_in_total() {
    let mut rig = Rig::with(|spec| spec.limits.leases = 2);
    rig.lease(aeron(1), consume(7));
    rig.send_raw(
        aeron(1),
        ShmAttachRequest {
            stream_id: LIDAR,
            ..consume(8)
        },
    );
    let (code, _) = rig.refused(aeron(1), consume(9));
    assert_eq!(code, ResponseCode::InternalError);
}

#[test]
fn bytes_of_one_message() {
    let length = u32::try_from(tensorpool_wire::Message::from(consume(7)).encoded_len()).unwrap();
    for (limit, dropped) in [(length, false), (length - 1, true)] {
        let mut rig = Rig::with(|spec| spec.limits.message_bytes = limit);
        let actions = rig.send(aeron(1), consume(7));
        assert_eq!(actions.is_empty(), dropped);
        assert_eq!(rig.drops() == [("too_long any".to_owned(), 1)], dropped);
    }
}

#[test]
fn connections_in_total() {
    let mut rig = Rig::with(|spec| spec.limits.connections = 2);
    rig.open(1);
    rig.open(2);
    let connection = ConnectionId(3);
    let opened = Event::ConnectionOpened {
        connection,
        access: Access::everything(),
        pid: 0,
        uid: 0,
    };
    assert_eq!(rig.event(opened), [Action::Disconnect { connection }]);
    assert_eq!(rig.send(socket(3), consume(7)), []);
    rig.close(1);
    rig.open(4);
}

#[test]
fn unknown_leases_that_are_remembered() {
    let mut rig = Rig::with(|spec| spec.limits.unknown_leases = 2);
    let stranger = |lease| Held {
        origin: aeron(3),
        lease: LeaseId(lease),
        stream: CAMERA,
        client: ClientId(7),
        role: Role::Consumer,
        epoch: Epoch(1),
    };
    assert_eq!(rig.keepalive(&stranger(1)).len(), 1);
    assert_eq!(rig.keepalive(&stranger(2)).len(), 1);
    assert_eq!(rig.keepalive(&stranger(3)), []);
    assert_eq!(
        rig.drops(),
        [("unknown_lease ShmLeaseKeepalive".to_owned(), 1)]
    );
    rig.now += SECOND;
    assert_eq!(rig.keepalive(&stranger(3)).len(), 1);
}

#[test]
// spec: X-2-32
fn progress_of_one_stream_per_second() {
    let mut rig = Rig::with(|spec| spec.limits.progress_per_second = 2);
    rig.open(1);
    let held = rig.lease(socket(1), produce(7));
    let progress = FrameProgress {
        stream_id: CAMERA,
        epoch: held.epoch,
        seq: Seq(0),
        payload_bytes_filled: 0,
        state: FrameProgressState::Progress,
    };
    let mut forwarded = Vec::new();
    for _ in 0..3 {
        forwarded.push(rig.send(socket(1), progress).len());
    }
    rig.now += SECOND;
    forwarded.push(rig.send(socket(1), progress).len());
    assert_eq!(forwarded, [1, 1, 0, 1]);
    assert_eq!(rig.drops(), [("rate_limit FrameProgress".to_owned(), 1)]);
}

#[test]
fn garbage_is_dropped_and_counted() {
    let mut rig = Rig::new();
    for bytes in [&b""[..], b"x", &[0xff; 64]] {
        let actions = rig.event(Event::Message {
            origin: aeron(1),
            stream: LogicalStream::Control,
            bytes,
        });
        assert_eq!(actions, []);
    }
    assert_eq!(rig.drops(), [("undecodable message".to_owned(), 3)]);
}

#[test]
// spec: X-2-3
fn a_socket_message_on_another_logical_stream_than_its_own_is_dropped() {
    let mut rig = Rig::new();
    rig.open(1);
    let bytes = tensorpool_wire::Message::from(consume(7)).encode();
    let actions = rig.event(Event::Message {
        origin: socket(1),
        stream: LogicalStream::Qos,
        bytes: &bytes,
    });
    assert_eq!(actions, []);
    assert_eq!(
        rig.drops(),
        [("wrong_stream ShmAttachRequest".to_owned(), 1)]
    );
}
