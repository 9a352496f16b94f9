//! From objects to policy: everything is carried over, nothing depends on the order, and a stream that
//! cannot be carried stands in nobody's way.

use tensorpool_crds::{
    NodePool, NodeQuota, NodeQuotaHard, NodeStream, Numa, NumaPolicy, PageSize, PlacementMode,
    Pool, PreemptionPolicy, ReclaimPolicy, Revocation, StreamLayout, StreamLimits,
    TensorPoolNodeSpec, Transport,
};
use tensorpool_driver_core::config::{QuotaSpec, StreamLimits as CoreLimits};
use tensorpool_wire::{PoolId, StreamId};

use super::{ClusterPolicy, Flaw, Here, policy_of};

fn class(name: &str, page_size: PageSize) -> NodePool {
    NodePool {
        class_name: name.to_owned(),
        page_size,
        size_bytes: 64 << 20,
        guarantee: false,
        transports: vec![Transport::Socket],
        domain: "default".to_owned(),
        se_linux_context: None,
    }
}

fn stream(name: &str, stream_id: u32) -> NodeStream {
    NodeStream {
        namespace: "vision".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        stream_id,
        class_name: "default".to_owned(),
        layout: StreamLayout {
            header_slots: 8,
            pools: vec![Pool {
                pool_id: 1,
                stride_bytes: 4_096,
            }],
        },
        page_size: PageSize::Base,
        bytes: 45_056,
        numa: Numa::default(),
        mode: PlacementMode::OnDemand,
        priority: 0,
        preemption_policy: PreemptionPolicy::Never,
        limits: StreamLimits {
            producers: 1,
            consumers: 4,
        },
        revocation: Revocation::default(),
        quotas: Vec::new(),
    }
}

fn spec(streams: Vec<NodeStream>) -> TensorPoolNodeSpec {
    TensorPoolNodeSpec {
        cordoned: None,
        pools: vec![
            class("default", PageSize::Base),
            class("huge", PageSize::Huge2Mi),
        ],
        streams,
        quotas: vec![NodeQuota {
            namespace: "vision".to_owned(),
            name: "all".to_owned(),
            hard: NodeQuotaHard {
                bytes: Some(1 << 20),
                producers: None,
                consumers: Some(2),
                leases: Some(3),
            },
        }],
        policy_revision: "r1".to_owned(),
    }
}

/// A machine with one NUMA node.
const HERE: Here<'static> = Here {
    numa_nodes: &[0],
    aeron_domain: "default",
};

fn compiled(spec: &TensorPoolNodeSpec) -> ClusterPolicy {
    policy_of(spec, &HERE)
}

fn names(policy: &ClusterPolicy) -> Vec<&str> {
    policy.streams.iter().map(|it| it.name.as_str()).collect()
}

/// What the core makes of it.
fn is_valid(policy: &ClusterPolicy) -> bool {
    policy.spec.clone().validate(&[]).is_ok()
}

#[test]
fn a_class_of_another_domain_has_sockets_only_and_says_why() {
    let mut spec = spec(vec![stream("camera", 20_000)]);
    for class in &mut spec.pools {
        class.transports = vec![Transport::Socket, Transport::Aeron];
    }
    let carried = |aeron_domain: &str| {
        let here = Here {
            aeron_domain,
            ..HERE
        };
        let policy = policy_of(&spec, &here);
        let carried = policy.stream("vision", "camera").expect("it is carried");
        assert_eq!(
            policy.spec.streams[0].on_aeron,
            carried.other_domain.is_none()
        );
        (carried.transports.clone(), carried.other_domain.clone())
    };
    let both = vec![Transport::Socket, Transport::Aeron];
    assert_eq!(carried("default"), (both, None));
    assert_eq!(
        carried("robots"),
        (vec![Transport::Socket], Some("default".to_owned()))
    );
}

