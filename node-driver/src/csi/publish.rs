//! Publishing and unpublishing a volume, whole.
//!
//! Each runs to its end even if kubelet gives up waiting, so that nothing stays half done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::driver::Driver;
use super::place::{self, Found, PlaceError, Plan};
use super::turns::{Turn, Turns};
use crate::attachments::protocol::{Code, Mounting, Publish, Refusal};
use crate::attachments::volume::VolumeId;
use crate::files::in_words;

/// What every request needs.
#[derive(Debug)]
pub(super) struct Volumes {
    pub(super) driver: Driver,
    pub(super) kubelet_dir: PathBuf,
    pub(super) shm_dir: PathBuf,
    pub(super) aeron_dir: PathBuf,
    pub(super) turns: Turns,
}

impl Volumes {
    /// Mounts a volume, or finds it mounted.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is left of the volume then.
    pub(super) async fn publish(
        self: Arc<Self>,
        volume: VolumeId,
        wanted: Publish,
        turn: Turn,
    ) -> Result<(), Refusal> {
        run_to_the_end(async move {
            let _turn = turn;
            self.publish_in_turn(&volume, wanted).await
        })
        .await
    }

    /// Unmounts a volume and lets the driver forget it. One that is not there is no error.
    ///
    /// # Errors
    /// [`Refusal`]; calling it again goes on.
    pub(super) async fn unpublish(
        self: Arc<Self>,
        volume: VolumeId,
        target: PathBuf,
        turn: Turn,
    ) -> Result<(), Refusal> {
        run_to_the_end(async move {
            let _turn = turn;
            tracing::info!(%volume, target = %target.display(), "unpublishing");
            blocking(move || place::clear(&target)).await?;
            self.release(&volume).await
        })
        .await
    }

    /// Lets the driver forget a volume that is mounted nowhere, and removes what only this process can.
    ///
    /// # Errors
    /// [`Refusal`]; calling it again goes on.
    pub(super) async fn release(&self, volume: &VolumeId) -> Result<(), Refusal> {
        // One view for each page size at most.
        for _ in 0..4 {
            let Some(base) = self.driver.unpublish(volume).await? else {
                return Ok(());
            };
            let (base, volume) = (self.shm_dir.join(base), volume.clone());
            blocking(move || place::sweep(&base, &volume)).await?;
        }
        let text = format!("the driver does not see that the view of volume {volume} was removed");
        Err(Refusal::new(Code::Internal, text))
    }

    async fn publish_in_turn(&self, volume: &VolumeId, wanted: Publish) -> Result<(), Refusal> {
        let (looked_for, target) = (volume.clone(), wanted.target_path.clone());
        let found = blocking(move || place::look(&looked_for, &target)).await?;
        let target = wanted.target_path.clone();
        match (found, may_be(&wanted.attributes)) {
            (Found::View(mounting), wanted_mounting) if mounting == wanted_mounting => {
                self.tell_of_mounted(volume, wanted).await;
                return Ok(());
            }
            (Found::Nothing, _) => {}
            // A predecessor that was killed between two mounts; kubelet has not heard of it.
            (Found::Half, Mounting::AeronProducer)
            | (Found::View(Mounting::ReadOnly), Mounting::AeronConsumer) => {
                let target = target.clone();
                blocking(move || place::clear(&target)).await?;
            }
            (Found::Half | Found::View(_), _) => return Err(otherwise(volume, &target)),
        }
        let (base, mounting) = self.driver.publish(wanted).await?;
        let plan = Plan {
            base: self.shm_dir.join(base),
            aeron: self.aeron_dir.clone(),
            mounting,
        };
        let filled = {
            let (volume, target) = (volume.clone(), target.clone());
            blocking(move || place::fill(&plan, &volume, &target)).await
        };
        if let Err(error) = filled {
            if let Err(left) = self.release(volume).await {
                tracing::warn!(%volume, error = %left, "the driver holds a volume that is not mounted; it is collected later");
            }
            return Err(error);
        }
        tracing::info!(%volume, target = %target.display(), ?mounting, "published");
        Ok(())
    }

    /// Kubelet starts again and publishes what it has: the mount stays whatever the driver says to it.
    async fn tell_of_mounted(&self, volume: &VolumeId, wanted: Publish) {
        let told = self.driver.publish(Publish {
            already_mounted: true,
            ..wanted
        });
        match told.await {
            Ok(_prepared) => tracing::debug!(%volume, "published already"),
            Err(error) => {
                tracing::warn!(%volume, error = %error, "published already; the driver could not be told");
            }
        }
    }
}

/// How a volume is mounted if the driver allows what its author wrote. The driver decides; this says only
/// whether what is mounted may be what is wanted.
fn may_be(attributes: &BTreeMap<String, String>) -> Mounting {
    let attribute = |key: &str| attributes.get(key).map(String::as_str);
    match (attribute("transport"), attribute("access")) {
        (Some("aeron"), Some("produce")) => Mounting::AeronProducer,
        (Some("aeron"), _) => Mounting::AeronConsumer,
        _ => Mounting::ReadOnly,
    }
}

fn otherwise(volume: &VolumeId, target: &Path) -> Refusal {
    let text = format!(
        "volume {volume} is mounted at {} otherwise than the pod wants it: unmount it on the node",
        target.display()
    );
    Refusal::new(Code::FailedPrecondition, text)
}

/// Whether kubelet still has something of a volume: what it keeps beside the place of the mount.
pub(super) fn kubelet_has(volume: &VolumeId, target: &Path) -> bool {
    let Some(directory) = target.parent() else {
        return false;
    };
    let Ok(text) = std::fs::read(directory.join("vol_data.json")) else {
        return false;
    };
    let data: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    // A file that cannot be read may be this volume's.
    data.get("volumeHandle")
        .is_none_or(|handle| handle.as_str() == Some(volume.as_str()))
}

/// Runs a step that waits for the kernel.
///
/// # Errors
/// Its own, in words.
pub(super) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, PlaceError> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(step).await;
    done.map_err(|error| Refusal::new(Code::Internal, error))?
        .map_err(|error| refusal(&error))
}

fn refusal(error: &PlaceError) -> Refusal {
    let code = match error {
        PlaceError::Elsewhere { .. } => Code::InvalidArgument,
        PlaceError::Foreign { .. } => Code::FailedPrecondition,
        PlaceError::Io { .. } | PlaceError::NotSo { .. } => Code::Internal,
    };
    Refusal::new(code, in_words(error))
}

async fn run_to_the_end<T: Send + 'static>(
    operation: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::spawn(operation).await;
    done.map_err(|error| Refusal::new(Code::Internal, error))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_kubelets_as_long_as_its_data_lies_beside_the_mount() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("mount");
        let volume = VolumeId::new("csi-1").unwrap();
        let data = dir.path().join("vol_data.json");
        assert!(!kubelet_has(&volume, &target));
        std::fs::write(&data, r#"{"volumeHandle":"csi-1","driverName":"x"}"#).unwrap();
        assert!(kubelet_has(&volume, &target));
        std::fs::write(&data, r#"{"volumeHandle":"csi-2"}"#).unwrap();
        assert!(!kubelet_has(&volume, &target));
        std::fs::write(&data, "cut off").unwrap();
        assert!(kubelet_has(&volume, &target), "it may be this volume's");
    }
}
