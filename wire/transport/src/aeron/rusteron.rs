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

use std::collections::VecDeque;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusteron_client::{
    Aeron, AeronCError, AeronContext, AeronErrorType, AeronExclusivePublication, AeronImage,
    AeronOfferError, AeronSubscription, Handler,
};

use super::assembler::Assembler;
use super::channel::untethered;
use super::cnc::{Cnc, CncError};
use super::ffi::{self, Inbox};
use crate::pubsub::{
    Dead, Delivery, ImageEvent, MessageClient, Publication, SendError, Subscription,
};

/// Fragments read in one poll at most while no message is complete.
const FRAGMENTS_PER_POLL: usize = 4096;
/// How long one wait for the media driver's answer sleeps between two looks.
const ANSWER_NAP: Duration = Duration::from_micros(50);

/// How to reach a media driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RusteronConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Without a sign of life for this long the media driver is dead. Also how long an answer may
    /// take. At least 200 ms; the media driver writes its sign of life on its timer's ticks.
    pub driver_timeout: Duration,
}

impl RusteronConfig {
    /// The media driver in `dir`, given up after 2 s of silence.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            driver_timeout: Duration::from_secs(2),
        }
    }
}

/// Why no client could be made. Nothing is left behind; a later attempt can succeed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The directory holds no usable `cnc.dat`.
    #[error("could not reach the media driver")]
    Cnc(#[source] CncError),
    /// The media driver stopped cleanly and left its directory.
    #[error("the media driver at {} has stopped", dir.display())]
    Stopped {
        /// The Aeron directory.
        dir: PathBuf,
    },
    /// The media driver died without a word.
    #[error(
        "the media driver at {} gave its last sign of life {} ms ago, the limit is {} ms",
        dir.display(), age.as_millis(), limit.as_millis()
    )]
    Silent {
        /// The Aeron directory.
        dir: PathBuf,
        /// How long ago.
        age: Duration,
        /// The configured limit.
        limit: Duration,
    },
    /// The path cannot be given to the library.
    #[error("the Aeron directory {} is not UTF-8 or holds a zero byte", dir.display())]
    Path {
        /// The Aeron directory.
        dir: PathBuf,
    },
    /// The library refused.
    #[error("the Aeron client could not be made ({what}): {message}")]
    Library {
        /// Which step.
        what: &'static str,
        /// Its own words, with its code.
        message: String,
    },
}

impl ConnectError {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Cnc(error) => error.reason(),
            Self::Stopped { .. } => "stopped",
            Self::Silent { .. } => "silent",
            Self::Path { .. } => "path",
            Self::Library { .. } => "library",
        }
    }
}

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

/// An exclusive publication of a [`RusteronClient`].
pub struct RusteronPublication {
    /// Taken when the publication is dropped.
    inner: Option<AeronExclusivePublication>,
    shared: Arc<Shared>,
    max_message_len: usize,
    session: i32,
}

/// A subscription of a [`RusteronClient`].
pub struct RusteronSubscription {
    /// Taken when the subscription is dropped.
    inner: Option<AeronSubscription>,
    shared: Arc<Shared>,
    images: Arc<Images>,
    inbox: Inbox,
    assembler: Assembler,
}

impl RusteronClient {
    /// Makes a client of the media driver in `config.dir`. Does not wait for one to appear.
    ///
    /// # Errors
    /// [`ConnectError`] when there is no live media driver or the library refuses.
    pub fn connect(config: &RusteronConfig) -> Result<Self, ConnectError> {
        look_before(config)?;
        let shared = Arc::new(Shared::default());
        let context = context(config, &shared).map_err(|error| library("configuration", error))?;
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
        if let Some(dead) = self.shared.dead() {
            return Err(dead);
        }
        drop(self.shared.take_closing());
        let result = self.aeron().main_do_work();
        if let Err(error) = &result {
            self.shared.end_by(error);
        }
        if self.aeron().is_closed() {
            self.shared
                .end(Dead::Closed("by the Aeron library".to_owned()));
        }
        match self.shared.dead() {
            Some(dead) => Err(dead),
            None => Ok(result.map_or(0, |work| usize::try_from(work).unwrap_or(0))),
        }
    }

    /// Drives the client until `poll` has something, for at most the driver timeout.
    fn wait<T>(
        &self,
        what: &str,
        poll: impl Fn() -> Result<Option<T>, AeronCError>,
    ) -> Result<T, Dead> {
        let deadline = Instant::now() + self.driver_timeout;
        loop {
            self.conduct()?;
            match poll() {
                Ok(Some(ready)) => return Ok(ready),
                Ok(None) => {}
                Err(error) => return Err(refused(what, &error)),
            }
            if Instant::now() >= deadline {
                let ms = self.driver_timeout.as_millis();
                let silent = Dead::MediaDriver(format!("no answer to {what} within {ms} ms"));
                self.shared.end(silent.clone());
                return Err(silent);
            }
            std::thread::sleep(ANSWER_NAP);
        }
    }
}

