//! Aeron through a pure Rust client, for builds without a C toolchain.
//!
//! On x86-64 only, and never in the node driver: the library panics or hangs where the C client
//! returns errors, and this module can only limit the damage. What it does about it:
//! - The conductor is invoked by hand, never inside a handler, and not again once it has failed.
//! - The library's own error handler panics; ours keeps the first fatal error.
//! - Panics of the library are caught. After one, everything of this client is leaked instead of
//!   dropped, since dropping would abort the process.
//! - Every registration is waited for, handles go before their client, and the conductor is invoked
//!   once more before that goes.
//! - `cnc.dat` is checked before connecting, channels are at most [`CHANNEL_MAX`] bytes, every
//!   fragment's bounds are checked, only exclusive publications are used and single messages offered.
//!
//! What remains, and must be known by whoever chooses it:
//! - A media driver that dies is seen only by [`MessageClient::do_work`], not by an offer or a poll.
//! - Each client leaks one mapping of `cnc.dat`: connect again at most once per media driver restart.
//! - No component on the same Aeron directory may use static counters, and the media driver must be
//!   restarted before it has sent 2 GiB of events; either ends every such client.
//! - Publications and subscriptions stay on the client's thread.

mod handles;
mod opening;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aeron_rs::aeron::Aeron;
use aeron_rs::context::Context;
use aeron_rs::image::Image;
use aeron_rs::utils::errors::{AeronError, DriverInteractionError, GenericError};

use self::opening::Opening;
use super::assembler::Assembler;
use super::channel::untethered;
use super::connect::look_before;
use super::inbox::Inbox;
use crate::pubsub::{Dead, ImageEvent, MessageClient};

pub use self::handles::{AeronRsPublication, AeronRsSubscription};
pub use self::opening::{OpeningPublication, OpeningSubscription};
pub use super::connect::{AeronConfig, ConnectError};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the aeron-rs feature works on x86-64 only: the library misreads cnc.dat elsewhere");

/// Longest channel text in bytes; the library panics on longer ones.
pub const CHANNEL_MAX: usize = 440;
/// How long one wait for the media driver's answer sleeps between two looks.
const ANSWER_NAP: Duration = Duration::from_micros(50);

/// One client of a media driver through the pure Rust library.
pub struct AeronRsClient {
    core: Rc<Core>,
    config: AeronConfig,
    /// Which media driver it is connected to: pid and start time.
    incarnation: (i64, i64),
    next_look: Cell<Instant>,
}

/// The library's client; lives until the last handle has gone.
struct Core {
    /// Taken when this is dropped.
    aeron: Option<RefCell<Aeron>>,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    /// Why the client is over. Shared with the library's error handler.
    dead: Arc<Mutex<Option<Dead>>>,
    /// Its client was dropped, with nothing wrong.
    closed: Cell<bool>,
    /// The library panicked or waits for an answer: its drops would abort or hang.
    broken: Cell<bool>,
    events: RefCell<VecDeque<ImageEvent>>,
}

impl State {
    fn check(&self) -> Result<(), Dead> {
        if self.closed.get() {
            return Err(Dead::Closed("its client was dropped".to_owned()));
        }
        lock(&self.dead).clone().map_or(Ok(()), Err)
    }

    /// The first reason stays.
    fn end(&self, dead: Dead) -> Dead {
        lock(&self.dead).get_or_insert(dead).clone()
    }

    /// Runs code of the library that may panic.
    fn guard<T>(&self, code: impl FnOnce() -> T) -> Result<T, Dead> {
        self.check()?;
        catch_unwind(AssertUnwindSafe(code)).map_err(|_| {
            self.broken.set(true);
            self.end(Dead::Closed("the aeron-rs library panicked".to_owned()))
        })
    }
}

impl Core {
    const fn aeron(&self) -> &RefCell<Aeron> {
        present(self.aeron.as_ref())
    }
}

