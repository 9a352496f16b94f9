//! What other threads ask of the duty cycle: a new policy, attachments, a look at everything.
//!
//! The questions wait in a bounded channel; each wakes the duty cycle and is answered once. Whoever
//! asks may wait, the duty cycle never does.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use rustix::event::{EventfdFlags, eventfd};
use tensorpool_driver_core::config::{Access, PolicyError, PolicySpec};
use tensorpool_driver_core::{BaseId, StatusSnapshot};
use tensorpool_transport::socket::ListenError;
use tensorpool_wire::ConnectionId;
use tokio::sync::{oneshot, watch};

use crate::requests::Requests;

/// Questions that may wait at one time.
const WAITING: usize = 256;

/// One published volume. Never 0, which stands for the stand-alone socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(pub u32);

/// Asks the duty cycle. Clones ask the same.
#[derive(Clone, Debug)]
pub struct Control {
    commands: SyncSender<Command>,
    wake: Arc<OwnedFd>,
    changes: watch::Receiver<u64>,
    requests: Requests,
}

/// The duty cycle's end.
#[derive(Debug)]
pub struct Commands {
    inbox: Receiver<Command>,
    wake: Arc<OwnedFd>,
    changes: watch::Sender<u64>,
    requests: Requests,
}

/// One question, with where its answer goes. Who asked may have given up meanwhile.
#[derive(Debug)]
pub(crate) enum Command {
    /// Follow this policy from now on.
    SetPolicy {
        revision: String,
        policy: Box<PolicySpec>,
        reply: oneshot::Sender<Result<(), PolicyError>>,
    },
    /// Listen for an attachment.
    Open {
        opening: Opening,
        reply: oneshot::Sender<Result<(), OpenError>>,
    },
    /// From now on an attachment may do this.
    SetAccess {
        attachment: AttachmentId,
        access: Access,
        text: String,
        reply: oneshot::Sender<bool>,
    },
    /// End an attachment.
    Close {
        attachment: AttachmentId,
        text: String,
        reply: oneshot::Sender<Closed>,
    },
    /// Tell everything.
    Look { reply: oneshot::Sender<Snapshot> },
}

/// An attachment to open.
#[derive(Debug)]
pub struct Opening {
    /// Which one; not in use.
    pub attachment: AttachmentId,
    /// The directory in which `driver.sock` is made. Kept open while the attachment is.
    pub directory: OwnedFd,
    /// Mode of the socket file.
    pub mode: u32,
    /// What whoever connects through it may do.
    pub access: Access,
}

/// How an attachment ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Whether there was one.
    pub was_open: bool,
    /// Leases that ended with it.
    pub leases: u32,
}

/// The driver at one instant, for whoever reports it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Revision of the policy that is followed; none before the first.
    pub revision: Option<String>,
    /// Streams, leases, classes, quotas.
    pub status: StatusSnapshot,
    /// The mounts, in the order of their ids.
    pub bases: Vec<BaseFacts>,
    /// Through which attachment each connection came. The stand-alone socket's are not among them.
    pub attachments: BTreeMap<ConnectionId, AttachmentId>,
    /// Whether a media driver is connected; none where no Aeron is served.
    pub media_driver: Option<bool>,
}

/// One base as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseFacts {
    /// Which one.
    pub base: BaseId,
    /// Its name, the page size as Kubernetes writes it.
    pub name: String,
    /// The announced directory.
    pub directory: String,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Whether it is a hugetlbfs.
    pub hugepages: bool,
    /// Bytes of the mount; 0 where it has no limit or does not say.
    pub total_bytes: u64,
    /// Of these, free ones.
    pub free_bytes: u64,
    /// Bytes that the classes of the policy together want there.
    pub wanted_bytes: u64,
    /// Used bytes that no epoch directory accounts for: removed files that a client still maps.
    pub pinned_bytes: u64,
}

impl BaseFacts {
    /// Whether the mount has another size than the policy wants. A mounted hugetlbfs cannot be resized,
    /// so this stays until nobody uses it and it is mounted anew.
    #[must_use]
    pub const fn is_resize_pending(&self) -> bool {
        self.wanted_bytes != 0 && self.total_bytes != 0 && self.wanted_bytes != self.total_bytes
    }
}

