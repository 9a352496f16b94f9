//! What may change while the driver runs: streams, profiles, classes, quotas and id ranges.
//!
//! Stand-alone it comes from the configuration file, in a cluster from the node's policy object. Both
//! hand over the whole of it; the driver finds the difference itself.

mod error;

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_wire::{Mode, PoolId, StreamId};

use crate::action::Numa;
use crate::config::{Identity, SECOND_NS};
use crate::stream::Place;
pub use error::PolicyError;

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
    /// Classes of memory by name. Stand-alone there are none: the mount is the limit.
    pub classes: BTreeMap<String, ClassSpec>,
    /// Quotas by the name that stands in refusals, in a cluster `namespace/name`.
    pub quotas: BTreeMap<String, QuotaSpec>,
    /// No memory is taken for streams that have none. What is attached goes on.
    pub cordoned: bool,
    /// On Aeron only client ids count that were given to somebody ([`crate::Event::AeronClients`]).
    /// Otherwise Aeron is one trust domain, in which everybody may do everything.
    pub aeron_clients_assigned: bool,
}

/// Memory that the streams of one class share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSpec {
    /// Name of the base that its files lie on. Where this driver has no such base its streams have no
    /// memory, and whoever attaches is told.
    pub base: String,
    /// Bytes that the epochs of its streams may take, old ones that still lie there included.
    pub size_bytes: u64,
}

/// Limits of one quota on this node. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaSpec {
    /// Bytes of epochs, old ones that still lie there included. While a new epoch takes the place of
    /// an announced one, the two count once.
    pub bytes: Option<u64>,
    /// PRODUCER leases and attaches under way.
    pub producers: Option<u64>,
    /// CONSUMER leases and attaches under way.
    pub consumers: Option<u64>,
    /// Both together.
    pub leases: Option<u64>,
}

/// Limits of one stream on this node. `None` leaves those of the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// PRODUCER leases; more than one there never are.
    pub producers: Option<u32>,
    /// CONSUMER leases and attaches under way.
    pub consumers: Option<u32>,
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

/// One configured stream. What the default leaves empty is not used stand-alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// The name that discovery finds it by. Unique within its namespace.
    pub name: String,
    /// Its namespace in a cluster: `namespace/name` finds it as well. Empty stand-alone.
    pub namespace: String,
    /// Tells it from another stream of the same name and id: with another uid it is another stream.
    pub uid: String,
    /// Not 0, unique.
    pub stream_id: StreamId,
    /// Name of its profile.
    pub profile: String,
    /// Tags that discovery returns and filters by.
    pub tags: Vec<String>,
    /// Data source id that discovery returns and filters by.
    pub data_source_id: Option<u64>,
    /// Its class, which says where its files lie; empty for none and the first base.
    pub class: String,
    /// Who gets memory first where it is short: the higher one.
    pub priority: i32,
    /// Its own limits.
    pub limits: StreamLimits,
    /// Names of the quotas that it counts against.
    pub quotas: Vec<String>,
    /// Its first epoch is made when the policy comes, not when somebody attaches.
    pub eager: bool,
    /// Whether peers on Aeron may have it: it is announced and found there, and its files are those of
    /// a group.
    pub on_aeron: bool,
    /// After it is removed from the policy its files stay for this long, in nanoseconds: clients that
    /// were told finish what they read. Then they go, however young they are. By default the minimum age
    /// of an epoch.
    pub grace_ns: u64,
    /// Whoever still has files of an epoch that was to go keeps their memory for this long, in
    /// nanoseconds; then they are emptied. `None`: for as long as it likes.
    pub force_after_ns: Option<u64>,
    /// Which NUMA node its memory comes from; `None`: any. A change holds for the next epoch.
    pub numa: Option<Numa>,
}

impl Default for StreamSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            namespace: String::new(),
            uid: String::new(),
            stream_id: StreamId(0),
            profile: String::new(),
            tags: Vec::new(),
            data_source_id: None,
            class: String::new(),
            priority: 0,
            limits: StreamLimits::default(),
            quotas: Vec::new(),
            eager: false,
            on_aeron: true,
            grace_ns: 3 * SECOND_NS,
            force_after_ns: None,
            numa: None,
        }
    }
}

impl StreamSpec {
    /// `namespace/name`, or the name alone where there is no namespace.
    #[must_use]
    pub fn full_name(&self) -> String {
        full_name(&self.namespace, &self.name)
    }
}

/// `namespace/name`, or the name alone where there is no namespace.
pub(crate) fn full_name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
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

/// A [`PolicySpec`] that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    spec: PolicySpec,
    streams: BTreeMap<StreamId, StreamPolicy>,
}

/// One configured stream with its profile looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamPolicy {
    pub(crate) spec: StreamSpec,
    pub(crate) profile: Profile,
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
            if !names.insert((stream.namespace.as_str(), stream.name.as_str())) {
                return Err(PolicyError::NameTwice(stream.full_name()));
            }
            self.check_references(stream)?;
            let profile =
                self.profiles
                    .get(&stream.profile)
                    .ok_or_else(|| PolicyError::NoSuchProfile {
                        user: format!("streams.{}", stream.name),
                        profile: stream.profile.clone(),
                    })?;
            let policy = StreamPolicy {
                spec: stream.clone(),
                profile: profile.clone(),
            };
            if streams.insert(stream.stream_id, policy).is_some() {
                return Err(PolicyError::StreamIdTwice(stream.stream_id));
            }
        }
        Ok(streams)
    }

    /// A class or quota that is named and not there would be no limit at all.
    fn check_references(&self, stream: &StreamSpec) -> Result<(), PolicyError> {
        if !stream.class.is_empty() && !self.classes.contains_key(&stream.class) {
            return Err(PolicyError::NoSuchClass {
                stream: stream.full_name(),
                class: stream.class.clone(),
            });
        }
        let missing = stream
            .quotas
            .iter()
            .find(|name| !self.quotas.contains_key(*name));
        match missing {
            Some(quota) => Err(PolicyError::NoSuchQuota {
                stream: stream.full_name(),
                quota: quota.clone(),
            }),
            None => Ok(()),
        }
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

    /// Where the files of a stream of this class lie. No class: the first base.
    pub(crate) fn place(&self, identity: &Identity, class: &str) -> Place {
        let base = self.spec.classes.get(class).map_or("", |class| &class.base);
        identity
            .base_named(base)
            .map_or_else(|| Place::Nowhere(base.to_owned()), Place::On)
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
