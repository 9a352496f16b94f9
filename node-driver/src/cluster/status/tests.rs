//! From what lives on the node to what is published: deterministic, bounded, without clocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use tensorpool_crds::{
    Condition, DriverIdentity, NodePool, NumaReport, PageSize, StreamPhase, TensorPoolNodeSpec,
    TensorPoolNodeStatus, Time, Transport,
};
use tensorpool_driver_core::{
    BaseId, ClassStatus, Counters, DepartedStatus, EpochStatus, Lifecycle, ProducerStatus,
    StatusSnapshot, StreamPhase as CorePhase, StreamStatus, Uris, Way,
};
use tensorpool_shm::NodePages;
use tensorpool_wire::{ClientId, ConnectionId, Epoch, LeaseId, MonoNanos, StreamId};

use super::{CsiState, Facts, Surroundings, same, status_of};
use crate::cluster::capacity::Capacity;
use crate::cluster::follow::Following;
use crate::cluster::huge_pages::HugePages;
use crate::cluster::mounts::MountFacts;
use crate::cluster::policy::{ClusterStream, Flaw, Here, RefusedStream, policy_of};
use crate::control::{AttachmentId, BaseFacts, Snapshot};

mod conditions;

const MIB: u64 = 1 << 20;

/// Everything that a status is made of, in one place.
struct Node {
    driver: DriverIdentity,
    following: Following,
    snapshot: Snapshot,
    surroundings: Surroundings,
    huge_pages: Vec<HugePages>,
    numa_pages: Vec<NodePages>,
    counted: Option<Capacity>,
    mounts: Vec<MountFacts>,
    before: Vec<Condition>,
}

impl Node {
    /// A driver that runs, follows a policy with the class `default`, and has its mount.
    fn new() -> Self {
        let mut policy = policy_of(
            &TensorPoolNodeSpec {
                policy_revision: "r1".to_owned(),
                pools: vec![class("default", PageSize::Base)],
                ..TensorPoolNodeSpec::default()
            },
            &Here {
                numa_nodes: &[0],
                aeron_domain: "default",
            },
        );
        policy.streams = ["camera", "lidar"].map(carried).into();
        Self {
            driver: DriverIdentity {
                version: "0.1.0".to_owned(),
                pod_name: "driver-n1".to_owned(),
                boot_epoch: 7,
            },
            following: Following {
                policy: Some(Arc::new(policy)),
                generation: Some(3),
                flaws: Vec::new(),
                rejected: false,
            },
            snapshot: Snapshot {
                revision: Some("r1".to_owned()),
                status: nothing(),
                bases: vec![base("4Ki", 64 * MIB)],
                attachments: BTreeMap::new(),
                media_driver: None,
            },
            surroundings: Surroundings {
                csi: Some(CsiState::Registered),
                pods: BTreeMap::new(),
            },
            huge_pages: Vec::new(),
            numa_pages: Vec::new(),
            counted: None,
            mounts: Vec::new(),
            before: Vec::new(),
        }
    }

    fn policy(&mut self) -> &mut crate::cluster::ClusterPolicy {
        let policy = self.following.policy.as_mut().expect("it has one");
        Arc::make_mut(policy)
    }

    fn status_at(&self, second: i64) -> TensorPoolNodeStatus {
        let facts = Facts {
            driver: &self.driver,
            aeron: None,
            following: &self.following,
            snapshot: &self.snapshot,
            surroundings: &self.surroundings,
            huge_pages: &self.huge_pages,
            numa_pages: &self.numa_pages,
            counted: self.counted.as_ref(),
            mounts: &self.mounts,
            before: &self.before,
        };
        let now = Timestamp::from_second(second).expect("a small number is a time");
        status_of(&facts, &Time(now))
    }

    fn status(&self) -> TensorPoolNodeStatus {
        self.status_at(1)
    }

    /// Status, reason and message of a condition; none if it is not there.
    fn condition(&self, kind: &str) -> Option<(String, String, String)> {
        let conditions = self.status().conditions;
        let found = conditions.into_iter().find(|it| it.type_ == kind);
        found.map(|it| (it.status, it.reason, it.message))
    }

