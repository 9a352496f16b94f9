//! Drives all attachments of a client, on a thread of its own or by the application's calls.
//!
//! It owns the attachments and the time. The data path never waits for it (X-2-65).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tensorpool_wire::MonoNanos;

use crate::attachment::{Attachment, Now};
use crate::clock::{mono_now, wall_now};

/// The longest sleep of the conductor's thread.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How often a way without a descriptor to wait for is looked at (X-1-4).
const POLL_EVERY: Duration = Duration::from_millis(1);
/// How often an agent reads its sockets at most (X-2-68).
const AGENT_EVERY_NS: u64 = 1_000_000;

/// Makes an attachment on the conductor's thread: the way to a driver need not be sendable.
pub(crate) type Plan = Box<dyn FnOnce() -> Attachment + Send>;

/// What handles ask of the conductor.
pub(crate) enum Command {
    Attach(u64, Plan),
    Detach(u64),
    Close,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach(id, _) => write!(f, "Attach({id})"),
            Self::Detach(id) => write!(f, "Detach({id})"),
            Self::Close => f.write_str("Close"),
        }
    }
}

/// The queue of commands, and what wakes the conductor for them.
#[derive(Debug)]
pub(crate) struct Desk {
    commands: Mutex<VecDeque<Command>>,
    bell: OwnedFd,
}

impl Desk {
    pub(crate) fn new() -> std::io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self {
            commands: Mutex::new(VecDeque::new()),
            bell,
        }))
    }

    /// Queues a command. The queue is as bounded as the handles that fill it: one attach and one
    /// detach each, one close.
    pub(crate) fn ask(&self, command: Command) {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(command);
        self.ring();
    }

    /// Wakes the conductor.
    pub(crate) fn ring(&self) {
        // A bell that rings already (EAGAIN) rings.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn next(&self) -> Option<Command> {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    fn quiet(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
    }
}

/// All attachments of one client.
#[derive(Debug)]
pub(crate) struct Conductor {
    desk: Arc<Desk>,
    attachments: BTreeMap<u64, Attachment>,
    is_closing: bool,
}

impl Conductor {
    pub(crate) const fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            attachments: BTreeMap::new(),
            is_closing: false,
        }
    }

    /// One cycle. Returns how much there was to do.
    pub(crate) fn do_work(&mut self) -> usize {
        let now = Now {
            mono: mono_now(),
            wall: wall_now(),
        };
        let mut work = self.take_commands(now);
        for attachment in self.attachments.values_mut() {
            work += attachment.do_work(now);
        }
        self.attachments
            .retain(|_, attachment| !attachment.is_done());
        work
    }

    /// Whether the client was closed and every lease given back.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_closing && self.attachments.is_empty()
    }

    fn take_commands(&mut self, now: Now) -> usize {
        let mut work = 0;
        while let Some(command) = self.desk.next() {
            work += 1;
            match command {
                Command::Attach(id, plan) => {
                    self.attachments.insert(id, plan());
                }
                Command::Detach(id) => {
                    if let Some(attachment) = self.attachments.get_mut(&id) {
                        attachment.detach(now);
                    }
                }
                Command::Close => {
                    self.is_closing = true;
                    for attachment in self.attachments.values_mut() {
                        attachment.detach(now);
                    }
                }
            }
        }
        work
    }

    /// Sleeps until a message, a command or a deadline.
    fn sleep(&self) {
        let now = mono_now();
        let deadline = self
            .attachments
            .values()
            .filter_map(Attachment::next_deadline)
            .min();
        let mut limit = deadline.map_or(LONGEST_SLEEP, |at| {
            Duration::from_nanos(at.saturating_since(now)).min(LONGEST_SLEEP)
        });
        let mut fds = vec![PollFd::new(&self.desk.bell, PollFlags::IN)];
        for attachment in self.attachments.values() {
            match attachment.wait_fd() {
                Some(fd) => fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN)),
                None if attachment.is_linked() => limit = limit.min(POLL_EVERY),
                None => {}
            }
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        // An error or an interruption only makes the cycle come early.
        let _ = poll(&mut fds, Some(&timeout));
        self.desk.quiet();
    }

    /// The life of the conductor's own thread.
    pub(crate) fn run(mut self) {
        while !self.is_finished() {
            if self.do_work() == 0 && !self.is_finished() {
                self.sleep();
            }
        }
    }
}

impl Drop for Conductor {
    fn drop(&mut self) {
        for attachment in self.attachments.values_mut() {
            attachment.abandon();
        }
    }
}

/// A client's conductor in the application's hands.
///
/// Call [`Agent::do_work`] at least every 100 ms, and more often for short reaction times. While it is
/// not called no keepalive goes out: the driver ends the leases after its grace, 3 s by default.
#[derive(Debug)]
pub struct Agent {
    conductor: Conductor,
    last: Option<MonoNanos>,
}

/// What one call of [`Agent::do_work`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Messages, events and actions.
    pub done: usize,
    /// How late the call was for a deadline that matters (a keepalive, a retry), if it was late by more
    /// than 100 ms. A warning: the leases may be gone.
    pub late_by: Option<Duration>,
}

impl Agent {
    pub(crate) const fn new(conductor: Conductor) -> Self {
        Self {
            conductor,
            last: None,
        }
    }

    /// One cycle of the conductor. Reads the sockets at most once per millisecond; calls in between do
    /// nothing.
    // spec: X-2-68
    pub fn do_work(&mut self) -> Work {
        let now = mono_now();
        if self
            .last
            .is_some_and(|last| now.saturating_since(last) < AGENT_EVERY_NS)
        {
            return Work {
                done: 0,
                late_by: None,
            };
        }
        let deadline = self
            .conductor
            .attachments
            .values()
            .filter_map(Attachment::next_deadline)
            .min();
        let late_by = deadline
            .map(|at| Duration::from_nanos(now.saturating_since(at)))
            .filter(|late| self.last.is_some() && *late > Duration::from_millis(100));
        self.last = Some(now);
        Work {
            done: self.conductor.do_work(),
            late_by,
        }
    }

    /// Whether the client was closed and every lease given back.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.conductor.is_finished()
    }

    /// A descriptor that becomes readable when a handle has a wish, to be waited for together with
    /// the application's own.
    #[must_use]
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.conductor.desk.bell.as_fd()
    }
}
