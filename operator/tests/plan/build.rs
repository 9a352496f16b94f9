//! Builders of small worlds, and what an operator and a driver do to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use tensorpool_crds::{
    Condition, DriverIdentity, FINALIZER, NodeStream, PageSize, Polarity, Pool, PoolReport,
    PreemptionPolicy, Quantity, QuotaHard, StreamLayout, StreamPhase, StreamReport,
    TensorPoolClass, TensorPoolClassSpec, TensorPoolNode, TensorPoolNodeStatus,
    TensorPriorityClass, TensorPriorityClassFields, TensorQuota, TensorQuotaSpec, TensorStream,
    TensorStreamSpec, TensorStreamStatus, Time, settle,
};
use tensorpool_operator::{DriverLife, Finalizer, NodeFacts, Observed, Plan, StreamPlan, plan};

pub(crate) const NOW: Time = Time(Timestamp::UNIX_EPOCH);

/// A stream of 4 KiB slots in the namespace `vision`, created at `second`.
pub(crate) fn stream(name: &str, second: i64) -> TensorStream {
    let layout = StreamLayout {
        header_slots: 8,
        pools: vec![Pool {
            pool_id: 1,
            stride_bytes: 4_096,
        }],
    };
    let mut stream = TensorStream::new(name, TensorStreamSpec::new(layout));
    stream.metadata = ObjectMeta {
        namespace: Some("vision".to_owned()),
        uid: Some(format!("uid-{name}-{second}")),
        generation: Some(1),
        creation_timestamp: Some(Time(Timestamp::from_second(second).expect("it is a time"))),
        ..stream.metadata
    };
    stream
}

/// Bytes of [`stream`] in pages of 4 KiB: one for the headers, nine for the pool.
pub(crate) const STREAM_BYTES: u64 = 40_960;

pub(crate) fn class(name: &str) -> TensorPoolClass {
    let mut class = TensorPoolClass::new(
        name,
        TensorPoolClassSpec::new(PageSize::Base, Quantity::new("1Gi")),
    );
    class.metadata.uid = Some(format!("uid-{name}"));
    class.metadata.generation = Some(1);
    class
}

pub(crate) fn priority(name: &str, value: i32, global_default: bool) -> TensorPriorityClass {
    TensorPriorityClass::new(
        name,
        TensorPriorityClassFields {
            value,
            global_default,
            preemption_policy: PreemptionPolicy::Never,
            description: String::new(),
        },
    )
}

pub(crate) fn quota(name: &str, hard: QuotaHard) -> TensorQuota {
    let spec = TensorQuotaSpec {
        hard,
        scope_selector: None,
    };
    let mut quota = TensorQuota::new(name, spec);
    quota.metadata.namespace = Some("vision".to_owned());
    quota
}

pub(crate) fn at_most(streams: u64) -> QuotaHard {
    QuotaHard {
        streams: Some(Quantity::from_count(streams)),
        ..QuotaHard::default()
    }
}

pub(crate) fn node(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        labels: BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]),
        driver: DriverLife::Alive,
    }
}

/// One class `default` and the nodes `n1`, `n2`, `n3`.
pub(crate) fn world(streams: impl IntoIterator<Item = TensorStream>) -> Observed {
    Observed {
        streams: streams.into_iter().map(Arc::new).collect(),
        classes: vec![Arc::new(class("default"))],
        nodes: ["n1", "n2", "n3"].map(node).to_vec(),
        ..Observed::default()
    }
}

/// Does what the plan says, as the operator would: streams first, then nodes.
pub(crate) fn applied(observed: &Observed, plan: &Plan) -> Observed {
    let mut after = observed.clone();
    after.streams = observed
        .streams
        .iter()
        .filter_map(|it| apply_stream(it, plan))
        .collect();
    for (name, planned) in &plan.nodes {
        let old = observed.pool_nodes.iter().find(|it| name_of(it) == *name);
        let mut object = old.map_or_else(
            || TensorPoolNode::new(name, planned.spec.clone()),
            |old| old.as_ref().clone(),
        );
        object.spec = planned.spec.clone();
        object.metadata.owner_references = Some(vec![OwnerReference {
            uid: planned.node_uid.clone(),
            ..OwnerReference::default()
        }]);
        after.pool_nodes.retain(|it| name_of(it) != *name);
        after.pool_nodes.push(Arc::new(object));
    }
    after
}

fn apply_stream(stream: &Arc<TensorStream>, plan: &Plan) -> Option<Arc<TensorStream>> {
    let key = key(stream);
    let planned = plan.streams.get(&key).expect("every stream is planned");
    let mut stream = stream.as_ref().clone();
    match planned.finalizer {
        Finalizer::Keep => {}
        Finalizer::Add => stream.metadata.finalizers = Some(vec![FINALIZER.to_owned()]),
        Finalizer::Remove => return None,
    }
    let before = stream
        .status
        .take()
        .map(|it| it.conditions)
        .unwrap_or_default();
    stream.status = Some(TensorStreamStatus {
        observed_generation: planned.observed_generation,
        stream_id: planned.stream_id,
        priority: planned.priority.clone(),
        bytes_per_node: planned.bytes_per_node.clone(),
        nodes: Some(planned.nodes),
        attachments: Some(planned.attachments),
        endpoints: planned.endpoints.clone(),
        conditions: settle(&before, planned.conditions.clone(), Some(1), &NOW),
    });
    Some(Arc::new(stream))
}

