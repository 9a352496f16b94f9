//! The `CSIDriver` object: only while it is as the chart installs it, kubelet's word for the pod counts.
//!
//! With `podInfoOnMount` off, kubelet does not overwrite the keys that name the pod, and the pod's author
//! could write them. The field may be changed at any time, so it is looked at again and again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use kube::Client;
use kube::api::Api;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::attributes::DRIVER_NAME;
use crate::cluster::CsiState;

/// How long an object that was right is believed to be.
pub const BELIEVED_FOR: Duration = Duration::from_secs(30);
/// Kubelet asks again by itself, so nobody waits longer for one answer.
const REQUEST: Duration = Duration::from_secs(2);

/// Why kubelet's word does not count.
#[derive(Debug, thiserror::Error)]
pub enum CsiDriverError {
    /// There is none.
    #[error("the cluster has no CSIDriver object {DRIVER_NAME}: install it again, with the chart")]
    Missing,
    /// It is not as the chart installs it.
    #[error(
        "the CSIDriver object {DRIVER_NAME} has {found}, it must have {wanted}: without it kubelet does not say whose a volume is; install it again, with the chart"
    )]
    Wrong {
        /// What it has.
        found: String,
        /// What it must have.
        wanted: &'static str,
    },
    /// The API server does not answer.
    #[error("the API server did not show the CSIDriver object {DRIVER_NAME} within {} s; kubelet tries again by itself", REQUEST.as_secs())]
    Timeout,
    /// The API server refuses to answer, or cannot be reached.
    #[error(
        "the API server did not show the CSIDriver object {DRIVER_NAME}; kubelet tries again by itself"
    )]
    Api(#[source] Box<kube::Error>),
    /// The driver is ending.
    #[error("the driver is ending")]
    Ending,
}

impl CsiDriverError {
    /// Whether it goes away by itself.
    #[must_use]
    pub const fn passes(&self) -> bool {
        match self {
            Self::Missing | Self::Wrong { .. } => false,
            Self::Timeout | Self::Api(_) | Self::Ending => true,
        }
    }
}

impl CsiDriverError {
    /// What the node's status says of it; `None` where nothing is known.
    #[must_use]
    pub fn state(&self) -> Option<CsiState> {
        match self {
            Self::Missing => Some(CsiState::DriverMissing),
            Self::Wrong { .. } => Some(CsiState::DriverInsecure(self.to_string())),
            Self::Timeout | Self::Api(_) | Self::Ending => None,
        }
    }
}

/// Looks at the object, and remembers for a while that it was right. Clones share their memory.
#[derive(Clone)]
pub struct CsiDriverObject {
    client: Client,
    runtime: Handle,
    right_at: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for CsiDriverObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsiDriverObject").finish_non_exhaustive()
    }
}

impl CsiDriverObject {
    /// One that asks through `client`, on the runtime where that was made.
    #[must_use]
    pub fn new(client: Client, runtime: Handle) -> Self {
        Self {
            client,
            runtime,
            right_at: Arc::default(),
        }
    }

    /// Whether the object is right, or was less than [`BELIEVED_FOR`] ago. May be awaited on any runtime.
    ///
    /// # Errors
    /// [`CsiDriverError`]: nothing is published then.
    pub async fn validate(&self) -> Result<(), CsiDriverError> {
        let asked_at = Instant::now();
        if self.with(|right| right.is_some_and(|at| asked_at.duration_since(at) < BELIEVED_FOR)) {
            return Ok(());
        }
        let api: Api<CSIDriver> = Api::all(self.client.clone());
        let answer = self
            .runtime
            .spawn(async move { timeout(REQUEST, api.get_opt(DRIVER_NAME)).await });
        let object = match answer.await {
            Ok(Ok(Ok(object))) => object.ok_or(CsiDriverError::Missing)?,
            Ok(Ok(Err(error))) => return Err(CsiDriverError::Api(Box::new(error))),
            Ok(Err(_)) => return Err(CsiDriverError::Timeout),
            Err(_) => return Err(CsiDriverError::Ending),
        };
        validate(&object.spec)?;
        self.with(|right| *right = Some(asked_at));
        Ok(())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Option<Instant>) -> T) -> T {
        // A plain value: a panic elsewhere leaves it whole.
        change(&mut self.right_at.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn validate(spec: &CSIDriverSpec) -> Result<(), CsiDriverError> {
    if spec.pod_info_on_mount != Some(true) {
        return Err(CsiDriverError::Wrong {
            found: spec.pod_info_on_mount.map_or_else(
                || "no `podInfoOnMount`".to_owned(),
                |value| format!("`podInfoOnMount: {value}`"),
            ),
            wanted: "`podInfoOnMount: true`",
        });
    }
    let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
    if modes != ["Ephemeral"] {
        return Err(CsiDriverError::Wrong {
            found: format!("`volumeLifecycleModes: [{}]`", modes.join(", ")),
            wanted: "`volumeLifecycleModes: [Ephemeral]`",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(pod_info: Option<bool>, modes: &[&str]) -> CSIDriverSpec {
        CSIDriverSpec {
            pod_info_on_mount: pod_info,
            volume_lifecycle_modes: Some(modes.iter().map(|mode| (*mode).into()).collect()),
            ..CSIDriverSpec::default()
        }
    }

    #[test]
    fn the_object_of_the_chart_is_right() {
        assert!(validate(&spec(Some(true), &["Ephemeral"])).is_ok());
    }

    #[test]
    fn an_object_that_lets_pods_name_themselves_is_not() {
        for (pod_info, found) in [
            (None, "no `podInfoOnMount`"),
            (Some(false), "`podInfoOnMount: false`"),
        ] {
            let error = validate(&spec(pod_info, &["Ephemeral"])).unwrap_err();
            assert!(error.to_string().contains(found), "{error}");
            assert!(!error.passes());
        }
    }

    #[test]
    fn an_object_that_allows_persistent_volumes_is_not() {
        for modes in [&["Persistent"][..], &["Ephemeral", "Persistent"], &[]] {
            let error = validate(&spec(Some(true), modes)).unwrap_err();
            let wanted = "must have `volumeLifecycleModes: [Ephemeral]`";
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
