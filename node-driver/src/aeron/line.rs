//! The connection to a media driver: made, lost and made again without ever waiting for anybody.
//!
//! Each poll takes what has happened meanwhile and goes one step on. Whoever does not answer (a media
//! driver that starts, or stands still) costs the duty cycle nothing but that look.

use std::path::PathBuf;
use std::time::Duration;

use tensorpool_transport::aeron::media_driver::{
    EmbeddedMediaDriver, MediaDriverConfig, Start, StartError, StartingMediaDriver,
};
use tensorpool_transport::aeron::port::{AeronServerPort, Endpoints, OpeningServerPort};
use tensorpool_transport::aeron::reconnect::Backoff;
use tensorpool_transport::aeron::rusteron::{ConnectError, RusteronClient, RusteronConfig};
use tensorpool_transport::pubsub::Dead;
use tensorpool_wire::MonoNanos;

use super::link::Link;

/// How long a media driver may be silent before it counts as gone.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The embedded media driver did not start.
    #[error(
        "the embedded media driver did not start; where another one runs, set driver.media_driver = \"external\", or give this one its own driver.aeron_dir"
    )]
    MediaDriver(#[from] StartError),
    /// No connection to the media driver.
    #[error("no connection to the media driver")]
    Connect(#[from] ConnectError),
    /// It went away while the streams were opened.
    #[error("the media driver refused the driver's streams")]
    Open(#[from] Dead),
}

impl LinkError {
    /// Bounded label.
    #[must_use]
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::MediaDriver(error) => error.reason(),
            Self::Connect(error) => error.reason(),
            Self::Open(_) => "refused",
        }
    }
}

/// Where the connection is in its life.
enum State {
    /// Not there; tried again at `next`.
    Down { next: MonoNanos },
    /// Our own media driver starts.
    Starting(StartingMediaDriver),
    /// The media driver was asked for our streams.
    Opening(Box<OpeningServerPort<RusteronClient>>),
    /// There.
    Up(Box<Link>),
}

/// What a poll found.
pub(super) enum Change {
    /// Nothing new.
    None,
    /// It is there since this call, after so many failures.
    Built { failures: u32 },
    /// This attempt failed.
    Failed(LinkError),
}

/// The connection.
pub(super) struct Line {
    dir: PathBuf,
    is_embedded: bool,
    endpoints: Endpoints,
    backoff: Backoff,
    failures: u32,
    // The client goes before the embedded media driver that it talks to.
    state: State,
    media: Option<EmbeddedMediaDriver>,
}

impl Line {
    /// Nothing is done before the first poll.
    pub(super) fn new(dir: PathBuf, is_embedded: bool, endpoints: Endpoints) -> Self {
        Self {
            dir,
            is_embedded,
            endpoints,
            backoff: Backoff::default(),
            failures: 0,
            state: State::Down { next: MonoNanos(0) },
            media: None,
        }
    }

    /// It, while it is there.
    pub(super) const fn get(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Up(link) => Some(link),
            State::Down { .. } | State::Starting(_) | State::Opening(_) => None,
        }
    }

    /// What it is doing, in a word.
    pub(super) const fn name(&self) -> &'static str {
        match &self.state {
            State::Down { .. } => "down",
            State::Starting(_) => "starting",
            State::Opening(_) => "opening",
            State::Up(_) => "up",
        }
    }

    /// Goes on as far as nobody has to be waited for.
    pub(super) fn poll(&mut self, now: MonoNanos) -> Change {
        if matches!(self.state, State::Up(_)) {
            return Change::None;
        }
        let down = State::Down { next: now };
        let went = match std::mem::replace(&mut self.state, down) {
            State::Down { next } if now < next => Ok(State::Down { next }),
            State::Down { .. } => self.begin(),
            State::Starting(starting) => self.started(starting),
            State::Opening(opening) => Self::opened(opening),
            State::Up(link) => Ok(State::Up(link)),
        };
        match went {
            Ok(state) => {
                self.state = state;
                if matches!(self.state, State::Up(_)) {
                    let failures = std::mem::take(&mut self.failures);
                    return Change::Built { failures };
                }
                Change::None
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let next = now.saturating_add(self.backoff.after(self.failures));
                self.state = State::Down { next };
                Change::Failed(error)
            }
        }
    }

    /// Drops it, since it is dead.
    pub(super) fn lost(&mut self, now: MonoNanos) {
        self.failures = 0;
        let next = now.saturating_add(self.backoff.after(1));
        self.state = State::Down { next };
    }

    fn begin(&mut self) -> Result<State, LinkError> {
        let is_running = self
            .media
            .as_ref()
            .is_some_and(EmbeddedMediaDriver::is_running);
        if self.is_embedded && !is_running {
            // Dropped first: two in one directory cannot be. Its thread has ended.
            drop(self.media.take());
            let config = MediaDriverConfig::new(&self.dir);
            return Ok(State::Starting(EmbeddedMediaDriver::begin(&config)?));
        }
        self.connect()
    }

    fn started(&mut self, starting: StartingMediaDriver) -> Result<State, LinkError> {
        match starting.poll()? {
            Start::Goes(starting) => Ok(State::Starting(starting)),
            Start::Done(media) => {
                self.media = Some(media);
                self.connect()
            }
        }
    }

    fn connect(&self) -> Result<State, LinkError> {
        let client = RusteronClient::connect(&RusteronConfig {
            driver_timeout: DRIVER_TIMEOUT,
            ..RusteronConfig::new(&self.dir)
        })?;
        let opening = OpeningServerPort::begin(client, self.endpoints.clone())?;
        Ok(State::Opening(Box::new(opening)))
    }

    fn opened(mut opening: Box<OpeningServerPort<RusteronClient>>) -> Result<State, LinkError> {
        let port: Option<AeronServerPort<RusteronClient>> = opening.poll()?;
        Ok(match port {
            Some(port) => State::Up(Box::new(Link::new(port))),
            None => State::Opening(opening),
        })
    }
}
