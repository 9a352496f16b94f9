//! The way to a driver: finding it, asking it for the stream, and the messages in between.
//!
//! A link belongs to one attachment, so a socket's close ends exactly that attachment's lease. It
//! owns the connection and the discovery that comes before the first attach. It refuses to know what
//! a lease is: it says when the way is up, failed, or down.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tensorpool_transport::port::ClientPort;
use tensorpool_transport::pubsub::{Dead, Publication, SendError, Subscription};
use tensorpool_wire::{ClientId, LogicalStream, Message, MonoNanos, StreamId};

use crate::aeron::AeronWay;
use crate::consumer::ConsumerShared;
use crate::error::AttachError;
use crate::find::volume::Access;
use crate::find::{Candidate, Looked, Rebase, Surroundings};
use crate::lease::ClientIds;
use crate::producer::ProducerShared;
use crate::stats::MessageCounters;

mod finding;
mod holder;
mod way;

use self::finding::lost;
pub(crate) use self::holder::Holder;
pub(crate) use self::way::Place;
use self::way::{Asking, Up, Way};

/// How long a driver may take to say which streams it has.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages taken from a port in one cycle, so that a flood cannot keep the lease from its deadlines.
const POLLS_PER_CYCLE: usize = 32;

/// What an application calls its stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StreamKey {
    /// By the name in the driver's configuration, or of the TensorStream. Looked up by discovery.
    Name(String),
    /// By number.
    Id(StreamId),
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

impl From<&str> for StreamKey {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for StreamKey {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<u32> for StreamKey {
    fn from(id: u32) -> Self {
        Self::Id(StreamId(id))
    }
}

impl From<StreamId> for StreamKey {
    fn from(id: StreamId) -> Self {
        Self::Id(id)
    }
}

/// What only Aeron can carry, if the application asked for any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeedsAeron {
    Nothing,
    Descriptors,
    TraceIds,
}

/// Where a link looks.
#[derive(Clone, Debug)]
pub(crate) struct LinkOptions {
    pub(crate) surroundings: Surroundings,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) needs: NeedsAeron,
    pub(crate) aeron: crate::aeron::AeronOptions,
}

/// One message of the driver.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) message: Message,
    pub(crate) files: Vec<OwnedFd>,
}

/// What happened to the way.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// It is up.
    Up {
        /// What the key stands for there.
        stream: StreamId,
        /// The client ids that count there, where not all do.
        clients: Option<ClientIds>,
    },
    /// No driver, or none with the stream.
    Failed(AttachError),
    /// It was up and is not any more.
    Down(Dead),
}

/// The way to one driver, for one attachment.
pub(crate) struct Link {
    options: LinkOptions,
    key: StreamKey,
    state: State,
    next_request: u64,
    /// Who has the producer's place, as far as the driver says.
    holder: Option<Holder>,
    /// The same from the driver's status, until the attachment has taken note of it.
    holder_news: Option<Holder>,
    /// What the key stands for at the driver that was found.
    stream: StreamId,
    messages: Messages,
}

/// Who counts what was not sent and not understood: the attachment's counters.
#[derive(Clone, Debug)]
pub(crate) enum Messages {
    Producer(Arc<ProducerShared>),
    Consumer(Arc<ConsumerShared>),
}

impl Messages {
    /// What the attachment's volume has to allow.
    const fn access(&self) -> Access {
        match self {
            Self::Producer(_) => Access::Produce,
            Self::Consumer(_) => Access::Consume,
        }
    }

    fn counters(&self) -> &MessageCounters {
        match self {
            Self::Producer(shared) => &shared.counters.messages,
            Self::Consumer(shared) => &shared.counters.messages,
        }
    }
}

enum State {
    Down,
    Finding {
        tried: Tried,
        rest: VecDeque<Candidate>,
        asking: Asking,
    },
    Up(Up),
}

/// The candidates that are behind us.
#[derive(Default)]
struct Tried {
    looked: Looked,
    asked: Vec<String>,
    /// Whether one of them was on Aeron.
    is_aeron: bool,
    /// Whether one of them was a volume of this pod.
    is_volume: bool,
    /// The first that answered without having the number that was asked for: it may make the stream.
    spare: Option<Box<Asking>>,
    last: Option<AttachError>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("key", &self.key)
            .field("place", &self.place())
            .finish()
    }
}

