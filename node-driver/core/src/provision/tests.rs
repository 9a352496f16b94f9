//! An epoch without a record. Nothing makes one; if a mistake ever does, no memory of others pays.

use tensorpool_wire::{
    ClientId, ConnectionId, CorrelationId, HugepagesPolicy, LogicalStream, Message, MonoNanos,
    Origin, PoolId, PublishMode, ResponseCode, Role, ShmAttachRequest,
};

use super::*;
use crate::config::{
    Access, Base, BaseId, ConfigSpec, ConsumerRules, Gc, Identity, Limits, PolicySpec, PoolSpec,
    Profile, StreamSpec, Timing,
};
use crate::event::{Event, ExistingEpoch, Owner, Restored};

const CAMERA: StreamId = StreamId(10_000);
const SECOND: u64 = 1_000_000_000;
const START: MonoNanos = MonoNanos(1_000 * SECOND);

fn config() -> crate::config::Config {
    let base = |name: &str| Base {
        name: name.to_owned(),
        directory: format!("/dev/shm/{name}"),
        hugepages: false,
        page_size_bytes: 4_096,
    };
    let profile = Profile {
        header_nslots: 8,
        pools: vec![PoolSpec {
            pool_id: PoolId(1),
            stride_bytes: 4_096,
        }],
    };
    let spec = ConfigSpec {
        identity: Identity {
            instance_id: "driver-01".to_owned(),
            bases: vec![base("first"), base("second")],
            user: "ada".to_owned(),
            namespace: "default".to_owned(),
            control_channel: "aeron:ipc".to_owned(),
            control_stream_id: 1_000,
            other_stream_ids: vec![1_001],
        },
        timing: Timing::default(),
        gc: Gc::default(),
        limits: Limits::default(),
        shutdown_token: "open sesame".to_owned(),
        first_lease_id: 1,
        policy: PolicySpec {
            profiles: BTreeMap::from([("small".to_owned(), profile)]),
            streams: vec![StreamSpec {
                name: "camera".to_owned(),
                stream_id: CAMERA,
                profile: "small".to_owned(),
                ..StreamSpec::default()
            }],
            consumers: ConsumerRules::default(),
            ..PolicySpec::default()
        },
    };
    spec.validate().expect("the configuration is valid")
}

/// A driver that finds two old epochs of another stream on its first base, and is asked for the
/// camera: its making has begun.
fn making() -> (Driver, EpochKey, [OpId; 2]) {
    let old = |epoch| ExistingEpoch {
        stream: StreamId(77),
        epoch: tensorpool_wire::Epoch(epoch),
        base: BaseId::default(),
        bytes: 4_096,
        // Too young to be collected for its age.
        activity: START,
        owner: Owner::Dead,
        free_at: None,
    };
    let restored = Restored {
        existing: vec![old(5), old(6)],
        ..Restored::default()
    };
    let mut driver = Driver::restore(config(), &restored);
    let connection = ConnectionId(1);
    let mut out = Vec::new();
    let opened = Event::ConnectionOpened {
        connection,
        access: Access::everything(),
        pid: 1,
        uid: 1,
    };
    driver.handle(START, Event::Tick, &mut out);
    driver.handle(START, opened, &mut out);
    let request = Message::from(ShmAttachRequest {
        correlation_id: CorrelationId(1),
        stream_id: CAMERA,
        client_id: ClientId(1),
        role: Role::Producer,
        expected_layout_version: 1,
        publish_mode: Some(PublishMode::ExistingOrCreate),
        require_hugepages: HugepagesPolicy::Unspecified,
        desired_node_id: None,
    });
    let asked = Event::Message {
        origin: Origin::Socket { connection },
        stream: LogicalStream::Control,
        bytes: &request.encode(),
    };
    out.clear();
    driver.handle(START, asked, &mut out);
    let mut persist = None;
    let mut create = None;
    for action in &out {
        match action {
            Action::PersistEpoch { op, key } => persist = Some((*op, *key)),
            Action::CreateRegions { op, .. } => create = Some(*op),
            Action::MarkAttached { .. } => {}
            other => panic!("nothing else is done: {other:?}"),
        }
    }
    let (persist, key) = persist.expect("its number is written down");
    let create = create.expect("its files are made");
    (driver, key, [persist, create])
}

fn no_space() -> RegionsError {
    RegionsError::NoSpace {
        needed_bytes: 49_152,
        free_bytes: 100,
        node: None,
    }
}

fn answer(actions: &[Action]) -> Option<ResponseCode> {
    actions.iter().find_map(|action| match action {
        Action::Send {
            message: Message::ShmAttachResponse(answer),
            ..
        } => Some(answer.code),
        _ => None,
    })
}

fn removals(actions: &[Action]) -> usize {
    let removals = actions.iter();
    removals
        .filter(|action| matches!(action, Action::RemoveEpoch { .. }))
        .count()
}

#[test]
// spec: GC-2
fn lack_of_space_removes_old_epochs_where_the_epoch_is_recorded_and_nothing_where_it_is_not() {
    let (mut driver, _, [_, create]) = making();
    let mut out = Vec::new();
    driver.on_created(create, Err(no_space()), &mut out);
    assert_eq!(removals(&out), 2, "both of the other stream: {out:?}");

    let (mut driver, key, [_, create]) = making();
    driver.epochs.forget(key);
    let mut out = Vec::new();
    driver.on_created(create, Err(no_space()), &mut out);
    assert_eq!(removals(&out), 0, "{out:?}");
    assert_eq!(answer(&out), Some(ResponseCode::InternalError), "{out:?}");
    driver.check();
}

#[test]
fn an_epoch_without_a_record_is_not_announced_and_given_up_in_time() {
    let (mut driver, key, [persist, create]) = making();
    driver.epochs.forget(key);
    let mut out = Vec::new();
    driver.on_created(create, Ok(()), &mut out);
    driver.on_persisted(persist, Ok(()), &mut out);
    assert_eq!(out, []);
    driver.check();
    let due = START.saturating_add(driver.config.timing.op_timeout_ns);
    driver.handle(due, Event::Tick, &mut out);
    assert_eq!(answer(&out), Some(ResponseCode::InternalError), "{out:?}");
    let ours =
        |action: &Action| matches!(action, Action::RemoveEpoch { key: it, .. } if *it == key);
    assert!(!out.iter().any(ours), "{out:?}");
}
