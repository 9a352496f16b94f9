//! From a plan to the writes that are missing: what differs from what was observed, times apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tensorpool_crds::{
    Condition, Draft, FINALIZER, Polarity, StreamCondition, TensorPoolClass, TensorPoolClassStatus,
    TensorPoolNode, TensorPoolNodeSpec, TensorStream, TensorStreamStatus, Time, same_but_times,
    settle,
};

use crate::Observed;
use crate::plan::{ClassPlan, Finalizer, NodePlan, Plan, StreamPlan};

/// Prefix of the labels that are ours.
const LABEL_PREFIX: &str = "tensorpool.io/";

/// Which object, and which part of it, is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// What is written.
    pub part: Part,
    /// Namespace of namespaced objects.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
}

/// What is written. In the order in which writes are made: an object is marked and its status
/// persisted before any node hears of it, and it is let go last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The finalizer of a stream is put on.
    Mark,
    /// Status of a stream.
    StreamStatus,
    /// A node's policy.
    Policy,
    /// Labels of a Node that it lacks.
    Label,
    /// Labels of ours that a Node should not have. Whoever put them there: this is the one write that
    /// is no apply, since apply takes away only what one has put there oneself.
    Unlabel,
    /// Status of a class.
    ClassStatus,
    /// Status of a quota.
    QuotaStatus,
    /// The finalizer of a stream is taken off.
    Release,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 8] = [
        Self::Mark,
        Self::StreamStatus,
        Self::Policy,
        Self::Label,
        Self::Unlabel,
        Self::ClassStatus,
        Self::QuotaStatus,
        Self::Release,
    ];

    /// Bounded label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mark => "mark",
            Self::StreamStatus => "stream_status",
            Self::Policy => "policy",
            Self::Label => "label",
            Self::Unlabel => "unlabel",
            Self::ClassStatus => "class_status",
            Self::QuotaStatus => "quota_status",
            Self::Release => "release",
        }
    }
}

/// One write, complete: a body for server-side apply, or for a merge where the part says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What it goes to.
    pub target: Target,
    /// What is applied.
    pub body: Value,
    /// UID of the stream that it is about, for statuses and finalizers.
    pub stream: Option<String>,
    /// UIDs of streams that a node hears of for the first time.
    pub introduces: BTreeSet<String>,
    /// What people are told once it is written.
    pub news: Vec<News>,
}

/// Something that people are told about a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether it is good.
    pub is_good: bool,
    /// One word of a bounded set.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

/// The writes that are missing, in the order in which they are to be made.
#[must_use]
pub fn changes(observed: &Observed, plan: &Plan, labels: &Labels, now: &Time) -> Vec<Change> {
    let mut changes = Vec::new();
    for stream in &observed.streams {
        let key = (stream.namespace().unwrap_or_default(), stream.name_any());
        if let Some(planned) = plan.streams.get(&key)
            && stream.uid().as_deref() == Some(&planned.uid)
        {
            changes.extend(of_stream(stream, planned, now));
        }
    }
    let objects: BTreeMap<String, &Arc<TensorPoolNode>> = observed
        .pool_nodes
        .iter()
        .map(|it| (it.name_any(), it))
        .collect();
    for (name, planned) in &plan.nodes {
        changes.extend(policy(name, planned, objects.get(name).copied()));
        changes.extend(node_labels(name, planned, labels.get(name)));
    }
    for class in &observed.classes {
        if let Some(planned) = plan.classes.get(&class.name_any()) {
            changes.extend(of_class(class, planned, now));
        }
    }
    for quota in &observed.quotas {
        let key = (quota.namespace().unwrap_or_default(), quota.name_any());
        if let Some(status) = plan.quotas.get(&key)
            && quota.status.as_ref() != Some(status)
        {
            changes.push(change(
                quota.as_ref(),
                Part::QuotaStatus,
                json!({ "status": status }),
            ));
        }
    }
    changes.sort_by(|left, right| left.target.cmp(&right.target));
    changes
}

/// Labels of ours that Nodes have, by node.
pub type Labels = BTreeMap<String, BTreeMap<String, String>>;

