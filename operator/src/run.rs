//! One operator process: caches, election, loop, HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use kube::{Client, Config};

use crate::caches::Caches;
use crate::health::Health;
use crate::http::{self, Pages};
use crate::leader::{Candidate, Ended};
use crate::metrics::Metrics;
use crate::reconcile::{DefaultClass, Reconciler};
use crate::stop::Stop;

/// Name of the lease that operators compete for.
pub const LEASE: &str = "tensorpool-operator";

/// What an operator is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its lease and those of the drivers are.
    pub namespace: String,
    /// Its name among candidates: the pod's.
    pub identity: String,
    /// Where HTTP is served. Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// The class that is made while there is none of its name.
    pub default_class: Option<DefaultClass>,
}

/// Why an operator ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No client can be made of the configuration.
    #[error("could not make a client of the API server")]
    Client(#[source] Box<kube::Error>),
    /// The HTTP address.
    #[error("cannot listen on {listen}: choose a free address with --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another one leads, or the API server did not answer in time; a restart competes again.
    #[error("the lease was lost; somebody else leads, or the API server does not answer")]
    LeaseLost,
}

/// Runs until `stop` is raised.
///
/// # Errors
/// [`RunError`]; the process should end then, and be started again.
pub async fn run(mut config: Config, settings: Settings, stop: Stop) -> Result<(), RunError> {
    // Retries are ours: each write has its own pause, and a lease must not wait for old requests.
    config.default_retry = false;
    let client = Client::try_from(config).map_err(|error| RunError::Client(Box::new(error)))?;
    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(Health::new());
    let listen = settings.listen;
    let pages = Pages {
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
    };
    let address = http::serve(listen, pages).await;
    let address = address.map_err(|source| RunError::Listen { listen, source })?;
    tracing::info!(%address, "serving HTTP");
    let caches = Arc::new(Caches::start(&client, &settings.namespace, &metrics));
    let filled = {
        let (caches, health) = (Arc::clone(&caches), Arc::clone(&health));
        tokio::spawn(async move {
            if caches.are_filled().await {
                health.set_ready();
            }
        })
    };
    let candidate = Candidate {
        client: client.clone(),
        namespace: settings.namespace,
        name: LEASE.to_owned(),
        identity: settings.identity.clone(),
    };
    let reconciler = Reconciler {
        client,
        caches,
        metrics,
        health: Arc::clone(&health),
        default_class: settings.default_class,
        identity: settings.identity,
    };
    let work_stop = stop.clone();
    let ended = candidate
        .lead(stop, || health.beat(), || reconciler.run(work_stop))
        .await;
    filled.abort();
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Lost => Err(RunError::LeaseLost),
    }
}
