//! Making the driver known to kubelet, which looks for sockets in `plugins_registry` and asks them.

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::proto::pluginregistration::registration_server::Registration;
use super::proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use crate::attachments::attributes::DRIVER_NAME;

/// What kubelet said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Registered {
    /// Nothing yet.
    NotAsked,
    /// It is registered.
    Yes,
    /// It is not, and why.
    No(String),
}

/// The service.
#[derive(Debug)]
pub(super) struct RegistrationService {
    /// Path of `csi.sock`, as kubelet sees it.
    pub(super) endpoint: String,
    pub(super) said: watch::Sender<Registered>,
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(
        &self,
        _request: Request<InfoRequest>,
    ) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER_NAME.to_owned(),
            endpoint: self.endpoint.clone(),
            // Of CSI, whose minor versions are compatible.
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        self.said.send_replace(if status.plugin_registered {
            Registered::Yes
        } else {
            Registered::No(status.error)
        });
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