/// The labels of ours among those of a Node.
#[must_use]
pub fn own_labels(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = all
        .iter()
        .filter(|(name, _)| name.starts_with(LABEL_PREFIX));
    own.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A body with the object's identity: with its UID and version it cannot hit another object of the
/// same name, nor make one.
fn change<K: Resource<DynamicType = ()>>(object: &K, part: Part, body: Value) -> Change {
    let mut body = body;
    body["apiVersion"] = json!(K::api_version(&()));
    body["kind"] = json!(K::kind(&()));
    body["metadata"]["name"] = json!(object.name_any());
    if let Some(namespace) = object.namespace() {
        body["metadata"]["namespace"] = json!(namespace);
    }
    body["metadata"]["uid"] = json!(object.uid());
    body["metadata"]["resourceVersion"] = json!(object.resource_version());
    Change {
        target: Target {
            part,
            namespace: object.namespace(),
            name: object.name_any(),
        },
        body,
        stream: None,
        introduces: BTreeSet::new(),
        news: Vec::new(),
    }
}

fn of_stream(stream: &TensorStream, planned: &StreamPlan, now: &Time) -> Option<Change> {
    let uid = Some(planned.uid.clone());
    let finalizers = |part, finalizers: &[&str]| Change {
        stream: uid.clone(),
        ..change(
            stream,
            part,
            json!({ "metadata": { "finalizers": finalizers } }),
        )
    };
    match planned.finalizer {
        // The version changes with it; the status follows with the next plan.
        Finalizer::Add => return Some(finalizers(Part::Mark, &[FINALIZER])),
        Finalizer::Remove => return Some(finalizers(Part::Release, &[])),
        Finalizer::Keep => {}
    }
    let before = stream.status.clone().unwrap_or_default();
    let conditions = own(&before.conditions, &planned.conditions);
    let status = TensorStreamStatus {
        observed_generation: planned.observed_generation,
        stream_id: planned.stream_id,
        priority: planned.priority.clone(),
        bytes_per_node: planned.bytes_per_node.clone(),
        nodes: Some(planned.nodes),
        attachments: Some(planned.attachments),
        endpoints: planned.endpoints.clone(),
        conditions: settle(
            &conditions,
            planned.conditions.clone(),
            planned.observed_generation,
            now,
        ),
    };
    let same = same_but_times(&conditions, &status.conditions)
        && TensorStreamStatus {
            conditions: Vec::new(),
            ..before
        } == TensorStreamStatus {
            conditions: Vec::new(),
            ..status.clone()
        };
    (!same).then(|| Change {
        stream: uid.clone(),
        news: news(&conditions, &planned.conditions),
        ..change(stream, Part::StreamStatus, json!({ "status": status }))
    })
}

/// The conditions that we write, among all.
fn own(all: &[Condition], drafts: &[Draft]) -> Vec<Condition> {
    let ours = all
        .iter()
        .filter(|it| drafts.iter().any(|draft| draft.kind == it.type_));
    ours.cloned().collect()
}

/// What is new in `Accepted` and `Ready`; each plan has the same words until something happens.
fn news(before: &[Condition], after: &[Draft]) -> Vec<News> {
    let told = [
        StreamCondition::Accepted.as_str(),
        StreamCondition::Ready.as_str(),
    ];
    let fresh = after.iter().filter(|draft| {
        let old = before.iter().find(|it| it.type_ == draft.kind);
        told.contains(&draft.kind) && old.is_none_or(|old| old.reason != draft.reason)
    });
    fresh
        .map(|draft| News {
            is_good: draft.status == Polarity::True,
            reason: draft.reason,
            note: draft.message.clone(),
        })
        .collect()
}

fn policy(name: &str, planned: &NodePlan, object: Option<&Arc<TensorPoolNode>>) -> Option<Change> {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: planned.node_uid.clone(),
        ..OwnerReference::default()
    };
    let stored = object.map(|object| &object.spec);
    let same_policy = stored.is_some_and(|stored| {
        TensorPoolNodeSpec {
            cordoned: None,
            ..stored.clone()
        } == planned.spec
    });
    let owned = object.is_some_and(|object| {
        object
            .owner_references()
            .iter()
            .any(|it| it.uid == planned.node_uid)
    });
    if same_policy && owned {
        return None;
    }
    let known =
        |uid: &str| stored.is_some_and(|stored| stored.streams.iter().any(|it| it.uid == uid));
    let streams = planned.spec.streams.iter();
    let introduces = streams
        .filter(|it| !known(&it.uid))
        .map(|it| it.uid.clone());
    let mut body = json!({
        "apiVersion": TensorPoolNode::api_version(&()),
        "kind": TensorPoolNode::kind(&()),
        "metadata": { "name": name, "ownerReferences": [owner] },
        "spec": planned.spec,
    });
    if let Some(object) = object {
        body["metadata"]["uid"] = json!(object.uid());
    }
    Some(Change {
        target: Target {
            part: Part::Policy,
            namespace: None,
            name: name.to_owned(),
        },
        body,
        stream: None,
        introduces: introduces.collect(),
        news: Vec::new(),
    })
}

fn node_labels(
    name: &str,
    planned: &NodePlan,
    there: Option<&BTreeMap<String, String>>,
) -> Vec<Change> {
    let nothing = BTreeMap::new();
    let there = there.unwrap_or(&nothing);
    let lacks = planned
        .labels
        .iter()
        .any(|(name, value)| there.get(name) != Some(value));
    let surplus = there
        .keys()
        .filter(|name| !planned.labels.contains_key(*name));
    let surplus: BTreeMap<&String, Value> = surplus.map(|name| (name, Value::Null)).collect();
    let change = |part, labels: Value| Change {
        target: Target {
            part,
            namespace: None,
            name: name.to_owned(),
        },
        body: json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": name, "uid": planned.node_uid, "labels": labels },
        }),
        stream: None,
        introduces: BTreeSet::new(),
        news: Vec::new(),
    };
    let label = lacks.then(|| change(Part::Label, json!(planned.labels)));
    let unlabel = (!surplus.is_empty()).then(|| change(Part::Unlabel, json!(surplus)));
    label.into_iter().chain(unlabel).collect()
}

fn of_class(class: &TensorPoolClass, planned: &ClassPlan, now: &Time) -> Option<Change> {
    let before = class.status.clone().unwrap_or_default();
    let conditions = own(&before.conditions, &planned.conditions);
    let status = TensorPoolClassStatus {
        observed_generation: planned.observed_generation,
        nodes: planned.nodes,
        streams: planned.streams,
        conditions: settle(
            &conditions,
            planned.conditions.clone(),
            planned.observed_generation,
            now,
        ),
    };
    let same = class.status.is_some()
        && same_but_times(&conditions, &status.conditions)
        && TensorPoolClassStatus {
            conditions: Vec::new(),
            ..before
        } == TensorPoolClassStatus {
            conditions: Vec::new(),
            ..status.clone()
        };
    (!same).then(|| change(class, Part::ClassStatus, json!({ "status": status })))
}
