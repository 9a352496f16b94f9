//! The driver's end of the conversation with the `csi` container, in a thread of its own.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use super::csidriver::CsiDriverObject;
use super::keeper::Keeper;
use super::protocol::{Question, hear, say};
use super::record::{Record, RecordError, Records};
use super::table::Table;
use super::views::Views;
use super::volume::VolumeId;
use crate::cluster::access::Reviewer;
use crate::cluster::{PolicyView, Surroundings};
use crate::control::Control;
use crate::files::in_words;

/// Questions that are answered at the same time; more wait.
const TOGETHER: usize = 64;
/// The question is on its way when the connection comes.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);

/// What attachments are made of.
#[derive(Debug)]
pub struct Parts {
    /// Name of the node.
    pub node: String,
    /// Where the `csi` container finds the driver.
    pub internal_socket: PathBuf,
    /// The driver's state directory, which exists.
    pub state_dir: PathBuf,
    /// Namespace directories (`EpochStore::path`) by the name of their base, such as `2Mi`.
    pub stores: BTreeMap<String, PathBuf>,
    /// The views, shared with the file worker.
    pub views: Views,
    /// The media driver's directory on the node, where pods may use it.
    pub aeron_dir: Option<PathBuf>,
    /// The duty cycle.
    pub control: Control,
    /// The policy that the driver follows.
    pub policy: PolicyView,
    /// Asks RBAC.
    pub reviewer: Reviewer,
    /// Looks at the `CSIDriver` object.
    pub csi_driver: CsiDriverObject,
    /// What the node's status tells of attachments and of kubelet.
    pub surroundings: watch::Sender<Surroundings>,
    /// Within this time RBAC is asked again about each attachment.
    pub review_every: Duration,
}

/// Why there are no attachments.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentsError {
    /// The records.
    #[error("published volumes cannot be kept")]
    Records(#[from] RecordError),
    /// The socket.
    #[error("the socket {} for the csi container cannot be made", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Threads.
    #[error("the kernel refused a thread")]
    Thread(#[source] io::Error),
}

/// Starts the thread. It takes up what an earlier driver recorded, then listens, and runs until the
/// process ends.
///
/// # Errors
/// [`AttachmentsError`], before the thread runs.
pub fn start(parts: Parts) -> Result<(), AttachmentsError> {
    let (records, found) = Records::open(&parts.state_dir)?;
    for (kept_as, damage) in &found.put_aside {
        tracing::error!(kept_as = %kept_as.display(), error = %damage, "the record of a volume is damaged and was put aside");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AttachmentsError::Thread)?;
    let path = parts.internal_socket.clone();
    let table = Table::new(
        parts.node.clone(),
        parts.stores,
        parts.views,
        parts.control,
        parts.aeron_dir,
        records,
    );
    let keeper = Keeper {
        table: Arc::new(Mutex::new(table)),
        node: parts.node,
        reviewer: parts.reviewer,
        csi_driver: parts.csi_driver,
        surroundings: Arc::new(parts.surroundings),
        policy: parts.policy,
        review_every: parts.review_every,
        due: Arc::default(),
        sooner: Arc::new(Notify::new()),
    };
    let run = move || {
        runtime.block_on(async move {
            restore(&keeper, found.records).await;
            // Only now is the driver there for csi, and so for kubelet.
            match listen(&path) {
                Ok(listener) => tokio::join!(
                    serve(&listener, &keeper),
                    follow(keeper.clone()),
                    review(&keeper),
                    keeper.look_at_csi_driver()
                ),
                Err(source) => {
                    let error = AttachmentsError::Socket { path, source };
                    tracing::error!(
                        error = in_words(&error),
                        "no volumes can be published: the csi container cannot reach the driver"
                    );
                    let nobody = std::future::ready(());
                    tokio::join!(
                        nobody,
                        follow(keeper.clone()),
                        review(&keeper),
                        keeper.look_at_csi_driver()
                    )
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("attachments".into())
        .spawn(run)
        .map_err(AttachmentsError::Thread)?;
    Ok(())
}

/// Takes up what was recorded: sockets first, since clients wait for them.
pub(super) async fn restore(keeper: &Keeper, records: Vec<Record>) {
    let count = records.len();
    for record in records {
        let volume = record.volume.clone();
        let restored = keeper.table.lock().await.restore(record).await;
        if let Err(error) = restored {
            tracing::error!(
                volume,
                error = in_words(&error),
                "a published volume cannot be taken up again: its pod has no access"
            );
        }
        if let Ok(volume) = VolumeId::new(volume) {
            keeper.review_at(&volume, Instant::now()).await;
        }
    }
    let table = keeper.table.lock().await;
    table.empty_unknown_views();
    keeper.tell(&table);
    drop(table);
    tracing::info!(volumes = count, "published volumes taken up");
}

async fn serve(listener: &UnixListener, keeper: &Keeper) {
    let room = Arc::new(Semaphore::new(TOGETHER));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((connection, _)) => {
                let keeper = keeper.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    answer(connection, &keeper).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection of the csi container was lost");
                // Out of descriptors: some will be given back.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut connection: UnixStream, keeper: &Keeper) {
    let talked = async {
        let question: Question = hear(&mut connection, QUESTION_WITHIN).await?;
        let answer = keeper.answer(question).await;
        say(&mut connection, &answer).await
    };
    if let Err(error) = talked.await {
        tracing::warn!(
            error = in_words(&error),
            "a question of the csi container was lost"
        );
    }
}

async fn follow(mut keeper: Keeper) {
    loop {
        keeper.follow_policy().await;
        if !keeper.policy.changed().await {
            return;
        }
    }
}

async fn review(keeper: &Keeper) {
    loop {
        match keeper.review_due().await {
            Some(next) => tokio::select! {
                () = sleep_until(next) => {}
                () = keeper.sooner.notified() => {}
            },
            None => keeper.sooner.notified().await,
        }
    }
}

/// A socket for root and the driver's own user; it appears under its name when it listens already.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let bound = StdListener::bind(&beside)?;
    bound.set_nonblocking(true)?;
    fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    let listener = UnixListener::from_std(bound)?;
    fs::rename(&beside, path)?;
    Ok(listener)
}