impl MessageClient for RusteronClient {
    type Publication = RusteronPublication;
    type Subscription = RusteronSubscription;

    fn add_publication(&mut self, channel: &str, stream: i32) -> Result<Self::Publication, Dead> {
        let what = format!("a publication on {channel}, stream {stream}");
        let uri = c_string(channel)?;
        let pending = self
            .aeron()
            .async_add_exclusive_publication(&uri, stream)
            .map_err(|error| refused(&what, &error))?;
        let inner = self.wait(&what, || pending.poll())?;
        let constants = inner
            .get_constants()
            .map_err(|error| refused(&what, &error))?;
        Ok(RusteronPublication {
            max_message_len: constants.max_message_length(),
            session: constants.session_id(),
            inner: Some(inner),
            shared: Arc::clone(&self.shared),
        })
    }

    fn add_subscription(&mut self, channel: &str, stream: i32) -> Result<Self::Subscription, Dead> {
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
        let inner = self.wait(&what, || pending.poll())?;
        Ok(RusteronSubscription {
            inner: Some(inner),
            shared: Arc::clone(&self.shared),
            images,
            inbox: Inbox::default(),
            assembler: Assembler::default(),
        })
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

impl Publication for RusteronPublication {
    fn offer(&mut self, message: &[u8]) -> Result<(), SendError> {
        if self.shared.is_over() {
            return Err(SendError::Closed(self.shared.why()));
        }
        if message.len() > self.max_message_len {
            return Err(SendError::TooLong {
                len: message.len(),
                max: self.max_message_len,
            });
        }
        match publication(self.inner.as_ref()).offer(message) {
            Ok(_) => Ok(()),
            Err(AeronOfferError::NotConnected) => Err(SendError::NotConnected),
            Err(AeronOfferError::BackPressured) => Err(SendError::BackPressured),
            Err(AeronOfferError::AdminAction) => Err(SendError::AdminAction),
            Err(
                error @ (AeronOfferError::Closed
                | AeronOfferError::MaxPositionExceeded
                | AeronOfferError::TooManyParts
                | AeronOfferError::Error(_)),
            ) => Err(SendError::Closed(error.to_string())),
        }
    }

    fn is_connected(&self) -> bool {
        !self.shared.is_over() && publication(self.inner.as_ref()).is_connected()
    }

    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    fn session(&self) -> i32 {
        self.session
    }
}

impl Drop for RusteronPublication {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.shared.close(Handle::Publication(inner));
        }
    }
}

impl RusteronSubscription {
    /// Messages dropped since the beginning: fragments with impossible lengths, without a beginning
    /// or an end, or too long together.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.assembler.dropped() + self.inbox.refused()
    }

    /// Hands on what was copied, up to `limit` messages.
    fn deliver(&mut self, limit: usize, handler: &mut dyn FnMut(&[u8], Delivery)) -> usize {
        let mut count = 0;
        while count < limit {
            let Some((fragment, bytes)) = self.inbox.take() else {
                break;
            };
            let session = fragment.session;
            if let Some(message) = self.assembler.push(session, fragment.flags, bytes) {
                count += 1;
                handler(message, Delivery { session });
            }
        }
        count
    }
}

impl Subscription for RusteronSubscription {
    fn poll(
        &mut self,
        limit: usize,
        handler: &mut dyn FnMut(&[u8], Delivery),
    ) -> Result<usize, Dead> {
        let mut count = self.deliver(limit, handler);
        let mut fragments = 0;
        while count < limit && self.inbox.is_empty() && fragments < FRAGMENTS_PER_POLL {
            if self.shared.is_over() {
                let dead = self.shared.dead();
                return match dead {
                    Some(dead) if count == 0 => Err(dead),
                    Some(_) | None => Ok(count),
                };
            }
            if self.images.some_gone.swap(false, Ordering::Acquire) {
                for session in std::mem::take(&mut *lock(&self.images.gone)) {
                    self.assembler.forget(session);
                }
            }
            let inner = self.inner.as_ref().expect("taken by drop only");
            let read = ffi::poll(inner, limit - count, &mut self.inbox);
            let Some(read) = usize::try_from(read).ok().filter(|read| *read > 0) else {
                break;
            };
            fragments += read;
            count += self.deliver(limit - count, handler);
        }
        Ok(count)
    }

    fn image_count(&self) -> usize {
        if self.shared.is_over() {
            return 0;
        }
        let inner = self.inner.as_ref().expect("taken by drop only");
        inner
            .image_count()
            .map_or(0, |count| usize::try_from(count).unwrap_or(0))
    }
}

impl Drop for RusteronSubscription {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.shared.close(Handle::Subscription(inner));
        }
    }
}

