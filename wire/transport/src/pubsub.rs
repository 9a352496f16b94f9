//! Publications and subscriptions of whole messages, as Aeron has them.
//!
//! A client belongs to one thread and is driven by [`MessageClient::do_work`] at 10 Hz or more
//! (agent-invoker mode). Polls deliver whole messages: fragments are put together here and their
//! lengths are checked. There is no claim: a descriptor has 48 bytes, and copying it costs less than
//! what a claim left behind by a crash would.

/// Why a message was not sent. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No subscriber (Aeron) or no such connection (socket).
    #[error("nobody is connected to receive the message")]
    NotConnected,
    /// The window or the backlog is full; later attempts can succeed.
    #[error("the receiver is too far behind")]
    BackPressured,
    /// The log is rotating; an immediate retry can succeed.
    #[error("the log is rotating, send again")]
    AdminAction,
    /// The message is longer than this way can carry.
    #[error("the message has {len} bytes, at most {max} can be sent here")]
    TooLong {
        /// Length of the message in bytes.
        len: usize,
        /// Longest message that this publication or connection takes, in bytes.
        max: usize,
    },
    /// The receiver did not read until its backlog was full; it is being cut off.
    #[error("the receiver has {limit} bytes of unread answers, it is being cut off")]
    Overflow {
        /// The backlog's limit in bytes.
        limit: usize,
    },
    /// Closed for good on this object; a new one must be made.
    #[error("the way is closed: {0}")]
    Closed(String),
}

impl SendError {
    /// Whether the same call can succeed later without anything being rebuilt.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NotConnected | Self::BackPressured | Self::AdminAction => true,
            Self::TooLong { .. } | Self::Overflow { .. } | Self::Closed(_) => false,
        }
    }

    /// Bounded label for metrics and drop counters.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::BackPressured => "back_pressured",
            Self::AdminAction => "admin_action",
            Self::TooLong { .. } => "too_long",
            Self::Overflow { .. } => "overflow",
            Self::Closed(_) => "closed",
        }
    }
}

/// Why a client or connection is over. Terminal: drop every handle, then the client, and build anew.
/// The client crate's reconnect and the driver's rebuild both start here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dead {
    /// The media driver stopped its heartbeat or its directory is gone.
    #[error("the media driver is gone: {0}")]
    MediaDriver(String),
    /// The media driver gave this client up, since it was not driven in time.
    #[error("the media driver timed this client out: {0}")]
    ClientTimeout(String),
    /// The other end closed, or this end was closed.
    #[error("closed: {0}")]
    Closed(String),
}

impl Dead {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::MediaDriver(_) => "media_driver",
            Self::ClientTimeout(_) => "client_timeout",
            Self::Closed(_) => "closed",
        }
    }
}

/// What is known about one delivered message beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Session id of the publication that sent it.
    pub session: i32,
}

/// A change in who is connected. Queued, and handed out by [`MessageClient::do_work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageEvent {
    /// A publication of `session` can now be read on `stream`.
    Up {
        /// Aeron stream id.
        stream: i32,
        /// Session id of the publication.
        session: i32,
    },
    /// The publication of `session` on `stream` is gone.
    Down {
        /// Aeron stream id.
        stream: i32,
        /// Session id of the publication.
        session: i32,
    },
}

/// Sends whole messages to all subscribers of one stream. Never blocks.
pub trait Publication {
    /// Copies `message` into the log, in fragments where it is longer than one.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    fn offer(&mut self, message: &[u8]) -> Result<(), SendError>;

    /// Whether at least one subscriber is there.
    fn is_connected(&self) -> bool;

    /// Longest message that [`Publication::offer`] takes, in bytes.
    fn max_message_len(&self) -> usize;

    /// Session id that receivers see as [`Delivery::session`].
    fn session(&self) -> i32;
}

/// Receives whole messages of one stream. Never blocks.
pub trait Subscription {
    /// Hands at most `limit` messages to `handler` and returns how many there were. The handler must
    /// not call back into the client.
    ///
    /// # Errors
    /// [`Dead`] when the client is over.
    fn poll(
        &mut self,
        limit: usize,
        handler: &mut dyn FnMut(&[u8], Delivery),
    ) -> Result<usize, Dead>;

    /// How many publications can be read now.
    fn image_count(&self) -> usize;
}

/// One client of a media driver, or of the in-process bus. One per thread.
///
/// There are two ways to open something. `add_*` waits for the media driver's answer. `begin_*` asks
/// only; the answer is looked for with `poll_*` while [`MessageClient::do_work`] goes on being called,
/// so a media driver that is silent costs its caller no time. An opening that is dropped is given up.
pub trait MessageClient {
    /// Its publications. Exclusive ones: a crash inside a shared one blocks everybody.
    type Publication: Publication;
    /// Its subscriptions.
    type Subscription: Subscription;
    /// A publication that was asked for. To be dropped before its client.
    type OpeningPublication;
    /// A subscription that was asked for. To be dropped before its client.
    type OpeningSubscription;

    /// Opens an exclusive publication, waiting for the media driver's answer up to the client's
    /// driver timeout while driving the client itself.
    ///
    /// # Errors
    /// [`Dead`] when the media driver does not answer or refuses.
    fn add_publication(&mut self, channel: &str, stream: i32) -> Result<Self::Publication, Dead>;

    /// Opens a subscription, likewise.
    ///
    /// # Errors
    /// [`Dead`] when the media driver does not answer or refuses.
    fn add_subscription(&mut self, channel: &str, stream: i32) -> Result<Self::Subscription, Dead>;

    /// Asks for an exclusive publication and does not wait.
    ///
    /// # Errors
    /// [`Dead`] when the client is over or the channel cannot be asked for.
    fn begin_publication(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Result<Self::OpeningPublication, Dead>;

    /// Asks for a subscription and does not wait.
    ///
    /// # Errors
    /// [`Dead`] when the client is over or the channel cannot be asked for.
    fn begin_subscription(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Result<Self::OpeningSubscription, Dead>;

    /// The publication that was asked for, or `None` while there is no answer yet. Does not wait. Not
    /// to be called again once it returned something else.
    ///
    /// # Errors
    /// [`Dead`] when the media driver refuses, or has not answered within the client's driver timeout;
    /// the client is over then.
    fn poll_publication(
        &mut self,
        opening: &mut Self::OpeningPublication,
    ) -> Result<Option<Self::Publication>, Dead>;

    /// The subscription that was asked for, likewise.
    ///
    /// # Errors
    /// [`Dead`] as for [`MessageClient::poll_publication`].
    fn poll_subscription(
        &mut self,
        opening: &mut Self::OpeningSubscription,
    ) -> Result<Option<Self::Subscription>, Dead>;

    /// Heartbeats and conductor work; hands out queued image events. At least every 100 ms.
    ///
    /// # Errors
    /// [`Dead`] when the client is over.
    fn do_work(&mut self, events: &mut dyn FnMut(ImageEvent)) -> Result<usize, Dead>;
}
