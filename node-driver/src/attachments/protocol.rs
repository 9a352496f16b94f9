//! What the `csi` container and the driver say to each other.
//!
//! One question and one answer per connection of a Unix stream socket, each one line of JSON. The
//! socket lies in a directory that only these two containers have. Both are of one image, and their
//! containers may be replaced one after the other: the line carries the protocol's version.
//!
//! ```text
//! csi                                        driver
//! {"version":2,"ask":"publish","volume":…}  →
//!                                           ←  {"version":2,"answer":"prepared","base":"2Mi","mount":"readOnly"}
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::calls::Calls;

/// Version of what is said here.
pub const VERSION: u32 = 2;
/// Longest line in bytes: attributes of a volume are part of a pod, which is smaller than this.
const LONGEST_BYTES: u64 = 2 << 20;

/// A question of the `csi` container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Question {
    /// Is the driver there, and which node is this?
    Probe {
        /// Whether kubelet has registered the `csi` container.
        registered: bool,
        /// What kubelet has called since the `csi` container was started.
        #[serde(default)]
        calls: Vec<Calls>,
    },
    /// May this volume be published, and what is to be mounted?
    Publish(Publish),
    /// The volume is not mounted any more: let go of it.
    Unpublish {
        /// Its id.
        volume: String,
    },
    /// Which volumes does the driver hold?
    List,
}

/// One volume as kubelet asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publish {
    /// Its id.
    pub volume: String,
    /// Where it is to be mounted.
    pub target_path: PathBuf,
    /// `readOnly` of the volume.
    pub read_only: bool,
    /// What the pod's author and kubelet say.
    pub attributes: BTreeMap<String, String>,
    /// It is mounted there already: no question is asked.
    pub already_mounted: bool,
}

/// An answer of the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Answer {
    /// To [`Question::Probe`].
    Ready {
        /// Name of the node.
        node: String,
    },
    /// To [`Question::Publish`]: the view is there.
    Prepared {
        /// Name of the base that holds it.
        base: String,
        /// How it is to be mounted.
        mount: Mounting,
    },
    /// To [`Question::Unpublish`]: nothing of it is left.
    Released,
    /// To [`Question::Unpublish`]: its view has to be removed first, by somebody whom nothing stops that a
    /// pod left there; then ask again.
    Sweep {
        /// Name of the base that holds the view.
        base: String,
    },
    /// To [`Question::List`].
    Volumes {
        /// All that the driver holds.
        volumes: Vec<Held>,
    },
    /// To anything: no.
    Refused(Refusal),
}

/// How a view is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mounting {
    /// Read-only.
    ReadOnly,
    /// Read-only, and the media driver's directory in it, writable.
    AeronConsumer,
    /// Writable, and the media driver's directory in it.
    AeronProducer,
}

impl Mounting {
    /// Whether the media driver's directory is in it.
    #[must_use]
    pub const fn has_aeron(self) -> bool {
        match self {
            Self::ReadOnly => false,
            Self::AeronConsumer | Self::AeronProducer => true,
        }
    }

    /// Whether the pod can write to the view.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        match self {
            Self::ReadOnly | Self::AeronConsumer => false,
            Self::AeronProducer => true,
        }
    }
}

/// A volume that the driver holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Its id.
    pub volume: String,
    /// Where kubelet wanted it; `None` if only its view is left.
    pub target_path: Option<PathBuf>,
}

/// Why not: a sentence for who reads `kubectl describe pod`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, as gRPC names it.
    pub code: Code,
    /// The thing, the limit, the fix.
    pub message: String,
}

impl Refusal {
    /// A refusal in words.
    #[must_use]
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }
}

/// The kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The volume is not written as it must be.
    InvalidArgument,
    /// RBAC does not allow it.
    PermissionDenied,
    /// There is no such stream.
    NotFound,
    /// The volume is published already, and differently.
    AlreadyExists,
    /// The cluster or the node is not set up for it.
    FailedPrecondition,
    /// A limit is reached.
    ResourceExhausted,
    /// Later, by itself.
    Unavailable,
    /// The driver or the node failed.
    Internal,
}

impl Code {
    /// All of them, for metrics that must exist before the first one happens.
    pub const ALL: [Self; 8] = [
        Self::InvalidArgument,
        Self::PermissionDenied,
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::ResourceExhausted,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The name in gRPC; a bounded label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }
}

/// Why the other end was not understood, or not reached.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The connection.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// Nothing came in time.
    #[error("nothing came within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The line is not what it must be.
    #[error("a line could not be read")]
    Line(#[from] serde_json::Error),
    /// The line does not end.
    #[error("a line has more than {LONGEST_BYTES} bytes")]
    TooLong,
    /// The other end is of another release.
    #[error(
        "the other container speaks version {0} of the protocol, this one {VERSION}: both must be of one image"
    )]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    version: u32,
    #[serde(flatten)]
    said: T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Sends one question or answer. Ends the sending half when it is the last word of this end.
