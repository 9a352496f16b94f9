//! One type for whatever arrives, and the framing that all messages share.
//!
//! Streams are shared by messages of several schemas, and template ids repeat between schemas, so the
//! header's schema id and template id together decide what is read. Only version 1 exists; any other
//! one is refused, as is a block length that differs from the layout, and bytes after the last field:
//! version 1 of a message has no place for them.

use alloc::vec::Vec;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::sbe::{Body, Field, MessageHeader, Reader, SCHEMA_VERSION, Sink};
use crate::{
    ConsumerConfig, ConsumerHello, ControlResponse, CorrelationId, DataSourceAnnounce,
    DataSourceMeta, DiscoveryRequest, DiscoveryResponse, FrameDescriptor, FrameProgress,
    MetaBlobAnnounce, MetaBlobChunk, MetaBlobComplete, QosConsumer, QosProducer, ShmAttachRequest,
    ShmAttachResponse, ShmDetachRequest, ShmDetachResponse, ShmDriverShutdown,
    ShmDriverShutdownRequest, ShmLeaseKeepalive, ShmLeaseRevoked, ShmPoolAnnounce,
};

/// Schema of the announce, consumer, descriptor, QoS and metadata messages.
pub const SCHEMA_WIRE: u16 = 900;
/// Schema of attach, lease and shutdown messages.
pub const SCHEMA_DRIVER: u16 = 901;
/// Schema of discovery.
pub const SCHEMA_DISCOVERY: u16 = 910;

/// What a message's header must say.
pub(crate) trait Framed: Body {
    const NAME: &'static str;
    const SCHEMA_ID: u16;
    const TEMPLATE_ID: u16;
}

/// Reads one message of a known type from `bytes`, which hold nothing else.
pub(crate) fn decode_as<T: Framed>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (header, body) = split_header(bytes)?;
    if header.schema_id != T::SCHEMA_ID || header.template_id != T::TEMPLATE_ID {
        let kind = DecodeErrorKind::UnknownTemplate {
            schema: header.schema_id,
            template: header.template_id,
        };
        return Err(DecodeError::new(T::NAME, "header", kind));
    }
    decode_body(header, body)
}

fn split_header(bytes: &[u8]) -> Result<(MessageHeader, Reader<'_>), DecodeError> {
    let mut reader = Reader::new(bytes);
    let header = MessageHeader::read(&mut reader)
        .map_err(|kind| DecodeError::new("message", "header", kind))?;
    Ok((header, reader))
}

// spec: D-4.4a-1, DI-10-1, DI-10-2
fn decode_body<T: Framed>(header: MessageHeader, mut body: Reader<'_>) -> Result<T, DecodeError> {
    let start = body;
    let fail = |field, kind| {
        DecodeError::new(T::NAME, field, kind).with_correlation_id(asker(header, start))
    };
    if header.version != SCHEMA_VERSION {
        let kind = DecodeErrorKind::UnsupportedVersion {
            schema: header.schema_id,
            template: header.template_id,
            version: header.version,
        };
        return Err(fail("header", kind));
    }
    if header.block_length != T::BLOCK_LEN {
        let kind = DecodeErrorKind::BlockLength {
            expected: T::BLOCK_LEN,
            found: header.block_length,
        };
        return Err(fail("header", kind));
    }
    let message = T::read(&mut body).map_err(|(field, kind)| fail(field, kind))?;
    match body.left() {
        0 => Ok(message),
        count => Err(fail("end", DecodeErrorKind::TrailingBytes { count })),
    }
}

/// The correlation id of a driver request, which stands at offset 0 in every version.
// spec: D-4.4a-2
fn asker(header: MessageHeader, mut body: Reader<'_>) -> Option<CorrelationId> {
    let is_request = header.schema_id == SCHEMA_DRIVER
        && matches!(
            header.template_id,
            ShmAttachRequest::TEMPLATE_ID
                | ShmDetachRequest::TEMPLATE_ID
                | ShmDriverShutdownRequest::TEMPLATE_ID
        );
    if !is_request {
        return None;
    }
    CorrelationId::read(&mut body).ok()
}

