//! The way through Aeron. Without the cargo feature `aeron` there is none, and the error says so.

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

pub(crate) use way::AeronWay;

#[cfg(feature = "aeron")]
mod way {
    use std::path::Path;

    use tensorpool_transport::aeron::port::{AeronClientPort, Endpoint, Endpoints};
    use tensorpool_transport::aeron::rusteron::{RusteronClient, RusteronConfig};
    use tensorpool_transport::port::ClientPort;
    use tensorpool_transport::pubsub::{Dead, MessageClient, Publication, Subscription};

    use super::AeronOptions;
    use crate::error::AttachError;

    /// One attachment's client of the media driver. Driven by the conductor's thread alone.
    #[derive(Debug)]
    pub(crate) struct AeronWay {
        port: AeronClientPort<RusteronClient>,
    }

    impl AeronWay {
        /// Whether a build has this way.
        pub(crate) const IS_BUILT: bool = true;

        /// Opens every publication and subscription of a client. Waits for the media driver's answers,
        /// 2 s at most.
        pub(crate) fn open(dir: &Path, options: &AeronOptions) -> Result<Self, AttachError> {
            let failed = |text: String| AttachError::Aeron {
                dir: dir.to_owned(),
                text,
            };
            let client = RusteronClient::connect(&RusteronConfig::new(dir))
                .map_err(|error| failed(crate::error::words(&error)))?;
            let on_control = |stream| Endpoint::new(options.control_channel.clone(), stream);
            let endpoints = Endpoints {
                control: on_control(options.control_stream_id),
                announce: on_control(options.announce_stream_id),
                qos: Endpoint::new(options.qos_channel.clone(), options.qos_stream_id),
                metadata: on_control(options.metadata_stream_id),
                discovery: Some(on_control(options.discovery_stream_id)),
            };
            let answers = on_control(options.answer_stream_id);
            let port = AeronClientPort::open(client, endpoints, Some(answers))
                .map_err(|dead| failed(dead.to_string()))?;
            Ok(Self { port })
        }

        pub(crate) const fn port(&mut self) -> &mut dyn ClientPort {
            &mut self.port
        }

        /// A publication of its own, for the data path.
        pub(crate) fn publication(
            &mut self,
            channel: &str,
            stream: i32,
        ) -> Result<Box<dyn Publication + Send>, Dead> {
            let publication = self.port.client_mut().add_publication(channel, stream)?;
            Ok(Box::new(publication))
        }

        /// A subscription of its own, for the data path or to be drained.
        pub(crate) fn subscription(
            &mut self,
            channel: &str,
            stream: i32,
        ) -> Result<Box<dyn Subscription + Send>, Dead> {
            let subscription = self.port.client_mut().add_subscription(channel, stream)?;
            Ok(Box::new(subscription))
        }
    }
}

#[cfg(not(feature = "aeron"))]
mod way {
    use std::path::Path;

    use tensorpool_transport::port::ClientPort;
    use tensorpool_transport::pubsub::{Dead, Publication, Subscription};

    use super::AeronOptions;
    use crate::error::AttachError;

    /// There is none in this build.
    #[derive(Debug)]
    pub(crate) enum AeronWay {}

    impl AeronWay {
        pub(crate) const IS_BUILT: bool = false;

        pub(crate) fn open(dir: &Path, _options: &AeronOptions) -> Result<Self, AttachError> {
            Err(AttachError::AeronNotBuilt {
                dir: dir.to_owned(),
            })
        }

        pub(crate) const fn port(&mut self) -> &mut dyn ClientPort {
            match *self {}
        }

        pub(crate) fn publication(
            &mut self,
            _channel: &str,
            _stream: i32,
        ) -> Result<Box<dyn Publication + Send>, Dead> {
            match *self {}
        }

        pub(crate) fn subscription(
            &mut self,
            _channel: &str,
            _stream: i32,
        ) -> Result<Box<dyn Subscription + Send>, Dead> {
            match *self {}
        }
    }
}
