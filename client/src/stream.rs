//! Frames as a `Stream`, for any executor.
//!
//! A thread of the stream waits in the executor's place: it spins for 120 µs after the last frame and
//! then sleeps on the next slot, as [`Consumer::wait`](crate::Consumer::wait) does, and wakes the task.
//! The frames themselves are read by the task.

use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_core::Stream;
use tensorpool_shm::{LONGEST_NAP, Nap, SPIN};
use tensorpool_wire::Seq;

use crate::clock::mono_now;
use crate::consumer::Consumer;
use crate::error::{ClientError, PollError};
use crate::frame::HeldFrame;
use crate::handover::Handover;
use crate::mapping::Mapped;

/// Frames of one consumer, each holding its memory. Ends never; an ended lease is an item, after
/// which the client attaches again by itself.
#[derive(Debug)]
pub struct FrameStream {
    consumer: Consumer,
    post: Arc<Post>,
    thread: Option<JoinHandle<()>>,
}

/// What a waiting task has to be woken for.
#[derive(Debug)]
pub(crate) struct Vigil {
    pub(crate) handover: Arc<Handover<Arc<Mapped>>>,
    pub(crate) seen: u64,
    /// The mapping, and the frame that is waited for; `None` where descriptors tell.
    pub(crate) watched: Option<(Arc<Mapped>, Option<Seq>)>,
}

/// Where a task leaves its vigil for the thread.
#[derive(Debug, Default)]
struct Post {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    task: Option<(Vigil, Waker)>,
    is_over: bool,
}

impl Post {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consumer {
    /// Turns the consumer into a stream of frames. Starts one thread, which ends with the stream.
    ///
    /// # Errors
    /// [`ClientError::Start`] if the process has no thread left.
    pub fn into_stream(self) -> Result<FrameStream, ClientError> {
        let post = Arc::new(Post::default());
        let watched = Arc::clone(&post);
        let thread = std::thread::Builder::new()
            .name("tensorpool-wait".to_owned())
            .spawn(move || keep_watch(&watched))
            .map_err(ClientError::Start)?;
        Ok(FrameStream {
            consumer: self,
            post,
            thread: Some(thread),
        })
    }
}

impl FrameStream {
    /// The consumer, for its counters and its description.
    #[must_use]
    pub const fn consumer(&self) -> &Consumer {
        &self.consumer
    }
}

impl Stream for FrameStream {
    type Item = Result<HeldFrame, PollError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        match stream.consumer.next_before_sleep() {
            Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame.hold()))),
            Ok(None) => {}
            Err(error) => return Poll::Ready(Some(Err(error))),
        }
        let vigil = stream.consumer.vigil();
        stream.post.lock().task = Some((vigil, context.waker().clone()));
        stream.post.changed.notify_one();
        Poll::Pending
    }
}

impl Drop for FrameStream {
    fn drop(&mut self) {
        {
            let mut state = self.post.lock();
            state.is_over = true;
            state.task = None;
        }
        self.post.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It looks at `is_over` after every nap of a millisecond.
            let _ = thread.join();
        }
    }
}

/// The life of the waiting thread.
fn keep_watch(post: &Post) {
    loop {
        let (vigil, waker) = {
            let mut state = post.lock();
            loop {
                if state.is_over {
                    return;
                }
                match state.task.take() {
                    Some(task) => break task,
                    None => {
                        state = post
                            .changed
                            .wait(state)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        };
        let began = mono_now();
        loop {
            let is_fresh =
                mono_now().saturating_since(began) < u64::try_from(SPIN.as_nanos()).unwrap_or(0);
            if vigil.is_due(is_fresh) {
                waker.wake();
                break;
            }
            let state = post.lock();
            if state.is_over || state.task.is_some() {
                break;
            }
        }
    }
}

impl Vigil {
    /// One look, with a nap unless the last frame is fresh. Whether the task should look itself.
    fn is_due(&self, is_fresh: bool) -> bool {
        if self.handover.has_changed_since(self.seen) {
            return true;
        }
        match &self.watched {
            None => {
                self.handover
                    .wait_for(LONGEST_NAP, |status, _| status.is_mapped.then_some(()));
                self.handover.has_changed_since(self.seen)
            }
            // A descriptor may be late or lost, so the task looks once in a while.
            Some((_, None)) => {
                std::thread::sleep(if is_fresh {
                    Duration::from_micros(20)
                } else {
                    LONGEST_NAP
                });
                true
            }
            Some((mapped, Some(next))) if is_fresh => {
                std::hint::spin_loop();
                mapped.regions.read(*next).is_ok()
            }
            Some((mapped, Some(next))) => match mapped.regions.nap(*next, LONGEST_NAP) {
                Nap::Ready | Nap::Woken => true,
                // Committed behind a hole, or poisoned: the task finds out.
                Nap::TimedOut => mapped.regions.newest() > *next || mapped.regions.is_poisoned(),
            },
        }
    }
}
