//! One connection to the driver, on which anything can be sent.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use tensorpool_transport::port::ClientPort;
use tensorpool_transport::socket::SocketClient;
use tensorpool_wire::{
    ClientId, CorrelationId, DiscoveryRequest, HugepagesPolicy, LeaseId, LogicalStream, Message,
    MonoNanos, PublishMode, ResponseCode, Role, ShmAttachRequest, ShmAttachResponse,
    ShmDetachRequest, ShmLeaseKeepalive, StreamId,
};

use crate::Failure;

/// How long the driver may take to answer, on a machine that is kept busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection, and what came on it.
pub(crate) struct Line {
    client: SocketClient,
    heard: VecDeque<(Message, Vec<OwnedFd>)>,
    /// The transport's words, once the driver has cut it off.
    end: Option<String>,
    correlation: i64,
    /// The lease that was granted last: consumers hear of a producer's end as well.
    own: Option<LeaseId>,
}

/// A lease that was granted on a line.
pub(crate) struct Lease {
    pub(crate) role: Role,
    pub(crate) client: ClientId,
    pub(crate) response: ShmAttachResponse,
}

impl Line {
    /// Waits while the driver has no room for one more in its queue.
    pub(crate) fn connect(socket: &Path) -> Result<Self, Failure> {
        let limit = Instant::now() + PATIENCE;
        let client = loop {
            match SocketClient::connect(socket) {
                Ok(client) => break client,
                Err(error) if error.is_retryable() && Instant::now() < limit => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Self {
            client,
            heard: VecDeque::new(),
            end: None,
            correlation: 0,
            own: None,
        })
    }

    /// Sends a packet as it is, whatever that means. False: the driver has ended the connection.
    pub(crate) fn send_packet(&self, packet: &[u8]) -> Result<bool, Failure> {
        loop {
            match rustix::net::send(self.client.as_fd(), packet, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(true),
                Err(Errno::AGAIN) => self.until(PollFlags::OUT, PATIENCE)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The same with the prefix of a packet before it.
    pub(crate) fn send_body(&self, stream: LogicalStream, body: &[u8]) -> Result<bool, Failure> {
        let prefix = tensorpool_transport::socket::packet::prefix(stream, body.len());
        let prefix = prefix.ok_or("the body is longer than a packet")?;
        self.send_packet(&[&prefix, body].concat())
    }

    /// Sends a message.
    pub(crate) fn send(
        &self,
        stream: LogicalStream,
        message: impl Into<Message>,
    ) -> Result<bool, Failure> {
        self.send_body(stream, &message.into().encode())
    }

    /// For what rustix does with it.
    pub(crate) const fn client(&self) -> &SocketClient {
        &self.client
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self) {
        while self.end.is_none() {
            let heard = &mut self.heard;
            let read = self.client.poll(&mut |inbound| {
                // Status answers are no messages.
                if let Ok(message) = Message::decode(inbound.bytes) {
                    heard.push_back((message, std::mem::take(inbound.fds)));
                }
            });
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(dead) => self.end = Some(dead.to_string()),
            }
        }
    }

    /// What was read and not asked for yet.
    pub(crate) fn take_heard(&mut self) -> VecDeque<(Message, Vec<OwnedFd>)> {
        std::mem::take(&mut self.heard)
    }

    /// The first message that `wanted` takes; `None` if the driver ends the connection first.
    pub(crate) fn wait_for<T>(
        &mut self,
        mut wanted: impl FnMut(&Message) -> Option<T>,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, Failure> {
        let limit = Instant::now() + PATIENCE;
        loop {
            self.read();
            while let Some((message, fds)) = self.heard.pop_front() {
                if let Some(found) = wanted(&message) {
                    return Ok(Some((found, fds)));
                }
            }
            if self.end.is_some() {
                return Ok(None);
            }
            if Instant::now() > limit {
                return Err("the driver does not answer".into());
            }
            self.until(PollFlags::IN, Duration::from_millis(100))?;
        }
    }

    /// Waits for the end and says it in the driver's words: those of the revoke before it, if one came.
    pub(crate) fn last_words(&mut self) -> Result<String, Failure> {
        let own = self.own;
        let revoked = self.wait_for(|message| match message {
            Message::ShmLeaseRevoked(revoked) if own.is_none_or(|own| own == revoked.lease_id) => {
                Some(revoked.error_message.clone())
            }
            _ => None,
        })?;
        let Some((words, _)) = revoked else {
            return Ok("nothing".to_owned());
        };
        if self.end.is_none() {
            self.wait_for(|_| None::<()>)?;
        }
        Ok(words)
    }

    /// How the driver has ended the connection, as far as was read.
    pub(crate) fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// The id of the stream that the volume is of.
    pub(crate) fn stream(&mut self) -> Result<StreamId, Failure> {
        let request = DiscoveryRequest {
            request_id: u64::MAX,
            ..discovery()
        };
        self.send(LogicalStream::Discovery, request)?;
        let found = self.wait_for(|message| match message {
            Message::DiscoveryResponse(response) if response.request_id == u64::MAX => {
                Some(response.results.clone())
            }
            _ => None,
        })?;
        let (results, _) = found.ok_or("the driver ended the connection")?;
        match &results[..] {
            [one] => Ok(one.stream_id),
            others => Err(format!("the volume has {} streams", others.len()).into()),
        }
    }

    /// Asks for a lease and returns the answer, whatever it is.
    pub(crate) fn ask(
        &mut self,
        role: Role,
        stream: StreamId,
        client: ClientId,
    ) -> Result<(ShmAttachResponse, Vec<OwnedFd>), Failure> {
        self.correlation += 1;
        let request = attach(CorrelationId(self.correlation), role, stream, client);
        self.send(LogicalStream::Control, request)?;
        let answer = self.wait_for(|message| match message {
            Message::ShmAttachResponse(response) => Some(response.clone()),
            _ => None,
        })?;
        answer.ok_or_else(|| "the driver ended the connection".into())
    }

    /// A lease, in whichever role this volume allows.
    pub(crate) fn lease(&mut self, stream: StreamId) -> Result<Lease, Failure> {
        let mut refusals = Vec::new();
        for role in [Role::Producer, Role::Consumer] {
            let client = random_client();
            let (response, _files) = self.ask(role, stream, client)?;
            if response.code == ResponseCode::Ok {
                self.own = response.lease_id;
                return Ok(Lease {
                    role,
                    client,
                    response,
                });
            }
            refusals.push(response.error_message);
        }
        Err(refusals.join("; ").into())
    }

    /// Waits until the connection is ready for `what`, at most so long.
    pub(crate) fn until(&self, what: PollFlags, limit: Duration) -> Result<(), Failure> {
        let limit = Timespec::try_from(limit)?;
        match poll(&mut [PollFd::new(&self.client, what)], Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Lease {
    /// A sign of life.
    pub(crate) fn keepalive(&self) -> Result<ShmLeaseKeepalive, Failure> {
        Ok(ShmLeaseKeepalive {
            lease_id: self.response.lease_id.ok_or("a lease without id")?,
            stream_id: self.response.stream_id.ok_or("a lease without stream")?,
            client_id: self.client,
            role: self.role,
            client_timestamp_ns: MonoNanos(0),
        })
    }

    /// Gives it back.
    pub(crate) fn detach(&self) -> Result<ShmDetachRequest, Failure> {
        let keepalive = self.keepalive()?;
        Ok(ShmDetachRequest {
            correlation_id: CorrelationId(-1),
            lease_id: keepalive.lease_id,
            stream_id: keepalive.stream_id,
            client_id: keepalive.client_id,
            role: keepalive.role,
        })
    }
}

/// A request for every stream that may be seen.
pub(crate) fn discovery() -> DiscoveryRequest {
    DiscoveryRequest {
        request_id: 1,
        client_id: ClientId(1),
        response_stream_id: 1,
        stream_id: None,
        producer_id: None,
        data_source_id: None,
        tags: Vec::new(),
        response_channel: "socket".to_owned(),
        data_source_name: String::new(),
    }
}

/// A request for a lease.
pub(crate) const fn attach(
    correlation_id: CorrelationId,
    role: Role,
    stream_id: StreamId,
    client_id: ClientId,
) -> ShmAttachRequest {
    ShmAttachRequest {
        correlation_id,
        stream_id,
        client_id,
        role,
        expected_layout_version: 1,
        publish_mode: Some(PublishMode::ExistingOrCreate),
        require_hugepages: HugepagesPolicy::Unspecified,
        desired_node_id: None,
    }
}

/// One that nobody else has, as likely as not.
pub(crate) fn random_client() -> ClientId {
    use std::hash::{BuildHasher, RandomState};
    let hash = RandomState::new().hash_one(());
    ClientId(u32::try_from(hash >> 33).unwrap_or(0).max(1))
}

/// The same numbers for the same seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// The next number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) ^ (mixed >> 31)
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.flatten().take(count).collect()
    }
}
