//! What only shows when several keys are looked at together.

use tensorpool_wire::StreamId;

use super::raw::Problem;
use super::settings::{IdRange, MediaDriverMode, Settings};

/// Slot offsets of the C implementation are 32-bit.
const C_POOL_MAX_BYTES: u64 = 1 << 32;

/// Notes every broken rule in `problems` and every doubt in `warnings`.
pub(super) fn run(settings: &Settings, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    if settings.kubernetes.is_some() {
        cluster(settings, problems);
    } else {
        streams(settings, problems);
        dynamic(settings, problems);
    }
    ranges(settings, problems);
    ways_in(settings, problems, warnings);
    base_dirs(settings, problems);
    pool_sizes(settings, warnings);
}

fn problem(key: impl Into<String>, rule: impl Into<String>) -> Problem {
    Problem {
        key: key.into(),
        found: None,
        rule: rule.into(),
    }
}

/// In a cluster there is one source of streams.
fn cluster(settings: &Settings, problems: &mut Vec<Problem>) {
    let rule = "must not be set where kubernetes.node is: streams and their memory come from the node's TensorPoolNode";
    if !settings.streams.is_empty() {
        problems.push(problem("streams", rule));
    }
    if !settings.profiles.is_empty() {
        problems.push(problem("profiles", rule));
    }
    if settings.policies.allow_dynamic_streams {
        problems.push(problem("policies.allow_dynamic_streams", rule));
    }
    if settings.shm.require_hugepages || settings.shm.page_size_bytes != 4096 {
        problems.push(problem(
            "shm.page_size_bytes",
            "must not be set where kubernetes.node is, nor shm.require_hugepages: each sub-directory of shm.base_dir has the page size of its name",
        ));
    }
}

fn streams(settings: &Settings, problems: &mut Vec<Problem>) {
    if settings.profiles.is_empty() {
        // spec: D-17-4
        problems.push(problem(
            "profiles",
            "at least one [profiles.NAME] with payload_pools is needed",
        ));
    }
    if settings.streams.is_empty() && !settings.policies.allow_dynamic_streams {
        // spec: D-17-4
        problems.push(problem(
            "streams",
            "at least one [streams.NAME] is needed, unless policies.allow_dynamic_streams = true",
        ));
    }
    let declared = u32::try_from(settings.streams.len()).unwrap_or(u32::MAX);
    if declared > settings.limits.streams {
        problems.push(problem(
            "limits.streams",
            format!("{declared} streams are declared: raise it to that at least"),
        ));
    }
    let mut seen: Vec<(StreamId, &str)> = Vec::new();
    for (name, stream) in &settings.streams {
        if !settings.profiles.contains_key(&stream.profile) && !settings.profiles.is_empty() {
            problems.push(problem(
                format!("streams.{name}.profile"),
                format!("there is no [profiles.{}]", stream.profile),
            ));
        }
        if let Some((_, other)) = seen.iter().find(|(id, _)| *id == stream.stream_id) {
            problems.push(problem(
                format!("streams.{name}.stream_id"),
                format!(
                    "{} is the id of streams.{other} too; ids are unique",
                    stream.stream_id
                ),
            ));
        }
        seen.push((stream.stream_id, name));
    }
}

fn dynamic(settings: &Settings, problems: &mut Vec<Problem>) {
    let policies = &settings.policies;
    if !policies.allow_dynamic_streams {
        return;
    }
    // spec: D-11-1
    if settings.driver.stream_id_range.is_none() {
        problems.push(problem(
            "driver.stream_id_range",
            "is missing; policies.allow_dynamic_streams = true takes its ids from it",
        ));
    }
    if !settings.profiles.contains_key(&policies.default_profile) && !settings.profiles.is_empty() {
        problems.push(problem(
            "policies.default_profile",
            format!("there is no [profiles.{}]", policies.default_profile),
        ));
    }
}

