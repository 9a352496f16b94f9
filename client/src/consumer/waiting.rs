//! Waiting for a frame: spinning, naps, and the last look before each of them.

use std::time::Duration;

use tensorpool_shm::{Idle, Look};

#[cfg(feature = "async")]
use super::DROPS_PER_POLL;
use super::{Consumer, Looked, Notify, check};
use crate::clock::mono_now;
use crate::error::PollError;
use crate::frame::Frame;
use crate::stats::DropReason;

impl Consumer {
    /// The next frame, waiting for it up to `timeout`: first spinning, later sleeping in naps of a
    /// few milliseconds at most.
    ///
    /// # Errors
    /// As for [`Consumer::next`].
    // spec: X-1-22 X-1-24
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Frame<'_>>, PollError> {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let deadline = mono_now().saturating_add(nanos);
        let mut is_there = self.look()?;
        while !is_there {
            match self.idle.next(mono_now(), deadline) {
                Idle::Spin => std::hint::spin_loop(),
                Idle::TimedOut => return Ok(None),
                Idle::Nap(at_most) => is_there = self.nap(at_most),
            }
            is_there = is_there || self.look()?;
        }
        self.idle.on_frame(mono_now());
        Ok(self.frame_if(is_there))
    }

    /// A look past holes and, if nothing is there, one sleep.
    fn nap(&mut self, at_most: Duration) -> bool {
        match self.look_past_holes() {
            Looked::Found => return true,
            Looked::Dropped => return false,
            Looked::Nothing => {}
        }
        let Some(reading) = &self.reading else {
            self.seat
                .handover
                .wait_for(at_most, |status, _| status.is_mapped.then_some(()));
            return false;
        };
        let next = match self.notify {
            Notify::Ring => reading.cursor.next(),
            Notify::Descriptor => reading
                .expected
                .unwrap_or_else(|| reading.mapped.regions.newest()),
        };
        let nap = reading.mapped.regions.nap(next, at_most);
        self.idle.on_nap(nap);
        false
    }

    /// The last look at the ring before somebody sleeps: behind holes as well.
    // spec: X-1-16
    fn look_past_holes(&mut self) -> Looked {
        let Some(reading) = self
            .reading
            .as_mut()
            .filter(|_| self.notify == Notify::Ring)
        else {
            return Looked::Nothing;
        };
        let look = reading
            .mapped
            .regions
            .poll_frame_before_sleep(&mut reading.cursor, &mut reading.parser);
        self.trace = None;
        let looked = match look {
            Ok(Look::Empty) | Err(_) => Looked::Nothing,
            Ok(Look::Frame(parsed)) => check(&self.shared, parsed),
            Ok(Look::Skipped(skip)) => {
                self.shared.counters.drop_frames(skip.into(), skip.lost());
                Looked::Dropped
            }
        };
        if looked == Looked::Found && self.is_too_soon() {
            self.shared.counters.leave_out(DropReason::RateLimited);
            return Looked::Dropped;
        }
        looked
    }

    /// What somebody who waits in this consumer's place has to look at.
    #[cfg(feature = "async")]
    pub(crate) fn vigil(&self) -> crate::stream::Vigil {
        let watched = self.reading.as_ref().map(|reading| {
            let next = match self.notify {
                Notify::Ring => Some(reading.cursor.next()),
                Notify::Descriptor => None,
            };
            (std::sync::Arc::clone(&reading.mapped), next)
        });
        crate::stream::Vigil {
            handover: std::sync::Arc::clone(&self.seat.handover),
            seen: self.seat.seen(),
            watched,
        }
    }

    /// The next frame, also behind a hole: the last look before somebody sleeps.
    #[cfg(feature = "async")]
    pub(crate) fn next_before_sleep(&mut self) -> Result<Option<Frame<'_>>, PollError> {
        let mut is_there = self.look()?;
        // What is left after that many drops wakes the task again at once.
        for _ in 0..DROPS_PER_POLL {
            if is_there {
                break;
            }
            match self.look_past_holes() {
                Looked::Nothing => break,
                Looked::Found => is_there = true,
                Looked::Dropped => is_there = self.look()?,
            }
        }
        Ok(self.frame_if(is_there))
    }
}