impl AeronRsClient {
    /// Makes a client of the media driver in `config.dir`. Does not wait for one to appear.
    ///
    /// # Errors
    /// [`ConnectError`] when there is no live media driver or the library refuses.
    pub fn connect(config: &AeronConfig) -> Result<Self, ConnectError> {
        let cnc = look_before(config)?;
        let dir = config.dir.to_str().ok_or_else(|| ConnectError::Path {
            dir: config.dir.clone(),
        })?;
        let state = Rc::new(State::default());
        let mut context = Context::new();
        context.set_aeron_dir(dir.to_owned());
        context.set_use_conductor_agent_invoker(true);
        let timeout_ms = u64::try_from(config.driver_timeout.as_millis()).unwrap_or(u64::MAX);
        context.set_media_driver_timeout(timeout_ms);
        let dead = Arc::clone(&state.dead);
        context.set_error_handler(move |error: AeronError| {
            if let Some(fatal) = fatal(&error) {
                lock(&dead).get_or_insert(fatal);
            }
        });
        let refused = |message: String| ConnectError::Library {
            what: "connection",
            message,
        };
        let aeron = state
            .guard(|| Aeron::new(context))
            .map_err(|dead| refused(dead.to_string()))?
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            core: Rc::new(Core {
                aeron: Some(RefCell::new(aeron)),
                state,
            }),
            config: config.clone(),
            incarnation: (cnc.pid, cnc.start_timestamp_ms),
            next_look: Cell::new(Instant::now()),
        })
    }

    /// The library takes a media driver that stopped cleanly for alive for ever, so the file is
    /// looked at as well, four times per timeout.
    fn look(&self) {
        let now = Instant::now();
        if now < self.next_look.get() {
            return;
        }
        self.next_look.set(now + self.config.driver_timeout / 4);
        let gone = match look_before(&self.config) {
            Ok(cnc) if (cnc.pid, cnc.start_timestamp_ms) == self.incarnation => return,
            Ok(_) => "another one has taken its place".to_owned(),
            Err(error) => error.to_string(),
        };
        self.core.state.end(Dead::MediaDriver(gone));
    }

    fn conduct(&self) -> Result<usize, Dead> {
        let state = &self.core.state;
        self.look();
        let aeron = self.core.aeron().borrow();
        let work = state.guard(|| aeron.conductor_agent_invoker().invoke())?;
        if state.guard(|| aeron.is_closed())? {
            state.end(Dead::Closed("by the aeron-rs library".to_owned()));
        }
        state.check()?;
        Ok(usize::try_from(work).unwrap_or(0))
    }

    /// Drives the client until `poll` has something, for at most the driver timeout.
    fn wait<T>(
        &mut self,
        mut poll: impl FnMut(&mut Self) -> Result<Option<T>, Dead>,
    ) -> Result<T, Dead> {
        loop {
            self.conduct()?;
            if let Some(ready) = poll(self)? {
                return Ok(ready);
            }
            std::thread::sleep(ANSWER_NAP);
        }
    }

    fn find<T>(
        &self,
        opening: &mut Opening,
        find: impl FnOnce(&mut Aeron, i64) -> Result<T, AeronError>,
    ) -> Result<Option<T>, Dead> {
        let state = &self.core.state;
        state.check()?;
        let found = state.guard(|| find(&mut self.core.aeron().borrow_mut(), opening.id))?;
        match found {
            Ok(found) => {
                opening.answered = true;
                Ok(Some(found))
            }
            Err(error) if !is_pending(&error) => {
                opening.answered = true;
                Err(refused(&opening.what, &error))
            }
            Err(_) if Instant::now() < opening.until => Ok(None),
            Err(_) => {
                let (what, ms) = (&opening.what, self.config.driver_timeout.as_millis());
                let silent = format!("no answer to {what} within {ms} ms");
                Err(state.end(Dead::MediaDriver(silent)))
            }
        }
    }

    fn opening(&self, id: i64, what: String) -> Opening {
        Opening {
            id,
            what,
            until: Instant::now() + self.config.driver_timeout,
            answered: false,
            state: Rc::clone(&self.core.state),
        }
    }
}

impl MessageClient for AeronRsClient {
    type Publication = AeronRsPublication;
    type Subscription = AeronRsSubscription;
    type OpeningPublication = OpeningPublication;
    type OpeningSubscription = OpeningSubscription;

    fn add_publication(&mut self, channel: &str, stream: i32) -> Result<Self::Publication, Dead> {
        let mut opening = self.begin_publication(channel, stream)?;
        self.wait(|client| client.poll_publication(&mut opening))
    }

    fn add_subscription(&mut self, channel: &str, stream: i32) -> Result<Self::Subscription, Dead> {
        let mut opening = self.begin_subscription(channel, stream)?;
        self.wait(|client| client.poll_subscription(&mut opening))
    }

