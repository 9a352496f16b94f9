//! The Aeron C media driver on a thread of this process.
//!
//! Every setting that decides how much one client can cost another is in [`MediaDriverConfig`] and
//! set explicitly; the environment (`AERON_*`) decides the others only. A start that fails is an
//! error value, a stop waits for the thread, and a media driver that ends by itself can be seen.

mod config;
mod rest;

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusteron_media_driver::bindings::aeron_threading_mode_enum as ThreadingMode;
use rusteron_media_driver::{AeronCError, AeronDriver, AeronDriverContext, AeronIdleStrategyKind};

use self::rest::{Rest, Step};
use super::cnc::{Cnc, CncError};

pub use self::config::{ConfigError, Idle, MediaDriverConfig, Threading};

/// Why an embedded media driver did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the media driver cannot be configured so")]
    Config(#[from] ConfigError),
    /// The directory is in use.
    #[error(
        "a media driver with pid {pid} is alive in {}, its last sign of life is {} ms old; \
         stop it or use another directory",
        dir.display(), age.as_millis()
    )]
    AlreadyRunning {
        /// The Aeron directory.
        dir: PathBuf,
        /// Its pid, in its own PID namespace.
        pid: i64,
        /// Age of its last sign of life.
        age: Duration,
    },
    /// The path cannot be given to the library.
    #[error("the Aeron directory {} is not UTF-8 or holds a zero byte", dir.display())]
    Path {
        /// The Aeron directory.
        dir: PathBuf,
    },
    /// No thread could be started for it.
    #[error("could not start the media driver's thread")]
    Thread(#[source] std::io::Error),
    /// The library refused, for instance for want of memory on the directory's filesystem.
    #[error("the media driver in {} did not start: {message}", dir.display())]
    Library {
        /// The Aeron directory.
        dir: PathBuf,
        /// Its own words.
        message: String,
    },
}

impl StartError {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::AlreadyRunning { .. } => "already_running",
            Self::Path { .. } => "path",
            Self::Thread(_) => "thread",
            Self::Library { .. } => "library",
        }
    }
}

/// Why an embedded media driver ended other than by [`EmbeddedMediaDriver::stop`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Its duty cycle failed.
    #[error("the media driver's duty cycle failed: {0}")]
    Failed(String),
    /// Its thread panicked.
    #[error("the media driver's thread panicked")]
    Panicked,
}

/// A media driver that runs on a thread of this process until this value is dropped.
#[derive(Debug)]
pub struct EmbeddedMediaDriver {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), Ended>>>,
}

impl EmbeddedMediaDriver {
    /// Starts a media driver and waits until clients can connect to it. What an earlier one left in
    /// the directory is deleted, unless that one is still alive.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn start(config: &MediaDriverConfig) -> Result<Self, StartError> {
        Self::begin(config)?.wait()
    }

    /// Starts a media driver and does not wait for it.
    ///
    /// # Errors
    /// [`StartError::Config`] and [`StartError::Thread`]; the others come from
    /// [`StartingMediaDriver::poll`].
    pub fn begin(config: &MediaDriverConfig) -> Result<StartingMediaDriver, StartError> {
        config.check()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (started, outcome) = sync_channel(1);
        let thread = {
            let config = config.clone();
            let stop = Arc::clone(&stop);
            std::thread::Builder::new()
                .name("media-driver".to_owned())
                .spawn(move || run(&config, &stop, &started))
                .map_err(StartError::Thread)?
        };
        Ok(StartingMediaDriver {
            driver: Self {
                dir: config.dir.clone(),
                stop,
                thread: Some(thread),
            },
            outcome,
        })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether its thread still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// What its `cnc.dat` says now, its sign of life among it.
    ///
    /// # Errors
    /// [`CncError`] when the file is gone or damaged.
    pub fn cnc(&self) -> Result<Cnc, CncError> {
        Cnc::read(&self.dir)
    }

    /// Stops it, waits for its thread, and deletes its directory.
    ///
    /// # Errors
    /// [`Ended`] when it had ended by itself before.
    pub fn stop(mut self) -> Result<(), Ended> {
        self.join()
    }

    fn join(&mut self) -> Result<(), Ended> {
        self.stop.store(true, Ordering::Release);
        match self.thread.take() {
            None => Ok(()),
            Some(thread) => thread.join().unwrap_or(Err(Ended::Panicked)),
        }
    }
}

impl Drop for EmbeddedMediaDriver {
    fn drop(&mut self) {
        // Who wants to know how it ended calls `stop`.
        let _ended = self.join();
    }
}

/// A media driver that was told to start. Dropped, it is stopped again.
#[derive(Debug)]
pub struct StartingMediaDriver {
    driver: EmbeddedMediaDriver,
    outcome: Receiver<Result<(), StartError>>,
}

/// What became of a [`StartingMediaDriver`].
#[derive(Debug)]
pub enum Start {
    /// Clients can connect to it.
    Done(EmbeddedMediaDriver),
    /// Not yet.
    Goes(StartingMediaDriver),
}

impl StartingMediaDriver {
    /// Looks how far it is. Does not wait.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn poll(self) -> Result<Start, StartError> {
        match self.outcome.try_recv() {
            Ok(Ok(())) => Ok(Start::Done(self.driver)),
            Ok(Err(error)) => Err(error),
            Err(TryRecvError::Empty) => Ok(Start::Goes(self)),
            Err(TryRecvError::Disconnected) => Err(self.panicked()),
        }
    }

    fn wait(self) -> Result<EmbeddedMediaDriver, StartError> {
        match self.outcome.recv() {
            Ok(Ok(())) => Ok(self.driver),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.panicked()),
        }
    }

    fn panicked(&self) -> StartError {
        StartError::Library {
            dir: self.driver.dir.clone(),
            message: "its thread panicked".to_owned(),
        }
    }
}

