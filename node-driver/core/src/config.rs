//! What the driver is told once: who it is, its times, its limits, and its first policy.
//!
//! Everything is checked here, once; afterwards it is right by type. Policy (streams, profiles,
//! ranges) lives in `policy.rs`, since it can change while the driver runs.

pub use crate::access::{Access, AeronPlace, Roles, Visible};
use crate::layout::is_path_component;
pub use crate::policy::{
    ClassSpec, ConsumerRules, IdRange, MAX_NAME_BYTES, MAX_POOLS, Policy, PolicyError, PolicySpec,
    PoolSpec, Profile, QuotaSpec, StreamLimits, StreamSpec,
};

/// One second in nanoseconds.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// What a driver is made from. Plain data; [`ConfigSpec::validate`] makes a [`Config`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpec {
    /// Who this driver is and where its files lie.
    pub identity: Identity,
    /// Periods and timeouts.
    pub timing: Timing,
    /// Which epochs are removed when.
    pub gc: Gc,
    /// Bounds; each is answered with a response code or a counted drop.
    pub limits: Limits,
    /// Token that a ShmDriverShutdownRequest must carry; empty turns the request off (B-19).
    pub shutdown_token: String,
    /// First lease id, random. Taken modulo 2^62, never 0, so that two drivers on one control stream
    /// do not use the same ids.
    pub first_lease_id: u64,
    /// Streams, profiles and ranges at start.
    pub policy: PolicySpec,
}

/// Who this driver is and where its files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `driver.instance_id`.
    pub instance_id: String,
    /// Where regions lie, at least one. The first is that of dynamic streams and of streams that name
    /// none.
    pub bases: Vec<Base>,
    /// Effective user name. Characters outside `[A-Za-z0-9_-]` become `_` (W-15.21a-2).
    pub user: String,
    /// `shm.namespace`: one path component of `[A-Za-z0-9_.-]`, not beginning with a dot.
    pub namespace: String,
    /// Aeron control channel in discovery results.
    pub control_channel: String,
    /// Aeron control stream id in discovery results, and kept free of ranges.
    pub control_stream_id: u32,
    /// Kept free of ranges, like every other Aeron stream id that this driver uses.
    pub other_stream_ids: Vec<u32>,
}

/// A directory on one mount, below which regions lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// What streams name it by, in a cluster its page size as Kubernetes writes it (`2Mi`). Unique;
    /// may be empty where there is only one.
    pub name: String,
    /// Canonical absolute directory (realpath), as it stands in URIs.
    pub directory: String,
    /// Whether regions lie on hugetlbfs. URIs then carry `require_hugepages=true`.
    pub hugepages: bool,
    /// Page size of the regions in bytes, a power of two; files are whole pages.
    pub page_size_bytes: u64,
}

/// A base by its place in [`Identity::bases`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseId(pub u16);

/// Periods and timeouts in nanoseconds. [`Timing::default`] has the protocol's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `policies.announce_period_ms`.
    pub announce_period_ns: u64,
    /// `policies.lease_keepalive_interval_ms`.
    pub keepalive_interval_ns: u64,
    /// `policies.lease_expiry_grace_intervals`.
    pub expiry_grace_intervals: u32,
    /// `policies.shutdown_timeout_ms`.
    pub shutdown_timeout_ns: u64,
    /// `policies.node_id_reuse_cooldown_ms`.
    pub node_id_cooldown_ns: u64,
    /// After this without ConsumerHello and QosConsumer a per-consumer stream is taken back.
    pub consumer_stale_ns: u64,
    /// After this an effect without result counts as failed. Must outlast the allocation of the
    /// largest stream.
    pub op_timeout_ns: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            announce_period_ns: SECOND_NS,
            keepalive_interval_ns: SECOND_NS,
            expiry_grace_intervals: 3,
            shutdown_timeout_ns: 2 * SECOND_NS,
            node_id_cooldown_ns: SECOND_NS,
            consumer_stale_ns: 5 * SECOND_NS,
            op_timeout_ns: 60 * SECOND_NS,
        }
    }
}

impl Timing {
    /// How long a lease lives after its last keepalive, in nanoseconds (D-4.4-5).
    // spec: D-4.4-5
    #[must_use]
    pub fn lease_ns(&self) -> u64 {
        self.keepalive_interval_ns
            .saturating_mul(u64::from(self.expiry_grace_intervals))
    }
}