#[inline]
pub(crate) fn encode_as<T: Framed>(message: &T, to: &mut impl Sink) {
    let header = MessageHeader {
        block_length: T::BLOCK_LEN,
        template_id: T::TEMPLATE_ID,
        schema_id: T::SCHEMA_ID,
        version: SCHEMA_VERSION,
    };
    header.write(to);
    message.write(to);
}

macro_rules! messages {
    ($($schema:ident { $($name:ident,)* })*) => {
        /// Any message of schemas 900, 901 and 910.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
        pub enum Message {
            $($(
                #[doc = concat!("See [`", stringify!($name), "`](crate::", stringify!($name), ").")]
                $name($name),
            )*)*
        }

        impl Message {
            /// Schema id and template id of every message, with its name in the schema.
            pub const ALL: &'static [(u16, u16, &'static str)] = &[
                $($( ($name::SCHEMA_ID, $name::TEMPLATE_ID, $name::NAME), )*)*
            ];

            /// Reads whatever message `bytes` are, header included. They must hold nothing else.
            ///
            /// # Errors
            /// [`DecodeError`] if schema, template or version is not known, or the bytes are not
            /// such a message to the last one.
            // spec: D-4.4a-3, DI-4.2-1, T-13-1, J-14-1
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                let (header, body) = split_header(bytes)?;
                let (schema, template) = (header.schema_id, header.template_id);
                match (schema, template) {
                    $($(
                        ($name::SCHEMA_ID, $name::TEMPLATE_ID) => {
                            decode_body(header, body).map(Self::$name)
                        }
                    )*)*
                    $( ($schema, _) => Err(DecodeError::new(
                        "message",
                        "header",
                        DecodeErrorKind::UnknownTemplate { schema, template },
                    )), )*
                    _ => Err(DecodeError::new(
                        "message",
                        "header",
                        DecodeErrorKind::UnknownSchema { schema },
                    )),
                }
            }

            /// The whole message, its header included.
            ///
            /// # Panics
            /// If a group or var-data field is longer than SBE allows, as the message's own `encode`.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $($( Self::$name(message) => message.encode(), )*)*
                }
            }

            /// Appends the whole message, its header included.
            ///
            /// # Panics
            /// As [`Self::encode`].
            pub fn encode_into(&self, bytes: &mut Vec<u8>) {
                match self {
                    $($( Self::$name(message) => message.encode_into(bytes), )*)*
                }
            }

            /// Bytes of the whole message, its header included.
            #[must_use]
            pub fn encoded_len(&self) -> usize {
                match self {
                    $($( Self::$name(message) => message.encoded_len(), )*)*
                }
            }

            /// Name in the schema.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $($( Self::$name(_) => $name::NAME, )*)*
                }
            }

            /// Schema that the message is of.
            #[must_use]
            pub const fn schema_id(&self) -> u16 {
                match self {
                    $($( Self::$name(_) => $name::SCHEMA_ID, )*)*
                }
            }

            /// Number within the schema.
            #[must_use]
            pub const fn template_id(&self) -> u16 {
                match self {
                    $($( Self::$name(_) => $name::TEMPLATE_ID, )*)*
                }
            }
        }

        $($(
            impl From<$name> for Message {
                fn from(message: $name) -> Self {
                    Self::$name(message)
                }
            }
        )*)*
    };
}

// spec: W-16-1, DI-10-1
messages! {
    SCHEMA_WIRE {
        ShmPoolAnnounce,
        ConsumerHello,
        ConsumerConfig,
        FrameDescriptor,
        QosConsumer,
        QosProducer,
        DataSourceAnnounce,
        DataSourceMeta,
        ControlResponse,
        MetaBlobAnnounce,
        FrameProgress,
        MetaBlobChunk,
        MetaBlobComplete,
    }
    SCHEMA_DRIVER {
        ShmAttachRequest,
        ShmAttachResponse,
        ShmDetachRequest,
        ShmDetachResponse,
        ShmLeaseKeepalive,
        ShmDriverShutdown,
        ShmLeaseRevoked,
        ShmDriverShutdownRequest,
    }
    SCHEMA_DISCOVERY {
        DiscoveryRequest,
        DiscoveryResponse,
    }
}
