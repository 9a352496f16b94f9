//! A pod that must be refused, and must be told.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::PERIOD;

/// How kubelet words a volume that its driver refused for lack of permission.
const REFUSED: &str = "code = PermissionDenied";

/// Why that is not shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefusalError {
    /// It has the volume.
    #[error(
        "the pod {pod} runs: its service account may not have the stream, and it was given the volume"
    )]
    Runs {
        /// Its name.
        pod: String,
    },
    /// Nothing was said.
    #[error(
        "no pod of {selector} in {namespace} was refused within {} s; the last thing said about one was: {last}",
        limit.as_secs()
    )]
    Silent {
        /// Where was looked.
        namespace: String,
        /// For which pods.
        selector: String,
        /// How long.
        limit: Duration,
        /// The message of the last event.
        last: String,
    },
    /// The API server did not answer.
    #[error("pods and events could not be listed: {0}")]
    Api(#[from] kube::Error),
}

/// Waits for the refusal, and returns its words.
pub(crate) async fn expect(
    client: Client,
    namespace: &str,
    selector: &str,
    limit: Duration,
) -> Result<String, RefusalError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let events: Api<Event> = Api::namespaced(client, namespace);
    let deadline = Instant::now() + limit;
    let mut last = "nothing".to_owned();
    loop {
        for pod in pods.list(&ListParams::default().labels(selector)).await? {
            let name = pod.name_any();
            if has_started(&pod) {
                return Err(RefusalError::Runs { pod: name });
            }
            let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
            let said = events.list(&about).await?;
            for message in said.into_iter().filter_map(|event| event.message) {
                if message.contains(REFUSED) {
                    return Ok(format!("the pod {name} is refused: {message}"));
                }
                last = message;
            }
        }
        if Instant::now() >= deadline {
            return Err(RefusalError::Silent {
                namespace: namespace.to_owned(),
                selector: selector.to_owned(),
                limit,
                last,
            });
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn has_started(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .any(|container| container.started == Some(true) || container.restart_count > 0)
}
