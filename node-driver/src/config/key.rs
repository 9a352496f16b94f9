//! The table of all scalar configuration keys: name, default, meaning.
//!
//! Everything that must know "all keys" reads this table: the refusal of unknown ones, the
//! environment overrides, and `docs/configuration.md`, which a test compares with it. The names and
//! defaults of the first groups are the protocol's canonical ones.

// spec: D-17-2, D-17-1

/// One scalar key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `table.key` as in the TOML file.
    pub name: &'static str,
    /// The default as a reader would write it; what depends on the machine is put in words.
    pub default: &'static str,
    /// What it does, with its unit.
    pub meaning: &'static str,
}

impl Key {
    /// Name of the environment variable that overrides it: upper case, dots become underscores.
    #[must_use]
    pub fn environment_name(&self) -> String {
        // spec: D-17-3
        self.name.to_ascii_uppercase().replace('.', "_")
    }
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key {
        name,
        default,
        meaning,
    }
}

/// Every scalar key, in the order in which they are printed and documented.
pub const KEYS: &[Key] = &[
    key(
        "driver.instance_id",
        "driver-01",
        "Name of this driver in discovery results and logs.",
    ),
    key(
        "driver.state_dir",
        "beside the socket; in a cluster /run/tensorpool/state",
        "Directory of the epoch journal and the instance lock. Created if missing. A new epoch waits until its number is written there, so a tmpfs suits it best: a busy disk may take seconds, and a warning says so.",
    ),
    key(
        "driver.media_driver",
        "embedded; in a cluster off",
        "`embedded`: run the Aeron media driver in this process. `external`: use one that runs already. `off`: serve the socket only.",
    ),
    key(
        "driver.aeron_dir",
        "Aeron's own default (AERON_DIR, else /dev/shm/aeron-USER)",
        "Directory of the media driver.",
    ),
    key(
        "driver.control_channel",
        "aeron:ipc?term-length=4m",
        "Channel of attach, lease and hello messages.",
    ),
    key(
        "driver.control_stream_id",
        "1000",
        "Aeron stream id of the control stream.",
    ),
    key(
        "driver.announce_channel",
        "driver.control_channel",
        "Channel of pool announces.",
    ),
    key(
        "driver.announce_stream_id",
        "driver.control_stream_id",
        "Aeron stream id of pool announces (1001 in the public convention).",
    ),
    key(
        "driver.qos_channel",
        "aeron:ipc?term-length=4m",
        "Channel of QoS messages.",
    ),
    key(
        "driver.qos_stream_id",
        "1200",
        "Aeron stream id of QoS messages.",
    ),
    key(
        "driver.metadata_channel",
        "aeron:ipc?term-length=4m",
        "Channel of source metadata.",
    ),
    key(
        "driver.metadata_stream_id",
        "1300",
        "Aeron stream id of source metadata.",
    ),
    key(
        "driver.descriptor_channel",
        "aeron:ipc?term-length=16m",
        "Channel on which the frames of socket producers are announced to Aeron consumers.",
    ),
    key(
        "driver.descriptor_stream_id",
        "1100",
        "Aeron stream id of descriptors, where the stream sets none of its own.",
    ),
    key(
        "driver.stream_id_range",
        "unset",
        "Ids for dynamic streams, `a-b` or `[a, b]`, both ends included.",
    ),
    key(
        "driver.descriptor_stream_id_range",
        "unset",
        "Aeron stream ids for per-consumer descriptor streams.",
    ),
    key(
        "driver.control_stream_id_range",
        "unset",
        "Aeron stream ids for per-consumer control streams.",
    ),
    key(
        "shm.base_dir",
        "/dev/shm/tensorpool; in a cluster /run/tensorpool/shm",
        "Directory under which all regions are created: a tmpfs or a hugetlbfs mount. In a cluster it holds one such mount for each page size, named like it: `2Mi`, `4Ki`.",
    ),
    key(
        "shm.namespace",
        "default",
        "Path component that separates deployments of one user.",
    ),
    key(
        "shm.require_hugepages",
        "false",
        "Refuse to work unless the base directory is on hugetlbfs.",
    ),
    key(
        "shm.page_size_bytes",
        "4096",
        "Page size. With hugepages it must be the mount's; 4096 then means: whatever the mount has.",
    ),
    key(
        "shm.permissions_mode",
        "\"660\"; in a cluster \"644\"",
        "Mode of region files, octal, in quotes. Bits for others are refused, except in a cluster, where mounts decide who gets to the files.",
    ),
    key(
        "shm.allowed_base_dirs",
        "[shm.base_dir]",
        "Directories that announced paths may lie in. The environment variable separates them by colons.",
    ),
    key(
        "policies.allow_dynamic_streams",
        "false",
        "Create streams that no table names, with ids from driver.stream_id_range.",
    ),
    key(
        "policies.default_profile",
        "the first profile by name",
        "Profile of dynamic streams.",
    ),
    key(
        "policies.announce_period_ms",
        "1000",
        "Time between announces of each stream, in milliseconds.",
    ),
    key(
        "policies.lease_keepalive_interval_ms",
        "1000",
        "Time within which clients send keepalives, in milliseconds.",
    ),
    key(
        "policies.lease_expiry_grace_intervals",
        "3",
        "Keepalive intervals without a keepalive after which a lease expires.",
    ),
    key(
        "policies.prefault_shm",
        "true",
        "Touch every page when a region is made, so that the first frames meet no page fault.",
    ),
    key(
        "policies.mlock_shm",
        "false",
        "Lock regions in memory. Fatal when the limit does not allow it.",
    ),
    key(
        "policies.epoch_gc_enabled",
        "true",
        "Remove old epochs of a stream.",
    ),
    key(
        "policies.epoch_gc_keep",
        "2",
        "Newest epochs that are always kept, the current one included.",
    ),
    key(
        "policies.epoch_gc_min_age_ns",
        "3 x policies.announce_period_ms",
        "Age below which an old epoch is kept, in nanoseconds.",
    ),
    key(
        "policies.epoch_gc_on_startup",
        "false",
        "Collect directories of earlier runs at start instead of at a stream's first epoch.",
    ),
    key(
        "policies.shutdown_timeout_ms",
        "2000",
        "Time between the start of draining and the shutdown message, in milliseconds.",
    ),
    key(
        "policies.shutdown_token",
        "empty: off",
        "Token of ShmDriverShutdownRequest. Empty: such requests are ignored.",
    ),
    key(
        "policies.node_id_reuse_cooldown_ms",
        "1000",
        "Time before a node id is given to another client, in milliseconds.",
    ),
    key(
        "policies.reuse_existing_shm",
        "false",
        "Accepted for other drivers' files; only `false`: regions are never reused.",
    ),
    key(
        "policies.cleanup_shm_on_exit",
        "false",
        "Remove this driver's regions when it ends by draining.",
    ),
    key(
        "supervisor.consumer_stale_ms",
        "5000",
        "Time without hello or QoS after which a consumer's own streams are freed, in milliseconds.",
    ),
    key(
        "supervisor.force_no_shm",
        "false",
        "Tell every consumer to use the fallback instead of shared memory.",
    ),
    key(
        "supervisor.force_mode",
        "0",
        "0: as the consumer asks, 1: STREAM, 2: RATE_LIMITED.",
    ),
    key(
        "supervisor.payload_fallback_uri",
        "empty",
        "Fallback that ConsumerConfig names.",
    ),
    key(
        "discovery.channel",
        "aeron:ipc?term-length=4m",
        "Channel of discovery requests.",
    ),
    key(
        "discovery.stream_id",
        "7000",
        "Aeron stream id of discovery requests.",
    ),
    key(
        "discovery.max_results",
        "1000",
        "Results of one query above which it is answered with an error.",
    ),
    key(
        "socket.path",
        "/run/tensorpool/driver.sock for root, else $XDG_RUNTIME_DIR/tensorpool/driver.sock; in a cluster empty",
        "Socket file for clients and `status`. Empty: no socket.",
    ),
    key(
        "socket.mode",
        "\"660\"",
        "Mode of the socket file, octal, in quotes. Whoever may write to it is a client.",
    ),
    key(
        "http.listen",
        "127.0.0.1:8080; in a cluster 0.0.0.0:8080",
        "Address of /metrics, /livez and /readyz. Empty: none.",
    ),
    key(
        "shutdown.mode",
        "drain; in a cluster handover",
        "What SIGTERM does. `drain`: announce the end, then stop. `handover`: stop at once, clients wait for the next driver.",
    ),
    key(
        "log.filter",
        "info",
        "What is logged, as `level` or `target=level,...`. Changed at run time by the `log` command.",
    ),
    key(
        "log.format",
        "text",
        "`text` or `json`, one event per line on standard error.",
    ),
    key(
        "limits.streams",
        "4096",
        "Streams at most, dynamic ones included.",
    ),
    key("limits.leases", "16384", "Leases at most."),
    key(
        "limits.leases_per_connection",
        "64",
        "Leases of one socket connection at most.",
    ),
    key(
        "limits.consumers_per_stream",
        "1024",
        "Consumers of one stream at most.",
    ),
    key("limits.connections", "16384", "Socket connections at most."),
    key(
        "limits.connections_per_uid",
        "16384",
        "Socket connections of one user at most.",
    ),
    key(
        "kubernetes.node",
        "empty: stand-alone",
        "Name of the Node that this driver serves. Streams, classes and quotas then come from the TensorPoolNode of that name.",
    ),
    key(
        "kubernetes.namespace",
        "tensorpool-system",
        "Namespace of the driver's Lease.",
    ),
    key(
        "kubernetes.pod_name",
        "empty",
        "Name of the driver's pod, for the status of the node.",
    ),
    key(
        "kubernetes.internal_socket",
        "/internal/driver.sock",
        "Socket on which the csi container asks. Both share its directory.",
    ),
    key(
        "kubernetes.connections_per_attachment",
        "64",
        "Socket connections of one volume at most.",
    ),
    key(
        "kubernetes.aeron_domain",
        "default",
        "Trust domain of the pods that may be peers on Aeron here: those of classes with this `domain` share the media driver's directory, others may not have it.",
    ),
    key(
        "kubernetes.access_review_interval_ms",
        "300000",
        "Time within which RBAC is asked again about each mounted volume, in milliseconds, 1000 to 3600000. A pod whose permission went loses its leases then. Each volume costs one request in that time.",
    ),
];

