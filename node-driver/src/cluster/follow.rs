//! Follows the node's object: what it says becomes the duty cycle's policy.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Client;
use kube::api::{Api, ApiResource};
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use tensorpool_crds::{TensorPoolNode, TensorPoolNodeSpec};
use tensorpool_shm::numa_nodes;
use tokio::sync::watch;
use tokio::time::sleep;

use super::object::{Seen, Spec};
use super::policy::{ClusterPolicy, Here, policy_of};
use super::view::PolicySlot;
use crate::control::{Control, ControlError, SetPolicyError};
use crate::files::in_words;

/// Pause before a policy is handed over again to a duty cycle that had no time for it.
const AGAIN: Duration = Duration::from_millis(100);

/// How it stands with the policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Following {
    /// What is followed; none before the first.
    pub policy: Option<Arc<ClusterPolicy>>,
    /// Generation of the object that was last looked at.
    pub generation: Option<i64>,
    /// Why that object's policy is not followed in whole, each in a sentence.
    pub flaws: Vec<String>,
    /// The last policy was refused as a whole; the one before it is followed.
    pub rejected: bool,
}

/// Watches one object.
pub(super) struct Follower {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) aeron_domain: String,
    pub(super) control: Control,
    pub(super) slot: PolicySlot,
    pub(super) seen: watch::Sender<Option<Seen>>,
    pub(super) following: watch::Sender<Following>,
}

impl Follower {
    /// Goes on until it is dropped. Without a duty cycle it does nothing any more.
    pub(super) async fn run(self) -> Infallible {
        let mut looks = std::pin::pin!(looks(self.client.clone(), &self.node));
        let mut known: Option<Spec> = None;
        while let Some(look) = looks.next().await {
            match look {
                Ok(Some(object)) => {
                    let nothing = TensorPoolNodeSpec::default();
                    let before = known.as_ref().map_or(&nothing, |known| &known.readable);
                    let seen = Seen::read(&object, before);
                    if known.as_ref() != Some(&seen.spec) && self.follow(&seen).await.is_err() {
                        return pending().await;
                    }
                    known = Some(seen.spec.clone());
                    self.following.send_if_modified(|following| {
                        let before = following.generation;
                        following.generation = seen.generation;
                        before != following.generation
                    });
                    self.seen.send_replace(Some(seen));
                }
                Ok(None) => {
                    tracing::warn!(
                        node = self.node,
                        "there is no TensorPoolNode for this node; what is attached goes on, by the policy that was seen last"
                    );
                    self.seen.send_replace(None);
                }
                Err(error) => {
                    self.control.requests().count("watch", "broken");
                    tracing::warn!(
                        error = in_words(&error),
                        "the watch of the node's object broke and is taken up again"
                    );
                }
            }
        }
        // A watch never ends by itself.
        pending().await
    }

    /// Hands a policy over. One that the core refuses leaves the one before it.
    async fn follow(&self, seen: &Seen) -> Result<(), ControlError> {
        let mut policy = policy_of(
            &seen.spec.readable,
            &Here {
                numa_nodes: &numa_nodes(),
                aeron_domain: &self.aeron_domain,
            },
        );
        policy.refused.extend(seen.spec.streams.iter().cloned());
        let mut flaws = seen.spec.flaws.clone();
        let rejected = match self.hand_over(&policy).await {
            Ok(()) => {
                tracing::info!(
                    revision = policy.revision,
                    streams = policy.streams.len(),
                    refused = policy.refused.len(),
                    cordoned = policy.cordoned,
                    "following a new policy"
                );
                false
            }
            Err(error @ SetPolicyError::Invalid(_)) => {
                let error = in_words(&error);
                tracing::error!(revision = policy.revision, error, "a policy was refused");
                flaws.push(error);
                true
            }
            Err(SetPolicyError::Control(error)) => return Err(error),
        };
        let policy = Arc::new(policy);
        if !rejected {
            self.slot.put(Arc::clone(&policy));
        }
        self.following.send_modify(|following| {
            following.flaws = flaws;
            following.rejected = rejected;
            if !rejected {
                following.policy = Some(policy);
            }
        });
        Ok(())
    }

    /// Again while the duty cycle is busy: nothing newer can come meanwhile, since this would bring it.
    async fn hand_over(&self, policy: &ClusterPolicy) -> Result<(), SetPolicyError> {
        loop {
            let answer = self
                .control
                .set_policy(policy.revision.clone(), policy.spec.clone())
                .await;
            match answer {
                Err(SetPolicyError::Control(ControlError::Busy)) => {
                    sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }
}

/// The object whenever it changes, and `None` when it is gone. Only this one object is asked for.
fn looks(
    client: Client,
    node: &str,
) -> impl Stream<Item = watcher::Result<Option<DynamicObject>>> + use<> {
    let kind = ApiResource::erase::<TensorPoolNode>(&());
    let api: Api<DynamicObject> = Api::all_with(client, &kind);
    watcher::watch_object(api, node).default_backoff()
}
