//! From keys to [`Settings`], table by table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::{Problem, Raw};
use super::read::Reader;
use super::settings::{
    DiscoverySettings, DriverSettings, HttpSettings, KubernetesSettings, Limits, LogFormat,
    LogSettings, MediaDriverMode, Policies, Profile, Settings, ShmSettings, ShutdownMode,
    SocketSettings, SupervisorSettings,
};
use super::{StreamFlag, Surroundings, shapes};

const CHANNEL: &str = "aeron:ipc?term-length=4m";
/// A quarter of an hour: longer periods are slips of the unit.
const LONGEST_MS: u64 = 900_000;

/// Builds the settings and returns what is wrong beside them.
pub(super) fn settings(
    raw: &Raw,
    flags: &[StreamFlag],
    surroundings: &Surroundings<'_>,
) -> (Settings, Vec<Problem>) {
    let mut reader = Reader::new(raw);
    let mut problems = Vec::new();
    let kubernetes = kubernetes(&mut reader);
    let in_cluster = kubernetes.is_some();
    let socket = socket(&mut reader, surroundings, in_cluster);
    let driver = driver(&mut reader, socket.as_ref(), surroundings, in_cluster);
    let mut profiles = shapes::profiles(raw, &mut problems);
    let policies = policies(&mut reader, &profiles);
    let mut streams = shapes::streams(raw, &policies, &driver, &mut problems);
    shapes::add_flags(flags, &driver, &mut profiles, &mut streams, &mut problems);
    let settings = Settings {
        shm: shm(&mut reader, in_cluster),
        supervisor: supervisor(&mut reader),
        discovery: DiscoverySettings {
            endpoint: super::Endpoint {
                channel: reader.channel("discovery.channel", CHANNEL),
                stream_id: reader.aeron_stream_id("discovery.stream_id", 7000),
            },
            max_results: reader.number_u32("discovery.max_results", 1000, 1, 65_534),
        },
        http: http(&mut reader, in_cluster),
        shutdown_mode: reader.choice(
            "shutdown.mode",
            usize::from(in_cluster),
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
        limits: limits(&mut reader),
        kubernetes,
        driver,
        policies,
        profiles,
        streams,
        socket,
    };
    problems.splice(0..0, reader.problems);
    (settings, problems)
}

fn kubernetes(reader: &mut Reader<'_>) -> Option<KubernetesSettings> {
    let node = reader.text("kubernetes.node", "");
    let settings = KubernetesSettings {
        namespace: object_name(reader, "kubernetes.namespace", "tensorpool-system"),
        pod_name: object_name(reader, "kubernetes.pod_name", ""),
        internal_socket: reader.absolute_path(
            "kubernetes.internal_socket",
            Path::new("/internal/driver.sock"),
        ),
        connections_per_attachment: reader.number_u32(
            "kubernetes.connections_per_attachment",
            64,
            1,
            65_536,
        ),
        aeron_domain: object_name(reader, "kubernetes.aeron_domain", "default"),
        access_review_interval: Duration::from_millis(
            reader
                .number_u32(
                    "kubernetes.access_review_interval_ms",
                    300_000,
                    1_000,
                    3_600_000,
                )
                .into(),
        ),
        node: object_name(reader, "kubernetes.node", ""),
    };
    if node.is_empty() {
        return None;
    }
    if !cfg!(feature = "kubernetes") {
        reader.refuse(
            "kubernetes.node",
            "",
            "must be empty: this binary was built without the cargo feature kubernetes",
        );
    }
    Some(settings)
}

/// A name as Kubernetes takes it: a DNS subdomain.
fn object_name(reader: &mut Reader<'_>, key: &str, default: &str) -> String {
    let name = reader.text(key, default);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let edge = |c: char| matches!(c, '-' | '.');
    if name.len() > 253
        || !name.chars().all(plain)
        || name.starts_with(edge)
        || name.ends_with(edge)
    {
        reader.refuse(
            key,
            default,
            "must be a name as Kubernetes takes it: at most 253 lower case letters, digits, - and ., with a letter or digit at both ends",
        );
    }
    name
}

fn limits(reader: &mut Reader<'_>) -> Limits {
    Limits {
        streams: reader.number_u32("limits.streams", 4096, 1, 65_536),
        leases: reader.number_u32("limits.leases", 16_384, 1, 1_048_576),
        leases_per_connection: reader.number_u32("limits.leases_per_connection", 64, 1, 1_048_576),
        consumers_per_stream: reader.number_u32("limits.consumers_per_stream", 1024, 1, 1_048_576),
        connections: reader.number_u32("limits.connections", 16_384, 1, 1_048_576),
        connections_per_uid: reader.number_u32("limits.connections_per_uid", 16_384, 1, 1_048_576),
    }
}

fn socket(
    reader: &mut Reader<'_>,
    surroundings: &Surroundings<'_>,
    in_cluster: bool,
) -> Option<SocketSettings> {
    let mode = reader.mode("socket.mode", 0o660);
    let default = if in_cluster {
        Some(String::new())
    } else if surroundings.root {
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
    let default = default.unwrap_or_default();
    if reader.text("socket.path", &default).is_empty() {
        return None;
    }
    let path = reader.absolute_path("socket.path", Path::new(&default));
    Some(SocketSettings { path, mode })
}

fn driver(
    reader: &mut Reader<'_>,
    socket: Option<&SocketSettings>,
    surroundings: &Surroundings<'_>,
    in_cluster: bool,
) -> DriverSettings {
    let aeron_default = (surroundings.variable)("AERON_DIR").unwrap_or_else(|| {
        let user = (surroundings.variable)("USER").unwrap_or_else(|| "default".to_owned());
        format!("/dev/shm/aeron-{user}")
    });
    let control = reader.endpoint("driver.control", CHANNEL, 1000);
    let announce = reader.endpoint("driver.announce", &control.channel, control.stream_id);
    let beside_socket = socket.and_then(|socket| socket.path.parent());
    let state_default = match beside_socket {
        _ if in_cluster => PathBuf::from("/run/tensorpool/state"),
        Some(dir) => dir.to_owned(),
        None => default_state_dir(surroundings),
    };
    DriverSettings {
        instance_id: reader.text("driver.instance_id", "driver-01"),
        state_dir: reader.absolute_path("driver.state_dir", &state_default),
        media_driver: media_driver(reader, in_cluster),
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

fn media_driver(reader: &mut Reader<'_>, in_cluster: bool) -> MediaDriverMode {
    let all = [
        ("embedded", MediaDriverMode::Embedded),
        ("external", MediaDriverMode::External),
        ("off", MediaDriverMode::Off),
    ];
    if cfg!(feature = "aeron") {
        return reader.choice("driver.media_driver", if in_cluster { 2 } else { 0 }, &all);
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

fn shm(reader: &mut Reader<'_>, in_cluster: bool) -> ShmSettings {
    let base_dir = if in_cluster {
        "/run/tensorpool/shm"
    } else {
        "/dev/shm/tensorpool"
    };
    let base_dir = reader.absolute_path("shm.base_dir", Path::new(base_dir));
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
        permissions_mode: if in_cluster {
            reader.open_mode("shm.permissions_mode", 0o644)
        } else {
            reader.mode("shm.permissions_mode", 0o660)
        },
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

fn http(reader: &mut Reader<'_>, in_cluster: bool) -> Option<HttpSettings> {
    // Probes and scrapes come to the pod's address.
    let default = if in_cluster {
        "0.0.0.0:8080"
    } else {
        "127.0.0.1:8080"
    };
    let text = reader.text("http.listen", default);
    if text.is_empty() {
        return None;
    }
    match text.parse() {
        Ok(listen) => Some(HttpSettings {
            listen,
            required: in_cluster || reader.is_set("http.listen"),
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
