//! Why bytes are not a message.

use crate::CorrelationId;

/// Why a message was refused. Nothing of it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}, {field}: {kind}")]
pub struct DecodeError {
    /// Schema name of the message, or `message` while it is not known yet.
    pub message: &'static str,
    /// The part that could not be read: a field, group or var-data name, `header` or `end`.
    pub field: &'static str,
    /// What is wrong with it.
    pub kind: DecodeErrorKind,
    correlation_id: Option<CorrelationId>,
}

impl DecodeError {
    pub(crate) const fn new(
        message: &'static str,
        field: &'static str,
        kind: DecodeErrorKind,
    ) -> Self {
        Self {
            message,
            field,
            kind,
            correlation_id: None,
        }
    }

    pub(crate) const fn with_correlation_id(self, correlation_id: Option<CorrelationId>) -> Self {
        Self {
            correlation_id,
            ..self
        }
    }

    /// The asker's id, where the message is an attach, detach or shutdown request of schema 901 and
    /// long enough to hold it: it stands first in every version, so that a request that cannot be
    /// read can still be answered (D-4.4a-2).
    #[must_use]
    pub const fn correlation_id(&self) -> Option<CorrelationId> {
        self.correlation_id
    }

    /// Bounded label for metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        self.kind.reason()
    }
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// The message ends inside the named part.
    #[error("needs {needed} bytes, {left} are left")]
    TooShort {
        /// Bytes that the part takes.
        needed: usize,
        /// Bytes that the message still has.
        left: usize,
    },
    /// No schema of this crate.
    #[error("schema {schema} is not known here")]
    UnknownSchema {
        /// Schema id in the message header.
        schema: u16,
    },
    /// A schema of this crate without such a message.
    #[error("template {template} of schema {schema} is not expected here")]
    UnknownTemplate {
        /// Schema id in the message header.
        schema: u16,
        /// Template id in the message header.
        template: u16,
    },
    /// Another version of the schema than ours, nearly always a newer one.
    #[error(
        "version {version} of schema {schema}, template {template}, is not understood, only {} is",
        crate::SCHEMA_VERSION
    )]
    UnsupportedVersion {
        /// Schema id in the message header.
        schema: u16,
        /// Template id in the message header.
        template: u16,
        /// Version in the message header.
        version: u16,
    },
    /// The fixed block has another length than the layout says.
    #[error("block length {found} instead of {expected}")]
    BlockLength {
        /// Length by the layout, in bytes.
        expected: u16,
        /// Length claimed, in bytes.
        found: u16,
    },
    /// A group claims more entries than the bytes that are left could hold, or than SBE allows.
    #[error("{count} entries cannot stand in the {left} bytes that are left")]
    GroupTooLong {
        /// Entries claimed.
        count: u16,
        /// Bytes that the message still has.
        left: usize,
    },
    /// A var-data field claims more bytes than are left.
    #[error("{len} bytes are claimed, {left} are left")]
    VarDataTooLong {
        /// Bytes claimed.
        len: u32,
        /// Bytes that the message still has.
        left: usize,
    },
    /// Text that is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// Bytes follow the last field.
    #[error("{count} bytes follow the last field")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
}

impl DecodeErrorKind {
    /// Bounded label for metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooShort { .. } => "too_short",
            Self::UnknownSchema { .. } => "unknown_schema",
            Self::UnknownTemplate { .. } => "unknown_template",
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::BlockLength { .. } => "block_length",
            Self::GroupTooLong { .. } => "group_too_long",
            Self::VarDataTooLong { .. } => "var_data_too_long",
            Self::NotUtf8 => "not_utf8",
            Self::TrailingBytes { .. } => "trailing_bytes",
        }
    }
}