///
/// # Errors
/// [`TalkError::Io`].
pub async fn say<T: Serialize>(connection: &mut UnixStream, said: &T) -> Result<(), TalkError> {
    let line = Line {
        version: VERSION,
        said,
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    connection.write_all(&bytes).await?;
    Ok(())
}

/// Takes one question or answer.
///
/// # Errors
/// [`TalkError`].
pub async fn hear<T: DeserializeOwned>(
    connection: &mut UnixStream,
    within: Duration,
) -> Result<T, TalkError> {
    let line = timeout(within, line(connection)).await;
    let line = line.map_err(|_| TalkError::Timeout(within))??;
    // A newer end may say what this one has no word for: the version comes first.
    let Version { version } = serde_json::from_slice(&line)?;
    if version != VERSION {
        return Err(TalkError::Version(version));
    }
    let Line { said, .. } = serde_json::from_slice(&line)?;
    Ok(said)
}

async fn line(connection: &mut UnixStream) -> Result<Vec<u8>, TalkError> {
    let mut bytes = Vec::new();
    let mut limited = connection.take(LONGEST_BYTES);
    loop {
        if limited.read_buf(&mut bytes).await? == 0 {
            return Err(if limited.limit() == 0 {
                TalkError::TooLong
            } else {
                io::Error::from(io::ErrorKind::UnexpectedEof).into()
            });
        }
        if bytes.last() == Some(&b'\n') {
            return Ok(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::{Outcome, Rpc};
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test)
    }

    fn publish() -> Question {
        Question::Publish(Publish {
            volume: "csi-1".into(),
            target_path: "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/v/mount".into(),
            read_only: true,
            attributes: BTreeMap::from([("stream".into(), "a\nb".into())]),
            already_mounted: false,
        })
    }

    #[test]
    fn what_one_end_says_the_other_hears() {
        run(async {
            let (mut csi, mut driver) = UnixStream::pair().unwrap();
            let mut published = Calls::none(Rpc::NodePublishVolume, Outcome::Aborted);
            published.add(SOON);
            let probe = Question::Probe {
                registered: true,
                calls: vec![published],
            };
            let questions = [probe, publish(), Question::List];
            for question in questions {
                say(&mut csi, &question).await.unwrap();
                let heard: Question = hear(&mut driver, SOON).await.unwrap();
                assert_eq!(heard, question);
            }
            let answers = [
                Answer::Prepared {
                    base: "2Mi".into(),
                    mount: Mounting::AeronProducer,
                },
                Answer::Released,
                Answer::Sweep { base: "4Ki".into() },
                Answer::Refused(Refusal::new(Code::NotFound, "no such stream")),
            ];
            for answer in answers {
                say(&mut driver, &answer).await.unwrap();
                let heard: Answer = hear(&mut csi, SOON).await.unwrap();
                assert_eq!(heard, answer);
            }
        });
    }

    #[test]
    fn the_lines_are_those_of_the_description() {
        let line = |said| {
            serde_json::to_string(&Line {
                version: VERSION,
                said,
            })
        };
        let prepared = Answer::Prepared {
            base: "2Mi".into(),
            mount: Mounting::ReadOnly,
        };
        assert_eq!(
            line(prepared).unwrap(),
            r#"{"version":2,"answer":"prepared","base":"2Mi","mount":"readOnly"}"#
        );
        let refused = Answer::Refused(Refusal::new(Code::PermissionDenied, "no"));
        assert_eq!(
            line(refused).unwrap(),
            r#"{"version":2,"answer":"refused","code":"PERMISSION_DENIED","message":"no"}"#
        );
    }

    #[test]
    fn an_end_of_another_release_is_told_apart_from_garbage() {
        run(async {
            let hear_bytes = async |bytes: &[u8]| {
                let (mut csi, mut driver) = UnixStream::pair().unwrap();
                csi.write_all(bytes).await.unwrap();
                drop(csi);
                hear::<Question>(&mut driver, SOON).await.unwrap_err()
            };
            let newer = hear_bytes(b"{\"version\":3,\"ask\":\"somethingNew\"}\n").await;
            assert!(matches!(newer, TalkError::Version(3)), "{newer}");
            let garbage = hear_bytes(b"GET / HTTP/1.1\n").await;
            assert!(matches!(garbage, TalkError::Line(_)), "{garbage}");
            let cut = hear_bytes(b"{\"version\":2,").await;
            assert!(matches!(cut, TalkError::Io(_)), "{cut}");
        });
    }

    #[test]
    fn an_endless_line_is_not_read_to_its_end() {
        run(async {
            let (mut csi, mut driver) = UnixStream::pair().unwrap();
            let flood = async move {
                let chunk = [b' '; 65_536];
                while csi.write_all(&chunk).await.is_ok() {}
            };
            let reader = async move {
                let error = hear::<Question>(&mut driver, SOON).await.unwrap_err();
                drop(driver);
                error
            };
            let (error, ()) = tokio::join!(reader, flood);
            assert!(matches!(error, TalkError::TooLong), "{error}");
        });
    }
}
