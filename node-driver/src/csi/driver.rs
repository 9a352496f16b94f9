//! The driver next door, as the `csi` container reaches it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;

use super::calls::Counted;
use crate::attachments::protocol::{
    Answer, Code, Held, Mounting, Publish, Question, Refusal, TalkError, hear, say,
};
use crate::attachments::volume::VolumeId;
use crate::files::in_words;

/// The driver itself asks the API server, twice at most, for 2 s each.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Asks the driver. Each question has a connection of its own, so that neither end minds when the
/// other is started again.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    socket: PathBuf,
    /// Whether kubelet has registered this container; the driver is told with each probe.
    registered: Arc<AtomicBool>,
    /// What kubelet called; told likewise.
    counted: Counted,
}

impl Driver {
    pub(super) fn new(socket: PathBuf, counted: Counted) -> Self {
        Self {
            socket,
            counted,
            registered: Arc::default(),
        }
    }

    /// From now on the driver hears this with each probe.
    pub(super) fn set_registered(&self, registered: bool) {
        // Nothing else is published by it.
        self.registered.store(registered, Ordering::Relaxed);
    }

    /// The node's name, if the driver is there.
    ///
    /// # Errors
    /// [`Refusal`], `UNAVAILABLE` if it is not.
    pub(super) async fn probe(&self) -> Result<String, Refusal> {
        let registered = self.registered.load(Ordering::Relaxed);
        let calls = self.counted.all();
        match self.ask(&Question::Probe { registered, calls }).await? {
            Answer::Ready { node } => Ok(node),
            other => Err(unexpected(&other)),
        }
    }

    /// The base that holds the view of a volume that may be published, and how it is mounted.
    ///
    /// # Errors
    /// [`Refusal`], in words for the pod's author.
    pub(super) async fn publish(&self, publish: Publish) -> Result<(String, Mounting), Refusal> {
        match self.ask(&Question::Publish(publish)).await? {
            Answer::Prepared { base, mount } if VolumeId::new(base.as_str()).is_ok() => {
                Ok((base, mount))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Lets go of a volume that is not mounted any more. The base that holds its view, if that has to be
    /// removed before the driver is asked again.
    ///
    /// # Errors
    /// [`Refusal`]; asking again goes on.
    pub(super) async fn unpublish(&self, volume: &VolumeId) -> Result<Option<String>, Refusal> {
        let volume = volume.to_string();
        match self.ask(&Question::Unpublish { volume }).await? {
            Answer::Released => Ok(None),
            Answer::Sweep { base } if VolumeId::new(base.as_str()).is_ok() => Ok(Some(base)),
            other => Err(unexpected(&other)),
        }
    }

    /// The volumes that the driver holds.
    ///
    /// # Errors
    /// [`Refusal`], `UNAVAILABLE` if it is not there.
    pub(super) async fn list(&self) -> Result<Vec<Held>, Refusal> {
        match self.ask(&Question::List).await? {
            Answer::Volumes { volumes } => Ok(volumes),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, question: &Question) -> Result<Answer, Refusal> {
        match self.talk(question).await {
            Ok(Answer::Refused(refusal)) => Err(refusal),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Refusal::new(
                Code::Unavailable,
                format!(
                    "the Tensorpool driver of this node does not answer, it is probably starting; kubelet tries again by itself (if this goes on, look at the log of the container `driver` of the DaemonSet): {}",
                    in_words(&error)
                ),
            )),
        }
    }

    async fn talk(&self, question: &Question) -> Result<Answer, TalkError> {
        let mut connection = UnixStream::connect(&self.socket).await?;
        say(&mut connection, question).await?;
        hear(&mut connection, ANSWER_WITHIN).await
    }
}

fn unexpected(answer: &Answer) -> Refusal {
    Refusal::new(
        Code::Internal,
        format!("the driver gave an answer to another question: {answer:?}"),
    )
}
