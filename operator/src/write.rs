//! One write to the API server, and what its failure means.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Client, Resource};
use tensorpool_crds::{TensorPoolClass, TensorPoolNode, TensorQuota, TensorStream, field_manager};
use tokio::time::timeout;

use crate::changes::{Change, Part};

/// How long one write may take.
const REQUEST: Duration = Duration::from_secs(15);

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The API server said no, or could not be reached.
    #[error("the API server did not take it")]
    Api(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("the API server did not answer within {} s", REQUEST.as_secs())]
    Timeout,
}

impl WriteError {
    /// Bounded label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Api(error) => match error.as_ref() {
                kube::Error::Api(status) => match status.code {
                    403 => "forbidden",
                    404 | 410 => "gone",
                    409 => "conflict",
                    422 => "invalid",
                    429 => "throttled",
                    500.. => "server",
                    _ => "refused",
                },
                _ => "unreachable",
            },
        }
    }

    /// How long the API server asks to be left alone, if it does.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let Self::Api(error) = self else {
            return None;
        };
        let kube::Error::Api(status) = error.as_ref() else {
            return None;
        };
        let seconds = status.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
    }

    /// What was observed is out of date; the next observation is already on its way.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self.reason(), "conflict" | "gone")
    }
}

/// Applies one change under the operator's name.
pub(crate) async fn write(client: &Client, change: &Change) -> Result<(), WriteError> {
    let target = &change.target;
    let resource = match target.part {
        Part::Mark | Part::StreamStatus | Part::Release => ApiResource::erase::<TensorStream>(&()),
        Part::Policy => ApiResource::erase::<TensorPoolNode>(&()),
        Part::Label | Part::Unlabel => ApiResource::erase::<Node>(&()),
        Part::ClassStatus => ApiResource::erase::<TensorPoolClass>(&()),
        Part::QuotaStatus => ApiResource::erase::<TensorQuota>(&()),
    };
    let api: Api<DynamicObject> = match &target.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let parameters = PatchParams::apply(field_manager::OPERATOR).force();
    let apply = Patch::Apply(&change.body);
    let answer = match target.part {
        Part::StreamStatus | Part::ClassStatus | Part::QuotaStatus => {
            let written = api.patch_status(&target.name, &parameters, &apply);
            timeout(REQUEST, written).await
        }
        Part::Mark | Part::Policy | Part::Label | Part::Release => {
            timeout(REQUEST, api.patch(&target.name, &parameters, &apply)).await
        }
        Part::Unlabel => {
            let parameters = PatchParams {
                force: false,
                ..parameters
            };
            let merge = Patch::Merge(&change.body);
            timeout(REQUEST, api.patch(&target.name, &parameters, &merge)).await
        }
    };
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(WriteError::Api(Box::new(error))),
        Err(_) => Err(WriteError::Timeout),
    }
}

/// The kind of a stream, for events.
pub(crate) fn reference(change: &Change) -> k8s_openapi::api::core::v1::ObjectReference {
    k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some(TensorStream::api_version(&()).into_owned()),
        kind: Some(TensorStream::kind(&()).into_owned()),
        name: Some(change.target.name.clone()),
        namespace: change.target.namespace.clone(),
        uid: change.stream.clone(),
        ..k8s_openapi::api::core::v1::ObjectReference::default()
    }
}
