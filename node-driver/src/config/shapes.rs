//! The named tables: profiles with their pools, and streams, from the file and from flags.

use std::collections::BTreeMap;

use tensorpool_wire::{PoolId, StreamId};

use super::StreamFlag;
use super::raw::{Problem, Raw, Source};
use super::read::{Entry, entries};
use super::settings::{DriverSettings, Policies, Pool, Profile, StreamSettings};

/// Slots of a ring at most: 64 MiB of headers.
const NSLOTS_MAX: u32 = 1 << 18;
/// The highest stride that still is a multiple of 64.
const STRIDE_MAX: u32 = u32::MAX - 63;

pub(super) fn profiles(raw: &Raw, problems: &mut Vec<Problem>) -> BTreeMap<String, Profile> {
    let mut profiles = BTreeMap::new();
    for (name, entry) in entries("profiles", &raw.profiles) {
        let header_nslots = if entry.has("header_nslots") {
            entry.number("header_nslots", 2, NSLOTS_MAX, problems)
        } else {
            Some(1024)
        };
        // spec: W-3-1, D-17-6
        if header_nslots.is_some_and(|nslots| !nslots.is_power_of_two()) {
            problems.push(entry.problem("header_nslots", "must be a power of two"));
        }
        profiles.insert(
            name,
            Profile {
                header_nslots: header_nslots.unwrap_or(1024),
                payload_pools: pools(&entry, problems),
            },
        );
    }
    profiles
}

fn pools(entry: &Entry<'_>, problems: &mut Vec<Problem>) -> Vec<Pool> {
    let items = entry
        .get("payload_pools")
        .and_then(|value| value.as_array());
    let items: Vec<&toml::Table> = match items {
        Some(items) if !items.is_empty() => items.iter().filter_map(|i| i.as_table()).collect(),
        _ => Vec::new(),
    };
    if items.is_empty() {
        // spec: D-17-4
        problems.push(entry.problem(
            "payload_pools",
            "must list at least one pool, such as { pool_id = 1, stride_bytes = 1048576 }",
        ));
    }
    let mut pools: Vec<Pool> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let pool = Entry::new(format!("{}.payload_pools[{index}]", entry.place), item);
        let pool_id = pool.number("pool_id", 1, u16::MAX.into(), problems);
        let stride = pool.number("stride_bytes", 64, STRIDE_MAX, problems);
        let (Some(pool_id), Some(stride_bytes)) = (pool_id, stride) else {
            continue;
        };
        let pool_id = PoolId(u16::try_from(pool_id).expect("number() keeps within a u16 range"));
        // spec: W-15.22-5, W-15.22-7
        if stride_bytes % 64 != 0 {
            problems.push(pool.problem("stride_bytes", "must be a multiple of 64"));
        }
        // spec: D-17-6
        if pools.iter().any(|other| other.pool_id == pool_id) {
            problems.push(pool.problem("pool_id", "must be unique in its profile"));
        }
        pools.push(Pool {
            pool_id,
            stride_bytes,
        });
    }
    pools.sort_by_key(|pool| (pool.stride_bytes, pool.pool_id));
    pools
}

pub(super) fn streams(
    raw: &Raw,
    policies: &Policies,
    driver: &DriverSettings,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, StreamSettings> {
    let mut streams = BTreeMap::new();
    for (name, entry) in entries("streams", &raw.streams) {
        let stream_id = entry.number("stream_id", 1, u32::MAX - 1, problems);
        let profile = entry.text("profile", problems);
        let descriptor_stream_id = if entry.has("descriptor_stream_id") {
            entry
                .number("descriptor_stream_id", 1, i32::MAX.unsigned_abs(), problems)
                .and_then(|id| i32::try_from(id).ok())
        } else {
            None
        };
        let Some(stream_id) = stream_id else { continue };
        streams.insert(
            name,
            StreamSettings {
                stream_id: StreamId(stream_id),
                profile: profile.unwrap_or_else(|| policies.default_profile.clone()),
                descriptor_stream_id: descriptor_stream_id.unwrap_or(driver.descriptor.stream_id),
            },
        );
    }
    streams
}

/// Each flag is a stream with a profile of its own, of the same name.
pub(super) fn add_flags(
    flags: &[StreamFlag],
    driver: &DriverSettings,
    profiles: &mut BTreeMap<String, Profile>,
    streams: &mut BTreeMap<String, StreamSettings>,
    problems: &mut Vec<Problem>,
) {
    for flag in flags {
        let mut refuse = |rule: &str| {
            problems.push(Problem {
                key: format!("streams.{}", flag.name),
                found: Some((
                    format!(
                        "{}:{}x{}",
                        flag.stream_id, flag.stride_bytes, flag.header_nslots
                    ),
                    Source::Flag("--stream"),
                )),
                rule: rule.into(),
            });
        };
        if streams.contains_key(&flag.name) || profiles.contains_key(&flag.name) {
            refuse("must not have the name of a stream or profile that exists");
            continue;
        }
        if flag.stream_id == 0 || flag.stream_id == u32::MAX {
            refuse("must have a stream id from 1 to 4294967294");
        }
        if flag.stride_bytes < 64 || flag.stride_bytes % 64 != 0 {
            refuse("must have a stride that is a multiple of 64 bytes");
        }
        if !(2..=NSLOTS_MAX).contains(&flag.header_nslots) || !flag.header_nslots.is_power_of_two()
        {
            refuse("must have a power of two of slots, 2 to 262144");
        }
        profiles.insert(
            flag.name.clone(),
            Profile {
                header_nslots: flag.header_nslots,
                payload_pools: vec![Pool {
                    pool_id: PoolId(1),
                    stride_bytes: flag.stride_bytes,
                }],
            },
        );
        streams.insert(
            flag.name.clone(),
            StreamSettings {
                stream_id: StreamId(flag.stream_id),
                profile: flag.name.clone(),
                descriptor_stream_id: driver.descriptor.stream_id,
            },
        );
    }
}
