//! The current policy, for everybody who reads it.

use std::sync::Arc;

use tokio::sync::watch;

use super::policy::ClusterPolicy;

/// Reads the policy that the driver follows. Clones read the same.
#[derive(Clone, Debug)]
pub struct PolicyView {
    policy: watch::Receiver<Option<Arc<ClusterPolicy>>>,
}

/// Where a new policy is put.
#[derive(Debug)]
pub struct PolicySlot {
    policy: watch::Sender<Option<Arc<ClusterPolicy>>>,
}

/// A slot without a policy, and a view of it.
#[must_use]
pub fn policy_channel() -> (PolicySlot, PolicyView) {
    let (sender, receiver) = watch::channel(None);
    (
        PolicySlot { policy: sender },
        PolicyView { policy: receiver },
    )
}

impl PolicySlot {
    /// From now on every view shows `policy`.
    pub fn put(&self, policy: Arc<ClusterPolicy>) {
        self.policy.send_replace(Some(policy));
    }
}

impl PolicyView {
    /// The policy that the driver follows; none before the first has come.
    #[must_use]
    pub fn current(&self) -> Option<Arc<ClusterPolicy>> {
        self.policy.borrow().clone()
    }

    /// Returns at the next change, at once if there was one since the last call; false when there will
    /// be no more.
    pub async fn changed(&mut self) -> bool {
        self.policy.changed().await.is_ok()
    }
}