/// Which epochs are removed when (D-17-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gc {
    /// `policies.epoch_gc_enabled`. The pass for lack of space runs in any case.
    pub enabled: bool,
    /// `policies.epoch_gc_keep`: the current epoch and this many less one before it. At least 1.
    pub keep: u32,
    /// `policies.epoch_gc_min_age_ns`: an epoch with younger activity stays.
    pub min_age_ns: u64,
    /// `policies.epoch_gc_on_startup`.
    pub on_startup: bool,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            enabled: true,
            keep: 2,
            min_age_ns: 3 * SECOND_NS,
            on_startup: false,
        }
    }
}

/// Bounds on everything that a peer can make grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams, configured and dynamic. One more: REJECTED.
    pub streams: u32,
    /// Leases and attaches under way, in total. One more: INTERNAL_ERROR `lease allocation failed`.
    pub leases: u32,
    /// Leases and attaches under way of one connection. One more: REJECTED.
    pub leases_per_connection: u32,
    /// Consumer leases of one stream. One more: REJECTED.
    pub consumers_per_stream: u32,
    /// Attaches of one stream that wait for its files. One more: REJECTED.
    pub pending_attaches_per_stream: u32,
    /// Connections that are known here. One more is closed at once.
    pub connections: u32,
    /// Longest inbound message in bytes; a longer one is dropped and counted.
    pub message_bytes: u32,
    /// Leases remembered for having been answered as unknown within the last second.
    pub unknown_leases: u32,
    /// Results of one discovery answer. More: ERROR `result limit exceeded`.
    pub discovery_results: u32,
    /// Longest outbound discovery answer in bytes. Longer: the same.
    pub discovery_bytes: u32,
    /// FrameProgress messages of one stream that are forwarded per second (X-2-32).
    pub progress_per_second: u32,
    /// Highest node id that is given out; they begin at 1.
    pub node_ids: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 1_024,
            leases: 16_384,
            leases_per_connection: 64,
            consumers_per_stream: 1_024,
            pending_attaches_per_stream: 64,
            connections: 4_096,
            message_bytes: 131_064,
            unknown_leases: 1_024,
            discovery_results: 1_000,
            discovery_bytes: 131_064,
            progress_per_second: 2_000,
            node_ids: 1_023,
        }
    }
}

/// A [`ConfigSpec`] that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub(crate) identity: Identity,
    pub(crate) timing: Timing,
    pub(crate) gc: Gc,
    pub(crate) limits: Limits,
    pub(crate) shutdown_token: String,
    pub(crate) first_lease_id: u64,
    pub(crate) policy: Policy,
}

impl ConfigSpec {
    /// Checks every value.
    ///
    /// # Errors
    /// [`ConfigError`] names the value and the rule that it breaks.
    pub fn validate(self) -> Result<Config, ConfigError> {
        let identity = self.identity.validate()?;
        validate_timing(&self.timing)?;
        if self.gc.keep == 0 {
            return Err(ConfigError::KeepZero);
        }
        let mut reserved = identity.other_stream_ids.clone();
        reserved.push(identity.control_stream_id);
        let policy = self.policy.validate(&reserved)?;
        validate_limits(&self.limits, policy.streams().len())?;
        Ok(Config {
            identity,
            timing: self.timing,
            gc: self.gc,
            limits: self.limits,
            shutdown_token: self.shutdown_token,
            first_lease_id: (self.first_lease_id % (1 << 62)).max(1),
            policy,
        })
    }
}

impl Config {
    /// The Aeron stream ids that ranges of a later policy must keep free, for
    /// [`PolicySpec::validate`].
    #[must_use]
    pub fn reserved_stream_ids(&self) -> Vec<u32> {
        let mut reserved = self.identity.other_stream_ids.clone();
        reserved.push(self.identity.control_stream_id);
        reserved
    }
}

impl Identity {
    fn validate(mut self) -> Result<Self, ConfigError> {
        if self.bases.is_empty() || u16::try_from(self.bases.len()).is_err() {
            return Err(ConfigError::Bases(self.bases.len()));
        }
        for (at, base) in self.bases.iter().enumerate() {
            base.validate()?;
            let twin = self
                .bases
                .iter()
                .take(at)
                .find(|other| other.name == base.name || other.directory == base.directory);
            if twin.is_some() {
                return Err(ConfigError::BaseTwice(base.name.clone()));
            }
        }
        if !is_path_component(&self.namespace) {
            return Err(ConfigError::Namespace(self.namespace));
        }
        if self.control_channel.is_empty() || self.control_stream_id == 0 {
            return Err(ConfigError::ControlEndpoint);
        }
        // spec: W-15.21a-2
        self.user = crate::layout::sanitize_user(&self.user);
        Ok(self)
    }
}

