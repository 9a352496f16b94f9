//! Writes what lives on the node into the node's object: when something changed, not more than once a
//! second, and only what differs.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Client, Resource};
use serde_json::json;
use tensorpool_crds::{
    AeronEndpoint, DriverIdentity, TensorPoolNode, TensorPoolNodeStatus, Time, field_manager,
};
use tensorpool_shm::numa_pages;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::answer::{Failure, answered};
use super::capacity::Kubelet;
use super::follow::Following;
use super::object::Seen;
use super::pace::Pace;
use super::status::{Facts, Surroundings, same, shut_down, status_of, wants_huge_pages};
use super::{huge_pages, mounts, random_byte};
use crate::control::{Control, ControlError};

/// Huge pages and mounts change without an event of ours.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Pause before a duty cycle that had no time is asked again.
const BUSY: Duration = Duration::from_millis(100);

/// Writes one status.
pub(super) struct Reporter {
    pub(super) client: Client,
    pub(super) control: Control,
    pub(super) kubelet: Kubelet,
    pub(super) node: String,
    pub(super) driver: DriverIdentity,
    pub(super) aeron: Option<AeronEndpoint>,
    pub(super) seen: watch::Receiver<Option<Seen>>,
    pub(super) following: watch::Receiver<Following>,
    pub(super) surroundings: watch::Receiver<Surroundings>,
}

/// What is known of the status in the object.
#[derive(Default)]
struct There {
    /// As it stood there last.
    status: Option<TensorPoolNodeStatus>,
    /// What was last applied, and what the API server made of it: somebody else's condition beside ours
    /// is no reason to write again.
    applied: Option<(TensorPoolNodeStatus, TensorPoolNodeStatus)>,
}

impl There {
    fn needs(&self, wanted: &TensorPoolNodeStatus) -> bool {
        let Some(status) = &self.status else {
            return true;
        };
        let stands = self
            .applied
            .as_ref()
            .is_some_and(|(asked, answered)| same(asked, wanted) && same(answered, status));
        !stands && !same(status, wanted)
    }
}

impl Reporter {
    /// Returns when the duty cycle has ended.
    pub(super) async fn run(mut self) {
        let mut changes = self.control.changes();
        let mut pace = Pace::default();
        let mut there = There::default();
        let mut object_changed = false;
        loop {
            object_changed |= self.pause(&mut pace).await;
            changes.mark_unchanged();
            if std::mem::take(&mut object_changed) {
                let seen = self.seen.borrow_and_update();
                there.status = seen.as_ref().and_then(|seen| seen.status.clone());
            }
            let has_object = self.seen.borrow().is_some();
            let wanted = match self.wanted(&there).await {
                Ok(wanted) => wanted,
                Err(ControlError::Ended) => return self.last_words(there).await,
                Err(ControlError::Busy) => {
                    sleep(BUSY).await;
                    continue;
                }
            };
            if has_object && there.needs(&wanted) {
                let began = Instant::now();
                match self.apply(&wanted).await {
                    Ok(answer) => {
                        self.control.requests().count("status", "ok");
                        if pace.failures() > 0 {
                            tracing::info!("the node's status is written again");
                        }
                        pace.wrote(began);
                        there.status = Some(answer.clone());
                        there.applied = Some((wanted, answer));
                    }
                    Err(failure) => {
                        self.control.requests().count("status", failure.reason());
                        tracing::warn!(
                            reason = failure.reason(),
                            error = %failure,
                            "the node's status was not written, and will be"
                        );
                        pace.failed(Instant::now(), failure.wish(), random_byte());
                        continue;
                    }
                }
            }
            tokio::select! {
                // Without a duty cycle the next look ends this.
                _ = changes.changed() => {}
                Ok(()) = self.seen.changed() => object_changed = true,
                Ok(()) = self.following.changed() => {}
                Ok(()) = self.surroundings.changed() => {}
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Until the next write may go out. Whether the object changed meanwhile: then the API server is there
    /// again, and somebody may wait for an answer.
    async fn pause(&mut self, pace: &mut Pace) -> bool {
        let mut has_changed = false;
        while let Some(at) = pace.not_before() {
            tokio::select! {
                () = sleep_until(at.into()) => break,
                Ok(()) = self.seen.changed() => {
                    has_changed = true;
                    pace.heard(Instant::now());
                }
            }
        }
        has_changed
    }

    /// The driver has ended; nobody attaches here until the next one runs.
    async fn last_words(&self, there: There) {
        let Some((mut status, _)) = there.applied else {
            return;
        };
        let now = Time(Timestamp::now());
        if !shut_down(&mut status, &now) || self.seen.borrow().is_none() {
            return;
        }
        if let Err(failure) = self.apply(&status).await {
            tracing::warn!(
                reason = failure.reason(),
                error = %failure,
                "the node's status does not say that the driver has ended"
            );
        }
    }

    async fn wanted(&mut self, there: &There) -> Result<TensorPoolNodeStatus, ControlError> {
        let snapshot = self.control.look().await?;
        let following = self.following.borrow_and_update().clone();
        let surroundings = self.surroundings.borrow_and_update().clone();
        let huge_pages = huge_pages::read();
        let numa_pages = numa_pages();
        let mounts = mounts::read(&snapshot.bases);
        let counted = match following.policy.as_deref() {
            Some(policy) if wants_huge_pages(policy) => {
                self.kubelet.counted(self.control.requests()).await
            }
            Some(_) | None => None,
        };
        let before = there.status.as_ref();
        let facts = Facts {
            driver: &self.driver,
            aeron: self.aeron.as_ref(),
            following: &following,
            snapshot: &snapshot,
            surroundings: &surroundings,
            huge_pages: &huge_pages,
            numa_pages: &numa_pages,
            counted,
            mounts: &mounts,
            before: before.map_or(&[], |status| &status.conditions),
        };
        Ok(status_of(&facts, &Time(Timestamp::now())))
    }

    async fn apply(&self, status: &TensorPoolNodeStatus) -> Result<TensorPoolNodeStatus, Failure> {
        let kind = ApiResource::erase::<TensorPoolNode>(&());
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let body = json!({
            "apiVersion": TensorPoolNode::api_version(&()),
            "kind": TensorPoolNode::kind(&()),
            "metadata": {"name": self.node},
            "status": status,
        });
        let parameters = PatchParams::apply(field_manager::NODE_DRIVER).force();
        let patch = Patch::Apply(&body);
        let answer = answered(api.patch_status(&self.node, &parameters, &patch)).await?;
        let there = answer.data.get("status").cloned();
        // An answer that cannot be read is looked at again with the next event.
        let there = there.and_then(|status| serde_json::from_value(status).ok());
        Ok(there.unwrap_or_default())
    }
}
