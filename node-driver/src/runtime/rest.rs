//! How long the duty cycle sleeps between two cycles, and what ends a sleep early.
//!
//! A sleep costs what a hundred packets cost to handle, so what nobody waits for is gathered: after a
//! cycle that only kept leases alive or repeated state the next packets may wait for a few
//! milliseconds, all together. Where somebody waits for what was done, sleeps are short.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tensorpool_driver_core::Action;
use tensorpool_transport::socket::SocketServer;
use tensorpool_wire::Message;

use crate::control::Commands;

// spec: X-2-63
const BESIDE_A_RELAY_NS: u64 = 100_000;
/// While somebody waits for something.
const SHORT_NS: u64 = 1_000_000;
/// To gather what nobody waits for; between looks at Aeron, which wakes nobody. Whatever is due may
/// be late by as much.
const GATHER_NS: u64 = 4_000_000;
/// Where everything that cannot wait ends the sleep, or nothing has happened for a while.
const LONG_NS: u64 = 10_000_000;
/// So many cycles without anything to do are a while: a quarter of a second.
const QUIET_CYCLES: u32 = 64;

/// What a cycle left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    /// There is more to do at once.
    pub(super) goes_on: bool,
    /// Something was done.
    pub(super) worked: bool,
    /// Cycles since something was done.
    pub(super) quiet_cycles: u32,
    /// Somebody waits for what was done, or for what the file worker does.
    pub(super) awaited: bool,
    pub(super) has_socket: bool,
    pub(super) has_aeron: bool,
    /// A relay has subscribers.
    pub(super) relays_are_heard: bool,
    /// An Aeron producer waits when we do not drain.
    pub(super) holds_descriptors: bool,
}

/// A sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// At most so long.
    pub(super) nanos: u64,
    /// Whether the socket ends it.
    pub(super) wakes: bool,
}

impl Outlook {
    /// The sleep after this cycle, `due_in` nanoseconds before the core wants its next tick.
    pub(super) fn rest(&self, due_in: Option<u64>) -> Option<Rest> {
        if self.goes_on {
            return None;
        }
        if self.relays_are_heard {
            let nanos = BESIDE_A_RELAY_NS;
            return Some(Rest {
                nanos,
                wakes: false,
            });
        }
        let longest = if self.awaited || self.holds_descriptors {
            SHORT_NS
        } else if self.worked || (self.must_look() && self.quiet_cycles < QUIET_CYCLES) {
            GATHER_NS
        } else {
            LONG_NS
        };
        Some(Rest {
            nanos: due_in.map_or(longest, |due| longest.min(due.max(GATHER_NS))),
            // The packets of ten thousand clients come one by one: woken for each, a busy driver
            // would do nothing else.
            wakes: !self.worked,
        })
    }

    /// Whether there is a way in that does not end a sleep.
    const fn must_look(&self) -> bool {
        self.has_aeron || !self.has_socket
    }
}

/// Whether somebody may be waiting for this, unlike for what is repeated anyway.
pub(super) const fn is_awaited(action: &Action) -> bool {
    match action {
        Action::Send { message, .. } => match message {
            Message::ShmPoolAnnounce(_) | Message::QosProducer(_) | Message::QosConsumer(_) => {
                false
            }
            Message::ShmAttachRequest(_)
            | Message::ShmAttachResponse(_)
            | Message::ShmDetachRequest(_)
            | Message::ShmDetachResponse(_)
            | Message::ShmLeaseKeepalive(_)
            | Message::ShmDriverShutdown(_)
            | Message::ShmDriverShutdownRequest(_)
            | Message::ShmLeaseRevoked(_)
            | Message::ConsumerHello(_)
            | Message::ConsumerConfig(_)
            | Message::ControlResponse(_)
            | Message::FrameDescriptor(_)
            | Message::FrameProgress(_)
            | Message::DataSourceAnnounce(_)
            | Message::DataSourceMeta(_)
            | Message::MetaBlobAnnounce(_)
            | Message::MetaBlobChunk(_)
            | Message::MetaBlobComplete(_)
            | Message::DiscoveryRequest(_)
            | Message::DiscoveryResponse(_) => true,
        },
        Action::RefreshActivity { .. } | Action::MarkEpoch { .. } | Action::Note(_) => false,
        Action::AnswerStatus { .. }
        | Action::PersistEpoch { .. }
        | Action::CreateRegions { .. }
        | Action::RemoveEpoch { .. }
        | Action::StartRelay { .. }
        | Action::StopRelay { .. }
        | Action::HoldDescriptors { .. }
        | Action::ReleaseDescriptors { .. }
        | Action::MarkAttached { .. }
        | Action::Disconnect { .. }
        | Action::Stop => true,
    }
}

/// Sleeps until somebody asks, until the socket is readable, if there is one to wake for, or until the
/// time is over.
pub(super) fn sleep(commands: &Commands, socket: Option<&SocketServer>, nanos: u64) {
    let timeout = Timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(0),
        tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
    };
    let asked = commands.as_fd();
    let asked = PollFd::new(&asked, PollFlags::IN);
    let woken = match socket {
        Some(socket) => {
            let fd = socket.as_fd();
            let arrived = PollFd::new(&fd, PollFlags::IN);
            poll(&mut [asked, arrived], Some(&timeout))
        }
        None => poll(&mut [asked], Some(&timeout)),
    };
    // EINTR: a signal, which the next cycle sees. Nothing else can fail with these arguments.
    debug_assert!(matches!(woken, Ok(_) | Err(rustix::io::Errno::INTR)));
}
