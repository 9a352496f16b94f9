//! Why a volume is not published: each a sentence for who reads `kubectl describe pod`.

use super::attributes::{AttributeError, StreamName};
use super::csidriver::CsiDriverError;
use super::protocol::{Code, Refusal};
use super::record::RecordError;
use super::views::ViewError;
use super::volume::VolumeIdError;
use crate::cluster::Flaw;
use crate::cluster::access::{Denial, ReviewError};
use crate::control::{ControlError, OpenError};
use crate::files::in_words;

/// Why a volume is not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The id.
    #[error(transparent)]
    Volume(#[from] VolumeIdError),
    /// What the pod's author wrote.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    /// What the administrator installed.
    #[error(transparent)]
    CsiDriver(#[from] CsiDriverError),
    /// RBAC says no.
    #[error("{0}")]
    Denied(Denial),
    /// RBAC cannot be asked.
    #[error("{0}; kubelet tries again by itself")]
    Review(ReviewError),
    /// Just started.
    #[error(
        "node {node} has not received its streams from the API server yet; kubelet tries again by itself"
    )]
    NoPolicy {
        /// The node.
        node: String,
    },
    /// No such stream here.
    #[error(
        "node {node} has no TensorStream {stream}: if `kubectl get tensorstream -n {} {}` does not show it, create it; if it does, `kubectl describe` says why it is not on this node; kubelet tries again by itself",
        stream.namespace, stream.name
    )]
    NoStream {
        /// The node.
        node: String,
        /// The stream.
        stream: StreamName,
    },
    /// The stream cannot be carried.
    #[error("TensorStream {stream} cannot be carried by node {node}: {flaw}")]
    Flawed {
        /// The node.
        node: String,
        /// The stream.
        stream: StreamName,
        /// Why.
        flaw: Box<Flaw>,
    },
    /// The node takes nothing new.
    #[error(
        "node {node} is cordoned for tensor streams: no new volumes until its TensorPoolNode has `cordoned: false`; or run the pod on another node"
    )]
    Cordoned {
        /// The node.
        node: String,
    },
    /// Nothing is mounted for this page size.
    #[error(
        "node {node} has no memory in pages of {page_size}, which TensorStream {stream} wants: its node profile in the chart's values offers other sizes"
    )]
    NoBase {
        /// The node.
        node: String,
        /// The stream.
        stream: StreamName,
        /// The page size.
        page_size: &'static str,
    },
    /// Nothing is mounted any more for a volume that was published.
    #[error("node {node} has no memory in pages of {base} any more")]
    BaseGone {
        /// The node.
        node: String,
        /// Name of the base.
        base: String,
    },
    /// The class does not offer Aeron.
    #[error(
        "volumeAttributes.transport is `aeron`, but the class {class} of TensorStream {stream} has sockets only: leave `transport` out, or add `Aeron` to the class's `transports`"
    )]
    ClassWithoutAeron {
        /// The class.
        class: String,
        /// The stream.
        stream: StreamName,
    },
    /// The class is of another trust domain.
    #[error(
        "volumeAttributes.transport is `aeron`, but the class {class} of TensorStream {stream} is of the domain {domain}, and who shares node {node}'s media driver is of another: leave `transport` out, or run the pod where the node profile in the chart's values has `aeron.domain: {domain}`"
    )]
    OtherDomain {
        /// The class.
        class: String,
        /// The stream.
        stream: StreamName,
        /// The class's domain.
        domain: String,
        /// The node.
        node: String,
    },
    /// The node has no media driver.
    #[error(
        "volumeAttributes.transport is `aeron`, but node {node} has no media driver: set `aeron` in its node profile in the chart's values, or leave `transport` out"
    )]
    NoMediaDriver {
        /// The node.
        node: String,
    },
    /// The same volume, otherwise.
    #[error(
        "volume {volume} is published already with another stream, access, pod or target path: unpublish it first"
    )]
    Different {
        /// The volume.
        volume: String,
    },
    /// What was there of it before.
    #[error("what was left of volume {volume} cannot be removed: {left}")]
    Left {
        /// The volume.
        volume: String,
        /// What, and why.
        left: String,
    },
    /// Too many.
    #[error("node {node} has {limit} published volumes of streams, which is the limit")]
    Full {
        /// The node.
        node: String,
        /// The limit.
        limit: usize,
    },
    /// No random numbers.
    #[error("node {node} has no random numbers for the volume's client ids")]
    Random {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The record.
    #[error("the volume cannot be recorded on node {node}")]
    Record {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The view.
    #[error("the volume's view cannot be made on node {node}")]
    View {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: ViewError,
    },
    /// The socket.
    #[error("the volume's socket cannot be made on node {node}")]
    Open {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: OpenError,
    },
}

impl PublishError {
    /// The kind, for gRPC; a bounded label.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Volume(_) => Code::InvalidArgument,
            Self::Attributes(error) if error.is_the_pods() => Code::InvalidArgument,
            Self::Attributes(_) => Code::FailedPrecondition,
            Self::CsiDriver(error) if error.passes() => Code::Unavailable,
            Self::CsiDriver(_) => Code::FailedPrecondition,
            Self::Denied(_) => Code::PermissionDenied,
            Self::Review(_) | Self::NoPolicy { .. } | Self::Cordoned { .. } => Code::Unavailable,
            Self::NoStream { .. } => Code::NotFound,
            Self::Flawed { .. }
            | Self::NoBase { .. }
            | Self::BaseGone { .. }
            | Self::ClassWithoutAeron { .. }
            | Self::OtherDomain { .. }
            | Self::NoMediaDriver { .. } => Code::FailedPrecondition,
            Self::Different { .. } => Code::AlreadyExists,
            Self::Full { .. } => Code::ResourceExhausted,
            Self::Left { .. } | Self::Random { .. } | Self::Record { .. } | Self::View { .. } => {
                Code::Internal
            }
            Self::Open { source, .. } => match source {
                OpenError::Control(ControlError::Busy | ControlError::Ended) => Code::Unavailable,
                OpenError::NoSockets | OpenError::Reserved | OpenError::Listen(_) => Code::Internal,
            },
        }
    }

    /// For the `csi` container.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code(), in_words(self))
    }
}
