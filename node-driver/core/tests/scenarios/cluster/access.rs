//! Attachments whose access changes.

use tensorpool_driver_core::config::Access;
use tensorpool_driver_core::{Action, Event};
use tensorpool_wire::ConnectionId;

use super::*;
use crate::assert_transcript;

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
