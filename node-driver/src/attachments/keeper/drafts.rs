//! What is asked, answered and recorded of a volume, put together.

use tensorpool_driver_core::ClientRange;

use crate::attachments::attributes::{Asked, VolumeAccess, VolumeTransport};
use crate::attachments::protocol::{Mounting, Publish};
use crate::attachments::record::Record;
use crate::cluster::ClusterStream;
use crate::cluster::access::{Question as Permission, Verb};

/// What RBAC has to allow: all of these.
pub(super) fn verbs(
    access: VolumeAccess,
    transport: VolumeTransport,
) -> impl Iterator<Item = Verb> {
    let aeron = match transport {
        VolumeTransport::Socket => None,
        VolumeTransport::Aeron => Some(Verb::Aeron),
    };
    std::iter::once(access.verb()).chain(aeron)
}

/// The question to RBAC for a new volume.
pub(super) fn permission(asked: &Asked, verb: Verb) -> Permission {
    Permission {
        pod_namespace: asked.pod.namespace.clone(),
        service_account: asked.pod.service_account.clone(),
        verb,
        stream_namespace: asked.stream.namespace.clone(),
        stream: asked.stream.name.clone(),
    }
}

/// What the `csi` container mounts.
pub(super) fn prepared(record: &Record) -> (String, Mounting) {
    let mount = match (record.aeron_clients, record.access) {
        (None, _) => Mounting::ReadOnly,
        (Some(_), VolumeAccess::Consume) => Mounting::AeronConsumer,
        (Some(_), VolumeAccess::Produce) => Mounting::AeronProducer,
    };
    (record.base.clone(), mount)
}

/// The record of a new volume.
pub(super) fn record(
    wanted: &Publish,
    asked: Asked,
    attachment: u32,
    stream: &ClusterStream,
    clients: Option<ClientRange>,
) -> Record {
    Record {
        volume: wanted.volume.clone(),
        attachment,
        target_path: wanted.target_path.clone(),
        pod: asked.pod,
        stream: asked.stream,
        stream_id: Some(stream.stream_id.get()),
        base: stream.page_size.name().to_owned(),
        access: asked.access,
        aeron_clients: clients.map(ClientRange::first),
        allowed: true,
    }
}
