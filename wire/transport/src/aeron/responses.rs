//! Publications on streams that peers name: made when needed, kept while used, bounded in number.

use tensorpool_wire::MonoNanos;

use super::outbox::{Outbox, OutboxLimits};
use crate::port::Coalesce;
use crate::pubsub::{MessageClient, Publication, SendError};

/// At most so many at once, 3 MiB of terms each.
const RESPONSES_MAX: usize = 16;
/// Closed when unused for so long, in nanoseconds: longer than a client repeats its request.
const IDLE_NANOS: u64 = 30_000_000_000;
/// Terms of 1 MiB carry messages of 128 KiB, as long as the longest answer.
const CHANNEL: &str = "aeron:ipc?term-length=1m";

pub(super) struct Responses<P> {
    limits: OutboxLimits,
    open: Vec<Response<P>>,
}

struct Response<P> {
    stream: i32,
    publication: P,
    outbox: Outbox,
    used: MonoNanos,
}

impl<P: Publication> Responses<P> {
    pub(super) const fn new(limits: OutboxLimits) -> Self {
        Self {
            limits,
            open: Vec::new(),
        }
    }

    pub(super) fn is_own(&self, session: i32) -> bool {
        self.open
            .iter()
            .any(|response| response.publication.session() == session)
    }

    pub(super) fn send<C: MessageClient<Publication = P>>(
        &mut self,
        client: &mut C,
        now: MonoNanos,
        stream: i32,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        let index = match self.open.iter().position(|known| known.stream == stream) {
            Some(index) => index,
            None => self.add(client, now, stream)?,
        };
        let response = &mut self.open[index];
        response.used = now;
        let publication = &mut response.publication;
        response
            .outbox
            .send(publication, bytes, Coalesce::Never, false)
    }

    /// Sends what waits and closes what was long unused.
    pub(super) fn work(&mut self, now: MonoNanos) {
        for response in &mut self.open {
            if !response.outbox.is_empty() {
                response.outbox.flush(&mut response.publication, now);
            }
        }
        self.open.retain(|response| {
            !response.outbox.is_empty() || now.saturating_since(response.used) < IDLE_NANOS
        });
    }

    fn add<C: MessageClient<Publication = P>>(
        &mut self,
        client: &mut C,
        now: MonoNanos,
        stream: i32,
    ) -> Result<usize, SendError> {
        if self.open.len() >= RESPONSES_MAX {
            let oldest = (0..self.open.len())
                .filter(|index| self.open[*index].outbox.is_empty())
                .min_by_key(|index| self.open[*index].used)
                .ok_or(SendError::BackPressured)?;
            self.open.remove(oldest);
        }
        let publication = client
            .add_publication(CHANNEL, stream)
            .map_err(|dead| SendError::Closed(dead.to_string()))?;
        self.open.push(Response {
            stream,
            publication,
            outbox: Outbox::new(self.limits),
            used: now,
        });
        Ok(self.open.len() - 1)
    }
}
