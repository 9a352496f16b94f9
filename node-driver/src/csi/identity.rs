//! CSI Identity: who this is, and whether the driver answers.

use tonic::{Request, Response, Status};

use super::calls::Counted;
use super::driver::Driver;
use super::proto::csi::identity_server::Identity;
use super::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, ProbeRequest, ProbeResponse,
};
use crate::attachments::attributes::DRIVER_NAME;
use crate::attachments::calls::Rpc;

/// The service.
#[derive(Debug)]
pub(super) struct IdentityService {
    pub(super) driver: Driver,
    pub(super) counted: Counted,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        let call = async {
            Ok(Response::new(GetPluginInfoResponse {
                name: DRIVER_NAME.to_owned(),
                vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
                manifest: std::collections::HashMap::new(),
            }))
        };
        self.counted.call(Rpc::GetPluginInfo, call).await
    }

    /// No controller, no topology: volumes exist inline in pods only.
    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let call = async {
            Ok(Response::new(GetPluginCapabilitiesResponse {
                capabilities: Vec::new(),
            }))
        };
        self.counted.call(Rpc::GetPluginCapabilities, call).await
    }

    async fn probe(
        &self,
        _request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        let call = async {
            Ok(Response::new(ProbeResponse {
                ready: Some(self.driver.probe().await.is_ok()),
            }))
        };
        self.counted.call(Rpc::Probe, call).await
    }
}
