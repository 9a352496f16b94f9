//! Volumes that nobody has any more: the driver is told to let go of them.
//!
//! Kubelet unpublishes what it published, but not what it forgot: a pod that was deleted while this
//! container was being replaced, a publish that failed half-way. A volume is gone when it is mounted
//! nowhere and kubelet keeps nothing of it; kubelet writes that before it publishes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::mountinfo;
use super::publish::{Volumes, blocking, kubelet_has};
use super::{mountinfo::Mount, place};
use crate::attachments::protocol::{Held, Refusal};
use crate::attachments::volume::VolumeId;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(60);
/// Time until the driver is tried again that did not answer.
const AGAIN: Duration = Duration::from_secs(2);

/// Looks now and then, for ever.
pub(super) async fn run(volumes: Arc<Volumes>) {
    loop {
        let wait = match once(&volumes).await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::debug!(error = %error, "volumes cannot be compared with the driver's");
                AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn once(volumes: &Volumes) -> Result<(), Refusal> {
    // A driver that was started again has to hear whether kubelet knows us.
    volumes.driver.probe().await?;
    let aeron = volumes.aeron_dir.clone();
    blocking(move || place::sweep_aside(&aeron)).await?;
    let held = volumes.driver.list().await?;
    let mounts = blocking(place::mounts).await?;
    for volume in gone(&held, &mounts, kubelet_has) {
        // Somebody is at it: then it is not forgotten.
        let Some(_turn) = volumes.turns.take(&volume) else {
            continue;
        };
        // It may have been published between the question and the turn.
        if is_mounted(&blocking(place::mounts).await?, &volume) {
            continue;
        }
        volumes.release(&volume).await?;
        tracing::info!(%volume, "collected: it is mounted nowhere, and kubelet knows nothing of it");
    }
    Ok(())
}

/// The volumes that are neither mounted nor kubelet's.
fn gone(
    held: &[Held],
    mounts: &[Mount],
    kubelet_has: impl Fn(&VolumeId, &Path) -> bool,
) -> BTreeSet<VolumeId> {
    let known = held.iter().filter_map(|held| {
        let volume = VolumeId::new(held.volume.as_str()).ok()?;
        let target = held.target_path.as_deref();
        let is_kubelets = target.is_some_and(|target| kubelet_has(&volume, target));
        (!is_kubelets && !is_mounted(mounts, &volume)).then_some(volume)
    });
    known.collect()
}

fn is_mounted(mounts: &[Mount], volume: &VolumeId) -> bool {
    mounts
        .iter()
        .any(|mount| mountinfo::shows_view(mount, volume))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(volume: &str, target: Option<&str>) -> Held {
        Held {
            volume: volume.into(),
            target_path: target.map(Into::into),
        }
    }

    #[test]
    fn a_volume_is_gone_when_it_is_neither_mounted_nor_kubelets() {
        let mounts = mountinfo::parse(
            b"97 27 0:48 /views/mounted /k/pods/1/v/mount ro - hugetlbfs none rw\n",
        )
        .unwrap();
        let held = [
            held("mounted", Some("/k/pods/1/v/mount")),
            held("of-kubelet", Some("/k/pods/2/v/mount")),
            held("forgotten", Some("/k/pods/3/v/mount")),
            held("only-a-view", None),
            held("not/a/volume", None),
        ];
        let kubelet_has = |_: &VolumeId, target: &Path| target.starts_with("/k/pods/2");
        let gone = gone(&held, &mounts, kubelet_has);
        let gone: Vec<&str> = gone.iter().map(VolumeId::as_str).collect();
        assert_eq!(gone, ["forgotten", "only-a-view"]);
    }
}