impl Link {
    pub(crate) const fn new(
        options: LinkOptions,
        key: StreamKey,
        seed: u64,
        messages: Messages,
    ) -> Self {
        Self {
            options,
            key,
            state: State::Down,
            next_request: seed,
            holder: None,
            holder_news: None,
            stream: StreamId(0),
            messages,
        }
    }

    /// Who has the producer's place, as far as is known.
    pub(crate) const fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// Asks the driver who has the producer's place. Only a socket has an answer.
    pub(crate) fn ask_for_holder(&mut self) {
        if let State::Up(Up {
            way: Way::Socket(port),
            ..
        }) = &mut self.state
        {
            self.messages
                .counters()
                .count(&port.send(LogicalStream::Status, &[]));
        }
    }

    /// An announce names the producer of the stream.
    pub(crate) fn hear_of_producer(&mut self, producer: ClientId) {
        if self.holder.as_ref().is_none_or(|known| !known.is(producer)) {
            self.holder = Holder::of_client(producer);
        }
    }

    /// Whether the driver has answered [`Link::ask_for_holder`] since this was asked last.
    pub(crate) fn take_news_of_holder(&mut self) -> bool {
        let news = self.holder_news.take();
        let is_new = news.is_some() && news != self.holder;
        self.holder = news.or_else(|| self.holder.take());
        is_new
    }

    pub(crate) const fn key(&self) -> &StreamKey {
        &self.key
    }

    /// Where the link leads, while it is up.
    pub(crate) const fn place(&self) -> Option<&Place> {
        match &self.state {
            State::Up(up) => Some(&up.place),
            State::Down | State::Finding { .. } => None,
        }
    }

    /// Whether the link leads through a volume of this pod.
    pub(crate) const fn is_volume(&self) -> bool {
        match &self.state {
            State::Up(up) => up.is_mounted,
            State::Down | State::Finding { .. } => false,
        }
    }

    /// Whether something can arrive.
    pub(crate) const fn is_open(&self) -> bool {
        match &self.state {
            State::Finding { .. } | State::Up(_) => true,
            State::Down => false,
        }
    }

    /// Directories that regions may lie in, and where announced paths appear here.
    pub(crate) fn bases(&self) -> (Vec<PathBuf>, Option<Rebase>) {
        let mut bases = self.options.surroundings.base_dirs();
        match &self.state {
            State::Up(up) => {
                bases.extend(up.volume.clone());
                (bases, up.rebase.clone())
            }
            State::Down | State::Finding { .. } => (bases, None),
        }
    }