/// Keys of one profile, under `profiles.NAME`.
pub const PROFILE_KEYS: &[(&str, &str, &str)] = &[
    (
        "header_nslots",
        "1024",
        "Slots of the ring: frames that can be read before they are overwritten. A power of two.",
    ),
    (
        "payload_pools",
        "required",
        "At least one pool; a frame goes into the smallest one that fits it.",
    ),
];

/// Keys of one pool, in `profiles.NAME.payload_pools`.
pub const POOL_KEYS: &[(&str, &str, &str)] = &[
    ("pool_id", "required", "1 to 65535, unique in its profile."),
    (
        "stride_bytes",
        "required",
        "Largest payload in bytes. A multiple of 64; powers of two suit all peers.",
    ),
];

/// Keys of one stream, under `streams.NAME`.
pub const STREAM_KEYS: &[(&str, &str, &str)] = &[
    (
        "stream_id",
        "required",
        "The id that clients name, unique and not zero.",
    ),
    (
        "profile",
        "policies.default_profile",
        "The profile that gives its memory.",
    ),
    (
        "descriptor_stream_id",
        "driver.descriptor_stream_id",
        "Aeron stream id of its descriptors. One of its own is needed where clients of the C implementation take part.",
    ),
];

/// The known name that is nearest to `unknown`, if one is near enough to be meant.
#[must_use]
pub(super) fn nearest<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}
