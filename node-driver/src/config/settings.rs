//! The effective configuration, parsed: what cannot be valid has no value here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tensorpool_wire::{PoolId, StreamId};

/// Everything that the driver is told at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `[driver]`.
    pub driver: DriverSettings,
    /// `[shm]`.
    pub shm: ShmSettings,
    /// `[policies]`.
    pub policies: Policies,
    /// `[profiles.NAME]`.
    pub profiles: BTreeMap<String, Profile>,
    /// `[streams.NAME]`.
    pub streams: BTreeMap<String, StreamSettings>,
    /// `[supervisor]`.
    pub supervisor: SupervisorSettings,
    /// `[discovery]`.
    pub discovery: DiscoverySettings,
    /// `[socket]`; `None` when switched off.
    pub socket: Option<SocketSettings>,
    /// `http.listen`; `None` when switched off.
    pub http: Option<HttpSettings>,
    /// `shutdown.mode`.
    pub shutdown_mode: ShutdownMode,
    /// `[log]`.
    pub log: LogSettings,
    /// `[limits]`.
    pub limits: Limits,
    /// `[kubernetes]`; `None` stand-alone.
    pub kubernetes: Option<KubernetesSettings>,
}

/// `[kubernetes]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// The Node that this driver serves, and the `TensorPoolNode` that it follows.
    pub node: String,
    /// Namespace of the driver's Lease.
    pub namespace: String,
    /// Its pod; empty where it does not run in one.
    pub pod_name: String,
    /// Where the `csi` container asks.
    pub internal_socket: PathBuf,
    /// Socket connections of one attachment at most.
    pub connections_per_attachment: u32,
    /// Trust domain of the pods that may be peers on Aeron here.
    pub aeron_domain: String,
    /// Within this time RBAC is asked again about what is attached.
    pub access_review_interval: Duration,
}

/// One Aeron channel and stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Aeron channel URI.
    pub channel: String,
    /// Aeron stream id, `1..=2^31-1`.
    pub stream_id: i32,
}

/// Who runs the media driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaDriverMode {
    /// This process.
    Embedded,
    /// Somebody else, who started it before.
    External,
    /// Nobody: the socket is the only way in.
    Off,
}

impl MediaDriverMode {
    /// As written in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::External => "external",
            Self::Off => "off",
        }
    }
}

/// Ids from `start` to `end`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id.
    pub start: u32,
    /// Last id.
    pub end: u32,
}

impl IdRange {
    /// Whether `id` is one of them.
    #[must_use]
    pub const fn contains(self, id: u32) -> bool {
        self.start <= id && id <= self.end
    }

    /// Whether the two share an id.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// `[driver]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverSettings {
    /// Name in discovery results.
    pub instance_id: String,
    /// Journal and lock.
    pub state_dir: PathBuf,
    /// Who runs the media driver.
    pub media_driver: MediaDriverMode,
    /// The media driver's directory.
    pub aeron_dir: PathBuf,
    /// Control stream.
    pub control: Endpoint,
    /// Announce stream.
    pub announce: Endpoint,
    /// QoS stream.
    pub qos: Endpoint,
    /// Metadata stream.
    pub metadata: Endpoint,
    /// Where descriptors of socket producers go by default.
    pub descriptor: Endpoint,
    /// Dynamic pool stream ids.
    pub stream_id_range: Option<IdRange>,
    /// Per-consumer descriptor streams.
    pub descriptor_stream_id_range: Option<IdRange>,
    /// Per-consumer control streams.
    pub control_stream_id_range: Option<IdRange>,
}

/// `[shm]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmSettings {
    /// Where regions are made.
    pub base_dir: PathBuf,
    /// Path component between user and stream.
    pub namespace: String,
    /// Refuse anything but hugetlbfs.
    pub require_hugepages: bool,
    /// Page size in bytes.
    pub page_size_bytes: u64,
    /// Mode of region files.
    pub permissions_mode: u32,
    /// What announced paths may lie in.
    pub allowed_base_dirs: Vec<PathBuf>,
}

/// `[policies]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    /// Streams that no table names.
    pub allow_dynamic_streams: bool,
    /// Their profile.
    pub default_profile: String,
    /// Announce cadence.
    pub announce_period_ms: u64,
    /// Keepalive cadence.
    pub lease_keepalive_interval_ms: u64,
    /// Missed keepalives that end a lease.
    pub lease_expiry_grace_intervals: u32,
    /// Touch every page at creation.
    pub prefault_shm: bool,
    /// Lock regions in memory.
    pub mlock_shm: bool,
    /// Remove old epochs.
    pub epoch_gc_enabled: bool,
    /// Newest epochs that stay.
    pub epoch_gc_keep: u32,
    /// Age below which an old epoch stays.
    pub epoch_gc_min_age_ns: u64,
    /// Collect at start.
    pub epoch_gc_on_startup: bool,
    /// Length of draining.
    pub shutdown_timeout_ms: u64,
    /// Empty: no remote shutdown.
    pub shutdown_token: String,
    /// Rest of a node id between two clients.
    pub node_id_reuse_cooldown_ms: u64,
    /// Remove regions after draining.
    pub cleanup_shm_on_exit: bool,
}

/// `[profiles.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Slots, a power of two.
    pub header_nslots: u32,
    /// At least one, ascending by stride.
    pub payload_pools: Vec<Pool>,
}

/// One pool of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its id, unique in the profile.
    pub pool_id: PoolId,
    /// Bytes per slot.
    pub stride_bytes: u32,
}

/// `[streams.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// The stream's id.
    pub stream_id: StreamId,
    /// Name of its profile.
    pub profile: String,
    /// Aeron stream id of its descriptors.
    pub descriptor_stream_id: i32,
}

/// `[supervisor]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorSettings {
    /// Silence after which a consumer's own streams are freed.
    pub consumer_stale_ms: u64,
    /// No consumer maps memory.
    pub force_no_shm: bool,
    /// 0: as asked, 1: STREAM, 2: RATE_LIMITED.
    pub force_mode: u8,
    /// Named in ConsumerConfig.
    pub payload_fallback_uri: String,
}

/// `[discovery]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverySettings {
    /// Where requests arrive.
    pub endpoint: Endpoint,
    /// Results at most.
    pub max_results: u32,
}

/// `[socket]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSettings {
    /// The socket file.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
}

/// `[http]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Whether somebody asked for this address; the default one may be taken without harm.
    pub required: bool,
}

/// What the first SIGTERM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// ShmDriverShutdown, then the end.
    Drain,
    /// No notice: the next driver takes over.
    Handover,
}

impl ShutdownMode {
    /// As written in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Handover => "handover",
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Filter directives.
    pub filter: String,
    /// Form of one line.
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// As written in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams at most.
    pub streams: u32,
    /// Leases at most.
    pub leases: u32,
    /// Leases of one socket connection at most.
    pub leases_per_connection: u32,
    /// Consumers of one stream at most.
    pub consumers_per_stream: u32,
    /// Socket connections at most.
    pub connections: u32,
    /// Socket connections of one user at most.
    pub connections_per_uid: u32,
}
