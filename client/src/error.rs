//! One error per operation. Each message names the thing, the limit and the fix; causes are `source`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tensorpool_shm::{CopyError, FaultError, Poisoned};
use tensorpool_transport::socket::ConnectError;
use tensorpool_wire::TensorReject;

use crate::find::Looked;
use crate::lease::{AttachFailure, LeaseEnd, Retry};
use crate::link::Holder;
use crate::mapping::RegionError;

mod hints;

pub(crate) use self::hints::PRODUCER_THERE;

/// Beginning of what helps where a stream is not known.
const CHECK_NAME: &str = "check its name, or the driver's configuration";
/// What helps with names on Aeron.
const BY_NUMBER: &str = "; on Aeron a stream has a name only once somebody has attached to it: ask for \
                         it by number, or at the driver's socket";

/// Why an attempt to connect, attach or map failed. The client tries again by itself.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No driver was found at all.
    #[error(
        "no driver was found; looked at {looked}; start tensorpool-node-driver, or set TENSORPOOL_SOCKET or TENSORPOOL_AERON_DIR"
    )]
    NoDriver {
        /// Where was looked.
        looked: Looked,
    },
    /// The pod has no volume, or none where one was said to be.
    #[error("this pod has no Tensorpool volume; looked at {looked}; give it one:\n{yaml}")]
    NoVolume {
        /// Where was looked.
        looked: Looked,
        /// The part of the pod that is missing.
        yaml: String,
    },
    /// A driver's socket is there but cannot be used.
    #[error("{hint}")]
    Connect {
        /// What to do about it.
        hint: String,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// Aeron is configured and this build has none.
    #[error("the media driver {} was chosen, but this client was built without the cargo feature `aeron`", dir.display())]
    AeronNotBuilt {
        /// The media driver's directory.
        dir: PathBuf,
    },
    /// Descriptors only travel on Aeron (X-1-2).
    #[error("descriptors only travel on Aeron, and the driver was found at the socket {}; use Notify::Ring", socket.display())]
    DescriptorsNeedAeron {
        /// The socket.
        socket: PathBuf,
    },
    /// Trace ids only travel in descriptors (X-2-64).
    #[error("trace ids travel in descriptors, which need Aeron, and the driver was found at the socket {}", socket.display())]
    TraceNeedsAeron {
        /// The socket.
        socket: PathBuf,
    },
    /// The stream's frames are to come by another way than shared memory, which this client lacks.
    #[error(
        "the driver sends this consumer to `{uri}` instead of shared memory; no such way is supported, so take the consumer off it there"
    )]
    Fallback {
        /// The payload fallback URI; empty if none was given.
        uri: String,
    },
    /// Aeron could not be reached.
    #[error("the media driver at {} cannot be used: {text}", dir.display())]
    Aeron {
        /// The media driver's directory.
        dir: PathBuf,
        /// Why.
        text: String,
    },
    /// The driver did not answer which streams it has.
    #[error("{place} did not answer a discovery request within {} ms; is it a Tensorpool driver?", waited.as_millis())]
    Silent {
        /// The socket or Aeron directory.
        place: String,
        /// How long was waited.
        waited: Duration,
    },
    /// No driver that was found has the stream.
    #[error("stream `{stream}` is not known at {places}; {advice}")]
    NoSuchStream {
        /// The name or number asked for.
        stream: String,
        /// The sockets or directories that were asked.
        places: String,
        /// What helps there: on Aeron a stream has no name before its first epoch, and a pod's volume
        /// shows one stream.
        advice: String,
    },
    /// The connection broke.
    #[error("the driver went away: {text}")]
    Lost {
        /// In the transport's words.
        text: String,
    },
    /// The driver refused, or its answer cannot be used.
    #[error("stream `{stream}` could not be attached{}", hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Attach {
        /// The name or number asked for.
        stream: String,
        /// What to do about it, where that is known.
        hint: Option<String>,
        /// Why.
        #[source]
        source: AttachFailure,
    },
    /// The regions were refused.
    #[error(
        "stream `{stream}` was granted but its memory cannot be used{}",
        hints::regions(source)
    )]
    Regions {
        /// The name or number asked for.
        stream: String,
        /// Why.
        #[source]
        source: RegionError,
    },
}

