//! What a cluster adds: two bases with a class each, one quota over both streams, policies and access
//! that change while the driver runs.

use std::collections::BTreeSet;

use tensorpool_client::lease::LeaseRole;
use tensorpool_driver_core::Way as StatusWay;
use tensorpool_driver_core::config::{ClassSpec, QuotaSpec, Roles, Visible};

use super::*;
use crate::oracle::Touch;

/// Epochs that the class of a stream has room for: the announced one and the next, or only one.
const fn class_epochs(stream: StreamId) -> u64 {
    if stream.0 == CAMERA.0 { 2 } else { 1 }
}
/// Epochs that the quota allows both streams together: the announced one of each.
const QUOTA_EPOCHS: u64 = 2;
/// The camera wants its memory back after this.
const FORCE_AFTER: u64 = 4 * SECOND;
const PRODUCERS: u64 = 2;
const CONSUMERS: u64 = 4;

/// How the policy stands.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    has_camera: bool,
    lidar_first: bool,
    producers: Limit,
    consumers: Limit,
    /// Processes that may do nothing for now.
    pub(super) denied: BTreeSet<usize>,
}

/// A limit, and how far above it the use may still be since it was lowered.
#[derive(Clone, Copy, Debug)]
struct Limit {
    hard: u64,
    bound: u64,
}

impl Limit {
    const fn new(hard: u64) -> Self {
        Self { hard, bound: hard }
    }

    fn change(&mut self, hard: u64, used: u64) {
        *self = Self {
            hard,
            bound: hard.max(self.bound.min(used)),
        };
    }

    fn check(&mut self, what: &str, live: u64, used: u64) {
        assert!(live <= self.bound, "{live} {what}, {self:?}");
        self.change(self.hard, used);
    }
}

impl Cluster {
    pub(super) const fn new() -> Self {
        Self {
            has_camera: true,
            lidar_first: false,
            producers: Limit::new(PRODUCERS),
            consumers: Limit::new(CONSUMERS),
            denied: BTreeSet::new(),
        }
    }

    /// Makes a stand-alone configuration one of a cluster.
    pub(super) fn dress(&self, spec: &mut ConfigSpec) {
        let base = |name: &str| Base {
            name: name.to_owned(),
            directory: format!("/run/{name}"),
            hugepages: false,
            page_size_bytes: 4_096,
        };
        spec.identity.bases = vec![base("a"), base("b")];
        let class = |base: &str, stream| ClassSpec {
            base: base.to_owned(),
            size_bytes: class_epochs(stream) * EPOCH_BYTES,
        };
        let policy = &mut spec.policy;
        policy.classes = [("a", class("a", CAMERA)), ("b", class("b", LIDAR))]
            .map(|(name, class)| (name.to_owned(), class))
            .into();
        let quota = QuotaSpec {
            bytes: Some(QUOTA_EPOCHS * EPOCH_BYTES),
            producers: Some(self.producers.hard),
            consumers: Some(self.consumers.hard),
            leases: None,
        };
        policy.quotas = [("ns/quota".to_owned(), quota)].into();
        policy
            .streams
            .retain(|stream| stream.stream_id != CAMERA || self.has_camera);
        for stream in &mut policy.streams {
            let is_camera = stream.stream_id == CAMERA;
            stream.namespace = "ns".to_owned();
            stream.class = if is_camera { "a" } else { "b" }.to_owned();
            stream.quotas = vec!["ns/quota".to_owned()];
            stream.priority = i32::from(!is_camera && self.lidar_first);
            stream.force_after_ns = is_camera.then_some(FORCE_AFTER);
        }
    }
}

/// Where the files of a stream belong.
pub(super) const fn home_of(stream: StreamId) -> BaseId {
    BaseId(if stream.0 == CAMERA.0 { 0 } else { 1 })
}

impl World {
    /// A policy of its own kind: nothing but what it names may lose a lease.
    pub(super) fn change_policy(&mut self) {
        let (producers, consumers) = self.used();
        let dice = self.random.between(0, 4);
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let touch = match dice {
            0 => {
                cluster.has_camera = !cluster.has_camera;
                Touch::Stream(CAMERA)
            }
            1 => {
                cluster.lidar_first = !cluster.lidar_first;
                Touch::Nobody
            }
            2 => {
                let hard = self.random.between(0, CONSUMERS + 1);
                cluster.consumers.change(hard, consumers);
                Touch::Nobody
            }
            _ => {
                let hard = self.random.between(0, PRODUCERS + 1);
                cluster.producers.change(hard, producers);
                Touch::Nobody
            }
        };
        self.say(&format!("policy: {:?}", self.cluster));
        self.tell_policy(touch);
    }

    fn tell_policy(&mut self, touch: Touch) {
        let policy = self.config(1).policy.validate(&[]).expect("valid");
        self.oracle.may_touch(touch);
        self.tell(Event::PolicyChanged(Box::new(policy)));
        self.oracle.may_touch(Touch::Anything);
    }

