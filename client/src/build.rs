//! How producers and consumers are asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use tensorpool_shm::{ForkGuard, MapOptions};
use tensorpool_wire::{ClientId, HugepagesPolicy, NodeId, PublishMode, StreamId};

use crate::attachment::{Attachment, ConsumerDuty, ConsumerWishes, Duty, ProducerDuty};
use crate::client::{Client, ClientOptions, seed};
use crate::consumer::{Consumer, ConsumerShared, DescriptorMail, Notify, Start};
use crate::error::BuildError;
use crate::handover::{Handover, Seat};
use crate::lease::{LeaseMachine, LeaseOptions, LeaseRole, LeaseTimings, Retry};
use crate::link::{Link, Messages, NeedsAeron, StreamKey};
use crate::mapping::{Mapped, Writable};
use crate::metadata::MetadataCell;
use crate::outlet::OutletMail;
use crate::producer::{Producer, ProducerShared};
use crate::progress::{ProgressDesk, ProgressInbox};
use crate::stats::{ConsumerCounters, ProducerCounters};

type ProducerHandover = Arc<Handover<Writable>>;
type ConsumerHandover = Arc<Handover<Arc<Mapped>>>;

/// What producers and consumers are asked for alike.
#[derive(Clone, Debug)]
struct Attach {
    key: StreamKey,
    client: Option<Client>,
    options: ClientOptions,
    lease: LeaseOptions,
    map: MapOptions,
    timeout: Duration,
    is_patient: bool,
}

impl Attach {
    fn new(key: StreamKey, role: LeaseRole) -> Self {
        let stream = match &key {
            StreamKey::Id(id) => *id,
            StreamKey::Name(_) => StreamId(0),
        };
        Self {
            key,
            client: None,
            options: ClientOptions::default(),
            lease: LeaseOptions::new(stream, role),
            map: MapOptions::default(),
            timeout: Duration::from_secs(5),
            is_patient: false,
        }
    }

    fn client(&self) -> Result<Client, BuildError> {
        match &self.client {
            Some(client) => Ok(client.clone()),
            None => Client::new(self.options.clone()).map_err(BuildError::Client),
        }
    }

    /// Waits until the memory is there, or a failure that does not pass by itself.
    fn wait<T>(&self, handover: &Handover<T>) -> Result<(), BuildError> {
        let outcome = handover.wait_for(self.timeout, |status, is_detached| {
            if status.is_mapped {
                return Some(Ok(()));
            }
            if is_detached {
                return Some(Err(BuildError::Closed));
            }
            let failure = status.last_failure.as_ref()?;
            let is_final = match failure.retry() {
                Retry::Backoff => false,
                Retry::AwaitChange => !self.is_patient,
                Retry::Never => true,
            };
            is_final.then(|| Err(BuildError::Attach(Arc::clone(failure))))
        });
        outcome.unwrap_or_else(|| {
            let last = handover.status().last_failure;
            Err(BuildError::TimedOut {
                after: self.timeout,
                last,
            })
        })
    }
}

macro_rules! attach_options {
    () => {
        /// Uses this client's conductor instead of one of its own.
        pub fn client(mut self, client: &Client) -> Self {
            self.attach.client = Some(client.clone());
            self
        }

        /// Connects to this driver's socket instead of looking for one.
        pub fn socket(mut self, path: impl Into<std::path::PathBuf>) -> Self {
            self.attach.options.socket = Some(path.into());
            self
        }

        /// Options of the client that is made for it, where none is given.
        pub fn client_options(mut self, options: ClientOptions) -> Self {
            self.attach.options = options;
            self
        }

        /// How long `build` waits for the stream; 5 s unless given.
        pub const fn timeout(mut self, timeout: Duration) -> Self {
            self.attach.timeout = timeout;
            self
        }

        /// Waits the whole time also where somebody has to change something first, for instance to
        /// configure the stream.
        pub const fn patient(mut self) -> Self {
            self.attach.is_patient = true;
            self
        }

        /// A client id instead of a random one. Two live attachments must never have the same.
        pub const fn client_id(mut self, id: ClientId) -> Self {
            self.attach.lease.client_id = Some(id);
            self
        }

        /// Which pages the memory must have.
        pub const fn hugepages(mut self, policy: HugepagesPolicy) -> Self {
            self.attach.lease.hugepages = policy;
            self
        }

        /// A node id for trace ids. The driver refuses one that is taken.
        pub const fn node_id(mut self, node: NodeId) -> Self {
            self.attach.lease.desired_node_id = Some(node);
            self
        }

        /// Keepalive, retry and backoff times.
        pub const fn timings(mut self, timings: LeaseTimings) -> Self {
            self.attach.lease.timings = timings;
            self
        }

        /// Keeps the mapped memory from being swapped out (`mlock`); a failure fails the attach.
        // spec: D-17-9
        pub const fn lock_memory(mut self, lock: bool) -> Self {
            self.attach.map.lock = lock;
            self
        }

        /// Whether the page tables are filled when the memory is mapped; on unless given.
        pub const fn prefault(mut self, prefault: bool) -> Self {
            self.attach.map.prefault = prefault;
            self
        }
    };
}

