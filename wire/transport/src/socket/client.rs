//! A client's end of the socket.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tensorpool_wire::LogicalStream;

use super::packet::{self, MAX_BODY_LEN, MAX_PACKET_LEN};
use crate::port::{ClientInbound, ClientPort, MAX_FDS};
use crate::pubsub::{Dead, SendError};

/// Longest path that a socket address holds, in bytes.
const ADDRESS_PATH_MAX: usize = 107;

/// Packets taken in one poll.
const PACKETS_PER_POLL: usize = 32;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there now: no file yet, a driver between two lives, or one with a full queue.
    /// Later attempts can succeed.
    #[error("no driver answers at {} at the moment", path.display())]
    NoDriver {
        /// The socket file.
        path: PathBuf,
        /// ENOENT, ECONNREFUSED or EAGAIN.
        #[source]
        source: io::Error,
    },
    /// Anything else: no permission, not a socket, no descriptor left. Does not pass by itself.
    #[error("cannot connect to the driver's socket {}", path.display())]
    Failed {
        /// The socket file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_path_buf();
        let source = io::Error::from(errno);
        // spec: X-2-26
        if matches!(errno, Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) {
            Self::NoDriver { path, source }
        } else {
            Self::Failed { path, source }
        }
    }

    /// Whether to try again after a while.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoDriver { .. } => true,
            Self::Failed { .. } => false,
        }
    }

    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoDriver { .. } => "no_driver",
            Self::Failed { .. } => "failed",
        }
    }
}

/// One connection to a driver. Closed on exec; a forked child must not use it (X-2-24).
#[derive(Debug)]
pub struct SocketClient {
    socket: OwnedFd,
    packet: Box<[u8]>,
    ancillary: Box<[MaybeUninit<u8>]>,
    fds: Vec<OwnedFd>,
    /// The kernel has said that the other end closed with something unread.
    reset: bool,
    /// Why the driver closes, as it said.
    reason: Option<String>,
    dead: Option<Dead>,
}

impl SocketClient {
    /// Connects to the driver's socket file without waiting.
    ///
    /// # Errors
    /// [`ConnectError`], which says whether to try again.
    // spec: X-2-14, X-2-24
    pub fn connect(path: &Path) -> Result<Self, ConnectError> {
        let socket = connect(path).map_err(|errno| ConnectError::new(path, errno))?;
        let room = rustix::cmsg_space!(ScmRights(MAX_FDS));
        Ok(Self {
            socket,
            packet: vec![0; MAX_PACKET_LEN].into_boxed_slice(),
            ancillary: vec![MaybeUninit::uninit(); room].into_boxed_slice(),
            fds: Vec::new(),
            reset: false,
            reason: None,
            dead: None,
        })
    }

    /// What the driver said before it closed, if that is the next packet: whoever is refused may well
    /// send before it has read. The packet stays for `poll`.
    // spec: X-2-38
    fn last_words(&mut self) -> Option<String> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (_, len) = match rustix::net::recv(&self.socket, &mut self.packet[..], flags) {
            Err(Errno::CONNRESET) if !self.reset => {
                // Said once, ahead of what the driver had sent.
                self.reset = true;
                rustix::net::recv(&self.socket, &mut self.packet[..], flags).ok()?
            }
            received => received.ok()?,
        };
        match packet::parse(self.packet.get(..len)?) {
            Ok((LogicalStream::Status, bytes)) => {
                packet::closing_text(bytes).map(ToOwned::to_owned)
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// Receives one packet into `self.packet` and its descriptors into `self.fds`. `None`: nothing
    /// there now.
    // spec: X-2-10, X-2-29
    fn receive(&mut self) -> Option<Result<usize, Dead>> {
        self.fds.clear();
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut self.ancillary);
            let mut parts = [IoSliceMut::new(&mut self.packet)];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received = rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, flags);
            let message = match received {
                Ok(message) => message,
                Err(Errno::AGAIN) => return None,
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) if !self.reset => {
                    // Said once, ahead of what the driver had sent; read on to find the reason.
                    self.reset = true;
                    continue;
                }
                Err(errno) => return Some(Err(Dead::Closed(format!("receive failed: {errno}")))),
            };
            for part in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = part {
                    self.fds.extend(fds);
                }
            }
            let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
            return Some(match message.bytes {
                0 => Err(closed(self.reset, self.reason.as_deref())),
                _ if message.flags.intersects(cut) => {
                    let text = "the driver sent a packet or descriptors beyond the limit";
                    Err(Dead::Closed(text.to_owned()))
                }
                len => Ok(len),
            });
        }
    }
}