    /// A process loses its access, or gets it back.
    pub(super) fn change_access(&mut self, index: usize) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        if !cluster.denied.remove(&index) {
            cluster.denied.insert(index);
        }
        self.tell_access(index);
    }

    fn tell_access(&mut self, index: usize) {
        let Way::Socket {
            connection: Some(id),
        } = self.processes[index].way
        else {
            return;
        };
        let Some(driver) = &self.driver else { return };
        let connection = ConnectionId(id);
        let of_connection = |way: StatusWay| match way {
            StatusWay::Aeron => false,
            StatusWay::Socket { connection: of, .. } => of == connection,
        };
        let mut leases = BTreeSet::new();
        for stream in driver.status().streams {
            leases.extend(
                stream
                    .producer
                    .filter(|it| of_connection(it.way))
                    .map(|it| it.lease),
            );
            let consumers = stream.consumers.into_iter();
            leases.extend(
                consumers
                    .filter(|it| of_connection(it.way))
                    .map(|it| it.lease),
            );
        }
        let access = self.access_of(id);
        self.say(&format!("access of process {index}: {access:?}"));
        self.oracle.may_touch(Touch::Leases(leases));
        self.tell(Event::AccessChanged {
            connection,
            access,
            text: "no longer allowed".to_owned(),
        });
        self.oracle.may_touch(Touch::Anything);
    }

    /// What whoever holds this connection may do: in a cluster its own role on its own stream.
    pub(super) fn access_of(&self, connection: u64) -> Access {
        let index =
            (0..self.processes.len()).find(|i| self.processes[*i].is_connection(connection));
        let (Some(cluster), Some(index)) = (&self.cluster, index) else {
            return Access::everything();
        };
        let process = &self.processes[index];
        let produce = process.role == LeaseRole::Producer;
        let roles = Roles {
            produce,
            consume: !produce,
        };
        if cluster.denied.contains(&index) {
            return Access::nothing();
        }
        Access {
            visible: Visible::Only([(process.stream, roles)].into()),
            leases: 4,
            aeron: None,
        }
    }

    /// Everybody may have what it wants again.
    pub(super) fn restore_cluster(&mut self) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let denied = std::mem::take(&mut cluster.denied);
        *cluster = Cluster::new();
        if self.driver.is_some() {
            self.tell_policy(Touch::Stream(CAMERA));
            for index in denied {
                self.tell_access(index);
            }
        }
    }

    /// Producers and consumers: those with a lease, and with those that wait.
    fn used(&self) -> (u64, u64) {
        let (producers, consumers) = self.oracle.live_by_role();
        let status = self.driver.as_ref().map(Driver::status);
        let waiting = status.map_or(0, |status| u64::from(status.pending_attaches));
        (producers + waiting, consumers + waiting)
    }

    /// The quota's clients are never more than it allows.
    pub(super) fn judge_quota(&mut self) {
        let (live_producers, live_consumers) = self.oracle.live_by_role();
        let (producers, consumers) = self.used();
        if let Some(cluster) = &mut self.cluster {
            cluster
                .producers
                .check("producers", live_producers, producers);
            cluster
                .consumers
                .check("consumers", live_consumers, consumers);
        }
    }

    /// What will lie on the disk when everything asked for is done, this epoch included, is no more
    /// than class and quota allow, and on the right base.
    pub(super) fn judge_bytes(&self, regions: &RegionSet) {
        let Some(cluster) = &self.cluster else { return };
        assert_eq!(regions.base, home_of(regions.key.stream), "{regions:?}");
        let mut lies: BTreeMap<EpochKey, u64> = self
            .disk
            .iter()
            // What was to go and somebody has is as if it were unlinked.
            .filter(|(_, directory)| !directory.in_use)
            .map(|(key, directory)| (*key, directory.bytes))
            .collect();
        for (_, work) in &self.files {
            match work {
                Work::Create(_, other) => drop(lies.insert(other.key, other.bytes)),
                Work::Remove(_, key, _) => drop(lies.remove(key)),
                Work::Persist(..) => {}
            }
        }
        lies.retain(|key, _| !self.unheard.contains(key));
        lies.insert(regions.key, regions.bytes);
        let stream = regions.key.stream;
        let class: u64 = lies
            .iter()
            .filter(|(key, _)| key.stream == stream)
            .map(|(_, bytes)| bytes)
            .sum();
        assert!(
            class <= class_epochs(stream) * EPOCH_BYTES,
            "{class} bytes for {stream}: {lies:?}"
        );
        let replaced = self.oracle.current(stream);
        let quota: u64 = lies
            .iter()
            .filter(|(key, _)| cluster.has_camera || key.stream != CAMERA)
            .filter(|(key, _)| key.stream != stream || Some(key.epoch) != replaced)
            .map(|(_, bytes)| bytes)
            .sum();
        assert!(
            quota <= QUOTA_EPOCHS * EPOCH_BYTES,
            "{quota} bytes of the quota: {lies:?}"
        );
    }
}