impl AttachError {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoDriver { .. } => "no_driver",
            Self::NoVolume { .. } => "no_volume",
            Self::Connect { source, .. } => source.reason(),
            Self::AeronNotBuilt { .. } => "aeron_not_built",
            Self::DescriptorsNeedAeron { .. } => "descriptors_need_aeron",
            Self::TraceNeedsAeron { .. } => "trace_needs_aeron",
            Self::Fallback { .. } => "fallback",
            Self::Aeron { .. } => "aeron",
            Self::Silent { .. } => "silent",
            Self::NoSuchStream { .. } => "no_such_stream",
            Self::Lost { .. } => "lost",
            Self::Attach { source, .. } => source.reason(),
            Self::Regions { source, .. } => source.reason(),
        }
    }

    /// Whether the client's own further attempts can help without somebody changing something.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoDriver { .. }
            | Self::Aeron { .. }
            | Self::Silent { .. }
            | Self::Lost { .. } => Retry::Backoff,
            Self::Connect { source, .. } if source.is_retryable() => Retry::Backoff,
            Self::Connect { .. }
            | Self::NoVolume { .. }
            | Self::NoSuchStream { .. }
            | Self::Regions { .. }
            | Self::Fallback { .. } => Retry::AwaitChange,
            Self::AeronNotBuilt { .. }
            | Self::DescriptorsNeedAeron { .. }
            | Self::TraceNeedsAeron { .. } => Retry::Never,
            Self::Attach { source, .. } => source.retry(),
        }
    }

    pub(crate) fn connect(source: ConnectError) -> Self {
        Self::Connect {
            hint: hints::connect(&source),
            source,
        }
    }

    /// A volume whose socket is there but cannot be used.
    pub(crate) fn connect_volume(source: ConnectError) -> Self {
        Self::Connect {
            hint: hints::connect_volume(&source),
            source,
        }
    }

    /// The words for a stream that nobody of `places` has.
    pub(crate) fn no_such_stream(stream: String, places: String, is_aeron: bool) -> Self {
        let by_number = if is_aeron { BY_NUMBER } else { "" };
        Self::NoSuchStream {
            stream,
            places,
            advice: format!("{CHECK_NAME}{by_number}"),
        }
    }

    /// The words for a stream that no volume of the pod has.
    pub(crate) fn in_no_volume(stream: String, places: String, yaml: &str) -> Self {
        Self::NoSuchStream {
            stream,
            places,
            advice: format!(
                "a volume shows the stream that it was declared with: correct the name, or give the \
                 pod a volume of this stream:\n{yaml}"
            ),
        }
    }

    /// `holder`: the stream's producer, where that is known. `is_volume`: whether the driver was asked
    /// through a pod's volume, where its own words say what to do.
    pub(crate) fn attach(
        stream: String,
        source: AttachFailure,
        holder: Option<&Holder>,
        is_volume: bool,
    ) -> Self {
        let hint = match (&source, holder) {
            (AttachFailure::Refused { text, .. }, Some(holder))
                if text.contains(PRODUCER_THERE) =>
            {
                Some(format!(
                    "a stream has one producer, and that is {holder}: stop it, or wait until its \
                     lease ends"
                ))
            }
            (AttachFailure::Refused { .. }, _) if is_volume => None,
            (AttachFailure::Refused { text, .. }, _) => hints::refusal(text),
            (
                AttachFailure::Malformed(_)
                | AttachFailure::TimedOut { .. }
                | AttachFailure::MapFailed,
                _,
            ) => None,
        };
        Self::Attach {
            stream,
            hint,
            source,
        }
    }
}

