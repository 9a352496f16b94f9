//! From keys to [`Settings`], table by table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tensorpool_wire::{PoolId, StreamId};

use super::raw::{Problem, Raw, Source};
use super::read::{Entry, Reader, entries};
use super::settings::{
    DiscoverySettings, DriverSettings, HttpSettings, Limits, LogFormat, LogSettings,
    MediaDriverMode, Policies, Pool, Profile, Settings, ShmSettings, ShutdownMode, SocketSettings,
    StreamSettings, SupervisorSettings,
};
use super::{StreamFlag, Surroundings};

const CHANNEL: &str = "aeron:ipc?term-length=4m";
/// A quarter of an hour: longer periods are slips of the unit.
const LONGEST_MS: u64 = 900_000;
/// Slots of a ring at most: 64 MiB of headers.
const NSLOTS_MAX: u32 = 1 << 18;
/// The highest stride that still is a multiple of 64.
const STRIDE_MAX: u32 = u32::MAX - 63;

/// Builds the settings and returns what is wrong beside them.
pub(super) fn settings(
    raw: &Raw,
    flags: &[StreamFlag],
    surroundings: &Surroundings<'_>,
) -> (Settings, Vec<Problem>) {
    let mut reader = Reader::new(raw);
    let mut problems = Vec::new();
    let socket = socket(&mut reader, surroundings);
    let driver = driver(&mut reader, socket.as_ref(), surroundings);
    let mut profiles = profiles(raw, &mut problems);
    let policies = policies(&mut reader, &profiles);
    let mut streams = streams(raw, &policies, &driver, &mut problems);
    add_flags(flags, &driver, &mut profiles, &mut streams, &mut problems);
    let settings = Settings {
        shm: shm(&mut reader),
        supervisor: supervisor(&mut reader),
        discovery: DiscoverySettings {
            endpoint: super::Endpoint {
                channel: reader.channel("discovery.channel", CHANNEL),
                stream_id: reader.aeron_stream_id("discovery.stream_id", 7000),
            },
            max_results: reader.number_u32("discovery.max_results", 1000, 1, 65_534),
        },
        http: http(&mut reader),
        shutdown_mode: reader.choice(
            "shutdown.mode",
            0,
            &[
                ("drain", ShutdownMode::Drain),
                ("handover", ShutdownMode::Handover),
            ],
        ),
        log: LogSettings {
            filter: log_filter(&mut reader),
            format: reader.choice(
                "log.format",
                0,
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
        },
        limits: Limits {
            streams: reader.number_u32("limits.streams", 4096, 1, 65_536),
            leases: reader.number_u32("limits.leases", 16_384, 1, 1_048_576),
            leases_per_connection: reader.number_u32(
                "limits.leases_per_connection",
                64,
                1,
                1_048_576,
            ),
            consumers_per_stream: reader.number_u32(
                "limits.consumers_per_stream",
                1024,
                1,
                1_048_576,
            ),
            connections: reader.number_u32("limits.connections", 16_384, 1, 1_048_576),
            connections_per_uid: reader.number_u32(
                "limits.connections_per_uid",
                16_384,
                1,
                1_048_576,
            ),
        },
        driver,
        policies,
        profiles,
        streams,
        socket,
    };
    problems.splice(0..0, reader.problems);
    (settings, problems)
}

fn socket(reader: &mut Reader<'_>, surroundings: &Surroundings<'_>) -> Option<SocketSettings> {
    let mode = reader.mode("socket.mode", 0o660);
    let default = if surroundings.root {
        Some("/run/tensorpool/driver.sock".to_owned())
    } else {
        (surroundings.variable)("XDG_RUNTIME_DIR")
            .filter(|dir| dir.starts_with('/'))
            .map(|dir| format!("{dir}/tensorpool/driver.sock"))
    };
    if !reader.is_set("socket.path") && default.is_none() {
        reader.refuse(
            "socket.path",
            "unset",
            "XDG_RUNTIME_DIR is not set, so there is no default: set a path, or \"\" for none",
        );
        return None;
    }
    if reader.text("socket.path", &default.clone().unwrap_or_default()) == "" {
        return None;
    }
    let path = reader.absolute_path("socket.path", Path::new(&default.unwrap_or_default()));
    Some(SocketSettings { path, mode })
}

fn driver(
    reader: &mut Reader<'_>,
    socket: Option<&SocketSettings>,
    surroundings: &Surroundings<'_>,
) -> DriverSettings {
    let aeron_default = (surroundings.variable)("AERON_DIR").unwrap_or_else(|| {
        let user = (surroundings.variable)("USER").unwrap_or_else(|| "default".to_owned());
        format!("/dev/shm/aeron-{user}")
    });
    let control = reader.endpoint("driver.control", CHANNEL, 1000);
    let announce = reader.endpoint("driver.announce", &control.channel, control.stream_id);
    let state_default = socket
        .and_then(|socket| socket.path.parent())
        .map(Path::to_owned)
        .unwrap_or_else(|| default_state_dir(surroundings));
    DriverSettings {
        instance_id: reader.text("driver.instance_id", "driver-01"),
        state_dir: reader.absolute_path("driver.state_dir", &state_default),
        media_driver: media_driver(reader),
        aeron_dir: PathBuf::from(reader.text("driver.aeron_dir", &aeron_default)),
        control,
        announce,
        qos: reader.endpoint("driver.qos", CHANNEL, 1200),
        metadata: reader.endpoint("driver.metadata", CHANNEL, 1300),
        descriptor: reader.endpoint("driver.descriptor", "aeron:ipc?term-length=16m", 1100),
        stream_id_range: reader.range("driver.stream_id_range"),
        descriptor_stream_id_range: reader.range("driver.descriptor_stream_id_range"),
        control_stream_id_range: reader.range("driver.control_stream_id_range"),
    }
}

fn media_driver(reader: &mut Reader<'_>) -> MediaDriverMode {
    let all = [
        ("embedded", MediaDriverMode::Embedded),
        ("external", MediaDriverMode::External),
        ("off", MediaDriverMode::Off),
    ];
    if cfg!(feature = "aeron") {
        return reader.choice("driver.media_driver", 0, &all);
    }
    let written = reader.text("driver.media_driver", "off");
    if written == "embedded" || written == "external" {
        reader.refuse(
            "driver.media_driver",
            "off",
            "must be off: this binary was built without the cargo feature aeron",
        );
    }
    reader.choice("driver.media_driver", 2, &all)
}

fn default_state_dir(surroundings: &Surroundings<'_>) -> PathBuf {
    let runtime = (surroundings.variable)("XDG_RUNTIME_DIR").filter(|dir| dir.starts_with('/'));
    match runtime {
        Some(dir) if !surroundings.root => PathBuf::from(dir).join("tensorpool"),
        _ => PathBuf::from("/run/tensorpool"),
    }
}

fn shm(reader: &mut Reader<'_>) -> ShmSettings {
    let base_dir = reader.absolute_path("shm.base_dir", Path::new("/dev/shm/tensorpool"));
    let namespace = reader.text("shm.namespace", "default");
    // spec: W-15.21a-2, W-15.21a-3
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if namespace.is_empty() || namespace.starts_with('.') || !namespace.chars().all(plain) {
        reader.refuse(
            "shm.namespace",
            "default",
            "must be one path component of letters, digits, _, - and ., not starting with .",
        );
    }
    let page_size_bytes = reader.number("shm.page_size_bytes", 4096, 4096, 1 << 30);
    if !page_size_bytes.is_power_of_two() {
        reader.refuse("shm.page_size_bytes", "4096", "must be a power of two");
    }
    ShmSettings {
        allowed_base_dirs: reader.paths("shm.allowed_base_dirs", vec![base_dir.clone()]),
        base_dir,
        namespace,
        require_hugepages: reader.boolean("shm.require_hugepages", false),
        page_size_bytes,
        permissions_mode: reader.mode("shm.permissions_mode", 0o660),
    }
}

fn policies(reader: &mut Reader<'_>, profiles: &BTreeMap<String, Profile>) -> Policies {
    let first = profiles.keys().next().cloned().unwrap_or_default();
    let announce_period_ms = reader.number("policies.announce_period_ms", 1000, 10, LONGEST_MS);
    let min_age_default = announce_period_ms * 3_000_000;
    if reader.boolean("policies.reuse_existing_shm", false) {
        // spec: D-10-2, D-6-1
        reader.refuse(
            "policies.reuse_existing_shm",
            "false",
            "must be false: a restarted driver always makes new regions under a higher epoch",
        );
    }
    Policies {
        allow_dynamic_streams: reader.boolean("policies.allow_dynamic_streams", false),
        default_profile: reader.text("policies.default_profile", &first),
        announce_period_ms,
        lease_keepalive_interval_ms: reader.number(
            "policies.lease_keepalive_interval_ms",
            1000,
            10,
            LONGEST_MS,
        ),
        lease_expiry_grace_intervals: reader.number_u32(
            "policies.lease_expiry_grace_intervals",
            3,
            1,
            1000,
        ),
        prefault_shm: reader.boolean("policies.prefault_shm", true),
        mlock_shm: reader.boolean("policies.mlock_shm", false),
        epoch_gc_enabled: reader.boolean("policies.epoch_gc_enabled", true),
        epoch_gc_keep: reader.number_u32("policies.epoch_gc_keep", 2, 1, 1000),
        // 0 asks for the default, as the C driver has it.
        epoch_gc_min_age_ns: match reader.number(
            "policies.epoch_gc_min_age_ns",
            min_age_default,
            0,
            LONGEST_MS * 1_000_000_000,
        ) {
            0 => min_age_default,
            age => age,
        },
        epoch_gc_on_startup: reader.boolean("policies.epoch_gc_on_startup", false),
        shutdown_timeout_ms: reader.number("policies.shutdown_timeout_ms", 2000, 0, LONGEST_MS),
        shutdown_token: reader.text("policies.shutdown_token", ""),
        node_id_reuse_cooldown_ms: reader.number(
            "policies.node_id_reuse_cooldown_ms",
            1000,
            0,
            LONGEST_MS,
        ),
        cleanup_shm_on_exit: reader.boolean("policies.cleanup_shm_on_exit", false),
    }
}

fn supervisor(reader: &mut Reader<'_>) -> SupervisorSettings {
    let force_mode = reader.number("supervisor.force_mode", 0, 0, 2);
    SupervisorSettings {
        consumer_stale_ms: reader.number("supervisor.consumer_stale_ms", 5000, 10, LONGEST_MS),
        force_no_shm: reader.boolean("supervisor.force_no_shm", false),
        force_mode: u8::try_from(force_mode).expect("number() keeps within 0..=2"),
        payload_fallback_uri: reader.text("supervisor.payload_fallback_uri", ""),
    }
}

fn http(reader: &mut Reader<'_>) -> Option<HttpSettings> {
    let text = reader.text("http.listen", "127.0.0.1:8080");
    if text.is_empty() {
        return None;
    }
    match text.parse() {
        Ok(listen) => Some(HttpSettings {
            listen,
            required: reader.is_set("http.listen"),
        }),
        Err(_) => {
            reader.refuse(
                "http.listen",
                "",
                "must be an IP address and a port such as 127.0.0.1:8080, or \"\" for none",
            );
            None
        }
    }
}

fn log_filter(reader: &mut Reader<'_>) -> String {
    let filter = reader.text("log.filter", "info");
    if let Err(error) = crate::telemetry::parse_filter(&filter) {
        reader.refuse("log.filter", "info", error.to_string());
    }
    filter
}

fn profiles(raw: &Raw, problems: &mut Vec<Problem>) -> BTreeMap<String, Profile> {
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

fn streams(
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
fn add_flags(
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
