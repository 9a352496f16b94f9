//! From the configuration file to what the core is made from.

use std::path::Path;

use tensorpool_driver_core::config::{
    ConfigError, ConfigSpec, ConsumerRules, Gc, IdRange, Identity, Limits, PolicySpec, PoolSpec,
    Profile, StreamSpec, Timing,
};
use tensorpool_driver_core::{BaseId, Config};
use tensorpool_wire::Mode;

use crate::config::{self, Settings};
use crate::stores::Stores;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
/// Memory that any machine clears within a second.
const CLEARED_PER_SECOND: u64 = 256 << 20;

/// The core's configuration. `largest_bytes` is what may be asked for at the same time.
///
/// # Errors
/// [`ConfigError`] for a rule that only the core knows.
pub(crate) fn core_config(
    settings: &Settings,
    stores: &Stores,
    largest_bytes: u64,
    first_lease_id: u64,
) -> Result<Config, ConfigError> {
    let policies = &settings.policies;
    ConfigSpec {
        identity: identity(settings, stores),
        timing: Timing {
            announce_period_ns: policies.announce_period_ms * MS,
            // spec: D-4.4-5 — both are keys of the configuration, and each answer states the expiry.
            keepalive_interval_ns: policies.lease_keepalive_interval_ms * MS,
            expiry_grace_intervals: policies.lease_expiry_grace_intervals,
            shutdown_timeout_ns: policies.shutdown_timeout_ms * MS,
            node_id_cooldown_ns: policies.node_id_reuse_cooldown_ms * MS,
            consumer_stale_ns: settings.supervisor.consumer_stale_ms * MS,
            // The worker makes one epoch after the other; all streams can ask at once.
            op_timeout_ns: (60 + largest_bytes / CLEARED_PER_SECOND) * SECOND,
        },
        gc: Gc {
            enabled: policies.epoch_gc_enabled,
            keep: policies.epoch_gc_keep,
            min_age_ns: policies.epoch_gc_min_age_ns,
            on_startup: policies.epoch_gc_on_startup,
        },
        limits: Limits {
            streams: settings.limits.streams,
            leases: settings.limits.leases,
            leases_per_connection: settings.limits.leases_per_connection,
            consumers_per_stream: settings.limits.consumers_per_stream,
            connections: settings.limits.connections,
            discovery_results: settings.discovery.max_results,
            ..Limits::default()
        },
        shutdown_token: policies.shutdown_token.clone(),
        first_lease_id,
        policy: policy(settings),
    }
    .validate()
}

fn identity(settings: &Settings, stores: &Stores) -> Identity {
    // The store has resolved and sanitised all parts: <base>/tensorpool-<user>/<namespace>. User and
    // namespace are the same in all of them.
    let store = stores.get(BaseId::default());
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let user_dir = store.path().parent();
    let driver = &settings.driver;
    let stream_ids = [
        driver.announce.stream_id,
        driver.qos.stream_id,
        driver.metadata.stream_id,
        driver.descriptor.stream_id,
        settings.discovery.endpoint.stream_id,
    ];
    let own = settings.streams.values().map(|s| s.descriptor_stream_id);
    Identity {
        instance_id: driver.instance_id.clone(),
        bases: stores.bases(),
        user: name(user_dir)
            .strip_prefix("tensorpool-")
            .map(str::to_owned)
            .unwrap_or_default(),
        namespace: name(Some(store.path())),
        control_channel: driver.control.channel.clone(),
        control_stream_id: driver.control.stream_id.unsigned_abs(),
        other_stream_ids: stream_ids
            .into_iter()
            .chain(own)
            .map(i32::unsigned_abs)
            .collect(),
    }
}

fn policy(settings: &Settings) -> PolicySpec {
    let range = |range: Option<config::IdRange>| {
        range.map(|range| IdRange {
            start: range.start,
            end: range.end,
        })
    };
    let supervisor = &settings.supervisor;
    PolicySpec {
        profiles: settings
            .profiles
            .iter()
            .map(|(name, profile)| {
                let pools = profile.payload_pools.iter().map(|pool| PoolSpec {
                    pool_id: pool.pool_id,
                    stride_bytes: pool.stride_bytes,
                });
                let profile = Profile {
                    header_nslots: profile.header_nslots,
                    pools: pools.collect(),
                };
                (name.clone(), profile)
            })
            .collect(),
        default_profile: settings
            .profiles
            .contains_key(&settings.policies.default_profile)
            .then(|| settings.policies.default_profile.clone()),
        allow_dynamic_streams: settings.policies.allow_dynamic_streams,
        stream_id_range: range(settings.driver.stream_id_range),
        descriptor_stream_id_range: range(settings.driver.descriptor_stream_id_range),
        control_stream_id_range: range(settings.driver.control_stream_id_range),
        streams: settings
            .streams
            .iter()
            .map(|(name, stream)| StreamSpec {
                name: name.clone(),
                stream_id: stream.stream_id,
                profile: stream.profile.clone(),
                ..StreamSpec::default()
            })
            .collect(),
        consumers: ConsumerRules {
            use_shm: !supervisor.force_no_shm,
            force_mode: match supervisor.force_mode {
                1 => Some(Mode::Stream),
                2 => Some(Mode::RateLimited),
                _ => None,
            },
            payload_fallback_uri: supervisor.payload_fallback_uri.clone(),
        },
        ..PolicySpec::default()
    }
}