fn ranges(settings: &Settings, problems: &mut Vec<Problem>) {
    // spec: D-11-3, D-11-4
    let driver = &settings.driver;
    let ranges: Vec<(&str, IdRange)> = [
        ("driver.stream_id_range", driver.stream_id_range),
        (
            "driver.descriptor_stream_id_range",
            driver.descriptor_stream_id_range,
        ),
        (
            "driver.control_stream_id_range",
            driver.control_stream_id_range,
        ),
    ]
    .into_iter()
    .filter_map(|(key, range)| Some((key, range?)))
    .collect();
    let singles = [
        ("driver.control_stream_id", driver.control.stream_id),
        ("driver.announce_stream_id", driver.announce.stream_id),
        ("driver.qos_stream_id", driver.qos.stream_id),
        ("driver.metadata_stream_id", driver.metadata.stream_id),
        ("driver.descriptor_stream_id", driver.descriptor.stream_id),
        ("discovery.stream_id", settings.discovery.endpoint.stream_id),
    ]
    .map(|(key, id)| (key.to_owned(), id.unsigned_abs()));
    let streams = settings.streams.iter().flat_map(|(name, stream)| {
        [
            (format!("streams.{name}.stream_id"), stream.stream_id.get()),
            (
                format!("streams.{name}.descriptor_stream_id"),
                stream.descriptor_stream_id.unsigned_abs(),
            ),
        ]
    });
    let taken: Vec<(String, u32)> = singles.into_iter().chain(streams).collect();
    for (index, (key, range)) in ranges.iter().enumerate() {
        if *key != "driver.stream_id_range" && range.end > i32::MAX.unsigned_abs() {
            problems.push(problem(
                *key,
                format!("{range} must end at 2147483647: Aeron has no higher stream ids"),
            ));
        }
        for (other_key, other) in ranges.iter().skip(index + 1) {
            if range.overlaps(*other) {
                problems.push(problem(
                    *key,
                    format!("{range} overlaps {other_key} = {other}; ranges must be apart"),
                ));
            }
        }
        // A stream without a descriptor id of its own repeats the driver's: name that once.
        let mut named: Vec<u32> = Vec::new();
        for (taken_key, id) in &taken {
            if range.contains(*id) && !named.contains(id) {
                named.push(*id);
                problems.push(problem(
                    *key,
                    format!("{range} contains {taken_key} = {id}; ranges must be apart from it"),
                ));
            }
        }
    }
}

fn ways_in(settings: &Settings, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    match (settings.driver.media_driver, &settings.socket) {
        // Attachments have sockets of their own.
        (_, None) if settings.kubernetes.is_some() => {}
        (MediaDriverMode::Off, None) => problems.push(problem(
            "socket.path",
            "is empty and driver.media_driver is off: no client could reach the driver",
        )),
        (MediaDriverMode::Embedded | MediaDriverMode::External, None) => warnings.push(
            "socket.path is empty: only Aeron clients are served, and `status` cannot reach the driver"
                .into(),
        ),
        (_, Some(_)) => {}
    }
    let control = &settings.driver.control;
    let others = [
        ("driver.qos_stream_id", &settings.driver.qos),
        ("driver.metadata_stream_id", &settings.driver.metadata),
    ];
    for (key, other) in others {
        // The protocol allows one stream for all of these; templates tell the messages apart.
        if other == control {
            warnings.push(format!(
                "{key} = {}: shared with control; every client reads all of it",
                other.stream_id
            ));
        }
    }
    if settings.driver.descriptor == *control {
        problems.push(problem(
            "driver.descriptor_stream_id",
            "must differ from driver.control_stream_id: descriptors would drown control messages",
        ));
    }
}

fn base_dirs(settings: &Settings, problems: &mut Vec<Problem>) {
    let shm = &settings.shm;
    if !shm
        .allowed_base_dirs
        .iter()
        .any(|allowed| shm.base_dir.starts_with(allowed))
    {
        // spec: D-9-1
        problems.push(problem(
            "shm.allowed_base_dirs",
            format!(
                "must contain shm.base_dir = {}: clients would refuse every region",
                shm.base_dir.display()
            ),
        ));
    }
}

fn pool_sizes(settings: &Settings, warnings: &mut Vec<String>) {
    for (name, profile) in &settings.profiles {
        for pool in &profile.payload_pools {
            let place = format!("profiles.{name} pool {}", pool.pool_id);
            if !pool.stride_bytes.is_power_of_two() {
                warnings.push(format!(
                    "{place}: stride_bytes = {} is not a power of two; Julia clients refuse it",
                    pool.stride_bytes
                ));
            }
            let bytes = u64::from(pool.stride_bytes) * u64::from(profile.header_nslots);
            if bytes >= C_POOL_MAX_BYTES {
                warnings.push(format!(
                    "{place}: {bytes} bytes are too many for C clients, whose slot offsets wrap at 4 GiB"
                ));
            }
        }
    }
}