#[test]
fn everything_that_the_core_enforces_is_carried_over() {
    let mut camera = stream("camera", 20_000);
    camera.priority = 7;
    camera.quotas = vec!["all".to_owned()];
    camera.class_name = "huge".to_owned();
    camera.page_size = PageSize::Huge2Mi;
    camera.mode = PlacementMode::Eager;
    let mut spec = spec(vec![camera]);
    spec.cordoned = Some(true);
    let policy = compiled(&spec);
    assert_eq!(policy.revision, "r1");
    assert!(policy.cordoned && policy.spec.cordoned);
    assert_eq!(policy.refused, Vec::new());
    let carried = policy.stream("vision", "camera").expect("it is carried");
    assert_eq!(carried.full_name(), "vision/camera");
    assert_eq!(carried.stream_id, StreamId(20_000));
    assert_eq!(carried.page_size, PageSize::Huge2Mi);
    assert_eq!(carried.transports, [Transport::Socket]);
    assert!(policy.spec.aeron_clients_assigned);
    assert!(
        !policy.spec.streams[0].on_aeron,
        "its class has sockets only"
    );
    assert_eq!(carried.bytes, 4 << 20);
    let told = &policy.spec.streams[0];
    assert_eq!(told.full_name(), "vision/camera");
    assert_eq!(told.uid, "uid-camera");
    assert_eq!(told.priority, 7);
    assert!(told.eager);
    assert_eq!(
        told.grace_ns, 5_000_000_000,
        "the default of its revocation"
    );
    assert_eq!(told.class, "huge");
    assert_eq!(told.quotas, ["vision/all"]);
    assert_eq!(
        told.limits,
        CoreLimits {
            producers: Some(1),
            consumers: Some(4)
        }
    );
    let profile = &policy.spec.profiles[&told.profile];
    assert_eq!(profile.header_nslots, 8);
    assert_eq!(profile.pools[0].pool_id, PoolId(1));
    assert_eq!(profile.pools[0].stride_bytes, 4_096);
    assert_eq!(policy.spec.classes["huge"].base, "2Mi");
    assert_eq!(policy.spec.classes["huge"].size_bytes, 64 << 20);
    assert_eq!(
        policy.spec.quotas["vision/all"],
        QuotaSpec {
            bytes: Some(1 << 20),
            producers: None,
            consumers: Some(2),
            leases: Some(3)
        }
    );
    assert!(is_valid(&policy));
}

#[test]
fn the_order_of_the_lists_does_not_matter() {
    let mut high = stream("high", 7);
    high.priority = 10;
    let streams = vec![
        stream("b", 2),
        stream("a", 1),
        high,
        stream("low", 7),
        stream("odd", 0),
    ];
    let forwards = spec(streams);
    let mut backwards = forwards.clone();
    backwards.streams.reverse();
    backwards.pools.reverse();
    backwards.quotas.reverse();
    let (one, other) = (compiled(&forwards), compiled(&backwards));
    assert_eq!(one, other);
    assert_eq!(names(&one), ["a", "b", "high"]);
}

#[test]
fn lists_with_an_entry_twice_mean_the_same_in_any_order() {
    let mut forwards = spec(vec![stream("a", 1), stream("a", 2)]);
    let mut smaller = class("default", PageSize::Base);
    smaller.size_bytes = 1 << 20;
    forwards.pools.push(smaller);
    let mut wider = forwards.quotas[0].clone();
    wider.hard.leases = Some(100);
    forwards.quotas.push(wider);
    let mut backwards = forwards.clone();
    backwards.streams.reverse();
    backwards.pools.reverse();
    backwards.quotas.reverse();
    assert_eq!(compiled(&forwards), compiled(&backwards));
    assert!(is_valid(&compiled(&forwards)));
}