/// Asks for a [`Producer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ProducerBuilder {
    attach: Attach,
    needs: NeedsAeron,
    assigns_streams: bool,
}

impl Producer {
    /// Asks for the producer's place on a stream, by name or number.
    pub fn builder(stream: impl Into<StreamKey>) -> ProducerBuilder {
        ProducerBuilder {
            attach: Attach::new(stream.into(), LeaseRole::Producer),
            needs: NeedsAeron::Nothing,
            assigns_streams: false,
        }
    }
}

impl ProducerBuilder {
    attach_options!();

    /// Lets the driver create the stream, where it allows dynamic ones.
    pub const fn create(mut self) -> Self {
        self.attach.lease.publish_mode = PublishMode::ExistingOrCreate;
        self
    }

    /// Demands that consumers can see trace ids, which needs Aeron.
    // spec: X-2-64
    pub const fn trace_ids(mut self) -> Self {
        self.needs = NeedsAeron::TraceIds;
        self
    }

    /// Makes this producer the authority for per-consumer streams on Aeron: it answers every hello that
    /// asks for some. For drivers that leave this to producers; there must be one authority only.
    // spec: W-5-1 W-5-6
    pub const fn assign_streams(mut self) -> Self {
        self.assigns_streams = true;
        self
    }

    /// Attaches and waits until frames can be written.
    ///
    /// # Errors
    /// [`BuildError`] names what is missing and what to do about it.
    pub fn build(self) -> Result<Producer, BuildError> {
        let attach = self.attach.clone();
        let (producer, handover) = self.begin()?;
        attach.wait(&handover)?;
        Ok(producer)
    }

    /// Attaches in the background. Claims fail with `NotAttached` until the memory is there.
    ///
    /// # Errors
    /// [`BuildError`] if the process has no thread, descriptor or page left.
    pub fn start(self) -> Result<Producer, BuildError> {
        self.begin().map(|(producer, _)| producer)
    }

    fn begin(self) -> Result<(Producer, ProducerHandover), BuildError> {
        let client = self.attach.client()?;
        let handover = Handover::new();
        let shared = Arc::new(ProducerShared {
            counters: ProducerCounters::new(),
            metadata: MetadataCell::default(),
            progress: ProgressDesk::new(),
            outlets: OutletMail::default(),
            guard: ForkGuard::new().map_err(BuildError::ForkGuard)?,
            poisoned: AtomicBool::new(false),
        });
        let stream = Arc::new(AtomicU32::new(self.attach.lease.stream.get()));
        let link_options = client.link_options(self.needs);
        let assigns_streams = self.assigns_streams;
        let plan = {
            let (handover, shared, stream) = (
                Arc::clone(&handover),
                Arc::clone(&shared),
                Arc::clone(&stream),
            );
            let Attach {
                key, lease, map, ..
            } = self.attach;
            move || {
                let messages = Messages::Producer(Arc::clone(&shared));
                let duty =
                    Duty::Producer(ProducerDuty::new(handover, shared, &key, assigns_streams));
                let link = Link::new(link_options, key, seed(), messages);
                Attachment::new(LeaseMachine::new(lease, seed()), link, duty, map, stream)
            }
        };
        let handle = client.attach(stream, Box::new(plan));
        let seat = Seat::new(Arc::clone(&handover));
        Ok((Producer::new(seat, shared, handle), handover))
    }
}

/// Asks for a [`Consumer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ConsumerBuilder {
    attach: Attach,
    wishes: ConsumerWishes,
}

