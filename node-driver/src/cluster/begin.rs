//! From the driver's settings to cluster mode.

use tensorpool_crds::{AeronEndpoint, DriverIdentity};

use super::{Cluster, Options, StartError, start};
use crate::clock;
use crate::config::{MediaDriverMode, Settings};
use crate::control::Control;

/// Starts cluster mode where the settings ask for it.
///
/// # Errors
/// [`StartError`].
pub(crate) fn begin(settings: &Settings, control: &Control) -> Result<Option<Cluster>, StartError> {
    let Some(kubernetes) = &settings.kubernetes else {
        return Ok(None);
    };
    let driver = &settings.driver;
    let aeron = match driver.media_driver {
        MediaDriverMode::Embedded | MediaDriverMode::External => Some(AeronEndpoint {
            dir: driver.aeron_dir.to_string_lossy().into_owned(),
            control_channel: driver.control.channel.clone(),
            control_stream_id: driver.control.stream_id,
        }),
        MediaDriverMode::Off => None,
    };
    let options = Options {
        node: kubernetes.node.clone(),
        namespace: kubernetes.namespace.clone(),
        driver: DriverIdentity {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pod_name: kubernetes.pod_name.clone(),
            // Later starts have higher numbers until the machine starts anew.
            boot_epoch: clock::now().get(),
        },
        aeron,
        aeron_domain: kubernetes.aeron_domain.clone(),
        control: control.clone(),
    };
    start(options).map(Some)
}