/// Why a question got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Too many wait.
    #[error("the driver has {WAITING} questions to answer already; ask again")]
    Busy,
    /// There is no duty cycle any more.
    #[error("the driver is ending")]
    Ended,
}

impl ControlError {
    /// Bounded label.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Ended => "ended",
        }
    }
}

/// Why a policy is not followed. The one before it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetPolicyError {
    /// It breaks a rule.
    #[error("the policy cannot be followed: {0}")]
    Invalid(#[source] PolicyError),
    /// Nobody looked at it.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Why an attachment could not be opened. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This driver serves no sockets.
    #[error("this driver serves no attachments: it does not run in a cluster")]
    NoSockets,
    /// 0 stands for the stand-alone socket.
    #[error("attachment number 0 is that of the stand-alone socket")]
    Reserved,
    /// The number is in use, or the socket file could not be made.
    #[error("the attachment's socket cannot be made")]
    Listen(#[from] ListenError),
    /// Nobody looked at it.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Makes both ends.
///
/// # Errors
/// When the kernel gives no event descriptor.
pub fn channel() -> io::Result<(Control, Commands)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, inbox) = sync_channel(WAITING);
    let (changed, changes) = watch::channel(0);
    let requests = Requests::default();
    let control = Control {
        commands: sender,
        wake: Arc::clone(&wake),
        changes,
        requests: requests.clone(),
    };
    let commands = Commands {
        inbox,
        wake,
        changes: changed,
        requests,
    };
    Ok((control, commands))
}

impl Control {
    /// Follows `policy` from now on. Leases that it does not touch go on.
    ///
    /// # Errors
    /// [`SetPolicyError`]; the policy before it stays.
    pub async fn set_policy(
        &self,
        revision: String,
        policy: PolicySpec,
    ) -> Result<(), SetPolicyError> {
        let answer = self.ask(|reply| Command::SetPolicy {
            revision,
            policy: Box::new(policy),
            reply,
        });
        answer.await?.map_err(SetPolicyError::Invalid)
    }

    /// Makes `driver.sock` in the attachment's directory and serves who connects through it. The file
    /// of an earlier driver is replaced without a moment in which there is none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, opening: Opening) -> Result<(), OpenError> {
        self.ask(|reply| Command::Open { opening, reply }).await?
    }

    /// From now on the attachment may do this. What it holds and may no longer have is revoked with
    /// `text`. Returns whether there is such an attachment.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn set_access(
        &self,
        attachment: AttachmentId,
        access: Access,
        text: String,
    ) -> Result<bool, ControlError> {
        let answer = self.ask(|reply| Command::SetAccess {
            attachment,
            access,
            text,
            reply,
        });
        answer.await
    }

    /// Revokes the attachment's leases with `text`, ends its connections and removes its socket file.
    /// Returns when the last of its connections is gone; one that is not there is no error.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn close(
        &self,
        attachment: AttachmentId,
        text: String,
    ) -> Result<Closed, ControlError> {
        let answer = self.ask(|reply| Command::Close {
            attachment,
            text,
            reply,
        });
        answer.await
    }

    /// Everything, at one instant.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn look(&self) -> Result<Snapshot, ControlError> {
        self.ask(|reply| Command::Look { reply }).await
    }

    /// Changes whenever something happened that [`Control::look`] may show. Keepalives, announces and
    /// counters are nothing.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Where requests to the API server are counted.
    #[must_use]
    pub const fn requests(&self) -> &Requests {
        &self.requests
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.try_send(command(reply));
        sent.map_err(|error| match error {
            TrySendError::Full(_) => ControlError::Busy,
            TrySendError::Disconnected(_) => ControlError::Ended,
        })?;
        // A full counter has woken the duty cycle already; nothing else can fail.
        let _woken = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        answer.await.map_err(|_| ControlError::Ended)
    }
}

impl Commands {
    /// The next question. The wake is taken back before the first look, so that none is slept over.
    pub(crate) fn next(&self) -> Option<Command> {
        self.inbox.try_recv().ok()
    }

    /// Takes the wake back; to be called before [`Commands::next`].
    pub(crate) fn hush(&self) {
        // Empty: nobody has asked.
        let _count = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Where requests to the API server are counted.
    pub(crate) const fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Says that something changed.
    pub(crate) fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Readable when somebody asks.
impl AsFd for Commands {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
