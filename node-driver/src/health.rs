//! What the duty cycle tells other threads about itself, without ever waiting for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tensorpool_wire::MonoNanos;

use crate::metrics::Snapshot;

/// A duty cycle that has not come round for this long is taken for dead.
pub(crate) const CYCLE_LIMIT_NS: u64 = 10_000_000_000;
/// Scrapes that may wait for the duty cycle at one time.
const SCRAPES_WAITING: usize = 4;

/// Whether clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Readiness {
    /// Not yet.
    Starting = 0,
    /// Yes, on every configured way in.
    Ready = 1,
    /// The media driver is gone; the socket still serves.
    NoMediaDriver = 2,
    /// Attaches are refused, the end is near.
    Draining = 3,
    /// No policy has come yet, so there is nothing to serve.
    NoPolicy = 4,
}

impl Readiness {
    /// Bounded label, also the body of /readyz.
    #[must_use]
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::NoMediaDriver => "no_media_driver",
            Self::Draining => "draining",
            Self::NoPolicy => "no_policy",
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Ready,
            2 => Self::NoMediaDriver,
            3 => Self::Draining,
            4 => Self::NoPolicy,
            _ => Self::Starting,
        }
    }
}

/// Where an answer to one scrape goes.
pub(crate) type Reply = tokio::sync::oneshot::Sender<Snapshot>;

/// The observers' end.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    shared: Arc<Shared>,
    scrapes: SyncSender<Reply>,
}

/// The duty cycle's end.
#[derive(Debug)]
pub(crate) struct Observed {
    shared: Arc<Shared>,
    scrapes: Receiver<Reply>,
}

#[derive(Debug, Default)]
struct Shared {
    last_cycle: AtomicU64,
    readiness: AtomicU8,
}

/// Why a scrape was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScrapeError {
    /// Several wait already.
    #[error("the duty cycle has not answered {SCRAPES_WAITING} earlier scrapes yet")]
    Busy,
    /// There is no duty cycle any more.
    #[error("the duty cycle has ended")]
    Ended,
}

/// Makes both ends.
#[must_use]
pub(crate) fn channel() -> (Observer, Observed) {
    let shared = Arc::new(Shared::default());
    let (sender, receiver) = sync_channel(SCRAPES_WAITING);
    (
        Observer {
            shared: Arc::clone(&shared),
            scrapes: sender,
        },
        Observed {
            shared,
            scrapes: receiver,
        },
    )
}

impl Observer {
    /// Whether the duty cycle came round lately. Before the first cycle it counts as alive.
    #[must_use]
    pub(crate) fn is_alive(&self, now: MonoNanos) -> bool {
        let last = self.shared.last_cycle.load(Ordering::Relaxed);
        last == 0 || now.saturating_since(MonoNanos(last)) < CYCLE_LIMIT_NS
    }

    /// Whether clients are served.
    #[must_use]
    pub(crate) fn readiness(&self) -> Readiness {
        Readiness::from_number(self.shared.readiness.load(Ordering::Relaxed))
    }

    /// Asks the duty cycle for a snapshot.
    ///
    /// # Errors
    /// [`ScrapeError`] when it cannot take the question now.
    pub(crate) fn ask(&self, reply: Reply) -> Result<(), ScrapeError> {
        self.scrapes.try_send(reply).map_err(|error| match error {
            TrySendError::Full(_) => ScrapeError::Busy,
            TrySendError::Disconnected(_) => ScrapeError::Ended,
        })
    }
}

impl Observed {
    /// Says that the duty cycle came round.
    pub(crate) fn cycle(&self, now: MonoNanos) {
        self.shared.last_cycle.store(now.get(), Ordering::Relaxed);
    }

    /// Says whether clients are served.
    pub(crate) fn set_readiness(&self, readiness: Readiness) {
        let number = match readiness {
            Readiness::Starting => 0,
            Readiness::Ready => 1,
            Readiness::NoMediaDriver => 2,
            Readiness::Draining => 3,
            Readiness::NoPolicy => 4,
        };
        self.shared.readiness.store(number, Ordering::Relaxed);
    }

    /// The next scrape that waits for an answer.
    #[must_use]
    pub(crate) fn next_scrape(&self) -> Option<Reply> {
        self.scrapes.try_recv().ok()
    }
}
