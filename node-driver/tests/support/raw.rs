//! A client that speaks single messages, to see exactly what the driver says and in which order.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tensorpool_transport::port::ClientPort;
use tensorpool_transport::pubsub::Dead;
use tensorpool_transport::socket::SocketClient;
use tensorpool_wire::{
    ClientId, CorrelationId, HugepagesPolicy, LeaseId, LogicalStream, Message, MonoNanos,
    PublishMode, ResponseCode, Role, ShmAttachRequest, ShmAttachResponse, ShmDetachRequest,
    ShmLeaseKeepalive, StreamId,
};

use super::PATIENCE;

static NEXT: AtomicI64 = AtomicI64::new(1);

/// Anything that carries single messages: a socket, or Aeron.
pub(crate) struct Raw {
    port: Box<dyn ClientPort>,
    /// What came and was not asked for yet, with the descriptors that came along.
    pub(crate) inbox: Vec<(Message, Vec<OwnedFd>)>,
    /// How the conversation ended, if it did.
    pub(crate) dead: Option<Dead>,
    correlation: i64,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw")
            .field("inbox", &self.inbox)
            .finish_non_exhaustive()
    }
}

impl Raw {
    /// A connection to a driver's socket.
    pub(crate) fn socket(path: &Path) -> Self {
        let client = super::wait_until("a connection", || {
            SocketClient::connect(path).map_err(|error| error.to_string())
        });
        Self::over(Box::new(client))
    }

    /// Over any port.
    pub(crate) fn over(port: Box<dyn ClientPort>) -> Self {
        Self {
            port,
            inbox: Vec::new(),
            dead: None,
            // Different in every client and process, as the protocol wants it.
            correlation: (i64::from(std::process::id()) << 32)
                | NEXT.fetch_add(1 << 16, Ordering::Relaxed),
        }
    }

    pub(crate) fn send(&mut self, stream: LogicalStream, message: impl Into<Message>) {
        let bytes = message.into().encode();
        super::wait_until("room to send", || {
            self.port.send(stream, &bytes).map_err(|error| {
                assert!(error.is_retryable(), "{error}");
                error.to_string()
            })
        });
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, stream: LogicalStream, bytes: &[u8]) {
        self.port.send(stream, bytes).expect("the packet is taken");
    }

    /// Takes in what is there.
    pub(crate) fn poll(&mut self) {
        loop {
            let inbox = &mut self.inbox;
            let polled = self.port.poll(&mut |inbound| {
                let message = Message::decode(inbound.bytes).expect("the driver sends messages");
                inbox.push((message, std::mem::take(inbound.fds)));
            });
            match polled {
                Ok(0) => return,
                Ok(_) => {}
                Err(dead) => {
                    self.dead = Some(dead);
                    return;
                }
            }
        }
    }

