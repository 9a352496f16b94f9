//! Pods that have volumes of the node drivers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};

use crate::PERIOD;

/// The name of the CSI driver.
const DRIVER: &str = "csi.tensorpool.io";
/// Pods of one page of a list.
const PAGE: u32 = 500;
/// Pods that a refusal names.
const NAMED: usize = 20;

/// Why the drivers may not go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UninstallError {
    /// Pods would hang.
    #[error(
        "{count} pods have Tensorpool volumes and could not end without the driver of their node: {names}; \
         end them and uninstall again, or let the uninstall delete them: {how_to_force}"
    )]
    InUse {
        /// How many.
        count: usize,
        /// The first of them.
        names: String,
        /// For the one who reads it.
        how_to_force: String,
    },
    /// They were deleted and some are there, or new ones.
    #[error(
        "{count} pods with Tensorpool volumes are there {} s after all of them were deleted: {names}; \
         whatever makes them again (a Deployment, a Job) has to go first, and `kubectl delete pod --force` \
         removes those of a node that is no more", limit.as_secs()
    )]
    Stay {
        /// How many.
        count: usize,
        /// The first of them.
        names: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The API server did not answer.
    #[error("the pods of the cluster could not be listed or deleted: {0}")]
    Api(#[from] kube::Error),
}

/// Looks for pods, deletes them if that is asked for, and says what was done.
pub(crate) async fn run(
    client: Client,
    force: bool,
    limit: Duration,
    how_to_force: String,
) -> Result<String, UninstallError> {
    let deadline = Instant::now() + limit;
    let mut deleted = BTreeSet::new();
    loop {
        let pods = with_volumes(&client).await?;
        if pods.is_empty() {
            return Ok(match deleted.len() {
                0 => format!("no pod has a volume of {DRIVER}"),
                count => {
                    format!("{count} pods with volumes of {DRIVER} were deleted and have ended")
                }
            });
        }
        let (count, names) = (pods.len(), names(&pods));
        if !force {
            return Err(UninstallError::InUse {
                count,
                names,
                how_to_force,
            });
        }
        if Instant::now() >= deadline {
            return Err(UninstallError::Stay {
                count,
                names,
                limit,
            });
        }
        for pod in pods {
            let name = name_of(&pod);
            if deleted.insert(name.clone()) {
                println!("deleting the pod {name}");
            }
            if pod.metadata.deletion_timestamp.is_none() {
                delete(&client, &pod).await?;
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn with_volumes(client: &Client) -> Result<Vec<Pod>, kube::Error> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let list = api.list(&page).await?;
        let next = list.metadata.continue_.clone().unwrap_or_default();
        found.extend(list.items.into_iter().filter(holds_volume));
        if next.is_empty() {
            return Ok(found);
        }
        page = page.continue_token(&next);
    }
}

/// Whether kubelet has, or will have, a volume of ours for the pod.
fn holds_volume(pod: &Pod) -> bool {
    // A deleted pod says that it has succeeded or failed before its volumes are unmounted; it is there until
    // they are. One that ended by itself may stay for good.
    let is_deleted = pod.metadata.deletion_timestamp.is_some();
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let has_ended = matches!(phase, Some("Succeeded" | "Failed"));
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let ours = volumes.into_iter().flatten().any(|volume| {
        let csi = volume.csi.as_ref();
        csi.is_some_and(|csi| csi.driver == DRIVER)
    });
    ours && (is_deleted || !has_ended)
}

async fn delete(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    match api.delete(&pod.name_any(), &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        // It has gone by itself.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn names(pods: &[Pod]) -> String {
    let mut names: Vec<String> = pods.iter().take(NAMED).map(name_of).collect();
    names.sort_unstable();
    let more = pods.len().saturating_sub(NAMED);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

fn name_of(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}