/// The end, with the driver's reason if it gave one.
pub(crate) fn closed(reset: bool, reason: Option<&str>) -> Dead {
    let how = if reset {
        "the driver closed with something unread"
    } else {
        "the driver closed the connection"
    };
    Dead::Closed(match reason {
        Some(why) => format!("{how}: {why}"),
        None => how.to_owned(),
    })
}

impl AsFd for SocketClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl ClientPort for SocketClient {
    fn poll(&mut self, handler: &mut dyn FnMut(ClientInbound<'_>)) -> Result<usize, Dead> {
        let mut count = 0;
        while count < PACKETS_PER_POLL && self.dead.is_none() {
            let len = match self.receive() {
                None => return Ok(count),
                Some(Ok(len)) => len,
                Some(Err(dead)) => {
                    self.dead = Some(dead);
                    break;
                }
            };
            match packet::parse(&self.packet[..len]) {
                // spec: X-2-38
                Ok((LogicalStream::Status, bytes)) if packet::closing_text(bytes).is_some() => {
                    self.reason = packet::closing_text(bytes).map(ToOwned::to_owned);
                }
                Ok((stream, bytes)) => {
                    count += 1;
                    handler(ClientInbound {
                        stream,
                        bytes,
                        fds: &mut self.fds,
                    });
                }
                // spec: X-2-5
                Err(error) => self.dead = Some(Dead::Closed(format!("driver's garbage: {error}"))),
            }
        }
        self.fds.clear();
        match &self.dead {
            Some(dead) if count == 0 => Err(dead.clone()),
            Some(_) | None => Ok(count),
        }
    }

    // spec: X-2-6
    fn send(&mut self, stream: LogicalStream, bytes: &[u8]) -> Result<(), SendError> {
        if let Some(dead) = &self.dead {
            return Err(SendError::Closed(dead.to_string()));
        }
        let too_long = SendError::TooLong {
            len: bytes.len(),
            max: MAX_BODY_LEN,
        };
        let prefix = packet::prefix(stream, bytes.len()).ok_or(too_long)?;
        let parts = [IoSlice::new(&prefix), IoSlice::new(bytes)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut nothing = SendAncillaryBuffer::default();
        match rustix::net::sendmsg(&self.socket, &parts, &mut nothing, flags) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => {
                Err(SendError::BackPressured)
            }
            Err(errno) => Err(SendError::Closed(match self.last_words() {
                Some(why) => format!("the driver closed the connection: {why}"),
                None => format!("the driver is gone: {errno}"),
            })),
        }
    }

    fn max_message_len(&self, _stream: LogicalStream) -> usize {
        MAX_BODY_LEN
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, MAX_PACKET_LEN)?;
    if rustix::net::sockopt::socket_send_buffer_size(&socket)? < 2 * MAX_PACKET_LEN {
        // Refused now rather than at the first long message: net.core.wmem_max is below 131072.
        return Err(Errno::MSGSIZE);
    }
    if path.as_os_str().as_bytes().len() <= ADDRESS_PATH_MAX {
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    } else {
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let short = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::net::connect(&socket, &SocketAddrUnix::new(short.as_str())?)?;
    }
    Ok(socket)
}
