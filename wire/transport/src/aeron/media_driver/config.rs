//! The settings of an embedded media driver and what must hold between them.

use std::path::PathBuf;
use std::time::Duration;

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
    /// Yield, then sleep ever longer, up to [`MediaDriverConfig::longest_nap`]. Traffic starts it
    /// over, the timer's tick does not, and a nap ends at the tick.
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
    /// Longest sleep of [`Idle::Backoff`]: the longest that a client waits for the answer to a first
    /// command. Frames do not wait for it: they go from client to client.
    pub longest_nap: Duration,
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
            longest_nap: Duration::from_millis(10),
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
        if self.longest_nap > self.timer_interval || self.longest_nap.is_zero() {
            return Err(ConfigError::Nap {
                value: self.longest_nap,
                limit: self.timer_interval,
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
    /// A nap that cannot end in time for the timers, or is none.
    #[error(
        "media driver setting longest_nap is {value:?}, it must be longer than nothing and at most timer_interval ({limit:?})"
    )]
    Nap {
        /// Its value.
        value: Duration,
        /// The timer interval.
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
        let mut nap = sound.clone();
        nap.longest_nap = nap.timer_interval * 2;
        let mut no_nap = sound.clone();
        no_nap.longest_nap = Duration::ZERO;
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
            (nap, "longest_nap"),
            (no_nap, "longest_nap"),
            (clients, "clients_buffer_len"),
            (terms, "ipc_term_len"),
        ] {
            let error = config.check().expect_err("a contradiction");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
