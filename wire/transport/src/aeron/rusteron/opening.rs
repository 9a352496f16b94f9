//! What was asked of the media driver and is not answered yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusteron_client::{AeronAsyncAddExclusivePublication, AeronAsyncAddSubscription, AeronCError};

use super::handles::{RusteronPublication, RusteronSubscription};
use super::shared::{Images, Shared};
use crate::aeron::assembler::Assembler;
use crate::aeron::inbox::Inbox;
use crate::pubsub::Dead;

/// A question to the media driver, and how long its answer is waited for.
pub(super) struct Asking {
    /// What was asked for, for messages.
    pub(super) what: String,
    pub(super) until: Instant,
    pub(super) driver_timeout: Duration,
    pub(super) shared: Arc<Shared>,
}

impl Asking {
    /// Turns the library's answer into ours. A media driver that stays silent ends the client.
    fn answer<T>(&self, polled: Result<Option<T>, AeronCError>) -> Result<Option<T>, Dead> {
        self.shared.check()?;
        match polled {
            Ok(Some(ready)) => Ok(Some(ready)),
            Err(error) => Err(refused(&self.what, &error)),
            Ok(None) if Instant::now() < self.until => Ok(None),
            Ok(None) => {
                let (what, ms) = (&self.what, self.driver_timeout.as_millis());
                let silent = Dead::MediaDriver(format!("no answer to {what} within {ms} ms"));
                self.shared.end(silent.clone());
                Err(silent)
            }
        }
    }
}

/// A publication that was asked for. Dropped before the answer, it is given up.
pub struct OpeningPublication {
    pub(super) pending: AeronAsyncAddExclusivePublication,
    pub(super) asking: Asking,
}

impl OpeningPublication {
    pub(super) fn poll(&mut self) -> Result<Option<RusteronPublication>, Dead> {
        let Some(inner) = self.asking.answer(self.pending.poll())? else {
            return Ok(None);
        };
        let constants = inner
            .get_constants()
            .map_err(|error| refused(&self.asking.what, &error))?;
        Ok(Some(RusteronPublication {
            max_message_len: constants.max_message_length(),
            session: constants.session_id(),
            inner: Some(inner),
            shared: Arc::clone(&self.asking.shared),
        }))
    }
}

/// A subscription that was asked for. Dropped before the answer, it is given up.
pub struct OpeningSubscription {
    pub(super) pending: AeronAsyncAddSubscription,
    pub(super) images: Arc<Images>,
    pub(super) asking: Asking,
}

impl OpeningSubscription {
    pub(super) fn poll(&mut self) -> Result<Option<RusteronSubscription>, Dead> {
        let Some(inner) = self.asking.answer(self.pending.poll())? else {
            return Ok(None);
        };
        Ok(Some(RusteronSubscription {
            inner: Some(inner),
            shared: Arc::clone(&self.asking.shared),
            images: Arc::clone(&self.images),
            inbox: Inbox::default(),
            assembler: Assembler::default(),
        }))
    }
}

impl std::fmt::Debug for OpeningPublication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpeningPublication")
            .field(&self.asking.what)
            .finish()
    }
}

impl std::fmt::Debug for OpeningSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpeningSubscription")
            .field(&self.asking.what)
            .finish()
    }
}

pub(super) fn refused(what: &str, error: &AeronCError) -> Dead {
    Dead::Closed(format!(
        "the media driver refused {what}: {}",
        error.get_last_err_message()
    ))
}
