//! What may change while the driver runs: streams, profiles, id ranges, and what an attachment may do.
//!
//! Stand-alone it comes from the configuration file, in a cluster from the node's policy object. Both
//! hand over the whole of it; the driver finds the difference itself.

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_wire::{Mode, PoolId, StreamId};

/// Most pools of one profile: a producer's regions travel as descriptors in one packet, and the kernel
/// takes 253 of them, one for the header ring.
pub const MAX_POOLS: usize = 252;

/// Longest stream name in bytes (DI-5.1-4).
pub const MAX_NAME_BYTES: usize = 256;

/// Streams, profiles and ranges as plain data. [`PolicySpec::validate`] makes a [`Policy`] of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// `profiles.NAME`.
    pub profiles: BTreeMap<String, Profile>,
    /// `policies.default_profile`, for dynamic streams; without it they are refused.
    pub default_profile: Option<String>,
    /// `policies.allow_dynamic_streams`.
    pub allow_dynamic_streams: bool,
    /// `driver.stream_id_range`, for dynamic streams.
    pub stream_id_range: Option<IdRange>,
    /// `driver.descriptor_stream_id_range`, for per-consumer descriptor streams.
    pub descriptor_stream_id_range: Option<IdRange>,
    /// `driver.control_stream_id_range`, for per-consumer control streams.
    pub control_stream_id_range: Option<IdRange>,
    /// `streams.NAME`.
    pub streams: Vec<StreamSpec>,
    /// What ConsumerConfig tells consumers.
    pub consumers: ConsumerRules,
}

/// The layout of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Slots of the header ring and of every pool: a power of two.
    pub header_nslots: u32,
    /// The pools. A profile without any is refused at attach (D-4.3-4).
    pub pools: Vec<PoolSpec>,
}

/// One payload pool of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolSpec {
    /// 1..65535, unique within the profile.
    pub pool_id: PoolId,
    /// Bytes per slot: a multiple of 64.
    pub stride_bytes: u32,
}

/// One configured stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// The name that discovery finds it by. Unique.
    pub name: String,
    /// Not 0, unique.
    pub stream_id: StreamId,
    /// Name of its profile.
    pub profile: String,
    /// Tags that discovery returns and filters by.
    pub tags: Vec<String>,
    /// Data source id that discovery returns and filters by.
    pub data_source_id: Option<u64>,
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
    /// Whether `id` lies in the range.
    #[must_use]
    pub const fn contains(&self, id: u32) -> bool {
        self.start <= id && id <= self.end
    }

    /// The smallest id of the range that is not in `used`, which ascends and lies in the range.
    pub(crate) fn first_free(&self, used: impl Iterator<Item = u32>) -> Option<u32> {
        let mut free = self.start;
        for id in used {
            if id != free {
                break;
            }
            free = free.checked_add(1)?;
        }
        self.contains(free).then_some(free)
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// What ConsumerConfig tells consumers beside their streams (W-10.1.3-7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRules {
    /// `false` sends every consumer to its fallback.
    pub use_shm: bool,
    /// The mode that every consumer is told; `None` repeats the mode that it asked for.
    pub force_mode: Option<Mode>,
    /// Where consumers find payloads without shared memory; empty for nowhere.
    pub payload_fallback_uri: String,
}

impl Default for ConsumerRules {
    fn default() -> Self {
        Self {
            use_shm: true,
            force_mode: None,
            payload_fallback_uri: String::new(),
        }
    }
}

/// What one connection's attachment may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Streams and roles.
    pub visible: Visible,
    /// Leases of this connection, at most [`crate::config::Limits::leases_per_connection`].
    pub leases: u32,
}

impl Access {
    /// Everything: the stand-alone socket, guarded by its file mode.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            visible: Visible::All,
            leases: u32::MAX,
        }
    }

    /// What may be done with `stream`. Nothing where it is not visible.
    #[must_use]
    pub fn roles(&self, stream: StreamId) -> Roles {
        match &self.visible {
            Visible::All => Roles {
                produce: true,
                consume: true,
            },
            Visible::Only(streams) => streams.get(&stream).copied().unwrap_or(Roles {
                produce: false,
                consume: false,
            }),
        }
    }

    /// Whether discovery and status may show `stream`.
    #[must_use]
    pub fn sees(&self, stream: StreamId) -> bool {
        let roles = self.roles(stream);
        roles.produce || roles.consume
    }
}