/// Plans and applies until nothing of a policy, a number or a verdict changes any more.
pub(crate) fn settled(mut observed: Observed) -> (Observed, Plan) {
    for _ in 0..4 {
        let planned = plan(&observed);
        let after = applied(&observed, &planned);
        let again = plan(&after);
        if essence(&again) == essence(&planned) && !removes(&again) {
            return (after, again);
        }
        observed = after;
    }
    panic!("the plan does not settle");
}

/// Whether the plan lets an object go, which makes room for others in the next one.
pub(crate) fn removes(plan: &Plan) -> bool {
    plan.streams
        .values()
        .any(|it| it.finalizer == Finalizer::Remove)
}

/// What must not change when a plan is applied: numbers, verdicts, policies.
pub(crate) fn essence(plan: &Plan) -> impl PartialEq + std::fmt::Debug + use<> {
    let streams: Vec<_> = plan
        .streams
        .iter()
        // A deleted one may go once its nodes have been told.
        .filter(|(_, it)| it.conditions[0].reason != "Deleting")
        .map(|(key, it)| (key.clone(), it.stream_id, it.conditions[0].clone()))
        .collect();
    let nodes: Vec<_> = plan
        .nodes
        .iter()
        .map(|(name, it)| (name.clone(), it.spec.clone()))
        .collect();
    (streams, nodes)
}

/// The driver of `node` follows its policy, and has memory for the streams of these names.
pub(crate) fn driver_serves(observed: &mut Observed, node: &str, names: &[&str]) {
    driver(observed, node, |spec, status| {
        status.streams = spec
            .iter()
            .filter(|it| names.contains(&it.name.as_str()))
            .map(|it| report(it, StreamPhase::Ready))
            .collect();
    });
}

/// Whatever the driver of `node` does to its status, in which it follows the current policy.
pub(crate) fn driver(
    observed: &mut Observed,
    node: &str,
    does: impl FnOnce(&[NodeStream], &mut TensorPoolNodeStatus),
) {
    let object = observed
        .pool_nodes
        .iter_mut()
        .find(|it| name_of(it) == node);
    let object = Arc::make_mut(object.expect("the node has an object"));
    let status = object.status.get_or_insert_default();
    status.observed_policy_revision = Some(object.spec.policy_revision.clone());
    status.driver = Some(DriverIdentity {
        version: "0.1.0".to_owned(),
        pod_name: "p".to_owned(),
        boot_epoch: 1,
    });
    status.pools = object
        .spec
        .pools
        .iter()
        .map(|pool| PoolReport {
            class_name: pool.class_name.clone(),
            page_size: pool.page_size,
            capacity_bytes: pool.size_bytes,
            allocated_bytes: 0,
            pinned_bytes: 0,
            numa: Vec::new(),
        })
        .collect();
    status.conditions = vec![Condition {
        last_transition_time: NOW,
        message: String::new(),
        observed_generation: None,
        reason: "AsExpected".to_owned(),
        status: Polarity::True.as_str().to_owned(),
        type_: "Ready".to_owned(),
    }];
    does(&object.spec.streams, status);
}

pub(crate) fn report(stream: &NodeStream, phase: StreamPhase) -> StreamReport {
    StreamReport {
        namespace: stream.namespace.clone(),
        name: stream.name.clone(),
        uid: stream.uid.clone(),
        stream_id: stream.stream_id,
        epoch: Some(1),
        layout_version: 1,
        phase,
        reason: None,
        message: None,
        bytes: stream.bytes,
        header_uri: None,
        pool_uris: Vec::new(),
        producer_pod: None,
        producers: 1,
        consumers: 2,
    }
}

/// Somebody changes a stream.
pub(crate) fn edit(observed: &mut Observed, name: &str, edit: impl FnOnce(&mut TensorStream)) {
    let found = observed.streams.iter_mut().find(|it| name_of(it) == name);
    edit(Arc::make_mut(found.expect("the stream is there")));
}

/// Somebody deletes a stream; the finalizer holds it.
pub(crate) fn delete(observed: &mut Observed, name: &str) {
    edit(observed, name, |it| {
        it.metadata.deletion_timestamp = Some(NOW)
    });
}

pub(crate) fn set_driver(observed: &mut Observed, node: &str, life: DriverLife) {
    let found = observed.nodes.iter_mut().find(|it| it.name == node);
    found.expect("the node is there").driver = life;
}

pub(crate) fn planned<'a>(plan: &'a Plan, name: &str) -> &'a StreamPlan {
    &plan.streams[&("vision".to_owned(), name.to_owned())]
}

/// Reasons of `Accepted`, `Programmed` and `Ready`.
pub(crate) fn reasons(plan: &Plan, name: &str) -> Vec<&'static str> {
    planned(plan, name)
        .conditions
        .iter()
        .map(|it| it.reason)
        .collect()
}

pub(crate) fn message<'a>(plan: &'a Plan, name: &str, condition: &str) -> &'a str {
    let conditions = &planned(plan, name).conditions;
    let found = conditions.iter().find(|it| it.kind == condition);
    &found.expect("there is such a condition").message
}

/// Names of the streams in a node's policy, in its order.
pub(crate) fn policy<'a>(plan: &'a Plan, node: &str) -> Vec<&'a str> {
    plan.nodes[node]
        .spec
        .streams
        .iter()
        .map(|it| it.name.as_str())
        .collect()
}

fn key(stream: &TensorStream) -> (String, String) {
    let namespace = stream.metadata.namespace.clone();
    let name = stream.metadata.name.clone();
    (namespace.expect("it has one"), name.expect("it has one"))
}

pub(crate) fn name_of<K: kube::Resource>(object: &Arc<K>) -> &str {
    object.meta().name.as_deref().expect("it has a name")
}