/// The thread: the library's objects live and die here.
fn run(
    config: &MediaDriverConfig,
    stop: &AtomicBool,
    started: &SyncSender<Result<(), StartError>>,
) -> Result<(), Ended> {
    let begun = Instant::now();
    let driver = match refuse_a_live_one(&config.dir, stop).and_then(|()| start(config)) {
        Ok(driver) => driver,
        Err(error) => {
            // `start` waits for this message; nobody else holds the other end.
            let _delivered = started.send(Err(error));
            return Ok(());
        }
    };
    let _delivered = started.send(Ok(()));
    let mut rest = Rest::new(config.longest_nap, config.timer_interval);
    while !stop.load(Ordering::Acquire) {
        let work = driver
            .main_do_work()
            .map_err(|error| Ended::Failed(error.capture_errmsg().to_string()))?;
        match config.idle {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Backoff => match rest.after(work, begun.elapsed()) {
                Step::GoOn => {}
                Step::Yield => std::thread::yield_now(),
                Step::Nap(nap) => std::thread::sleep(nap),
            },
        }
    }
    Ok(())
}

fn start(config: &MediaDriverConfig) -> Result<AeronDriver, StartError> {
    let dir = config
        .dir
        .to_str()
        .and_then(|dir| CString::new(dir).ok())
        .ok_or_else(|| StartError::Path {
            dir: config.dir.clone(),
        })?;
    let launch = || -> Result<AeronDriver, AeronCError> {
        let context = AeronDriverContext::new()?;
        context.set_dir(&dir)?;
        apply(config, &context)?;
        let driver = AeronDriver::new(&context)?;
        driver.start(true)?;
        Ok(driver)
    };
    launch().map_err(|error| StartError::Library {
        dir: config.dir.clone(),
        message: error.capture_errmsg().to_string(),
    })
}

fn apply(config: &MediaDriverConfig, context: &AeronDriverContext) -> Result<(), AeronCError> {
    context.set_dir_delete_on_start(true)?;
    context.set_dir_delete_on_shutdown(true)?;
    context.set_dir_warn_if_exists(false)?;
    context.set_threading_mode(match config.threading {
        Threading::Shared => ThreadingMode::AERON_THREADING_MODE_SHARED,
        Threading::Dedicated => ThreadingMode::AERON_THREADING_MODE_DEDICATED,
    })?;
    let idle = match config.idle {
        Idle::Backoff => AeronIdleStrategyKind::Backoff,
        Idle::Spin => AeronIdleStrategyKind::BusySpin,
    };
    let args = idle.default_init_args_c();
    context.set_shared_idle_strategy_init_args(args)?;
    context.set_shared_idle_strategy_kind(idle)?;
    context.set_conductor_idle_strategy_init_args(args)?;
    context.set_conductor_idle_strategy_kind(idle)?;
    context.set_sender_idle_strategy_init_args(args)?;
    context.set_sender_idle_strategy_kind(idle)?;
    context.set_receiver_idle_strategy_init_args(args)?;
    context.set_receiver_idle_strategy_kind(idle)?;
    context.set_tether_subscriptions(false)?;
    context.set_timer_interval_ns(nanos(config.timer_interval))?;
    context.set_untethered_window_limit_timeout_ns(nanos(config.untethered_window_limit))?;
    context.set_untethered_linger_timeout_ns(nanos(config.untethered_linger))?;
    context.set_untethered_resting_timeout_ns(nanos(config.untethered_resting))?;
    context.set_client_liveness_timeout_ns(nanos(config.client_liveness))?;
    context.set_publication_unblock_timeout_ns(nanos(config.publication_unblock))?;
    context.set_to_clients_buffer_length(config.clients_buffer_len)?;
    context.set_ipc_term_buffer_length(config.ipc_term_len)?;
    // A sparse term on a full tmpfs ends its writer with SIGBUS.
    context.set_term_buffer_sparse_file(false)?;
    context.set_print_configuration(false)?;
    Ok(())
}

/// The library deletes a directory that is in use without asking.
///
/// Only a heartbeat that moves proves life: one that was killed a moment ago has a fresh heartbeat
/// too, and its process may linger as a zombie. So a fresh heartbeat is watched until it moves, its
/// process is gone, or it is stale; a successor that starts at once waits two seconds at most.
fn refuse_a_live_one(dir: &Path, stop: &AtomicBool) -> Result<(), StartError> {
    /// A live media driver gives a sign of life on every timer tick, and ticks at least once a second.
    const ALIVE: Duration = Duration::from_secs(2);
    const LOOK: Duration = Duration::from_millis(10);
    let Ok(first) = Cnc::read(dir) else {
        return Ok(());
    };
    let process = PathBuf::from(format!("/proc/{}", first.pid));
    loop {
        let Ok(cnc) = Cnc::read(dir) else {
            return Ok(());
        };
        let now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
        match cnc.heartbeat_age(now_ms) {
            Some(age) if cnc.pid != first.pid || cnc.heartbeat_ms != first.heartbeat_ms => {
                return Err(StartError::AlreadyRunning {
                    dir: dir.to_path_buf(),
                    pid: cnc.pid,
                    age,
                });
            }
            Some(age) if age <= ALIVE && process.exists() && !stop.load(Ordering::Acquire) => {
                std::thread::sleep(LOOK);
            }
            Some(_) | None => return Ok(()),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