/// Which streams an attachment sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    /// All, in both roles, dynamic ones included.
    All,
    /// These, each in these roles.
    Only(BTreeMap<StreamId, Roles>),
}

/// Roles that an attachment may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// PRODUCER.
    pub produce: bool,
    /// CONSUMER.
    pub consume: bool,
}

/// A [`PolicySpec`] that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    spec: PolicySpec,
    streams: BTreeMap<StreamId, StreamPolicy>,
}

/// One configured stream with its profile looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamPolicy {
    pub(crate) name: String,
    pub(crate) profile: Profile,
    pub(crate) tags: Vec<String>,
    pub(crate) data_source_id: Option<u64>,
}

impl PolicySpec {
    /// Checks every value. `reserved` are the Aeron stream ids that ranges must keep free.
    ///
    /// # Errors
    /// [`PolicyError`] names the value and the rule that it breaks.
    pub fn validate(self, reserved: &[u32]) -> Result<Policy, PolicyError> {
        for (name, profile) in &self.profiles {
            validate_profile(name, profile)?;
        }
        if let Some(name) = &self.default_profile
            && !self.profiles.contains_key(name)
        {
            return Err(PolicyError::NoSuchProfile {
                user: "policies.default_profile".to_owned(),
                profile: name.clone(),
            });
        }
        let streams = self.resolve_streams()?;
        self.validate_ranges(reserved, &streams)?;
        Ok(Policy {
            spec: self,
            streams,
        })
    }

    // spec: D-17-4
    fn resolve_streams(&self) -> Result<BTreeMap<StreamId, StreamPolicy>, PolicyError> {
        let mut streams = BTreeMap::new();
        let mut names = BTreeSet::new();
        for stream in &self.streams {
            if stream.stream_id == StreamId(0) || stream.stream_id == StreamId(u32::MAX) {
                return Err(PolicyError::StreamIdReserved(stream.name.clone()));
            }
            if stream.name.is_empty() || stream.name.len() > MAX_NAME_BYTES {
                return Err(PolicyError::NameLength(stream.stream_id));
            }
            if !names.insert(stream.name.as_str()) {
                return Err(PolicyError::NameTwice(stream.name.clone()));
            }
            let profile =
                self.profiles
                    .get(&stream.profile)
                    .ok_or_else(|| PolicyError::NoSuchProfile {
                        user: format!("streams.{}", stream.name),
                        profile: stream.profile.clone(),
                    })?;
            let policy = StreamPolicy {
                name: stream.name.clone(),
                profile: profile.clone(),
                tags: stream.tags.clone(),
                data_source_id: stream.data_source_id,
            };
            if streams.insert(stream.stream_id, policy).is_some() {
                return Err(PolicyError::StreamIdTwice(stream.stream_id));
            }
        }
        Ok(streams)
    }

