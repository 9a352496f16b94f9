//! Streams that wait for nodes whose drivers are gone.
//!
//! The operator holds each stream by a finalizer until its nodes have given its memory back. After an
//! uninstall nobody does that any more, and a stream, its namespace or its definition could never go.

use kube::api::{Api, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tensorpool_crds::{FINALIZER, TensorStream};
use tokio::time::sleep;

use crate::PERIOD;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Looks before this gives up: an operator that ends may put the finalizer on once more.
const LOOKS: u32 = 30;

/// Why streams still wait.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    /// Somebody puts the finalizer on again.
    #[error(
        "{0} streams have the finalizer {FINALIZER} again whenever it is taken off; does an operator still run?"
    )]
    Again(usize),
    /// The API server did not answer.
    #[error("the streams of the cluster could not be listed or changed: {0}")]
    Api(#[from] kube::Error),
}

/// Takes the finalizer off every stream, and says how many had it.
pub(crate) async fn run(client: Client) -> Result<String, ReleaseError> {
    let mut released = 0;
    let mut held = Vec::new();
    for _ in 0..LOOKS {
        held = with_finalizer(&client).await?;
        if held.is_empty() {
            return Ok(format!(
                "{released} streams do not wait for their nodes any more"
            ));
        }
        for stream in &held {
            released += usize::from(release(&client, stream).await?);
        }
        sleep(PERIOD).await;
    }
    Err(ReleaseError::Again(held.len()))
}

type Stream = PartialObjectMeta<TensorStream>;

async fn with_finalizer(client: &Client) -> Result<Vec<Stream>, kube::Error> {
    let api: Api<TensorStream> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let list = match api.list_metadata(&page).await {
            Ok(list) => list,
            // The definitions are gone, and the streams with them: the path itself is not known.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let next = list.metadata.continue_.clone().unwrap_or_default();
        let is_held = |stream: &Stream| stream.finalizers().iter().any(|it| it == FINALIZER);
        found.extend(list.items.into_iter().filter(is_held));
        if next.is_empty() {
            return Ok(found);
        }
        page = page.continue_token(&next);
    }
}

/// Whether it was taken off; not where the stream has changed meanwhile, or is gone.
async fn release(client: &Client, stream: &Stream) -> Result<bool, kube::Error> {
    let api: Api<TensorStream> =
        Api::namespaced(client.clone(), &stream.namespace().unwrap_or_default());
    let others = stream.finalizers().iter().filter(|it| *it != FINALIZER);
    let others: Vec<&String> = others.collect();
    let without = json!({"metadata": {
        "resourceVersion": stream.resource_version(), "finalizers": others,
    }});
    let parameters = PatchParams::default();
    let patched = api
        .patch_metadata(&stream.name_any(), &parameters, &Patch::Merge(&without))
        .await;
    match patched {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