impl Consumer {
    /// Asks for a reader of a stream, by name or number.
    pub fn builder(stream: impl Into<StreamKey>) -> ConsumerBuilder {
        ConsumerBuilder {
            attach: Attach::new(stream.into(), LeaseRole::Consumer),
            wishes: ConsumerWishes {
                start: Start::Newest,
                max_rate_hz: 0,
                progress: false,
                announce_period_ns: 1_000_000_000,
                notify: None,
                own_descriptors: 0,
                own_control: 0,
            },
        }
    }
}

impl ConsumerBuilder {
    attach_options!();

    /// Where the first attach begins; the newest frame unless given. After a change of epoch it is
    /// the first frame of that epoch.
    // spec: X-1-19
    pub const fn from(mut self, start: Start) -> Self {
        self.wishes.start = start;
        self
    }

    /// How frames are learned of. On a socket only [`Notify::Ring`] is possible.
    // spec: X-1-2
    pub const fn notify(mut self, notify: Notify) -> Self {
        self.wishes.notify = Some(notify);
        self
    }

    /// At most so many frames per second, 65,535 at the highest; 0: all.
    // spec: W-11-1 W-11-2
    pub fn max_rate_hz(mut self, rate: u16) -> Self {
        self.wishes.max_rate_hz = u32::from(rate);
        self
    }

    /// Asks for descriptors on an Aeron stream of its own (31000 to 31999 by convention), and for
    /// progress on another (32000 to 32999). What the authority assigns is taken; without an answer
    /// the shared streams stay. Nothing on a socket.
    // spec: W-5-1 W-10.1.2-5
    pub fn own_streams(mut self, descriptors: u16, control: u16) -> Self {
        self.wishes.own_descriptors = u32::from(descriptors);
        self.wishes.own_control = u32::from(control);
        self
    }

    /// Asks producers to tell of frames before they are committed; see [`Consumer::progress`].
    pub const fn progress(mut self) -> Self {
        self.wishes.progress = true;
        self
    }

    /// How often the driver announces; 1 s unless given. Three periods without a word are too long.
    pub fn announce_period(mut self, period: Duration) -> Self {
        self.wishes.announce_period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        self
    }

    /// Attaches and waits until frames can be read.
    ///
    /// # Errors
    /// [`BuildError`] names what is missing and what to do about it.
    pub fn build(self) -> Result<Consumer, BuildError> {
        let attach = self.attach.clone();
        let (consumer, handover) = self.begin()?;
        attach.wait(&handover)?;
        Ok(consumer)
    }

    /// Attaches in the background. There are no frames until the memory is there.
    ///
    /// # Errors
    /// [`BuildError`] if the process has no thread, descriptor or page left.
    pub fn start(self) -> Result<Consumer, BuildError> {
        self.begin().map(|(consumer, _)| consumer)
    }

    fn begin(self) -> Result<(Consumer, ConsumerHandover), BuildError> {
        let client = self.attach.client()?;
        let handover = Handover::new();
        let shared = Arc::new(ConsumerShared {
            counters: ConsumerCounters::new(),
            metadata: MetadataCell::default(),
            progress: ProgressInbox::default(),
            guard: ForkGuard::new().map_err(BuildError::ForkGuard)?,
            descriptors: DescriptorMail::default(),
        });
        let stream = Arc::new(AtomicU32::new(self.attach.lease.stream.get()));
        let needs = match self.wishes.notify {
            Some(Notify::Descriptor) => NeedsAeron::Descriptors,
            Some(Notify::Ring) | None => NeedsAeron::Nothing,
        };
        let link_options = client.link_options(needs);
        let wishes = self.wishes;
        let plan = {
            let (handover, shared, stream) = (
                Arc::clone(&handover),
                Arc::clone(&shared),
                Arc::clone(&stream),
            );
            let Attach {
                key, lease, map, ..
            } = self.attach;
            move || {
                let messages = Messages::Consumer(Arc::clone(&shared));
                let duty = Duty::Consumer(Box::new(ConsumerDuty::new(handover, shared, wishes)));
                let link = Link::new(link_options, key, seed(), messages);
                Attachment::new(LeaseMachine::new(lease, seed()), link, duty, map, stream)
            }
        };
        let handle = client.attach(stream, Box::new(plan));
        let seat = Seat::new(Arc::clone(&handover));
        let notify = wishes.notify.unwrap_or(Notify::Ring);
        Ok((
            Consumer::new(seat, notify, wishes.max_rate_hz, shared, handle),
            handover,
        ))
    }
}
