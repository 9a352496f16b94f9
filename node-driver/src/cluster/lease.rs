//! The Lease that shows that this driver lives.
//!
//! Renewed by itself, apart from everything else: a status that is refused does not make a driver look
//! dead. The operator looks at changes of the Lease and at its own clock, never at times in it.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::{Client, Resource};
use tensorpool_crds::{DRIVER_LEASE_PREFIX, TensorPoolNode, field_manager};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use super::answer::{Failure, answered};
use super::object::Seen;
use super::pace::Pace;
use super::random_byte;
use crate::control::{Control, ControlError};

/// Time between two renewals.
const RENEW: Duration = Duration::from_secs(30);
/// How long the duty cycle may take to answer. It answers within milliseconds.
const DUTY_CYCLE: Duration = Duration::from_secs(5);
/// A reader that knows nothing better takes the driver for dead after this.
const DURATION_SECONDS: i32 = 120;

/// Renews one Lease, as long as the duty cycle answers.
pub(super) struct Heartbeat {
    pub(super) client: Client,
    pub(super) control: Control,
    pub(super) namespace: String,
    pub(super) node: String,
    pub(super) holder: String,
    pub(super) seen: watch::Receiver<Option<Seen>>,
}

impl Heartbeat {
    /// Goes on until it is dropped. Without a duty cycle it does nothing any more.
    pub(super) async fn run(mut self) -> Infallible {
        let name = format!("{DRIVER_LEASE_PREFIX}{}", self.node);
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let parameters = PatchParams::apply(field_manager::NODE_DRIVER).force();
        let mut pace = Pace::default();
        loop {
            match timeout(DUTY_CYCLE, self.control.look()).await {
                Ok(Ok(_)) => {}
                Ok(Err(ControlError::Ended)) => return pending().await,
                Ok(Err(ControlError::Busy)) | Err(_) => {
                    tracing::error!(
                        lease = name,
                        "the duty cycle does not answer, so the Lease is not renewed"
                    );
                    sleep(DUTY_CYCLE).await;
                    continue;
                }
            }
            let owner = self.owner();
            let now = Timestamp::now();
            let lease = lease(&name, &self.node, &self.holder, owner.clone(), now);
            let written = answered(api.patch(&name, &parameters, &Patch::Apply(&lease))).await;
            let now = Instant::now();
            match written {
                Ok(_) => {
                    self.control.requests().count("lease", "ok");
                    if pace.failures() > 0 {
                        tracing::info!(lease = name, "the Lease is renewed again");
                    }
                    pace = Pace::default();
                    tokio::select! {
                        () = sleep_until((now + RENEW).into()) => {}
                        () = self.another_owner(owner.as_deref()) => {}
                    }
                }
                Err(failure) => {
                    self.control.requests().count("lease", failure.reason());
                    say(&name, &failure);
                    pace.failed(now, failure.wish(), random_byte());
                    let next = pace.not_before().unwrap_or(now);
                    sleep_until(next.into()).await;
                }
            }
        }
    }

    /// The node's object, if there is one.
    fn owner(&self) -> Option<String> {
        self.seen.borrow().as_ref().map(|seen| seen.uid.clone())
    }

    /// Returns once there is an object, and another one than `owner`.
    async fn another_owner(&mut self, owner: Option<&str>) {
        let is_another = |seen: &Option<Seen>| {
            let seen = seen.as_ref().map(|seen| seen.uid.as_str());
            seen.is_some() && seen != owner
        };
        if self.seen.wait_for(is_another).await.is_err() {
            // Whoever looks at the object is gone; there will be no other.
            pending::<()>().await;
        }
    }
}

fn say(name: &str, failure: &Failure) {
    tracing::warn!(
        lease = name,
        reason = failure.reason(),
        error = %failure,
        "the Lease was not renewed"
    );
}

/// The Lease as it is applied. It goes with the node's object, which goes with the Node.
fn lease(name: &str, node: &str, holder: &str, owner: Option<String>, now: Timestamp) -> Lease {
    let owner = owner.map(|uid| OwnerReference {
        api_version: TensorPoolNode::api_version(&()).into_owned(),
        kind: TensorPoolNode::kind(&()).into_owned(),
        name: node.to_owned(),
        uid,
        ..OwnerReference::default()
    });
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::lease;

    #[test]
    fn a_lease_goes_with_the_node_object_once_that_is_there() {
        let made = |owner| {
            lease(
                "tensorpool-node-n1",
                "n1",
                "pod",
                owner,
                Timestamp::UNIX_EPOCH,
            )
        };
        assert_eq!(made(None).metadata.owner_references, None);
        let owners = made(Some("uid".to_owned())).metadata.owner_references;
        let owners = owners.expect("it has an owner");
        assert_eq!(owners.len(), 1);
        assert_eq!(
            (
                owners[0].api_version.as_str(),
                owners[0].kind.as_str(),
                owners[0].name.as_str(),
                owners[0].uid.as_str(),
                owners[0].controller
            ),
            (
                "tensorpool.io/v1alpha1",
                "TensorPoolNode",
                "n1",
                "uid",
                None
            )
        );
    }
}
