//! A way to one driver: the connection, and what is known of it while it is asked and once it is up.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use tensorpool_transport::port::ClientPort;
use tensorpool_transport::pubsub::Dead;
use tensorpool_transport::socket::SocketClient;
use tensorpool_wire::{LogicalStream, MonoNanos};

use crate::aeron::AeronWay;
use crate::find::Rebase;

/// Which way a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Socket(PathBuf),
    Aeron(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) | Self::Aeron(path) => path.display().fmt(f),
        }
    }
}

/// The connection itself.
pub(super) enum Way {
    Socket(SocketClient),
    Aeron(AeronWay),
}

impl Way {
    pub(super) const fn port(&mut self) -> &mut dyn ClientPort {
        match self {
            Self::Socket(port) => port,
            Self::Aeron(way) => way.port(),
        }
    }

    pub(super) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(port) => port.wait_fd(),
            Self::Aeron(_) => None,
        }
    }
}

/// A driver that was asked for the stream.
pub(super) struct Asking {
    pub(super) way: Way,
    pub(super) place: Place,
    pub(super) volume: Option<PathBuf>,
    /// Whether `volume` is a volume of this pod.
    pub(super) is_mounted: bool,
    pub(super) request_id: u64,
    /// The request, until it could be sent: a new publication has no subscriber for a moment.
    pub(super) unsent: Option<Vec<u8>>,
    pub(super) give_up_at: MonoNanos,
}

impl Asking {
    /// Sends the request if it was not sent yet and can be now.
    pub(super) fn send(&mut self) -> Result<(), Dead> {
        let Some(request) = &self.unsent else {
            return Ok(());
        };
        match self.way.port().send(LogicalStream::Discovery, request) {
            Ok(()) => self.unsent = None,
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(Dead::Closed(error.to_string())),
        }
        Ok(())
    }
}

pub(super) struct Up {
    pub(super) way: Way,
    pub(super) place: Place,
    pub(super) rebase: Option<Rebase>,
    pub(super) volume: Option<PathBuf>,
    /// Whether `volume` is a volume of this pod.
    pub(super) is_mounted: bool,
}
