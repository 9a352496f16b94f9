//! What the data path holds. Stays on its client's thread.

use std::rc::Rc;
use std::sync::{Arc, Mutex};

use aeron_rs::concurrent::atomic_buffer::AtomicBuffer;
use aeron_rs::concurrent::logbuffer::header::Header;
use aeron_rs::exclusive_publication::ExclusivePublication;
use aeron_rs::subscription::Subscription as LibrarySubscription;
use aeron_rs::utils::errors::AeronError;

use super::{Core, lock, present, release};
use crate::aeron::assembler::Assembler;
use crate::aeron::inbox::{FRAGMENT_MAX, Inbox};
use crate::pubsub::{Dead, Delivery, Publication, SendError, Subscription};

/// Fragments read in one poll at most while no message is complete.
const FRAGMENTS_PER_POLL: usize = 4096;

/// An exclusive publication of an [`AeronRsClient`](super::AeronRsClient).
pub struct AeronRsPublication {
    /// Taken when the publication is dropped.
    pub(super) inner: Option<Arc<Mutex<ExclusivePublication>>>,
    pub(super) core: Rc<Core>,
    /// The library offers from memory that it may write.
    pub(super) scratch: Vec<u8>,
    pub(super) max_message_len: usize,
    pub(super) session: i32,
}

/// A subscription of an [`AeronRsClient`](super::AeronRsClient).
pub struct AeronRsSubscription {
    /// Taken when the subscription is dropped.
    pub(super) inner: Option<Arc<Mutex<LibrarySubscription>>>,
    pub(super) core: Rc<Core>,
    pub(super) inbox: Inbox,
    pub(super) assembler: Assembler,
}

impl Publication for AeronRsPublication {
    fn offer(&mut self, message: &[u8]) -> Result<(), SendError> {
        if message.len() > self.max_message_len {
            return Err(SendError::TooLong {
                len: message.len(),
                max: self.max_message_len,
            });
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(message);
        let buffer = AtomicBuffer::wrap_slice(&mut self.scratch);
        let inner = present(self.inner.as_ref());
        let outcome = self.core.state.guard(|| {
            let mut inner = lock(inner);
            match inner.offer(buffer) {
                // The log was rotating, once per term: the next offer goes into the next one.
                Err(AeronError::AdminAction) => inner.offer(buffer),
                outcome => outcome,
            }
        });
        match outcome {
            Err(dead) => Err(SendError::Closed(dead.to_string())),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(AeronError::NotConnected)) => Err(SendError::NotConnected),
            Ok(Err(AeronError::BackPressured)) => Err(SendError::BackPressured),
            Ok(Err(AeronError::AdminAction)) => Err(SendError::AdminAction),
            Ok(Err(error)) => Err(SendError::Closed(error.to_string())),
        }
    }

    fn is_connected(&self) -> bool {
        let connected = self
            .core
            .state
            .guard(|| lock(present(self.inner.as_deref())).is_connected());
        connected.unwrap_or(false)
    }

    fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    fn session(&self) -> i32 {
        self.session
    }
}

impl AeronRsSubscription {
    /// Messages dropped since the beginning: fragments with impossible lengths, without a beginning
    /// or an end, or too long together.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.assembler.dropped() + self.inbox.refused()
    }

    /// Copies at most `limit` fragments into the inbox; returns how many the library read.
    fn read(&mut self, limit: usize) -> Result<usize, Dead> {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        self.inbox.clear();
        let inbox = &mut self.inbox;
        let inner = present(self.inner.as_ref());
        let read = self.core.state.guard(|| {
            let mut copy = |buffer: &AtomicBuffer, offset: i32, len: i32, header: &Header| {
                copy_fragment(inbox, buffer, offset, len, header);
            };
            lock(inner).poll(&mut copy, limit)
        })?;
        Ok(usize::try_from(read).unwrap_or(0))
    }

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

impl Subscription for AeronRsSubscription {
    fn poll(
        &mut self,
        limit: usize,
        handler: &mut dyn FnMut(&[u8], Delivery),
    ) -> Result<usize, Dead> {
        let mut count = self.deliver(limit, handler);
        let mut fragments = 0;
        while count < limit && self.inbox.is_empty() && fragments < FRAGMENTS_PER_POLL {
            let read = match self.read(limit - count) {
                Ok(0) => break,
                Ok(read) => read,
                Err(dead) if count == 0 => return Err(dead),
                Err(_) => break,
            };
            fragments += read;
            count += self.deliver(limit - count, handler);
        }
        Ok(count)
    }

    fn image_count(&self) -> usize {
        let count = self
            .core
            .state
            .guard(|| lock(present(self.inner.as_deref())).image_count());
        count.unwrap_or(0)
    }
}

/// The length comes from shared memory; the buffer's from the library's own.
fn copy_fragment(inbox: &mut Inbox, buffer: &AtomicBuffer, offset: i32, len: i32, header: &Header) {
    let inside = usize::try_from(len).is_ok_and(|len| len <= FRAGMENT_MAX)
        && offset >= 0
        && offset
            .checked_add(len)
            .is_some_and(|end| end <= buffer.capacity());
    if !inside {
        inbox.refuse();
        return;
    }
    let start = inbox.bytes_mut().len();
    inbox
        .bytes_mut()
        .extend_from_slice(buffer.as_sub_slice(offset, len));
    inbox.close_fragment(header.session_id(), header.flags(), start);
}

impl Drop for AeronRsPublication {
    fn drop(&mut self) {
        release(&self.core.state, self.inner.take());
    }
}

impl Drop for AeronRsSubscription {
    fn drop(&mut self) {
        release(&self.core.state, self.inner.take());
    }
}

impl std::fmt::Debug for AeronRsPublication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AeronRsPublication")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AeronRsSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AeronRsSubscription")
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}
