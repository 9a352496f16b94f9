//! The way through Aeron. Without the cargo feature `aeron` there is none, and the error says so.

use std::path::Path;

use tensorpool_transport::port::ClientPort;

use crate::error::AttachError;

/// Channels and stream ids, as the conventions of the protocol have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AeronOptions {
    /// Channel of control, announce, metadata and discovery.
    pub control_channel: String,
    /// Stream id of the driver's control.
    pub control_stream_id: i32,
    /// Stream id of announces.
    pub announce_stream_id: i32,
    /// Channel of QoS.
    pub qos_channel: String,
    /// Stream id of QoS.
    pub qos_stream_id: i32,
    /// Stream id of metadata.
    pub metadata_stream_id: i32,
    /// Channel of descriptors.
    pub descriptor_channel: String,
    /// Stream id of descriptors.
    pub descriptor_stream_id: i32,
    /// Stream id of discovery requests.
    pub discovery_stream_id: i32,
    /// Stream id that discovery answers are asked to.
    pub answer_stream_id: i32,
}

impl Default for AeronOptions {
    // spec: S-2-1
    fn default() -> Self {
        Self {
            control_channel: "aeron:ipc?term-length=4m".to_owned(),
            control_stream_id: 1_000,
            announce_stream_id: 1_001,
            qos_channel: "aeron:ipc?term-length=4m".to_owned(),
            qos_stream_id: 1_200,
            metadata_stream_id: 1_300,
            descriptor_channel: "aeron:ipc?term-length=16m".to_owned(),
            descriptor_stream_id: 1_100,
            discovery_stream_id: 7_000,
            answer_stream_id: 7_004,
        }
    }
}

impl AeronOptions {
    /// Channel and stream id that discovery answers are asked to.
    pub(crate) fn answers(&self) -> (String, u32) {
        (
            self.control_channel.clone(),
            u32::try_from(self.answer_stream_id).unwrap_or(0),
        )
    }
}

#[cfg(not(feature = "aeron"))]
pub(crate) fn open(
    dir: &Path,
    _options: &AeronOptions,
) -> Result<Box<dyn ClientPort>, AttachError> {
    Err(AttachError::AeronNotBuilt {
        dir: dir.to_owned(),
    })
}
