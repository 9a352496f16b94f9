//! A deterministic bus in one process, for simulation and tests.
//!
//! It stands for the media driver and for the kernel's sockets at once: everything that the real ways
//! do to a message, this one does in virtual time and by a seed. No thread, no sleep, no clock. The
//! same seed, calls and faults give the same deliveries.
//!
//! - [`Bus::client`] gives a [`crate::pubsub::MessageClient`] with Aeron's semantics: windows and
//!   back-pressure, images that come and go, untethered subscribers that rest and lose, a media driver
//!   that dies, clients that time out. [`crate::aeron`]'s ports run over it.
//! - [`Bus::listen`] and [`Bus::connect`] give the two ends of sockets: the server is the code of the
//!   real one, limits and backlog included, over memory.
//!
//! Time stands still between [`Bus::advance`] calls; a simulation goes from one [`Bus::next_arrival`]
//! or deadline to the next.

mod connection;
mod faults;
mod image;
mod log;
mod media;
mod pubsub;
mod random;
mod server;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tensorpool_wire::MonoNanos;

pub use connection::BusConnection;
pub use faults::{Faults, Timing};
pub use pubsub::{BusClient, BusPublication, BusSubscription};
pub use random::Random;
pub use server::BusServer;

use connection::Pipes;
use media::Media;

/// One bus. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Bus {
    shared: Arc<Mutex<Shared>>,
}

/// Everything behind the handles.
#[derive(Debug)]
struct Shared {
    now: MonoNanos,
    random: Random,
    faults: Faults,
    media: Media,
    pipes: Pipes,
}

impl Shared {
    /// When a message that is sent now arrives.
    fn arrival(&mut self) -> MonoNanos {
        let Faults {
            delay_min_ns,
            delay_max_ns,
            ..
        } = self.faults;
        self.now
            .saturating_add(self.random.between(delay_min_ns, delay_max_ns))
    }
}

impl Bus {
    /// A bus without faults, at time 1 s, with its media driver up.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_timing(seed, Timing::default())
    }

    /// A bus whose media driver has these times.
    #[must_use]
    pub fn with_timing(seed: u64, timing: Timing) -> Self {
        let shared = Shared {
            now: MonoNanos(1_000_000_000),
            random: Random::new(seed),
            faults: Faults::default(),
            media: Media::new(timing),
            pipes: Pipes::default(),
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Changes the faults for messages sent from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> MonoNanos {
        self.lock().now
    }

    /// Lets time pass.
    pub fn advance(&self, nanos: u64) {
        let to = self.now().saturating_add(nanos);
        self.advance_to(to);
    }

    /// Lets time pass until `to`. Time never goes back.
    pub fn advance_to(&self, to: MonoNanos) {
        let mut shared = self.lock();
        shared.now = shared.now.max(to);
        let now = shared.now;
        shared.media.pass_time(now);
    }

    /// When the next message or close on its way arrives, at the earliest now. `None`: nothing is on
    /// its way. Timeouts of the media driver do not count.
    #[must_use]
    pub fn next_arrival(&self) -> Option<MonoNanos> {
        let shared = self.lock();
        let next = shared
            .media
            .next_arrival()
            .into_iter()
            .chain(shared.pipes.next_arrival())
            .min();
        next.map(|at| at.max(shared.now))
    }

    /// Stops the media driver without notice. Its clients notice after their timeout; until then
    /// messages between them still pass, as through shared memory.
    pub fn kill_media_driver(&self) {
        let mut shared = self.lock();
        let now = shared.now;
        shared.media.kill(now);
    }

    /// Starts a new media driver. Clients of the old one stay dead.
    pub fn restart_media_driver(&self) {
        self.lock().media.restart();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic elsewhere fails its own test; the state is consistent between calls.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
