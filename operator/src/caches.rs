//! Caches of everything that a plan needs, kept current by watches.
//!
//! One reflector per kind. A watch that breaks is taken up again with backoff; the cache keeps what it
//! knew. Each event only says "something changed": the plan looks at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tensorpool_crds::{
    DRIVER_LEASE_PREFIX, TensorPoolClass, TensorPoolNode, TensorPriorityClass, TensorQuota,
    TensorStream,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::changes::{Labels, own_labels};
use crate::heartbeat::Heartbeats;
use crate::metrics::Metrics;
use crate::readable::{Apart, Sorter};
use crate::{DriverLife, NodeFacts, Observed, Unreadable};

/// What cannot be read. Classes and priorities of ours are in the metrics only: a plan takes those for
/// absent, which ends nothing that runs.
#[derive(Default)]
struct AllApart {
    streams: Apart,
    quotas: Apart,
    pool_nodes: Apart,
}

impl AllApart {
    fn observe(&self) -> Unreadable {
        let pool_nodes = self.pool_nodes.all().into_keys();
        Unreadable {
            streams: self.streams.all().into_values().collect(),
            quotas: self.quotas.all().into_keys().collect(),
            pool_nodes: pool_nodes.map(|(_, name)| name).collect(),
        }
    }
}

/// Everything that is watched.
pub(crate) struct Caches {
    streams: Store<TensorStream>,
    classes: Store<TensorPoolClass>,
    priorities: Store<TensorPriorityClass>,
    quotas: Store<TensorQuota>,
    pool_nodes: Store<TensorPoolNode>,
    nodes: Store<PartialObjectMeta<Node>>,
    leases: Store<Lease>,
    apart: AllApart,
    /// Told at every event.
    pub(crate) changed: Arc<Notify>,
    watches: JoinSet<()>,
}

impl Caches {
    /// Starts all watches. `namespace` is where drivers keep their Leases.
    pub(crate) fn start(client: &Client, namespace: &str, metrics: &Arc<Metrics>) -> Self {
        let mut watches = Watches {
            changed: Arc::new(Notify::new()),
            tasks: JoinSet::new(),
            metrics: Arc::clone(metrics),
        };
        let leases = Api::namespaced(client.clone(), namespace);
        let apart = AllApart::default();
        let rest = Apart::default;
        Self {
            streams: watches.add("tensorstreams", client, &apart.streams),
            classes: watches.add("tensorpoolclasses", client, &rest()),
            priorities: watches.add("tensorpriorityclasses", client, &rest()),
            quotas: watches.add("tensorquotas", client, &apart.quotas),
            pool_nodes: watches.add("tensorpoolnodes", client, &apart.pool_nodes),
            nodes: watches.add_nodes(client),
            leases: watches.add_quiet("leases", leases),
            apart,
            changed: watches.changed,
            watches: watches.tasks,
        }
    }

    /// Returns once every kind was listed; false if the watches are over. For one caller only: of two
    /// that wait for the same store, only the last is woken.
    pub(crate) async fn are_filled(&self) -> bool {
        let all = futures::join!(
            self.streams.wait_until_ready(),
            self.classes.wait_until_ready(),
            self.priorities.wait_until_ready(),
            self.quotas.wait_until_ready(),
            self.pool_nodes.wait_until_ready(),
            self.nodes.wait_until_ready(),
            self.leases.wait_until_ready(),
        );
        matches!(
            all,
            (Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(()))
        ) && !self.watches.is_empty()
    }

    /// What a plan needs, and the labels of ours that Nodes have.
    pub(crate) fn observe(&self, heartbeats: &mut Heartbeats, now: Instant) -> (Observed, Labels) {
        self.see_leases(heartbeats, now);
        let pool_nodes = self.pool_nodes.state();
        let unreadable = self.apart.observe();
        // Whoever had a status before its object broke has one still.
        let reported: BTreeSet<String> = pool_nodes
            .iter()
            .filter(|it| it.status.is_some())
            .map(|it| it.name_any())
            .chain(unreadable.pool_nodes.iter().cloned())
            .collect();
        let nodes = self.nodes.state();
        let names: BTreeMap<String, ()> = nodes.iter().map(|it| (it.name_any(), ())).collect();
        heartbeats.keep(|node| names.contains_key(node));
        let labels = nodes
            .iter()
            .map(|it| (it.name_any(), own_labels(it.labels())));
        let labels = labels.collect();
        let mut facts = |node: &Arc<PartialObjectMeta<Node>>| {
            let name = node.name_any();
            let has_status = reported.contains(&name);
            NodeFacts {
                driver: heartbeats.life(&name, has_status, now),
                uid: node.uid().unwrap_or_default(),
                labels: node.labels().clone(),
                name,
            }
        };
        let observed = Observed {
            streams: self.streams.state(),
            classes: self.classes.state(),
            priorities: self.priorities.state(),
            quotas: self.quotas.state(),
            nodes: nodes.iter().map(&mut facts).collect(),
            pool_nodes,
            unreadable,
        };
        (observed, labels)
    }

