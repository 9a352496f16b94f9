//! Aeron through its C client, in agent-invoker mode.
//!
//! The thread that made a [`RusteronClient`] drives it. Publications and subscriptions may be sent
//! to another thread and used there. They are never closed there while the client lives: the C
//! client closes a handle on the spot when it is driven by hand, so a dropped handle goes back to the
//! client's thread, which closes it in its next cycle. After the client is gone its last handles
//! close one at a time under a lock.
//!
//! The library's default error handler ends the process; ours records. A dead media driver, a client
//! that was given up and a lapped client end in [`Dead`], after which every handle answers
//! `Closed` or `Dead` and nothing is delivered.

mod handles;
mod opening;
mod shared;

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusteron_client::{
    Aeron, AeronCError, AeronContext, AeronImage, AeronSubscription, Handler as Callback,
};

use self::opening::{Asking, refused};
use self::shared::{Closing, Images, Shared, lock};
use super::channel::untethered;
use super::cnc::Cnc;
use super::connect::look_before;
use crate::pubsub::{Dead, ImageEvent, MessageClient};

pub use self::handles::{RusteronPublication, RusteronSubscription};
pub use self::opening::{OpeningPublication, OpeningSubscription};
pub use super::connect::{AeronConfig as RusteronConfig, ConnectError};

/// How long one wait for the media driver's answer sleeps between two looks.
const ANSWER_NAP: Duration = Duration::from_micros(50);

/// What the library reported and what did not end the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// How many since the beginning.
    pub count: u64,
    /// The newest, with its code.
    pub last: Option<String>,
}

/// One client of a media driver through the C library.
pub struct RusteronClient {
    /// Taken when the client is dropped, under the lock of [`Shared::closing`].
    aeron: Option<Aeron>,
    shared: Arc<Shared>,
    driver_timeout: Duration,
}

impl RusteronClient {
    /// Makes a client of the media driver in `config.dir`. Does not wait for one to appear.
    ///
    /// # Errors
    /// [`ConnectError`] when there is no live media driver or the library refuses.
    pub fn connect(config: &RusteronConfig) -> Result<Self, ConnectError> {
        let cnc = look_before(config)?;
        let shared = Arc::new(Shared::new(config, &cnc));
        let context =
            context(config, &cnc, &shared).map_err(|error| library("configuration", error))?;
        let aeron = Aeron::new(&context).map_err(|error| library("connection", error))?;
        aeron.start().map_err(|error| library("start", error))?;
        Ok(Self {
            aeron: Some(aeron),
            shared,
            driver_timeout: config.driver_timeout,
        })
    }

    /// Errors that the library reported and that did not end the client, for the log.
    #[must_use]
    pub fn faults(&self) -> Faults {
        lock(&self.shared.faults).clone()
    }

    fn aeron(&self) -> &Aeron {
        self.aeron
            .as_ref()
            .expect("the Aeron client is taken by drop only")
    }

    /// One cycle of the library's conductor.
    fn conduct(&self) -> Result<usize, Dead> {
        self.shared.check()?;
        drop(self.shared.take_closing());
        let result = self.aeron().main_do_work();
        if let Err(error) = &result {
            self.shared.end_by(error);
        }
        if self.aeron().is_closed() {
            self.shared
                .end(Dead::Closed("by the Aeron library".to_owned()));
        }
        self.shared.check()?;
        Ok(result.map_or(0, |work| usize::try_from(work).unwrap_or(0)))
    }

    /// Drives the client until `poll` has something, for at most the driver timeout.
    fn wait<T>(&self, mut poll: impl FnMut() -> Result<Option<T>, Dead>) -> Result<T, Dead> {
        loop {
            self.conduct()?;
            if let Some(ready) = poll()? {
                return Ok(ready);
            }
            std::thread::sleep(ANSWER_NAP);
        }
    }