    /// A descriptor that becomes readable when there is something to poll.
    pub(crate) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Down => None,
            State::Finding { asking, .. } => asking.way.wait_fd(),
            State::Up(up) => up.way.wait_fd(),
        }
    }

    /// When the link wants to be polled although nothing arrives.
    pub(crate) const fn next_deadline(&self) -> Option<MonoNanos> {
        match &self.state {
            State::Finding { asking, .. } => Some(asking.give_up_at),
            State::Down | State::Up(_) => None,
        }
    }

    /// Begins to look for a driver with the stream.
    pub(crate) fn connect(&mut self, now: MonoNanos, events: &mut Vec<LinkEvent>) {
        let (found, looked) = self
            .options
            .surroundings
            .candidates(self.options.socket.as_deref());
        self.state = State::Down;
        self.try_next(
            now,
            found.into(),
            Tried {
                looked,
                ..Tried::default()
            },
            events,
        );
    }

    /// Closes the way without a word.
    pub(crate) fn close(&mut self) {
        self.state = State::Down;
    }

    /// Takes what has arrived.
    pub(crate) fn poll(
        &mut self,
        now: MonoNanos,
        inbox: &mut Vec<Inbound>,
        events: &mut Vec<LinkEvent>,
    ) {
        match std::mem::replace(&mut self.state, State::Down) {
            State::Down => {}
            State::Up(mut up) => match self.drain(up.way.port(), inbox) {
                Ok(()) => self.state = State::Up(up),
                Err(dead) => events.push(LinkEvent::Down(dead)),
            },
            State::Finding {
                mut tried,
                rest,
                mut asking,
            } => {
                let died = asking
                    .send()
                    .and_then(|()| self.drain(asking.way.port(), inbox));
                let died = died.err();
                let answer = inbox.iter().find_map(|inbound| match &inbound.message {
                    // spec: DI-5.2-8
                    Message::DiscoveryResponse(response)
                        if response.request_id == asking.request_id =>
                    {
                        Some(response.clone())
                    }
                    _ => None,
                });
                match (answer, died) {
                    (Some(response), None) => {
                        inbox.clear();
                        self.on_answer(now, &response, asking, tried, rest, events);
                    }
                    (_, Some(dead)) => {
                        tried.last = Some(lost(&dead));
                        self.try_next(now, rest, tried, events);
                    }
                    (None, None) if now >= asking.give_up_at => {
                        tried.last = Some(AttachError::Silent {
                            place: asking.place.to_string(),
                            waited: DISCOVERY_TIMEOUT,
                        });
                        self.try_next(now, rest, tried, events);
                    }
                    (None, None) => {
                        self.state = State::Finding {
                            tried,
                            rest,
                            asking,
                        }
                    }
                }
            }
        }
    }

    /// Sends one message to the driver. A failure is counted.
    pub(crate) fn send(
        &mut self,
        stream: LogicalStream,
        message: &Message,
    ) -> Result<(), SendError> {
        let sent = match &mut self.state {
            State::Up(up) => up.way.port().send(stream, &message.encode()),
            State::Down | State::Finding { .. } => Err(SendError::NotConnected),
        };
        self.messages.counters().count(&sent);
        sent
    }

    /// Sends a message that is repeated, or that nobody has to have: the count is all that is left of
    /// one that fails.
    pub(crate) fn tell(&mut self, stream: LogicalStream, message: impl Into<Message>) {
        let _counted = self.send(stream, &message.into());
    }

    /// Whether descriptors travel this way.
    pub(crate) const fn has_descriptors(&self) -> bool {
        match self.place() {
            Some(Place::Aeron(_)) => true,
            Some(Place::Socket(_)) | None => false,
        }
    }

    /// Channel and stream id of the stream's shared descriptors.
    pub(crate) fn descriptor_endpoint(&self) -> (String, i32) {
        let aeron = &self.options.aeron;
        (aeron.descriptor_channel.clone(), aeron.descriptor_stream_id)
    }

    /// A publication on Aeron, for the data path. `None` on a socket.
    pub(crate) fn publication(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Option<Result<Box<dyn Publication + Send>, Dead>> {
        self.aeron().map(|way| way.publication(channel, stream))
    }

    /// A subscription on Aeron, for the data path. `None` on a socket.
    pub(crate) fn subscription(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Option<Result<Box<dyn Subscription + Send>, Dead>> {
        self.aeron().map(|way| way.subscription(channel, stream))
    }

    const fn aeron(&mut self) -> Option<&mut AeronWay> {
        match &mut self.state {
            State::Up(Up {
                way: Way::Aeron(way),
                ..
            }) => Some(way),
            State::Up(Up {
                way: Way::Socket(_),
                ..
            })
            | State::Down
            | State::Finding { .. } => None,
        }
    }

    fn drain(&mut self, port: &mut dyn ClientPort, inbox: &mut Vec<Inbound>) -> Result<(), Dead> {
        let counters = self.messages.counters();
        let (stream, news) = (self.stream, &mut self.holder_news);
        for _ in 0..POLLS_PER_CYCLE {
            let taken = port.poll(&mut |inbound| {
                if inbound.stream == LogicalStream::Status {
                    if let Some(holder) = Holder::of_status(inbound.bytes, stream) {
                        *news = Some(holder);
                    }
                    return;
                }
                match Message::decode(inbound.bytes) {
                    Ok(message) => {
                        inbox.push(Inbound {
                            message,
                            files: std::mem::take(inbound.fds),
                        });
                    }
                    Err(_) => counters.count_undecodable(),
                }
            })?;
            if taken == 0 {
                break;
            }
        }
        Ok(())
    }
}
