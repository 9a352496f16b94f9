//! What a cluster asks of a driver: several bases, classes with a size, quotas, limits of streams,
//! priorities, and attachments whose access changes.

use std::collections::BTreeMap;

use tensorpool_driver_core::config::{
    Access, Base, ClassSpec, PolicySpec, Roles, StreamSpec, Visible,
};
use tensorpool_driver_core::{Action, Event, StreamStatus};
use tensorpool_wire::{ShmAttachRequest, StreamId};

use crate::rig::*;

mod access;
mod bases;
mod classes;
mod names;
mod numa;
mod policies;
mod quotas;
mod reclaim;

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

fn small_class(policy: &mut PolicySpec, epochs: u64) {
    let size = epochs * EPOCH;
    policy
        .classes
        .insert("plain".to_owned(), class("4Ki", size));
}

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