    /// What is known of the drivers of these nodes now. Leases alone do not make anybody plan: they
    /// change all the time, what they mean hardly ever.
    pub(crate) fn lives(
        &self,
        nodes: impl IntoIterator<Item = String>,
        heartbeats: &mut Heartbeats,
        now: Instant,
    ) -> BTreeMap<String, DriverLife> {
        self.see_leases(heartbeats, now);
        let unreadable = self.apart.observe().pool_nodes;
        let life = |name: String| {
            let object = self.pool_nodes.get(&reflector::ObjectRef::new(&name));
            let has_status = object.is_some_and(|it| it.status.is_some());
            let has_status = has_status || unreadable.contains(&name);
            let life = heartbeats.life(&name, has_status, now);
            (name, life)
        };
        nodes.into_iter().map(life).collect()
    }

    fn see_leases(&self, heartbeats: &mut Heartbeats, now: Instant) {
        let leases = self.leases.state();
        let renewals = leases.iter().filter_map(|lease| {
            let name = lease.name_any();
            let node = name.strip_prefix(DRIVER_LEASE_PREFIX)?;
            Some((
                node.to_owned(),
                lease.resource_version().unwrap_or_default(),
            ))
        });
        heartbeats.see(renewals, now);
    }

    /// Whether there is a class of this name.
    pub(crate) fn has_class(&self, name: &str) -> bool {
        self.classes.get(&reflector::ObjectRef::new(name)).is_some()
    }
}

/// The watches while they are being started.
struct Watches {
    changed: Arc<Notify>,
    tasks: JoinSet<()>,
    metrics: Arc<Metrics>,
}

impl Watches {
    /// A kind of ours, whose every event may change the plan.
    fn add<K>(&mut self, kind: &'static str, client: &Client, apart: &Apart) -> Store<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store();
        let mut sorter = Sorter::new(
            kind,
            store.clone(),
            apart.clone(),
            Arc::clone(&self.metrics),
        );
        let changed = Arc::clone(&self.changed);
        let apart_changed = Arc::clone(&self.changed);
        let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
        let events = watcher(api, watcher::Config::default())
            .default_backoff()
            .filter_map(move |event| {
                let sorted = event.map(|event| sorter.sort(event)).transpose();
                if sorted.is_none() {
                    apart_changed.notify_one();
                }
                futures::future::ready(sorted)
            });
        self.reflect(kind, events, writer, move || changed.notify_one());
        store
    }

    /// Nodes, of which only names and labels are read.
    fn add_nodes(&mut self, client: &Client) -> Store<PartialObjectMeta<Node>> {
        let (store, writer) = reflector::store();
        let changed = Arc::clone(&self.changed);
        let api: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff();
        self.reflect("nodes", events, writer, move || changed.notify_one());
        store
    }

    /// A kind that changes all the time, mostly without meaning.
    fn add_quiet<K>(&mut self, kind: &'static str, api: Api<K>) -> Store<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store();
        let events = watcher(api, watcher::Config::default()).default_backoff();
        self.reflect(kind, events, writer, || {});
        store
    }

    fn reflect<K>(
        &mut self,
        kind: &'static str,
        events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
        writer: reflector::store::Writer<K>,
        tell: impl Fn() + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    {
        let metrics = Arc::clone(&self.metrics);
        let events = events
            // Nobody here reads them, and they are half of an object.
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer);
        self.tasks.spawn(events.for_each(move |event| {
            match event {
                Ok(_) => tell(),
                Err(error) => {
                    metrics.watch_failed(kind);
                    tracing::warn!(
                        kind,
                        error = &error as &dyn std::error::Error,
                        "a watch broke"
                    );
                }
            }
            futures::future::ready(())
        }));
    }
}