/// Why no producer or consumer was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The attach failed for a reason that does not pass by itself.
    #[error("the stream cannot be used")]
    Attach(#[source] Arc<AttachError>),
    /// The time is over; the last failure is the cause, if there was one.
    #[error("the stream was not there within {} ms{}", after.as_millis(), last_words(last.as_deref()))]
    TimedOut {
        /// How long was waited.
        after: Duration,
        /// The last failed attempt.
        last: Option<Arc<AttachError>>,
    },
    /// The client that it belongs to is closed.
    #[error("the client was closed")]
    Closed,
    /// The guard against use in forked children could not be made.
    #[error("the kernel gives no memory for the fork guard")]
    ForkGuard(#[source] io::Error),
    /// The client could not start.
    #[error("the client could not be started")]
    Client(#[source] ClientError),
}

fn last_words(last: Option<&AttachError>) -> String {
    match last {
        Some(last) => format!(": {}", words(last)),
        None => ": nothing has failed, the driver has not answered yet; a longer timeout waits on"
            .to_owned(),
    }
}

/// An error and its causes as one sentence, also where only `Debug` is asked for: what a `main` returns.
///
/// ```no_run
/// use tensorpool_client::{Producer, Report};
///
/// fn main() -> Result<(), Report> {
///     let mut producer = Producer::builder("camera/front").build()?;
///     producer.publish(b"a frame")?;
///     Ok(())
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Report(String);

impl<E: std::error::Error> From<E> for Report {
    fn from(error: E) -> Self {
        Self(words(&error))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error and its causes in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

/// Why a client could not start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The SIGBUS handler could not be installed.
    #[error("truncated regions could not be guarded against")]
    Fault(#[from] FaultError),
    /// No thread or descriptor left.
    #[error("the conductor could not be started")]
    Start(#[source] io::Error),
}

/// Why a poll gave no frame, beside there being none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// The lease is over. Told once; the client attaches again by itself, and later polls find the
    /// new frames.
    #[error("the lease ended")]
    LeaseEnded(#[source] LeaseEnd),
    /// The caller runs in a forked child, which has none of the memory.
    #[error("a forked child cannot use its parent's attachment; build a new one in the child")]
    ForkedChild,
}

/// Why a slot was not claimed or committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// No lease yet, or a new one is on its way.
    #[error("the producer is not attached yet; the client is trying")]
    NotAttached,
    /// The lease is over. The client attaches again by itself.
    #[error("the lease ended")]
    LeaseEnded(#[source] LeaseEnd),
    /// No pool is large enough (W-9-4).
    #[error(
        "the tensor has {len_bytes} bytes, the stream's largest pool holds {largest_bytes}; give the stream a larger pool"
    )]
    TooLarge {
        /// Bytes of the tensor.
        len_bytes: u32,
        /// Bytes of the largest slot.
        largest_bytes: u32,
    },
    /// The bytes are not as many as the tensor needs.
    #[error("the tensor needs {expected_bytes} bytes, {found_bytes} were given")]
    Length {
        /// Bytes of the tensor.
        expected_bytes: u32,
        /// Bytes given.
        found_bytes: usize,
    },
    /// More bytes than a tensor can have.
    #[error("the bytes cannot be a tensor")]
    Shape(#[source] TensorReject),
    /// The memory lost its pages; the client attaches again by itself.
    #[error("the stream's memory is gone")]
    Poisoned(#[source] Poisoned),
    /// The epoch has used up its numbers.
    #[error("the epoch has used up its 2^63-1 sequence numbers; detach and attach again")]
    SeqExhausted,
    /// The caller runs in a forked child, which has none of the memory.
    #[error("a forked child cannot use its parent's attachment; build a new one in the child")]
    ForkedChild,
}

/// Why a frame's bytes were not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The copy itself failed.
    #[error("the frame was not copied")]
    Copy(#[source] CopyError),
    /// The lease or the epoch ended.
    #[error("the frame's lease or epoch has ended")]
    Ended,
    /// The caller runs in a forked child, which has none of the memory.
    #[error("a forked child cannot use its parent's frames")]
    ForkedChild,
}
