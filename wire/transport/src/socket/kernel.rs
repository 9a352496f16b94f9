//! The server's system calls, over `epoll`.
//!
//! Two instances: one tells what is ready, the other only who has hung up, so that closes can be asked
//! for again without looking at everybody who has something to say.

use std::collections::BTreeMap;
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags};
use tensorpool_wire::{ConnectionId, LogicalStream};

use super::listener::Listener;
use super::packet::{self, MAX_PACKET_LEN, PREFIX_LEN};
use super::sockets::{Accepted, Peer, Ready, Received, Sent, Sockets};

/// Marks the token of a listener; connection ids stay below.
const LISTENER: u64 = 1 << 63;

/// What is asked of the kernel as send buffer. It doubles the number for its own bookkeeping.
const SEND_BUFFER: usize = MAX_PACKET_LEN;

/// What is asked for last words, so that a peer that did not read can still be told why.
const LAST_WORDS_BUFFER: usize = 3 * MAX_PACKET_LEN / 2;

/// What is watched of a connection at first.
const INTEREST: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);

const NO_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

#[derive(Debug)]
struct Open {
    socket: OwnedFd,
    interest: EventFlags,
}

/// Listening sockets and connections of one server.
pub(crate) struct Kernel {
    ready: OwnedFd,
    hangups: OwnedFd,
    listeners: BTreeMap<u32, Listener>,
    connections: BTreeMap<ConnectionId, Open>,
    events: Vec<epoll::Event>,
    /// Given up for a moment to turn somebody away when no descriptor is left.
    spare: Option<OwnedFd>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("listeners", &self.listeners)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Kernel {
    pub(crate) fn new() -> io::Result<Self> {
        let create = || epoll::create(epoll::CreateFlags::CLOEXEC);
        check_send_buffer()?;
        Ok(Self {
            ready: create()?,
            hangups: create()?,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            events: Vec::new(),
            spare: Some(create()?),
        })
    }

    pub(crate) fn has_listener(&self, attachment: u32) -> bool {
        self.listeners.contains_key(&attachment)
    }

    pub(crate) fn add_listener(&mut self, attachment: u32, listener: Listener) -> io::Result<()> {
        let token = EventData::new_u64(LISTENER | u64::from(attachment));
        epoll::add(&self.ready, listener.socket(), token, EventFlags::IN)?;
        self.listeners.insert(attachment, listener);
        Ok(())
    }

    pub(crate) fn take_listener(&mut self, attachment: u32) -> Option<Listener> {
        let listener = self.listeners.remove(&attachment)?;
        // Fails only for a descriptor that was never added; closing it removes it as well.
        let _ = epoll::delete(&self.ready, listener.socket());
        Some(listener)
    }

    pub(crate) fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    fn register(&self, id: ConnectionId, socket: &OwnedFd) -> io::Result<()> {
        rustix::net::sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER)?;
        let token = EventData::new_u64(id.0);
        epoll::add(&self.ready, socket, token, INTEREST)?;
        epoll::add(&self.hangups, socket, token, EventFlags::RDHUP)?;
        Ok(())
    }

    fn set_interest(&mut self, id: ConnectionId, change: impl FnOnce(EventFlags) -> EventFlags) {
        let Some(open) = self.connections.get_mut(&id) else {
            return;
        };
        let interest = change(open.interest);
        if interest == open.interest {
            return;
        }
        // Can only fail for want of kernel memory; then the old interest stays, and is tried again by
        // the next change.
        if epoll::modify(
            &self.ready,
            &open.socket,
            EventData::new_u64(id.0),
            interest,
        )
        .is_ok()
        {
            open.interest = interest;
        }
    }

    /// Accepts with the spare descriptor's place and closes at once: otherwise the listener would
    /// stay ready for ever.
    fn turn_away(&mut self, attachment: u32) -> Accepted {
        drop(self.spare.take());
        let Some(listener) = self.listeners.get(&attachment) else {
            return Accepted::Nobody;
        };
        let turned_away = rustix::net::accept_with(listener, SocketFlags::CLOEXEC);
        let outcome = match turned_away {
            Ok(socket) => turn_away(&socket, "this process has no file descriptor left"),
            Err(_) => Accepted::Nobody,
        };
        self.spare = epoll::create(epoll::CreateFlags::CLOEXEC).ok();
        outcome
    }
}

impl Sockets for Kernel {
    // spec: X-2-37
    fn ready(&mut self, found: &mut Vec<Ready>) -> io::Result<()> {
        let all = self.listeners.len() + self.connections.len();
        wait(&self.ready, &mut self.events, all)?;
        for event in self.events.drain(..) {
            let token = event.data.u64();
            let flags = event.flags;
            found.push(match u32::try_from(token & !LISTENER) {
                Ok(attachment) if token & LISTENER != 0 => Ready::Listener(attachment),
                Ok(_) | Err(_) => Ready::Connection {
                    id: ConnectionId(token),
                    input: flags.contains(EventFlags::IN),
                    output: flags.contains(EventFlags::OUT),
                    hung_up: flags.intersects(EventFlags::RDHUP | EventFlags::HUP),
                },
            });
        }
        Ok(())
    }

