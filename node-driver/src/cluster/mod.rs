//! Cluster mode: the node's policy comes from its `TensorPoolNode`, and what lives here goes into that
//! object's status.
//!
//! Nothing on the node waits for the API server: while it is away, leases and data flow on, and new
//! attaches follow the policy that was seen last.
//!
//! One thread with a runtime of its own. Three tasks on it share what they know by watch channels, so
//! that a status that is refused delays no policy, and neither of them the Lease.

pub mod access;
mod answer;
mod begin;
pub mod capacity;
pub mod follow;
pub mod huge_pages;
mod lease;
pub mod mounts;
pub mod object;
pub mod pace;
pub mod policy;
mod report;
pub mod status;
pub mod view;

use std::convert::Infallible;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kube::{Client, Config};
use rustix::rand::{GetRandomFlags, getrandom};
use tensorpool_crds::{AeronEndpoint, DriverIdentity};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::attachments::csidriver::CsiDriverObject;
use crate::control::Control;

use self::access::Reviewer;
use self::capacity::Kubelet;
use self::follow::{Follower, Following};
use self::lease::Heartbeat;
use self::report::Reporter;

pub(crate) use begin::begin;
pub use policy::{ClusterPolicy, ClusterStream, Flaw, Here, RefusedStream, policy_of};
pub use status::{CsiState, Surroundings, status_of};
pub use view::{PolicySlot, PolicyView, policy_channel};

/// How long the end of the driver waits for the last status.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What cluster mode is told.
#[derive(Debug)]
pub struct Options {
    /// Name of the Node, and so of the node's object.
    pub node: String,
    /// Namespace of the driver's Lease.
    pub namespace: String,
    /// Who writes: version, pod, and a number of this start.
    pub driver: DriverIdentity,
    /// Where Aeron clients find this driver, if they do.
    pub aeron: Option<AeronEndpoint>,
    /// Their trust domain.
    pub aeron_domain: String,
    /// The duty cycle.
    pub control: Control,
}

/// Cluster mode while it runs. It ends with the duty cycle.
#[derive(Debug)]
pub struct Cluster {
    /// The policy that the driver follows.
    pub policy: PolicyView,
    /// Asks whether a pod may use a stream.
    pub reviewer: Reviewer,
    /// Looks whether kubelet's word for a pod counts.
    pub csi_driver: CsiDriverObject,
    /// What others on the node know and the status tells.
    pub surroundings: watch::Sender<Surroundings>,
    /// The runtime of all this, for whoever has more to do on it.
    pub runtime: Handle,
    /// Nothing is ever sent; it breaks when the thread has ended.
    ended: mpsc::Receiver<Infallible>,
}

impl Cluster {
    /// Waits, not for long, until the node's status says that the driver has ended. To be called after
    /// the duty cycle's end.
    pub fn finish(self) {
        // Either way it is over.
        let _over = self.ended.recv_timeout(LAST_WORDS);
    }
}

/// Why cluster mode did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No configuration of the API server.
    #[error(
        "the API server cannot be found: this is neither a pod with a service account token, nor does KUBECONFIG name a file"
    )]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// No client can be made of the configuration.
    #[error("no client of the API server can be made")]
    Client(#[source] Box<kube::Error>),
    /// The thread or its runtime.
    #[error("the thread for Kubernetes cannot be started")]
    Thread(#[source] io::Error),
}

/// Starts cluster mode. Nothing waits for the API server: it need not answer yet.
///
/// # Errors
/// [`StartError`].
pub fn start(options: Options) -> Result<Cluster, StartError> {
    let (started, result) = mpsc::sync_channel(1);
    let (alive, ended) = mpsc::channel();
    thread::Builder::new()
        .name("kubernetes".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(run(options, &started, ended)),
                Err(error) => {
                    // Whoever started this waits for the answer.
                    let _asked = started.send(Err(StartError::Thread(error)));
                }
            }
            drop(alive);
        })
        .map_err(StartError::Thread)?;
    result
        .recv()
        .map_err(|error| StartError::Thread(io::Error::other(error)))?
}

async fn run(
    options: Options,
    started: &mpsc::SyncSender<Result<Cluster, StartError>>,
    ended: mpsc::Receiver<Infallible>,
) {
    let client = match client().await {
        Ok(client) => client,
        Err(error) => {
            // Whoever started this waits for the answer.
            let _asked = started.send(Err(error));
            return;
        }
    };
    let (slot, policy) = policy_channel();
    let (surroundings, told) = watch::channel(Surroundings::default());
    let cluster = Cluster {
        policy,
        reviewer: Reviewer::new(client.clone(), Handle::current())
            .counting(options.control.requests().clone()),
        csi_driver: CsiDriverObject::new(client.clone(), Handle::current()),
        surroundings,
        runtime: Handle::current(),
        ended,
    };
    if started.send(Ok(cluster)).is_err() {
        return;
    }
    let (seen, sight) = watch::channel(None);
    let (following, state) = watch::channel(Following::default());
    let follower = Follower {
        client: client.clone(),
        node: options.node.clone(),
        aeron_domain: options.aeron_domain,
        control: options.control.clone(),
        slot,
        seen,
        following,
    };
    let heartbeat = Heartbeat {
        client: client.clone(),
        control: options.control.clone(),
        namespace: options.namespace,
        node: options.node.clone(),
        holder: options.driver.pod_name.clone(),
        seen: sight.clone(),
    };
    let reporter = Reporter {
        kubelet: Kubelet::new(client.clone(), &options.node),
        client,
        control: options.control,
        node: options.node,
        driver: options.driver,
        aeron: options.aeron,
        seen: sight,
        following: state,
        surroundings: told,
    };
    // The reporter has the last word; the others do not return before.
    tokio::select! {
        never = follower.run() => match never {},
        never = heartbeat.run() => match never {},
        () = reporter.run() => {}
    }
}

async fn client() -> Result<Client, StartError> {
    let config = Config::infer().await;
    let mut config = config.map_err(|error| StartError::Config(Box::new(error)))?;
    // Retries are ours: each writer has its own pause, and a Lease must not wait for old requests.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| StartError::Client(Box::new(error)))
}

/// Spreads what many drivers would do at one time.
fn random_byte() -> u8 {
    let mut byte = [0];
    // Without random numbers the pauses are only less spread.
    let _filled = getrandom(&mut byte, GetRandomFlags::NONBLOCK);
    byte[0]
}