    #[track_caller]
    fn has(&self, kind: &str, status: &str, reason: &str) -> String {
        let (is, why, message) = self.condition(kind).expect("the condition is there");
        assert_eq!((is.as_str(), why.as_str()), (status, reason), "{message}");
        message
    }
}

fn class(name: &str, page_size: PageSize) -> NodePool {
    NodePool {
        class_name: name.to_owned(),
        page_size,
        size_bytes: 64 * MIB,
        guarantee: false,
        transports: vec![Transport::Socket],
        domain: "default".to_owned(),
        se_linux_context: None,
    }
}

fn carried(name: &str) -> ClusterStream {
    ClusterStream {
        namespace: "vision".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        stream_id: StreamId(1),
        class: "default".to_owned(),
        page_size: PageSize::Base,
        transports: vec![Transport::Socket],
        other_domain: None,
        bytes: 8_192,
    }
}

fn base(name: &str, total_bytes: u64) -> BaseFacts {
    BaseFacts {
        base: BaseId(0),
        name: name.to_owned(),
        directory: format!("/run/tensorpool/shm/{name}"),
        page_bytes: 4_096,
        hugepages: name != "4Ki",
        total_bytes,
        free_bytes: total_bytes,
        wanted_bytes: 64 * MIB,
        pinned_bytes: 0,
    }
}

fn nothing() -> StatusSnapshot {
    StatusSnapshot {
        now: MonoNanos(1),
        instance_id: "n1".to_owned(),
        lifecycle: Lifecycle::Running,
        leases: 0,
        pending_attaches: 0,
        connections: 0,
        memory_bytes: 0,
        streams: Vec::new(),
        departed: Vec::new(),
        bases: Vec::new(),
        classes: Vec::new(),
        quotas: Vec::new(),
        counters: Counters::default(),
    }
}

/// A stream that is served in this epoch.
fn served(name: &str, id: u32, epoch: u64) -> StreamStatus {
    let directory = format!("/run/tensorpool/shm/4Ki/tensorpool-k8s/vision/{id}/{epoch}");
    StreamStatus {
        stream_id: StreamId(id),
        name: name.to_owned(),
        namespace: "vision".to_owned(),
        uid: format!("uid-{name}"),
        class: "default".to_owned(),
        priority: 0,
        dynamic: false,
        phase: CorePhase::Ready,
        epoch: Some(Epoch(epoch)),
        error: None,
        error_reason: None,
        waits_for_memory: false,
        layout_version: 1,
        uris: Uris {
            header: format!("shm:file?path={directory}/header.ring"),
            pools: vec![format!("shm:file?path={directory}/1.pool")],
        },
        epoch_bytes: 8_192,
        nslots: 8,
        directory,
        producer: None,
        consumers: Vec::new(),
        pending_attaches: 0,
        memory: vec![EpochStatus {
            epoch: Epoch(epoch),
            bytes: 8_192,
            current: true,
        }],
    }
}

/// A stream that nobody has asked for.
fn unasked(name: &str, id: u32) -> StreamStatus {
    StreamStatus {
        phase: CorePhase::Absent,
        epoch: None,
        layout_version: 0,
        uris: Uris::default(),
        directory: String::new(),
        memory: Vec::new(),
        ..served(name, id, 1)
    }
}

