//! The Aeron C media driver on a thread of this process.
//!
//! Every setting that decides how much one client can cost another is in [`MediaDriverConfig`] and
//! set explicitly; the environment (`AERON_*`) decides the others only. A start that fails is an
//! error value, a stop waits for the thread, and a media driver that ends by itself can be seen.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusteron_media_driver::bindings::aeron_threading_mode_enum as ThreadingMode;
use rusteron_media_driver::{AeronCError, AeronDriver, AeronDriverContext, AeronIdleStrategyKind};

use super::cnc::{Cnc, CncError};

/// Which threads do the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threading {
    /// One for all of it. Enough for IPC, where it only moves limits and keeps house.
    #[default]
    Shared,
    /// Conductor, sender and receiver each have their own.
    Dedicated,
}

/// What a thread does when it has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Spin, then yield, then sleep up to 1 ms.
    #[default]
    Backoff,
    /// Keep the core. For measurements.
    Spin,
}

/// Settings of an embedded media driver. All durations have whole milliseconds or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaDriverConfig {
    /// Its directory; on tmpfs, one per trust domain. Deleted and made anew at the start.
    pub dir: PathBuf,
    /// Which threads do the work.
    pub threading: Threading,
    /// What they do when there is none.
    pub idle: Idle,
    /// How often it looks for dead clients and slow subscribers: the delay until a crash or close is
    /// acted on, and the grain of the untethered timeouts.
    pub timer_interval: Duration,
    /// A client silent for longer is given up. 3 to 5 s: longer than a throttled process stalls.
    pub client_liveness: Duration,
    /// A publisher that died inside a message is cleaned up after this. Just above the liveness.
    pub publication_unblock: Duration,
    /// A subscriber that is behind by more than three quarters of its publisher's window for this
    /// long loses its image.
    pub untethered_window_limit: Duration,
    /// For this long after that it still holds the publisher back, so that it can notice.
    pub untethered_linger: Duration,
    /// Such a subscriber may come back after this.
    pub untethered_resting: Duration,
    /// Broadcast buffer for events to clients, in bytes: a power of two plus 128. A client that
    /// stops while this much is written is lost.
    pub clients_buffer_len: usize,
    /// Term length of IPC channels that do not name one, in bytes: a power of two, 64 KiB to 1 GiB.
    /// Every publication takes three, allocated at once.
    pub ipc_term_len: usize,
}

impl MediaDriverConfig {
    /// The settings that the product stands for, in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            threading: Threading::default(),
            idle: Idle::default(),
            timer_interval: Duration::from_millis(10),
            client_liveness: Duration::from_secs(4),
            publication_unblock: Duration::from_millis(4500),
            untethered_window_limit: Duration::from_millis(12),
            untethered_linger: Duration::from_millis(12),
            untethered_resting: Duration::from_millis(200),
            clients_buffer_len: 16 * 1024 * 1024 + 128,
            ipc_term_len: 4 * 1024 * 1024,
        }
    }

    /// How many messages of `message_len` bytes a publisher with terms of `term_len` bytes may send
    /// per second so that a subscriber that stops reading costs nobody a message.
    ///
    /// The media driver lets a subscriber fall behind by three quarters of the window (half a term)
    /// before its time runs, moves the publisher's limit in steps of an eighth, and looks once per
    /// timer interval; so an eighth of the window must outlast both timeouts, each rounded up to the
    /// next look, and one look more.
    #[must_use]
    pub fn lossless_rate(&self, term_len: u32, message_len: u32) -> u64 {
        let interval = self.timer_interval.as_nanos().max(1);
        let looks = |timeout: Duration| timeout.as_nanos() / interval + 1;
        let looks = looks(self.untethered_window_limit) + looks(self.untethered_linger) + 1;
        // A frame has a header of 32 bytes and is padded to a multiple of 32.
        let frame = (u128::from(message_len) + 32).next_multiple_of(32);
        let frames = u128::from(term_len) / 2 / 8 / frame;
        u64::try_from(frames * 1_000_000_000 / (looks * interval)).unwrap_or(u64::MAX)
    }

    /// Checks what must hold between the settings.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("untethered_window_limit", self.untethered_window_limit),
            ("untethered_linger", self.untethered_linger),
            ("untethered_resting", self.untethered_resting),
        ] {
            if value <= self.timer_interval {
                return Err(ConfigError::NotLonger {
                    name,
                    value,
                    than: "timer_interval",
                    limit: self.timer_interval,
                });
            }
        }
        if self.publication_unblock <= self.client_liveness {
            return Err(ConfigError::NotLonger {
                name: "publication_unblock",
                value: self.publication_unblock,
                than: "client_liveness",
                limit: self.client_liveness,
            });
        }
        if self.timer_interval.is_zero() {
            return Err(ConfigError::NotLonger {
                name: "timer_interval",
                value: self.timer_interval,
                than: "nothing",
                limit: Duration::ZERO,
            });
        }
        let records = self.clients_buffer_len.checked_sub(128);
        if !records.is_some_and(|len| len.is_power_of_two() && len >= 64 * 1024) {
            return Err(ConfigError::Length {
                name: "clients_buffer_len",
                value: self.clients_buffer_len,
                rule: "a power of two of at least 64 KiB, plus 128",
            });
        }
        let terms = 64 * 1024..=1024 * 1024 * 1024;
        if !self.ipc_term_len.is_power_of_two() || !terms.contains(&self.ipc_term_len) {
            return Err(ConfigError::Length {
                name: "ipc_term_len",
                value: self.ipc_term_len,
                rule: "a power of two from 64 KiB to 1 GiB",
            });
        }
        Ok(())
    }
}

/// Settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One time must be longer than another.
    #[error("media driver setting {name} is {value:?}, it must be longer than {than} ({limit:?})")]
    NotLonger {
        /// Which setting.
        name: &'static str,
        /// Its value.
        value: Duration,
        /// What it must exceed.
        than: &'static str,
        /// That one's value.
        limit: Duration,
    },
    /// A length of the wrong shape.
    #[error("media driver setting {name} is {value} bytes, it must be {rule}")]
    Length {
        /// Which setting.
        name: &'static str,
        /// Its value in bytes.
        value: usize,
        /// What it must be.
        rule: &'static str,
    },
}

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
        config.check()?;
        refuse_a_live_one(&config.dir)?;
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
        let this = Self {
            dir: config.dir.clone(),
            stop,
            thread: Some(thread),
        };
        match outcome.recv() {
            Ok(Ok(())) => Ok(this),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Library {
                dir: this.dir.clone(),
                message: "its thread panicked".to_owned(),
            }),
        }
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

/// The thread: the library's objects live and die here.
fn run(
    config: &MediaDriverConfig,
    stop: &AtomicBool,
    started: &SyncSender<Result<(), StartError>>,
) -> Result<(), Ended> {
    let driver = match start(config) {
        Ok(driver) => driver,
        Err(error) => {
            // `start` waits for this message; nobody else holds the other end.
            let _delivered = started.send(Err(error));
            return Ok(());
        }
    };
    let _delivered = started.send(Ok(()));
    while !stop.load(Ordering::Acquire) {
        let work = driver
            .main_do_work()
            .map_err(|error| Ended::Failed(error.capture_errmsg().to_string()))?;
        driver.main_idle_strategy(work);
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
fn refuse_a_live_one(dir: &Path) -> Result<(), StartError> {
    /// A live media driver gives a sign of life on every timer tick, and ticks at least once a second.
    const ALIVE: Duration = Duration::from_secs(2);
    let Ok(cnc) = Cnc::read(dir) else {
        return Ok(());
    };
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let process = PathBuf::from(format!("/proc/{}", cnc.pid));
    match cnc.heartbeat_age(now_ms) {
        Some(age) if age <= ALIVE && process.exists() => Err(StartError::AlreadyRunning {
            dir: dir.to_path_buf(),
            pid: cnc.pid,
            age,
        }),
        Some(_) | None => Ok(()),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_the_product_stands_for_hold_together() {
        let config = MediaDriverConfig::new("/dev/shm/nowhere");
        assert_eq!(config.check(), Ok(()));
        assert!(config.timer_interval <= Duration::from_millis(100));
        assert!(config.untethered_window_limit <= Duration::from_millis(200));
        assert!(config.untethered_resting <= Duration::from_millis(200));
        assert!((3..=5).contains(&config.client_liveness.as_secs()));
        assert_eq!(config.clients_buffer_len, 16 * 1024 * 1024 + 128);
    }

    #[test]
    fn descriptors_on_16_mib_terms_are_safe_at_the_promised_rate() {
        let mut config = MediaDriverConfig::new("/dev/shm/nowhere");
        let rate = config.lossless_rate(16 * 1024 * 1024, 48);
        assert!(rate >= 218_000, "{rate}");
        config.timer_interval = Duration::from_millis(100);
        config.untethered_window_limit = Duration::from_millis(200);
        config.untethered_linger = Duration::from_millis(200);
        let rate = config.lossless_rate(16 * 1024 * 1024, 48);
        assert_eq!(rate, 15_602, "what coarser settings would leave of it");
    }

    #[test]
    fn contradictions_are_named() {
        let sound = MediaDriverConfig::new("/dev/shm/nowhere");
        let mut unblock = sound.clone();
        unblock.publication_unblock = unblock.client_liveness;
        let mut window = sound.clone();
        window.untethered_window_limit = window.timer_interval;
        let mut linger = sound.clone();
        linger.untethered_linger = linger.timer_interval;
        let mut resting = sound.clone();
        resting.untethered_resting = resting.timer_interval;
        let mut timer = sound.clone();
        timer.timer_interval = Duration::ZERO;
        let mut clients = sound.clone();
        clients.clients_buffer_len = 16 * 1024 * 1024;
        let mut terms = sound;
        terms.ipc_term_len = 3 * 1024 * 1024;
        for (config, name) in [
            (unblock, "publication_unblock"),
            (window, "untethered_window_limit"),
            (linger, "untethered_linger"),
            (resting, "untethered_resting"),
            (timer, "timer_interval"),
            (clients, "clients_buffer_len"),
            (terms, "ipc_term_len"),
        ] {
            let error = config.check().expect_err("a contradiction");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
