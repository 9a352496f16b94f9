//! What a person does when a pod lacks a volume, or has another one than it needs.

use tensorpool_wire::StreamId;

use crate::link::StreamKey;

/// What a volume lets its pod do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Produce,
    Consume,
}

/// The part of a pod that gives it a volume of the stream.
pub(crate) fn yaml(key: &StreamKey, access: Access) -> String {
    let stream = match key {
        StreamKey::Name(name) => name.clone(),
        StreamKey::Id(StreamId(id)) => format!("NAME-OF-THE-STREAM-{id}"),
    };
    let access = match access {
        Access::Produce => "produce",
        Access::Consume => "consume",
    };
    format!(
        "\
spec:
  containers:
  - volumeMounts: [{{name: tensorpool, mountPath: /run/tensorpool}}]
  volumes:
  - name: tensorpool
    csi:
      driver: csi.tensorpool.io
      readOnly: true
      volumeAttributes: {{stream: {stream}, access: {access}}}"
    )
}