#[test]
fn a_stream_that_cannot_be_carried_does_not_stop_the_others() {
    let mut no_class = stream("no-class", 2);
    no_class.class_name = "gone".to_owned();
    let mut other_pages = stream("other-pages", 3);
    other_pages.page_size = PageSize::Huge1Gi;
    let mut odd_layout = stream("odd-layout", 4);
    odd_layout.layout.header_slots = 7;
    let mut no_quota = stream("no-quota", 5);
    no_quota.quotas = vec!["gone".to_owned()];
    let mut twice = stream("camera", 6);
    twice.uid = "uid-later".to_owned();
    let policy = compiled(&spec(vec![
        no_class,
        other_pages,
        odd_layout,
        no_quota,
        twice,
        stream("reserved", u32::MAX),
        stream("same-id", 1),
        stream("camera", 1),
    ]));
    assert_eq!(names(&policy), ["camera"]);
    assert!(is_valid(&policy));
    let reasons: Vec<_> = policy
        .refused
        .iter()
        .map(|it| (it.name.as_str(), it.flaw.reason()))
        .collect();
    assert_eq!(
        reasons,
        [
            ("camera", "StreamTwice"),
            ("no-class", "NoSuchClass"),
            ("no-quota", "NoSuchQuota"),
            ("odd-layout", "LayoutInvalid"),
            ("other-pages", "PageSizeMismatch"),
            ("reserved", "StreamIdInvalid"),
            ("same-id", "StreamIdInUse"),
        ]
    );
    let refusal = policy.refusal("vision", "same-id").expect("it is named");
    assert_eq!(
        refusal.flaw.to_string(),
        "stream id 1 is that of vision/camera"
    );
}

#[test]
fn a_quota_that_is_missing_is_not_taken_for_no_limit() {
    let mut camera = stream("camera", 1);
    camera.quotas = vec!["all".to_owned()];
    let mut spec = spec(vec![camera]);
    spec.quotas.clear();
    let policy = compiled(&spec);
    assert_eq!(names(&policy), Vec::<&str>::new());
    let flaw = Flaw::NoSuchQuota("vision/all".to_owned());
    assert_eq!(policy.refused[0].flaw, flaw);
}

#[test]
fn as_many_streams_as_a_node_may_have_are_carried() {
    let streams = (1..=256).map(|id| stream(&format!("s{id:03}"), id));
    let policy = compiled(&spec(streams.collect()));
    assert_eq!((policy.streams.len(), policy.refused.len()), (256, 0));
    assert!(is_valid(&policy));
    assert!(policy.stream("vision", "s200").is_some());
    assert!(policy.stream("vision", "s257").is_none());
}

#[test]
fn a_numa_node_is_carried_where_there_are_several_and_one_that_is_not_there_is_refused() {
    let told = |policy, node, numa_nodes: &[u16]| {
        let mut asked = stream("camera", 20_000);
        asked.numa = Numa { policy, node };
        let policy = policy_of(&spec(vec![asked]), &Here { numa_nodes, ..HERE });
        let numa = policy.spec.streams.first().map(|stream| stream.numa);
        numa.ok_or_else(|| {
            let flaw = &policy.refused[0].flaw;
            assert_eq!(flaw.reason(), "Unsupported");
            flaw.to_string()
        })
    };
    let (bind, preferred) = (NumaPolicy::Bind, NumaPolicy::Preferred);
    assert_eq!(told(NumaPolicy::None, None, &[0, 1]), Ok(None));
    assert_eq!(told(bind, Some(0), &[0]), Ok(None), "it is all there is");
    assert_eq!(
        told(bind, Some(1), &[0, 1]),
        Ok(Some(tensorpool_driver_core::Numa::Bind(1)))
    );
    assert_eq!(
        told(preferred, Some(0), &[0, 1]),
        Ok(Some(tensorpool_driver_core::Numa::Preferred(0)))
    );
    for policy in [bind, preferred] {
        assert_eq!(
            told(policy, Some(0), &[1, 2]),
            Err(
                "numa.node 0 is not a NUMA node of this machine, which has memory on 1, 2"
                    .to_owned()
            )
        );
    }
}

#[test]
fn memory_is_taken_from_clients_only_where_the_stream_says_force() {
    let told = |policy| {
        let mut asked = stream("camera", 20_000);
        asked.revocation.reclaim_policy = policy;
        asked.revocation.force_after_seconds = 7;
        compiled(&spec(vec![asked])).spec.streams[0].force_after_ns
    };
    assert_eq!(told(ReclaimPolicy::Retain), None);
    assert_eq!(told(ReclaimPolicy::Force), Some(7_000_000_000));
}