    /// Waits for the first message that `wanted` takes, and leaves the others.
    pub(crate) fn expect<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Message) -> Option<T>,
    ) -> (T, Vec<OwnedFd>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.poll();
            let found = self
                .inbox
                .iter()
                .enumerate()
                .find_map(|(at, (message, _))| Some((at, wanted(message)?)));
            if let Some((at, value)) = found {
                let (_, fds) = self.inbox.remove(at);
                return (value, fds);
            }
            assert!(
                self.dead.is_none(),
                "{what} never came: {:?}, {:?}",
                self.dead,
                self.inbox
            );
            assert!(
                Instant::now() < deadline,
                "{what} never came, but {:?}",
                self.inbox
            );
            self.wait();
        }
    }

    /// Waits until the driver ends the conversation.
    pub(crate) fn expect_end(&mut self) -> Dead {
        super::wait_until("the end of the connection", || {
            self.poll();
            self.dead.clone().ok_or_else(|| format!("{:?}", self.inbox))
        })
    }

    fn wait(&self) {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        match self.port.wait_fd() {
            Some(fd) => drop(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))),
            None => drop(poll(&mut [], Some(&timeout))),
        }
    }

    fn next_correlation(&mut self) -> CorrelationId {
        self.correlation += 1;
        CorrelationId(self.correlation)
    }

    /// Asks for a lease and returns the answer, whatever it is, with the regions that came along.
    pub(crate) fn attach(
        &mut self,
        role: Role,
        stream: u32,
        client: u32,
    ) -> (ShmAttachResponse, Vec<OwnedFd>) {
        let correlation_id = self.request_attach(role, stream, client);
        self.expect("an attach answer", |message| match message {
            Message::ShmAttachResponse(response) if response.correlation_id == correlation_id => {
                Some(response.clone())
            }
            _ => None,
        })
    }

    /// Asks for a lease on hugepages and returns the answer.
    pub(crate) fn attach_with_hugepages(
        &mut self,
        role: Role,
        stream: u32,
        client: u32,
    ) -> ShmAttachResponse {
        let correlation_id = self.next_correlation();
        let mut request = request(correlation_id, role, stream, client);
        request.require_hugepages = HugepagesPolicy::Hugepages;
        self.send(LogicalStream::Control, request);
        self.expect("an attach answer", |message| match message {
            Message::ShmAttachResponse(response) if response.correlation_id == correlation_id => {
                Some(response.clone())
            }
            _ => None,
        })
        .0
    }

    /// Asks for a lease and does not wait.
    pub(crate) fn request_attach(&mut self, role: Role, stream: u32, client: u32) -> CorrelationId {
        let correlation_id = self.next_correlation();
        let request = request(correlation_id, role, stream, client);
        self.send(LogicalStream::Control, request);
        correlation_id
    }

    /// Asks for a lease that must be granted.
    pub(crate) fn lease(&mut self, role: Role, stream: u32, client: u32) -> Lease {
        let (response, fds) = self.attach(role, stream, client);
        assert_eq!(
            response.code,
            ResponseCode::Ok,
            "{}",
            response.error_message
        );
        Lease {
            lease_id: response.lease_id.expect("a granted lease has an id"),
            stream_id: response.stream_id.expect("a granted lease has a stream"),
            client_id: ClientId(client),
            role,
            response,
            fds,
        }
    }

    pub(crate) fn keepalive(&mut self, lease: &Lease) {
        self.send(LogicalStream::Control, lease.keepalive());
    }

    /// Whether the connection still takes a keepalive.
    pub(crate) fn try_keepalive(&mut self, lease: &Lease) -> bool {
        let bytes = Message::from(lease.keepalive()).encode();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.port.send(LogicalStream::Control, &bytes) {
                Ok(()) => return true,
                Err(error) if error.is_retryable() && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                Err(_) => return false,
            }
        }
    }

    /// Gives a lease back and returns the answer's code.
    pub(crate) fn detach(&mut self, lease: &Lease) -> ResponseCode {
        let correlation_id = self.next_correlation();
        self.send(
            LogicalStream::Control,
            ShmDetachRequest {
                correlation_id,
                lease_id: lease.lease_id,
                stream_id: lease.stream_id,
                client_id: lease.client_id,
                role: lease.role,
            },
        );
        let (code, _) = self.expect("a detach answer", |message| match message {
            Message::ShmDetachResponse(response) if response.correlation_id == correlation_id => {
                Some(response.code)
            }
            _ => None,
        });
        code
    }

    /// Waits for the announce of an epoch above `epoch` and returns it.
    pub(crate) fn announce_above(
        &mut self,
        stream: u32,
        epoch: u64,
    ) -> tensorpool_wire::ShmPoolAnnounce {
        self.expect("an announce of a higher epoch", |message| match message {
            Message::ShmPoolAnnounce(announce)
                if announce.stream_id.get() == stream && announce.epoch.get() > epoch =>
            {
                Some(announce.clone())
            }
            _ => None,
        })
        .0
    }

    /// Waits for the revocation of a lease and returns it.
    pub(crate) fn revoked(&mut self, lease: LeaseId) -> tensorpool_wire::ShmLeaseRevoked {
        self.expect("a revocation", |message| match message {
            Message::ShmLeaseRevoked(revoked) if revoked.lease_id == lease => Some(revoked.clone()),
            _ => None,
        })
        .0
    }
}

fn request(
    correlation_id: CorrelationId,
    role: Role,
    stream: u32,
    client: u32,
) -> ShmAttachRequest {
    ShmAttachRequest {
        correlation_id,
        stream_id: StreamId(stream),
        client_id: ClientId(client),
        role,
        expected_layout_version: 1,
        publish_mode: Some(PublishMode::ExistingOrCreate),
        require_hugepages: HugepagesPolicy::Unspecified,
        desired_node_id: None,
    }
}

/// A lease that was granted.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) lease_id: LeaseId,
    pub(crate) stream_id: StreamId,
    pub(crate) client_id: ClientId,
    pub(crate) role: Role,
    pub(crate) response: ShmAttachResponse,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Lease {
    fn keepalive(&self) -> ShmLeaseKeepalive {
        ShmLeaseKeepalive {
            lease_id: self.lease_id,
            stream_id: self.stream_id,
            client_id: self.client_id,
            role: self.role,
            client_timestamp_ns: MonoNanos(0),
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.response
            .epoch
            .expect("a granted lease has an epoch")
            .get()
    }
}