impl std::fmt::Debug for RusteronClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RusteronClient")
            .field("over", &self.shared.is_over())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RusteronPublication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RusteronPublication")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RusteronSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RusteronSubscription")
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

/// What a client, its callbacks and its handles share.
#[derive(Default)]
struct Shared {
    /// Set once, after `why`. Relaxed looks are enough: it guards nothing but its own meaning.
    over: AtomicBool,
    why: Mutex<Option<Dead>>,
    events: Mutex<VecDeque<ImageEvent>>,
    faults: Mutex<Faults>,
    closing: Mutex<Closing>,
}

/// Where a dropped handle goes.
enum Closing {
    /// To the client's thread, which is the only one that may touch the library's conductor.
    ByClient(Vec<Handle>),
    /// The client is gone, nobody drives the conductor: close under the lock.
    InPlace,
}

impl Default for Closing {
    fn default() -> Self {
        Self::ByClient(Vec::new())
    }
}

/// A handle on its way to be closed. Dropping it closes it.
#[expect(dead_code, reason = "held to be dropped in the right place")]
enum Handle {
    Publication(AeronExclusivePublication),
    Subscription(AeronSubscription),
}

/// Sessions of one subscription that are gone, for its assembler.
#[derive(Default)]
struct Images {
    some_gone: AtomicBool,
    gone: Mutex<Vec<i32>>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn dead(&self) -> Option<Dead> {
        if self.is_over() {
            lock(&self.why).clone()
        } else {
            None
        }
    }

    fn why(&self) -> String {
        lock(&self.why)
            .as_ref()
            .map_or_else(String::new, Dead::to_string)
    }

    /// The first reason stays.
    fn end(&self, dead: Dead) {
        lock(&self.why).get_or_insert(dead);
        self.over.store(true, Ordering::Relaxed);
    }

    /// Ends the client if the library's code says that it is over.
    fn end_by(&self, error: &AeronCError) {
        self.report(error.code, error.get_last_err_message());
    }

    fn report(&self, code: i32, message: &str) {
        match AeronErrorType::from_code(code) {
            AeronErrorType::ClientErrorDriverTimeout => {
                self.end(Dead::MediaDriver(message.to_owned()));
            }
            AeronErrorType::ClientErrorClientTimeout
            | AeronErrorType::ClientErrorConductorServiceTimeout
            | AeronErrorType::ClientErrorBroadcastReceiverIllegalState => {
                self.end(Dead::ClientTimeout(message.to_owned()));
            }
            _ => {
                let mut faults = lock(&self.faults);
                faults.count += 1;
                faults.last = Some(format!("{code}: {message}"));
            }
        }
    }

    fn close(&self, handle: Handle) {
        match &mut *lock(&self.closing) {
            Closing::ByClient(waiting) => waiting.push(handle),
            Closing::InPlace => drop(handle),
        }
    }

    fn take_closing(&self) -> Vec<Handle> {
        match &mut *lock(&self.closing) {
            Closing::ByClient(waiting) => std::mem::take(waiting),
            Closing::InPlace => Vec::new(),
        }
    }
}

/// Refuses a media driver that is not there, so that the library never waits for one nor maps a
/// damaged file.
fn look_before(config: &RusteronConfig) -> Result<(), ConnectError> {
    let cnc = Cnc::read(&config.dir).map_err(ConnectError::Cnc)?;
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    match cnc.heartbeat_age(now_ms) {
        None => Err(ConnectError::Stopped {
            dir: config.dir.clone(),
        }),
        Some(age) if age > config.driver_timeout => Err(ConnectError::Silent {
            dir: config.dir.clone(),
            age,
            limit: config.driver_timeout,
        }),
        Some(_) => Ok(()),
    }
}

fn context(config: &RusteronConfig, shared: &Arc<Shared>) -> Result<AeronContext, AeronCError> {
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
    let keepalive = (config.driver_timeout / 4).min(Duration::from_millis(500));
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
) -> Handler<impl FnMut(AeronSubscription, AeronImage) + 'static> {
    let shared = Arc::clone(shared);
    Handler::new(move |_: AeronSubscription, image: AeronImage| {
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

fn publication(inner: Option<&AeronExclusivePublication>) -> &AeronExclusivePublication {
    inner.expect("the publication is taken by drop only")
}

fn c_string(channel: &str) -> Result<CString, Dead> {
    CString::new(channel)
        .map_err(|_| Dead::Closed(format!("the channel {channel:?} holds a zero byte")))
}

fn refused(what: &str, error: &AeronCError) -> Dead {
    Dead::Closed(format!(
        "the media driver refused {what}: {}",
        error.get_last_err_message()
    ))
}

fn library(what: &'static str, error: AeronCError) -> ConnectError {
    ConnectError::Library {
        what,
        message: error.capture_errmsg().to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