    /// spec: D-11-3, D-11-4
    fn validate_ranges(
        &self,
        reserved: &[u32],
        streams: &BTreeMap<StreamId, StreamPolicy>,
    ) -> Result<(), PolicyError> {
        let ranges = [
            ("driver.stream_id_range", self.stream_id_range),
            (
                "driver.descriptor_stream_id_range",
                self.descriptor_stream_id_range,
            ),
            (
                "driver.control_stream_id_range",
                self.control_stream_id_range,
            ),
        ];
        let mut seen: Vec<(&'static str, IdRange)> = Vec::new();
        for (name, range) in ranges {
            let Some(range) = range else { continue };
            if range.start == 0 || range.end == u32::MAX || range.start > range.end {
                return Err(PolicyError::RangeBounds { name, range });
            }
            if let Some((other, _)) = seen.iter().find(|(_, other)| other.overlaps(&range)) {
                return Err(PolicyError::RangesOverlap { name, other });
            }
            let fixed = reserved.iter().copied();
            if let Some(id) = fixed
                .chain(streams.keys().map(|stream| stream.get()))
                .find(|id| range.contains(*id))
            {
                return Err(PolicyError::RangeHoldsId { name, id });
            }
            seen.push((name, range));
        }
        // Aeron stream ids are signed 32-bit numbers.
        for (name, range) in seen {
            if name != "driver.stream_id_range" && i32::try_from(range.end).is_err() {
                return Err(PolicyError::RangeBounds { name, range });
            }
        }
        Ok(())
    }
}

fn validate_profile(name: &str, profile: &Profile) -> Result<(), PolicyError> {
    // spec: W-3-1, D-17-6
    if !profile.header_nslots.is_power_of_two() {
        return Err(PolicyError::Nslots {
            profile: name.to_owned(),
            nslots: profile.header_nslots,
        });
    }
    if profile.pools.len() > MAX_POOLS {
        return Err(PolicyError::TooManyPools(name.to_owned()));
    }
    let mut ids = BTreeSet::new();
    for pool in &profile.pools {
        if pool.pool_id == PoolId(0) || !ids.insert(pool.pool_id) {
            return Err(PolicyError::PoolId {
                profile: name.to_owned(),
                pool: pool.pool_id,
            });
        }
        // spec: W-15.22-5
        if pool.stride_bytes == 0 || pool.stride_bytes % 64 != 0 {
            return Err(PolicyError::Stride {
                profile: name.to_owned(),
                stride_bytes: pool.stride_bytes,
            });
        }
    }
    Ok(())
}

impl Policy {
    /// The configured streams.
    pub(crate) const fn streams(&self) -> &BTreeMap<StreamId, StreamPolicy> {
        &self.streams
    }

    /// As it was given.
    #[must_use]
    pub const fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    /// The profile of dynamic streams.
    pub(crate) fn default_profile(&self) -> Option<&Profile> {
        self.spec
            .default_profile
            .as_ref()
            .and_then(|name| self.spec.profiles.get(name))
    }
}

/// Which value breaks which rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// See message.
    #[error("`{user}` names the profile `{profile}`, which is not defined")]
    NoSuchProfile {
        /// The key that names it.
        user: String,
        /// The name.
        profile: String,
    },
    /// See message.
    #[error("profile `{profile}`: header_nslots {nslots} is not a power of two")]
    Nslots {
        /// Which profile.
        profile: String,
        /// Its value.
        nslots: u32,
    },
    /// See message.
    #[error("profile `{0}` has more than {MAX_POOLS} pools")]
    TooManyPools(String),
    /// See message.
    #[error("profile `{profile}`: pool id {pool} is 0 or occurs twice")]
    PoolId {
        /// Which profile.
        profile: String,
        /// The id.
        pool: PoolId,
    },
    /// See message.
    #[error("profile `{profile}`: stride_bytes {stride_bytes} is not a positive multiple of 64")]
    Stride {
        /// Which profile.
        profile: String,
        /// Its value.
        stride_bytes: u32,
    },
    /// See message.
    #[error("stream `{0}`: stream_id must not be 0 or 4294967295")]
    StreamIdReserved(String),
    /// See message.
    #[error("stream id {0} is configured twice")]
    StreamIdTwice(StreamId),
    /// See message.
    #[error("stream name `{0}` is configured twice")]
    NameTwice(String),
    /// See message.
    #[error("stream {0}: its name must have 1 to {MAX_NAME_BYTES} bytes")]
    NameLength(StreamId),
    /// See message.
    #[error("`{name}` {}-{}: the first id must not be 0 or above the last, and the last must be usable", range.start, range.end)]
    RangeBounds {
        /// Which key.
        name: &'static str,
        /// Its value.
        range: IdRange,
    },
    /// See message.
    #[error("`{name}` and `{other}` overlap")]
    RangesOverlap {
        /// Which key.
        name: &'static str,
        /// Which other key.
        other: &'static str,
    },
    /// See message.
    #[error("`{name}` holds the id {id}, which is used otherwise")]
    RangeHoldsId {
        /// Which key.
        name: &'static str,
        /// The id.
        id: u32,
    },
}