impl Base {
    fn validate(&self) -> Result<(), ConfigError> {
        // spec: W-15.21a-7, A path in a URI is printable, without `?`, `|` and space.
        let printable = self
            .directory
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'|');
        let canonical = self.directory.starts_with('/')
            && (self.directory.len() == 1 || !self.directory.ends_with('/'))
            && !self
                .directory
                .split('/')
                .skip(1)
                .any(|part| matches!(part, "." | "..") || part.is_empty());
        if !printable || !canonical {
            return Err(ConfigError::BaseDir(self.directory.clone()));
        }
        if !self.page_size_bytes.is_power_of_two() {
            return Err(ConfigError::PageSize(self.page_size_bytes));
        }
        Ok(())
    }
}

fn validate_timing(timing: &Timing) -> Result<(), ConfigError> {
    let values = [
        ("announce_period", timing.announce_period_ns),
        ("keepalive_interval", timing.keepalive_interval_ns),
        (
            "expiry_grace_intervals",
            u64::from(timing.expiry_grace_intervals),
        ),
        ("op_timeout", timing.op_timeout_ns),
        ("consumer_stale", timing.consumer_stale_ns),
    ];
    for (name, value) in values {
        if value == 0 {
            return Err(ConfigError::Zero { name });
        }
    }
    Ok(())
}

fn validate_limits(limits: &Limits, streams: usize) -> Result<(), ConfigError> {
    let values = [
        ("streams", limits.streams),
        ("leases", limits.leases),
        ("leases_per_connection", limits.leases_per_connection),
        ("consumers_per_stream", limits.consumers_per_stream),
        (
            "pending_attaches_per_stream",
            limits.pending_attaches_per_stream,
        ),
        ("connections", limits.connections),
        ("message_bytes", limits.message_bytes),
        ("unknown_leases", limits.unknown_leases),
        ("discovery_results", limits.discovery_results),
        ("discovery_bytes", limits.discovery_bytes),
        ("progress_per_second", limits.progress_per_second),
    ];
    for (name, value) in values {
        if value == 0 {
            return Err(ConfigError::Zero { name });
        }
    }
    // spec: T-6.2-1, a node id has to fit the 10 bits of a trace id.
    if limits.node_ids > 1_023 {
        return Err(ConfigError::NodeIds(limits.node_ids));
    }
    if u32::try_from(streams).is_ok_and(|count| count <= limits.streams) {
        Ok(())
    } else {
        Err(ConfigError::TooManyStreams {
            count: streams,
            limit: limits.streams,
        })
    }
}

/// Which value breaks which rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See message.
    #[error("{0} base directories are configured, at least one is needed and 65535 may be")]
    Bases(usize),
    /// See message.
    #[error("the base `{0}` is configured twice: names and directories are unique")]
    BaseTwice(String),
    /// See message.
    #[error(
        "base directory `{0}` must be absolute and canonical, of printable ASCII without space, `?` and `|`"
    )]
    BaseDir(String),
    /// See message.
    #[error(
        "namespace `{0}` must be one path component of letters, digits, `_`, `-` and `.`, not beginning with a dot"
    )]
    Namespace(String),
    /// See message.
    #[error("page size {0} is not a power of two")]
    PageSize(u64),
    /// See message.
    #[error("the control channel must not be empty and its stream id must not be 0 (DI-5.2-3)")]
    ControlEndpoint,
    /// See message.
    #[error("`{name}` must not be 0")]
    Zero {
        /// Which value.
        name: &'static str,
    },
    /// See message.
    #[error("`epoch_gc_keep` must be at least 1: the current epoch is always kept")]
    KeepZero,
    /// See message.
    #[error("{0} node ids do not fit the 10 bits of a trace id, at most 1023 do")]
    NodeIds(u32),
    /// See message.
    #[error("{count} streams are configured, the limit is {limit}")]
    TooManyStreams {
        /// How many are configured.
        count: usize,
        /// How many there may be.
        limit: u32,
    },
    /// The policy breaks a rule.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}
