//! Memory of another size, as docs/kubernetes.md says it is done.

use super::{FIRST, SYSTEM, Sight, apply_manifest, driver, field, interrupted};
use crate::world::{World, until};

/// Bytes of 1 MiB.
const MIB: u64 = 1 << 20;
/// What the profile's pool gets, in MiB: all classes together, and no more pages than the node has. The
/// second where memory of an earlier run has the first.
const POOL_MIB: [u64; 2] = [576, 544];
const MOUNT: &str = "/run/tensorpool/shm/2Mi";
const OF_DRIVER: &str = "--selector=app.kubernetes.io/component=node-driver";

/// Pool and class change; the mount cannot, while it is mounted. The size in MiB that is wanted.
pub(super) fn asked(world: &World) -> Result<u64, String> {
    let has = pool_mib(world)?;
    let wanted = POOL_MIB.into_iter().find(|mib| *mib != has);
    let wanted = wanted.ok_or("there is no other size")?;
    let size = format!("nodeProfiles[0].pools[0].size={wanted}Mi");
    interrupted(world, || {
        fill(world, wanted)?;
        super::upgrade(world, &["--set", &size])?;
        driver::rolled_out(world)
    })?;
    let (has, wants) = (has * MIB, wanted * MIB);
    let words = format!("has {has} bytes, and the classes want {wants}");
    println!("PoolResizePending: {}", pending(world, "True", &words)?);
    let of_mount = [
        "logs",
        OF_DRIVER,
        "--container=mount",
        "--namespace",
        SYSTEM,
    ];
    let said = world.kubectl(&of_mount)?;
    print!("{said}");
    let stays = format!("stays mounted with {has} bytes, not with the {wants}");
    if said.contains(&stays) {
        Ok(wanted)
    } else {
        Err(format!("not said: {stays}"))
    }
}

/// No pod has a volume, the memory is unmounted, the driver's pod is another.
pub(super) fn follows(world: &World, wanted: u64) -> Result<(), String> {
    // Operators have no volumes, and cannot go to another node here.
    let drain = [
        "drain",
        "node",
        "--ignore-daemonsets",
        "--force",
        "--timeout=90s",
    ];
    let which = "--pod-selector=app.kubernetes.io/name!=tensorpool";
    world.kubectl(&[&drain[..], &["--delete-emptydir-data", which]].concat())?;
    world.inside("umount", &[MOUNT])?;
    world.kubectl(&["delete", "pod", OF_DRIVER, "--namespace", SYSTEM])?;
    driver::rolled_out(world)?;
    world.kubectl(&["uncordon", "node"])?;
    pending(world, "False", "")?;
    match pool_mib(world)? {
        mib if mib == wanted => println!("the mount has {mib} MiB"),
        other => return Err(format!("the mount has {other} MiB")),
    }
    pods_are_back(world)
}

/// Pods that were drained are made anew: ours, and the quickstart's where it ran.
fn pods_are_back(world: &World) -> Result<(), String> {
    apply_manifest(world)?;
    let vision = ["get", "namespace", "vision", "--ignore-not-found"];
    if !world.kubectl(&vision)?.is_empty() {
        let quickstart = world.path("docs/quickstart/camera.yaml");
        world.kubectl(&["apply", "--filename", &quickstart])?;
    }
    FIRST.goes_on(world, &Sight::default()).map(drop)
}

/// The default class gets what the others leave of the new pool.
fn fill(world: &World, pool_mib: u64) -> Result<(), String> {
    let sizes = "{range .items[*]}{.metadata.name} {.spec.sizePerNode}{\"\\n\"}{end}";
    let classes = field(world, &["tensorpoolclass"], sizes)?;
    let mut others = 0;
    for line in classes.lines().filter(|line| !line.starts_with("default ")) {
        let mib = line
            .split(' ')
            .nth(1)
            .and_then(|size| size.strip_suffix("Mi"));
        let mib = mib.and_then(|mib| mib.parse::<u64>().ok());
        others += mib.ok_or_else(|| format!("no size in MiB: {line}"))?;
    }
    let own = pool_mib.checked_sub(others);
    let own = own.ok_or_else(|| format!("the other classes want {others} MiB"))?;
    let patch = format!("{{\"spec\":{{\"sizePerNode\":\"{own}Mi\"}}}}");
    let class = ["patch", "tensorpoolclass", "default", "--type=merge"];
    world
        .kubectl(&[&class[..], &["--patch", &patch]].concat())
        .map(drop)
}

fn pool_mib(world: &World) -> Result<u64, String> {
    let said = world.inside("stat", &["--file-system", "--format=%b %S", MOUNT])?;
    let mut numbers = said.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(blocks)), Some(Ok(bytes))) => Ok(blocks * bytes / MIB),
        (_, _) => Err(format!("no size: {said}")),
    }
}

/// What the condition says once it stands so.
fn pending(world: &World, status: &str, words: &str) -> Result<String, String> {
    let of = |what: &str| {
        let path = format!("{{.status.conditions[?(@.type==\"PoolResizePending\")].{what}}}");
        field(world, &["tensorpoolnode", "node"], &path)
    };
    until(|| {
        let (found, message) = (of("status")?, of("message")?);
        if found == status && message.contains(words) {
            return Ok(message);
        }
        Err(format!("PoolResizePending is {found}: {message}"))
    })
}
