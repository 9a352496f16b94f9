//! CSI Node: kubelet's questions about volumes, checked and passed on.

use std::path::PathBuf;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::calls::Counted;
use super::place;
use super::proto::csi::node_server::Node;
use super::proto::csi::node_service_capability::{Rpc as Capability, Type, rpc};
use super::proto::csi::volume_capability::AccessType;
use super::proto::csi::{
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, VolumeCapability,
};
use super::publish::Volumes;
use super::stats;
use super::turns::Turn;
use crate::attachments::calls::Rpc;
use crate::attachments::protocol::{Code, Publish, Refusal};
use crate::attachments::volume::VolumeId;

/// The service.
#[derive(Debug)]
pub(super) struct NodeService {
    pub(super) volumes: Arc<Volumes>,
    pub(super) counted: Counted,
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let call = self.publish(request.into_inner());
        self.counted.call(Rpc::NodePublishVolume, call).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let call = self.unpublish(request.into_inner());
        self.counted.call(Rpc::NodeUnpublishVolume, call).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let call = stats_of(request.into_inner());
        self.counted.call(Rpc::NodeGetVolumeStats, call).await
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let call = async { Ok(capabilities()) };
        self.counted.call(Rpc::NodeGetCapabilities, call).await
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let call = async {
            let node_id = self.volumes.driver.probe().await.map_err(status)?;
            Ok(Response::new(NodeGetInfoResponse {
                node_id,
                ..NodeGetInfoResponse::default()
            }))
        };
        self.counted.call(Rpc::NodeGetInfo, call).await
    }
}

impl NodeService {
    async fn publish(
        &self,
        request: NodePublishVolumeRequest,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let volume = volume(request.volume_id)?;
        let target_path = self.target(&request.target_path)?;
        mounted_filesystem(request.volume_capability.as_ref())?;
        let wanted = Publish {
            volume: volume.to_string(),
            target_path,
            read_only: request.readonly,
            attributes: request.volume_context.into_iter().collect(),
            already_mounted: false,
        };
        let turn = self.turn(&volume)?;
        let published = Arc::clone(&self.volumes)
            .publish(volume, wanted, turn)
            .await;
        published.map_err(status)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn unpublish(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let volume = volume(request.volume_id)?;
        let target = self.target(&request.target_path)?;
        let turn = self.turn(&volume)?;
        let done = Arc::clone(&self.volumes).unpublish(volume, target, turn);
        done.await.map_err(status)?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    fn target(&self, path: &str) -> Result<PathBuf, Status> {
        if path.is_empty() {
            return Err(Status::invalid_argument("the request names no target path"));
        }
        place::target(path, &self.volumes.kubelet_dir)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn turn(&self, volume: &VolumeId) -> Result<Turn, Status> {
        self.volumes.turns.take(volume).ok_or_else(|| {
            Status::aborted(format!(
                "another operation on volume {volume} is under way; kubelet tries again by itself"
            ))
        })
    }
}

async fn stats_of(
    request: NodeGetVolumeStatsRequest,
) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
    let volume = volume(request.volume_id)?;
    if request.volume_path.is_empty() {
        return Err(Status::invalid_argument("the request names no volume path"));
    }
    let usage = stats::usage(volume, PathBuf::from(request.volume_path)).await?;
    Ok(Response::new(NodeGetVolumeStatsResponse {
        usage: vec![usage],
    }))
}

fn capabilities() -> Response<NodeGetCapabilitiesResponse> {
    let stats = Capability {
        r#type: rpc::Type::GetVolumeStats.into(),
    };
    Response::new(NodeGetCapabilitiesResponse {
        capabilities: vec![NodeServiceCapability {
            r#type: Some(Type::Rpc(stats)),
        }],
    })
}

fn volume(id: String) -> Result<VolumeId, Status> {
    VolumeId::new(id).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn mounted_filesystem(capability: Option<&VolumeCapability>) -> Result<(), Status> {
    match capability.and_then(|capability| capability.access_type.as_ref()) {
        Some(AccessType::Mount(_)) => Ok(()),
        Some(AccessType::Block(_)) => Err(Status::invalid_argument(
            "a stream's volume is a directory, not a block device: use it with `volumeMounts`",
        )),
        None => Err(Status::invalid_argument(
            "the request does not say how the volume is to be used",
        )),
    }
}

/// A refusal as gRPC says it. Kubelet shows the message in the pod's events.
fn status(refusal: Refusal) -> Status {
    let code = match refusal.code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::Internal => tonic::Code::Internal,
    };
    Status::new(code, refusal.message)
}
