//! From the driver's settings to attachments.

use super::serve::{AttachmentsError, Parts, start};
use super::views::Views;
use crate::cluster::Cluster;
use crate::config::{MediaDriverMode, Settings};
use crate::control::Control;
use crate::stores::Stores;

/// Serves the `csi` container where the settings ask for it.
///
/// # Errors
/// [`AttachmentsError`].
pub(crate) fn begin(
    settings: &Settings,
    stores: &Stores,
    control: &Control,
    views: &Views,
    cluster: &Cluster,
) -> Result<(), AttachmentsError> {
    let Some(kubernetes) = &settings.kubernetes else {
        return Ok(());
    };
    let stores = stores.named();
    let stores = stores.map(|(name, store)| (name.to_owned(), store.path().to_owned()));
    start(Parts {
        node: kubernetes.node.clone(),
        internal_socket: kubernetes.internal_socket.clone(),
        state_dir: settings.driver.state_dir.clone(),
        stores: stores.collect(),
        views: views.clone(),
        aeron_dir: match settings.driver.media_driver {
            MediaDriverMode::Off => None,
            MediaDriverMode::Embedded | MediaDriverMode::External => {
                Some(settings.driver.aeron_dir.clone())
            }
        },
        control: control.clone(),
        policy: cluster.policy.clone(),
        reviewer: cluster.reviewer.clone(),
        csi_driver: cluster.csi_driver.clone(),
        surroundings: cluster.surroundings.clone(),
        review_every: kubernetes.access_review_interval,
    })
}