#[test]
fn a_served_stream_is_published_with_where_it_is_and_who_produces() {
    let mut node = Node::new();
    let mut camera = served("camera", 1, 42);
    camera.producer = Some(ProducerStatus {
        lease: LeaseId(9),
        client: ClientId(5),
        way: Way::Socket {
            connection: ConnectionId(3),
            pid: 0,
        },
        node: None,
        expiry: MonoNanos(99),
        frames: Some(1_000_000),
        qos_at: None,
    });
    node.snapshot.status.streams = vec![camera];
    node.snapshot.attachments = BTreeMap::from([(ConnectionId(3), AttachmentId(11))]);
    node.surroundings.pods = BTreeMap::from([(AttachmentId(11), "writer-0".to_owned())]);
    node.snapshot.status.classes = vec![ClassStatus {
        name: "default".to_owned(),
        base: "4Ki".to_owned(),
        size_bytes: 64 * MIB,
        current_bytes: 8_192,
        old_bytes: 0,
    }];
    node.snapshot.bases[0].pinned_bytes = 4_096;
    let status = node.status();
    assert_eq!(status.observed_policy_revision.as_deref(), Some("r1"));
    assert_eq!((status.stream_count, status.attachments), (1, 1));
    let camera = &status.streams[0];
    assert_eq!(camera.phase, StreamPhase::Ready);
    assert_eq!((camera.epoch, camera.bytes), (Some(42), 8_192));
    assert_eq!(camera.producer_pod.as_deref(), Some("writer-0"));
    assert_eq!((camera.producers, camera.consumers), (1, 0));
    let header = camera.header_uri.as_deref().expect("it has one");
    assert!(header.ends_with("/vision/1/42/header.ring"), "{header}");
    assert_eq!(camera.pool_uris.len(), 1);
    let pool = &status.pools[0];
    assert_eq!(
        (pool.capacity_bytes, pool.allocated_bytes, pool.pinned_bytes),
        (64 * MIB, 8_192, 4_096)
    );
    node.has("Ready", "True", "AsExpected");
    node.has("PolicyApplied", "True", "AsExpected");
}

#[test]
fn the_order_of_what_was_found_does_not_matter_and_no_clock_shows() {
    let mut node = Node::new();
    node.snapshot.status.streams = vec![served("lidar", 2, 7), served("camera", 1, 8)];
    let first = node.status_at(1);
    node.snapshot.status.streams.reverse();
    node.snapshot.status.now = MonoNanos(1_000_000_000_000);
    node.snapshot.status.counters.space_reclaims += 1;
    let second = node.status_at(1_000);
    assert!(same(&first, &second));
    assert_eq!(first.streams[0].name, "camera");
    // The times of conditions stay as they were.
    node.before.clone_from(&first.conditions);
    assert_eq!(node.status_at(2_000), first);
}

