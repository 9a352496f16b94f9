//! What a client, its callbacks and its handles share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusteron_client::{AeronCError, AeronErrorType, AeronExclusivePublication, AeronSubscription};

use super::Faults;
use crate::aeron::cnc::Cnc;
use crate::aeron::connect::{AeronConfig, look_before};
use crate::pubsub::{Dead, ImageEvent};

/// What a client, its callbacks and its handles share.
pub(super) struct Shared {
    config: AeronConfig,
    /// Which media driver it is connected to: pid and start time.
    incarnation: (i64, i64),
    /// Set once, after `why`.
    over: AtomicBool,
    why: Mutex<Option<Dead>>,
    pub(super) events: Mutex<VecDeque<ImageEvent>>,
    pub(super) faults: Mutex<Faults>,
    pub(super) closing: Mutex<Closing>,
}

/// Where a dropped handle goes.
pub(super) enum Closing {
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
pub(super) enum Handle {
    Publication(AeronExclusivePublication),
    Subscription(AeronSubscription),
}

/// Sessions of one subscription that are gone, for its assembler.
#[derive(Default)]
pub(super) struct Images {
    pub(super) some_gone: AtomicBool,
    pub(super) gone: Mutex<Vec<i32>>,
}

impl Shared {
    pub(super) fn new(config: &AeronConfig, cnc: &Cnc) -> Self {
        Self {
            config: config.clone(),
            incarnation: (cnc.pid, cnc.start_timestamp_ms),
            over: AtomicBool::default(),
            why: Mutex::default(),
            events: Mutex::default(),
            faults: Mutex::default(),
            closing: Mutex::default(),
        }
    }

    /// Whether the media driver that this client connected to is alive.
    fn driver_lives(&self) -> bool {
        look_before(&self.config)
            .is_ok_and(|cnc| (cnc.pid, cnc.start_timestamp_ms) == self.incarnation)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) // pairs with OVER in `end`
    }

    /// `Err` once the client is over.
    pub(super) fn check(&self) -> Result<(), Dead> {
        if !self.is_over() {
            return Ok(());
        }
        lock(&self.why).clone().map_or(Ok(()), Err)
    }

    pub(super) fn why(&self) -> String {
        lock(&self.why)
            .as_ref()
            .map_or_else(String::new, Dead::to_string)
    }

    /// The first reason stays.
    pub(super) fn end(&self, dead: Dead) {
        lock(&self.why).get_or_insert(dead);
        self.over.store(true, Ordering::Release); // OVER
    }

    /// Ends the client if the library's code says that it is over.
    pub(super) fn end_by(&self, error: &AeronCError) {
        self.report(error.code, error.get_last_err_message());
    }

    pub(super) fn report(&self, code: i32, message: &str) {
        // The library's codes are positive in its handler and negative where calls return them.
        match AeronErrorType::from_code(code.saturating_abs().saturating_neg()) {
            // It says so too when the media driver lives and has freed this client's counter.
            AeronErrorType::ClientErrorDriverTimeout if self.driver_lives() => {
                self.end(Dead::ClientTimeout(message.to_owned()));
            }
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

    pub(super) fn close(&self, handle: Handle) {
        match &mut *lock(&self.closing) {
            Closing::ByClient(waiting) => waiting.push(handle),
            Closing::InPlace => drop(handle),
        }
    }

    pub(super) fn take_closing(&self) -> Vec<Handle> {
        match &mut *lock(&self.closing) {
            Closing::ByClient(waiting) => std::mem::take(waiting),
            Closing::InPlace => Vec::new(),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
