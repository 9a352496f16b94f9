//! What the data path holds: publications and subscriptions, usable on any one thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusteron_client::{AeronExclusivePublication, AeronOfferError, AeronSubscription};

use super::shared::{Handle, Images, Shared, lock};
use crate::aeron::assembler::Assembler;
use crate::aeron::ffi;
use crate::aeron::inbox::Inbox;
use crate::pubsub::{Dead, Delivery, Publication, SendError, Subscription};

/// Fragments read in one poll at most while no message is complete.
const FRAGMENTS_PER_POLL: usize = 4096;

/// An exclusive publication of a [`RusteronClient`](super::RusteronClient).
pub struct RusteronPublication {
    /// Taken when the publication is dropped.
    pub(super) inner: Option<AeronExclusivePublication>,
    pub(super) shared: Arc<Shared>,
    pub(super) max_message_len: usize,
    pub(super) session: i32,
}

/// A subscription of a [`RusteronClient`](super::RusteronClient).
pub struct RusteronSubscription {
    /// Taken when the subscription is dropped.
    pub(super) inner: Option<AeronSubscription>,
    pub(super) shared: Arc<Shared>,
    pub(super) images: Arc<Images>,
    pub(super) inbox: Inbox,
    pub(super) assembler: Assembler,
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
        let publication = publication(self.inner.as_ref());
        let outcome = match publication.offer(message) {
            // The log was rotating, once per term: the next offer goes into the next one.
            Err(AeronOfferError::AdminAction) => publication.offer(message),
            outcome => outcome,
        };
        match outcome {
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
            if let Err(dead) = self.shared.check() {
                return if count == 0 { Err(dead) } else { Ok(count) };
            }
            if self.images.some_gone.load(Ordering::Acquire) {
                self.images.some_gone.store(false, Ordering::Release);
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

fn publication(inner: Option<&AeronExclusivePublication>) -> &AeronExclusivePublication {
    inner.expect("the publication is taken by drop only")
}