#[test]
fn phases_say_how_far_a_stream_is() {
    let mut node = Node::new();
    let mut report = |stream: StreamStatus| {
        node.snapshot.status.streams = vec![stream];
        let streams = node.status().streams;
        streams
            .into_iter()
            .next()
            .map(|it| (it.phase, it.reason, it.message))
    };
    let failed = |waits_for_memory| StreamStatus {
        phase: CorePhase::Failed,
        error: Some("4 pages needed, 1 free".to_owned()),
        error_reason: Some("class_full"),
        waits_for_memory,
        ..unasked("camera", 1)
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(report(unasked("camera", 1)), None, "nobody has asked yet");
    let making = StreamStatus {
        phase: CorePhase::Provisioning,
        ..unasked("camera", 1)
    };
    assert_eq!(
        report(making),
        Some((
            StreamPhase::Pending,
            text("Making"),
            text("the memory is being made")
        ))
    );
    let why = text("4 pages needed, 1 free");
    assert_eq!(
        report(failed(true)),
        Some((StreamPhase::Pending, text("class_full"), why.clone()))
    );
    assert_eq!(
        report(failed(false)),
        Some((StreamPhase::Failed, text("class_full"), why))
    );
    // The next epoch could not be made; the one before it is there.
    let still_there = StreamStatus {
        phase: CorePhase::Failed,
        error_reason: Some("class_full"),
        ..served("camera", 1, 3)
    };
    assert_eq!(report(still_there), Some((StreamPhase::Ready, None, None)));
    // Nobody is attached; an old epoch lies there.
    let idle = StreamStatus {
        memory: served("camera", 1, 3).memory,
        ..unasked("camera", 1)
    };
    assert_eq!(report(idle), Some((StreamPhase::Ready, None, None)));
}

#[test]
fn huge_pages_are_told_by_numa_node_and_only_those_of_the_class() {
    let mut node = Node::new();
    let pages = |node, page_bytes, total, free| NodePages {
        node,
        page_bytes,
        total,
        free,
    };
    node.numa_pages = vec![
        pages(0, 2 << 20, 10, 3),
        pages(0, 1 << 30, 1, 1),
        pages(1, 2 << 20, 20, 20),
    ];
    node.policy().classes = vec![
        class("huge", PageSize::Huge2Mi),
        class("plain", PageSize::Base),
    ];
    let status = node.status();
    let told = |node, capacity_bytes, free_bytes| NumaReport {
        node,
        capacity_bytes,
        free_bytes,
    };
    assert_eq!(
        status.pools[0].numa,
        [told(0, 20 << 20, 6 << 20), told(1, 40 << 20, 40 << 20)]
    );
    assert_eq!(status.pools[1].numa, []);
}

#[test]
fn a_stream_that_left_the_policy_is_named_until_its_memory_is_given_back() {
    let mut node = Node::new();
    node.snapshot.status.streams = vec![served("camera", 1, 3)];
    node.snapshot.status.departed = vec![DepartedStatus {
        stream_id: StreamId(9),
        namespace: "vision".to_owned(),
        name: "camera".to_owned(),
        uid: "uid-of-the-one-before".to_owned(),
        bytes: 4_096,
        in_use_bytes: 0,
    }];
    let status = node.status();
    let phases: Vec<_> = status
        .streams
        .iter()
        .map(|it| (it.uid.as_str(), it.phase, it.reason.as_deref(), it.bytes))
        .collect();
    assert_eq!(
        phases,
        [
            ("uid-camera", StreamPhase::Ready, None, 8_192),
            (
                "uid-of-the-one-before",
                StreamPhase::Pending,
                Some("Removing"),
                4_096
            ),
        ]
    );
    assert_eq!(status.stream_count, 2);
}

#[test]
fn a_stream_that_cannot_be_carried_is_failed_with_the_reason() {
    let mut node = Node::new();
    let refused = |name: &str, stream_id| RefusedStream {
        namespace: "vision".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        stream_id,
        flaw: Flaw::NoSuchClass("gone".to_owned()),
    };
    node.policy().refused = vec![refused("odd", 5), refused("nameless", 0)];
    node.snapshot.status.streams = vec![served("camera", 1, 3)];
    let status = node.status();
    assert_eq!(status.streams.len(), 2, "0 is no number that the API takes");
    assert_eq!(status.streams[1].phase, StreamPhase::Failed);
    assert_eq!(status.streams[1].reason.as_deref(), Some("NoSuchClass"));
    assert_eq!(status.stream_count, 1);
    let message = node.has("PolicyApplied", "True", "AsExpected");
    assert!(
        message.starts_with("2 streams cannot be carried: vision/odd"),
        "{message}"
    );
}

#[test]
fn what_the_api_would_refuse_is_cut_or_left_out() {
    let mut node = Node::new();
    let mut camera = unasked("camera", 1);
    camera.phase = CorePhase::Failed;
    camera.error = Some("\u{e9}".repeat(400));
    camera.error_reason = Some("os");
    let mut lidar = served("lidar", 2, 3);
    lidar.uris.header = format!("shm:file?path=/{}", "x".repeat(600));
    node.snapshot.status.streams = vec![camera, lidar];
    let streams = node.status().streams;
    assert_eq!(streams[0].message.as_ref().map(String::len), Some(512));
    assert_eq!(streams[1].header_uri, None);
    assert_eq!(streams[1].pool_uris, Vec::<String>::new());
    let many = (0..300).map(|id| served(&format!("s{id:03}"), id + 1, 1));
    node.snapshot.status.streams = many.collect();
    let names = (0..300).map(|id| carried(&format!("s{id:03}")));
    node.policy().streams = names.collect();
    assert_eq!(node.status().streams.len(), 256);
    let message = node.has("PolicyApplied", "False", "PolicyRejected");
    assert!(message.starts_with("44 streams more"), "{message}");
}
