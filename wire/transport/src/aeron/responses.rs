//! Publications on streams that peers name: made when needed, kept while used, bounded in number.

use tensorpool_wire::MonoNanos;

use super::outbox::{Outbox, OutboxCounts, OutboxLimits};
use crate::port::Coalesce;
use crate::pubsub::{MessageClient, Publication, SendError};

/// At most so many at once, 3 MiB of terms each.
const RESPONSES_MAX: usize = 16;
/// Closed when unused for so long, in nanoseconds: longer than a client repeats its request.
const IDLE_NANOS: u64 = 30_000_000_000;
/// Terms of 1 MiB carry messages of 128 KiB, as long as the longest answer.
const CHANNEL: &str = "aeron:ipc?term-length=1m";
/// Longest message that such terms carry.
const LEN_MAX: usize = 128 * 1024;

pub(super) struct Responses<C: MessageClient> {
    limits: OutboxLimits,
    open: Vec<Response<C>>,
    /// Of those that are closed again.
    past: OutboxCounts,
}

struct Response<C: MessageClient> {
    stream: i32,
    line: Line<C>,
    outbox: Outbox,
    used: MonoNanos,
}

/// Where a publication is in its life. What is sent before it is open waits in the outbox.
enum Line<C: MessageClient> {
    Opening(C::OpeningPublication),
    Open(C::Publication),
}

impl<C: MessageClient> Responses<C> {
    pub(super) fn new(limits: OutboxLimits) -> Self {
        Self {
            limits,
            open: Vec::new(),
            past: OutboxCounts::default(),
        }
    }

    pub(super) fn is_own(&self, session: i32) -> bool {
        self.open.iter().any(|response| match &response.line {
            Line::Open(publication) => publication.session() == session,
            Line::Opening(_) => false,
        })
    }

    /// What became of messages that were not sent at once, on all of them.
    pub(super) fn counts(&self) -> OutboxCounts {
        let open = self.open.iter().map(|response| response.outbox.counts());
        open.fold(self.past, OutboxCounts::plus)
    }

    pub(super) fn send(
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
        match &mut response.line {
            Line::Open(publication) => {
                response
                    .outbox
                    .send(publication, bytes, Coalesce::Never, false)
            }
            Line::Opening(_) => response.outbox.keep_for_later(bytes, LEN_MAX),
        }
    }

    /// Takes the media driver's answers, sends what waits and closes what was long unused.
    pub(super) fn work(&mut self, client: &mut C, now: MonoNanos) {
        self.open.retain_mut(|response| {
            let keeps = response.open(client) && response.is_used(now);
            if !keeps {
                response.outbox.give_up();
                self.past = self.past.plus(response.outbox.counts());
            }
            keeps
        });
        for response in &mut self.open {
            if let Line::Open(publication) = &mut response.line
                && !response.outbox.is_empty()
            {
                response.outbox.flush(publication, now);
            }
        }
    }

    fn add(&mut self, client: &mut C, now: MonoNanos, stream: i32) -> Result<usize, SendError> {
        if self.open.len() >= RESPONSES_MAX {
            let oldest = (0..self.open.len())
                .filter(|index| self.open[*index].outbox.is_empty())
                .min_by_key(|index| self.open[*index].used)
                .ok_or(SendError::BackPressured)?;
            let oldest = self.open.remove(oldest);
            self.past = self.past.plus(oldest.outbox.counts());
        }
        let asked = client
            .begin_publication(CHANNEL, stream)
            .map_err(|dead| SendError::Closed(dead.to_string()))?;
        self.open.push(Response {
            stream,
            line: Line::Opening(asked),
            outbox: Outbox::new(self.limits),
            used: now,
        });
        Ok(self.open.len() - 1)
    }
}

impl<C: MessageClient> Response<C> {
    /// Whether it is open or may still be. A refusal costs what waits for it; a media driver that is
    /// silent ends the client, which its next `do_work` says.
    fn open(&mut self, client: &mut C) -> bool {
        let Line::Opening(asked) = &mut self.line else {
            return true;
        };
        match client.poll_publication(asked) {
            Ok(Some(publication)) => {
                self.line = Line::Open(publication);
                true
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }

    fn is_used(&self, now: MonoNanos) -> bool {
        !self.outbox.is_empty() || now.saturating_since(self.used) < IDLE_NANOS
    }
}