    fn asking(&self, what: String) -> Asking {
        Asking {
            what,
            until: Instant::now() + self.driver_timeout,
            driver_timeout: self.driver_timeout,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl MessageClient for RusteronClient {
    type Publication = RusteronPublication;
    type Subscription = RusteronSubscription;
    type OpeningPublication = OpeningPublication;
    type OpeningSubscription = OpeningSubscription;

    fn add_publication(&mut self, channel: &str, stream: i32) -> Result<Self::Publication, Dead> {
        let mut opening = self.begin_publication(channel, stream)?;
        self.wait(|| opening.poll())
    }

    fn add_subscription(&mut self, channel: &str, stream: i32) -> Result<Self::Subscription, Dead> {
        let mut opening = self.begin_subscription(channel, stream)?;
        self.wait(|| opening.poll())
    }

    fn begin_publication(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Result<OpeningPublication, Dead> {
        self.shared.check()?;
        let what = format!("a publication on {channel}, stream {stream}");
        let uri = c_string(channel)?;
        let pending = self
            .aeron()
            .async_add_exclusive_publication(&uri, stream)
            .map_err(|error| refused(&what, &error))?;
        Ok(OpeningPublication {
            pending,
            asking: self.asking(what),
        })
    }

    fn begin_subscription(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Result<OpeningSubscription, Dead> {
        self.shared.check()?;
        let what = format!("a subscription on {channel}, stream {stream}");
        let uri = c_string(&untethered(channel))?;
        let images = Arc::new(Images::default());
        let up = image_handler(&self.shared, None, move |session| ImageEvent::Up {
            stream,
            session,
        });
        let gone = Some(Arc::clone(&images));
        let down = image_handler(&self.shared, gone, move |session| ImageEvent::Down {
            stream,
            session,
        });
        let pending = self
            .aeron()
            .async_add_subscription(&uri, stream, Some(&up), Some(&down))
            .map_err(|error| refused(&what, &error))?;
        Ok(OpeningSubscription {
            pending,
            images,
            asking: self.asking(what),
        })
    }

    fn poll_publication(
        &mut self,
        opening: &mut OpeningPublication,
    ) -> Result<Option<RusteronPublication>, Dead> {
        opening.poll()
    }

    fn poll_subscription(
        &mut self,
        opening: &mut OpeningSubscription,
    ) -> Result<Option<RusteronSubscription>, Dead> {
        opening.poll()
    }

    fn do_work(&mut self, events: &mut dyn FnMut(ImageEvent)) -> Result<usize, Dead> {
        let result = self.conduct();
        let queued = std::mem::take(&mut *lock(&self.shared.events));
        let count = queued.len();
        queued.into_iter().for_each(events);
        result.map(|work| work + count)
    }
}

impl Drop for RusteronClient {
    fn drop(&mut self) {
        self.shared
            .end(Dead::Closed("its client was dropped".to_owned()));
        let mut closing = lock(&self.shared.closing);
        drop(std::mem::replace(&mut *closing, Closing::InPlace));
        drop(self.aeron.take());
    }
}

impl std::fmt::Debug for RusteronClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RusteronClient")
            .field("over", &self.shared.is_over())
            .finish_non_exhaustive()
    }
}

fn context(
    config: &RusteronConfig,
    cnc: &Cnc,
    shared: &Arc<Shared>,
) -> Result<AeronContext, AeronCError> {
    let context = AeronContext::new()?;
    let dir = config
        .dir
        .to_str()
        .and_then(|dir| CString::new(dir).ok())
        .ok_or_else(|| AeronCError::with_message(-1, "the path is not UTF-8 or holds a zero"))?;
    context.set_dir(&dir)?;
    context.set_use_conductor_agent_invoker(true)?;
    let timeout_ms = u64::try_from(config.driver_timeout.as_millis()).unwrap_or(u64::MAX);
    context.set_driver_timeout_ms(timeout_ms)?;
    // The library looks for the media driver's sign of life as often as it gives its own.
    let keepalive = config.driver_timeout.min(cnc.client_liveness) / 4;
    let keepalive = keepalive.min(Duration::from_millis(500));
    context.set_keepalive_interval_ns(u64::try_from(keepalive.as_nanos()).unwrap_or(u64::MAX))?;
    let recorder = Arc::clone(shared);
    context.set_error_handler(Some(move |code, message: &str| {
        recorder.report(code, message);
    }))?;
    Ok(context)
}

/// A callback that queues what it is told; no code of a caller runs inside the library.
fn image_handler(
    shared: &Arc<Shared>,
    gone: Option<Arc<Images>>,
    event: impl Fn(i32) -> ImageEvent + 'static,
) -> Callback<impl FnMut(AeronSubscription, AeronImage) + 'static> {
    let shared = Arc::clone(shared);
    Callback::new(move |_: AeronSubscription, image: AeronImage| {
        let Ok(constants) = image.get_constants() else {
            return;
        };
        let session = constants.session_id();
        lock(&shared.events).push_back(event(session));
        if let Some(images) = &gone {
            lock(&images.gone).push(session);
            images.some_gone.store(true, Ordering::Release);
        }
    })
}

fn c_string(channel: &str) -> Result<CString, Dead> {
    CString::new(channel)
        .map_err(|_| Dead::Closed(format!("the channel {channel:?} holds a zero byte")))
}

fn library(what: &'static str, error: AeronCError) -> ConnectError {
    ConnectError::Library {
        what,
        message: error.capture_errmsg().to_string(),
    }
}