    fn hung_up(&mut self, found: &mut Vec<ConnectionId>) -> io::Result<()> {
        wait(&self.hangups, &mut self.events, self.connections.len())?;
        let hung = |event: &epoll::Event| {
            let flags = event.flags;
            flags.intersects(EventFlags::RDHUP | EventFlags::HUP)
        };
        let ids = self
            .events
            .drain(..)
            .filter(hung)
            .map(|event| ConnectionId(event.data.u64()));
        found.extend(ids);
        Ok(())
    }

    fn accept(&mut self, attachment: u32, id: ConnectionId) -> io::Result<Accepted> {
        let Some(listener) = self.listeners.get(&attachment) else {
            return Ok(Accepted::Nobody);
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => socket,
            // Out of memory for now: the listener stays ready, so it is tried again.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {
                return Ok(Accepted::Nobody);
            }
            Err(Errno::MFILE | Errno::NFILE) => return Ok(self.turn_away(attachment)),
            Err(errno) => return Err(errno.into()),
        };
        // rustix holds the pid as non-zero, which a peer in another PID namespace breaks.
        // spec: X-2-11
        let peer = getsockopt(&socket, sockopt::PeerCredentials).map_err(io::Error::from)?;
        let pid = u32::try_from(peer.pid()).unwrap_or(0);
        if self.register(id, &socket).is_err() {
            return Ok(turn_away(&socket, "the kernel has no room to watch it"));
        }
        let interest = INTEREST;
        self.connections.insert(id, Open { socket, interest });
        Ok(Accepted::Peer(Peer {
            pid,
            uid: peer.uid(),
        }))
    }

    /// Plain `recv` has no room for descriptors, so the kernel drops those that were sent.
    // spec: X-2-6, X-2-7
    fn receive(&mut self, id: ConnectionId, buffer: &mut [u8]) -> Received {
        let Some(open) = self.connections.get(&id) else {
            return Received::Nothing;
        };
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match rustix::net::recv(&open.socket, &mut *buffer, flags) {
                Ok((_, 0)) => return Received::Zero,
                Ok((_, len)) => return Received::Packet(len),
                // Said once when the peer closed with something unread; its last packets follow.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(_) => return Received::Nothing,
            }
        }
    }

    fn send(
        &mut self,
        id: ConnectionId,
        prefix: &[u8; PREFIX_LEN],
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Sent {
        match self.connections.get(&id) {
            Some(open) => send_packet(open.socket.as_fd(), prefix, body, fds),
            None => Sent::Gone,
        }
    }

    fn watch_output(&mut self, id: ConnectionId, watch: bool) {
        self.set_interest(id, |old| {
            if watch {
                old | EventFlags::OUT
            } else {
                old - EventFlags::OUT
            }
        });
    }

    fn watch_nothing(&mut self, id: ConnectionId) {
        self.set_interest(id, |_| EventFlags::RDHUP);
    }

    fn widen(&mut self, id: ConnectionId) {
        if let Some(open) = self.connections.get(&id) {
            // Best effort: without it the last words may not fit, which log and metric survive.
            let socket = &open.socket;
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, LAST_WORDS_BUFFER);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        // Explicitly out of both instances first: a descriptor that a child inherited in the middle
        // of a fork would otherwise keep reporting.
        if let Some(open) = self.connections.remove(&id) {
            let _ = epoll::delete(&self.ready, &open.socket);
            let _ = epoll::delete(&self.hangups, &open.socket);
        }
    }
}

/// Sends one packet. Never waits, never raises a signal.
// spec: X-2-6, X-2-8
pub(crate) fn send_packet(
    socket: BorrowedFd<'_>,
    prefix: &[u8; PREFIX_LEN],
    body: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Sent {
    let parts = [IoSlice::new(prefix), IoSlice::new(body)];
    let rights = SendAncillaryMessage::ScmRights(fds);
    let mut room = vec![MaybeUninit::uninit(); if fds.is_empty() { 0 } else { rights.size() }];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    if !fds.is_empty() && !ancillary.push(rights) {
        return Sent::Full;
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match rustix::net::sendmsg(socket, &parts, &mut ancillary, flags) {
        Ok(_) => Sent::Done,
        Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS | Errno::INTR) => {
            Sent::Full
        }
        Err(_) => Sent::Gone,
    }
}

/// Tells somebody who is closed at once why.
// spec: X-2-38
fn turn_away(socket: &OwnedFd, text: &'static str) -> Accepted {
    let body = packet::closing(text);
    if let Some(prefix) = packet::prefix(LogicalStream::Status, body.len()) {
        send_packet(socket.as_fd(), &prefix, &body, &[]);
    }
    Accepted::TurnedAway(text)
}

fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, all: usize) -> io::Result<()> {
    events.clear();
    // Room for everybody: whoever is left out of one look could be a close that must come first.
    events.reserve(all.max(1));
    match epoll::wait(epoll, spare_capacity(events), Some(&NO_WAIT)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether this system lets us send packets of the longest length.
fn check_send_buffer() -> io::Result<()> {
    let probe = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::sockopt::set_socket_send_buffer_size(&probe, SEND_BUFFER)?;
    let granted = rustix::net::sockopt::socket_send_buffer_size(&probe)?;
    if granted < 2 * SEND_BUFFER {
        return Err(io::Error::other(format!(
            "the kernel grants a send buffer of {granted} bytes, {} are needed: raise net.core.wmem_max to {SEND_BUFFER}",
            2 * SEND_BUFFER
        )));
    }
    Ok(())
}