    fn begin_publication(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Result<OpeningPublication, Dead> {
        let what = format!("a publication on {channel}, stream {stream}");
        let uri = c_string(channel)?;
        let id = self
            .core
            .state
            .guard(|| {
                let mut aeron = self.core.aeron().borrow_mut();
                aeron.add_exclusive_publication(uri, stream)
            })?
            .map_err(|error| refused(&what, &error))?;
        Ok(OpeningPublication(self.opening(id, what)))
    }

    fn begin_subscription(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Result<OpeningSubscription, Dead> {
        let what = format!("a subscription on {channel}, stream {stream}");
        let uri = c_string(&untethered(channel))?;
        let state = &self.core.state;
        let queue = |event: fn(i32, i32) -> ImageEvent| {
            let state = Rc::clone(state);
            move |image: &Image| {
                let event = event(stream, image.session_id());
                state.events.borrow_mut().push_back(event);
            }
        };
        let up = queue(|stream, session| ImageEvent::Up { stream, session });
        let down = queue(|stream, session| ImageEvent::Down { stream, session });
        let id = state
            .guard(|| {
                let mut aeron = self.core.aeron().borrow_mut();
                aeron.add_subscription_opt(uri, stream, Box::new(up), Box::new(down))
            })?
            .map_err(|error| refused(&what, &error))?;
        Ok(OpeningSubscription(self.opening(id, what)))
    }

    fn poll_publication(
        &mut self,
        opening: &mut OpeningPublication,
    ) -> Result<Option<AeronRsPublication>, Dead> {
        let found = self.find(&mut opening.0, |aeron, id| {
            aeron.find_exclusive_publication(id)
        })?;
        let Some(inner) = found else { return Ok(None) };
        let (max, session) = self.core.state.guard(|| {
            let inner = lock(&inner);
            (inner.max_message_length(), inner.session_id())
        })?;
        Ok(Some(AeronRsPublication {
            inner: Some(inner),
            core: Rc::clone(&self.core),
            scratch: Vec::new(),
            max_message_len: usize::try_from(max).unwrap_or(0),
            session,
        }))
    }

    fn poll_subscription(
        &mut self,
        opening: &mut OpeningSubscription,
    ) -> Result<Option<AeronRsSubscription>, Dead> {
        let found = self.find(&mut opening.0, Aeron::find_subscription)?;
        Ok(found.map(|inner| AeronRsSubscription {
            inner: Some(inner),
            core: Rc::clone(&self.core),
            inbox: Inbox::default(),
            assembler: Assembler::default(),
        }))
    }

    fn do_work(&mut self, events: &mut dyn FnMut(ImageEvent)) -> Result<usize, Dead> {
        let result = self.conduct();
        let queued = std::mem::take(&mut *self.core.state.events.borrow_mut());
        let count = queued.len();
        queued.into_iter().for_each(events);
        result.map(|work| work + count)
    }
}

impl Drop for AeronRsClient {
    fn drop(&mut self) {
        // The media driver is to hear of what was closed before.
        let _conducted = self.conduct();
        self.core.state.closed.set(true);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.state.closed.set(false);
        let aeron = self.aeron.take();
        if let Some(aeron) = &aeron {
            let last_work = || aeron.borrow().conductor_agent_invoker().invoke();
            let _conducted = self.state.guard(last_work);
        }
        release(&self.state, aeron);
    }
}

impl std::fmt::Debug for AeronRsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AeronRsClient").finish_non_exhaustive()
    }
}

/// Drops an object of the library, or leaks it where dropping would abort or hang.
fn release<T>(state: &State, object: Option<T>) {
    if state.broken.get() {
        std::mem::forget(object);
    } else if catch_unwind(AssertUnwindSafe(|| drop(object))).is_err() {
        state.broken.set(true);
    }
}

const fn present<T>(object: Option<&T>) -> &T {
    object.expect("objects of the library are taken by drop only")
}

/// The errors after which the library must not be driven any more.
fn fatal(error: &AeronError) -> Option<Dead> {
    match error {
        AeronError::DriverTimeout(
            DriverInteractionError::WasInactive(_)
            | DriverInteractionError::Inactive
            | DriverInteractionError::NoHeartbeatDetected,
        ) => Some(Dead::MediaDriver(error.to_string())),
        AeronError::ClientTimeoutException
        | AeronError::BroadcastTransmitError(_)
        | AeronError::Generic(
            GenericError::ClientHeartbeatNotActive
            | GenericError::TimeoutBetweenServiceCallsOverTimeout(_),
        ) => Some(Dead::ClientTimeout(error.to_string())),
        _ => None,
    }
}

/// Whether the media driver has not answered yet. Its limit is ours: a registration is never given up
/// while the library may be dropped.
const fn is_pending(error: &AeronError) -> bool {
    matches!(
        error,
        AeronError::SubscriptionNotReady(_)
            | AeronError::PublicationNotReady(_)
            | AeronError::Generic(GenericError::ExclusivePublicationNotReadyYet { .. })
            | AeronError::DriverTimeout(DriverInteractionError::NoResponse(_))
    )
}

fn c_string(channel: &str) -> Result<CString, Dead> {
    if channel.len() > CHANNEL_MAX {
        return Err(Dead::Closed(format!(
            "the channel has {} bytes, at most {CHANNEL_MAX} work here",
            channel.len()
        )));
    }
    CString::new(channel)
        .map_err(|_| Dead::Closed(format!("the channel {channel:?} holds a zero byte")))
}

fn refused(what: &str, error: &AeronError) -> Dead {
    Dead::Closed(format!("the media driver refused {what}: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
