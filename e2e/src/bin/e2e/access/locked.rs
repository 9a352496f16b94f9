//! A consumer that holds locks on everything that it can open harms nobody.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use super::pairs::Pair;
use crate::world::{World, until};

const LOCKED: Pair = Pair {
    name: "locked",
    level: "restricted",
    user: 10_001,
    host_users: true,
    consumer: &["watch", "locked"],
};

/// Begins: image and volumes come while other steps go on.
pub(super) fn begin(world: &World) -> Result<(), String> {
    world.apply(&LOCKED.objects())
}

/// With every file of the first epoch locked, two producers after the first get epochs of their own, the
/// consumer reads them, and the first epoch's files are removed.
pub(super) fn harms_nobody(world: &World) -> Result<(), String> {
    let name = LOCKED.name;
    let seen = || world.kubectl(&["logs", "--namespace", name, "consumer"]);
    until(|| match seen()? {
        said if said.contains("seen ") => Ok(()),
        said => Err(format!("the consumer has seen nothing:\n{said}")),
    })?;
    // A look between two epochs finds none.
    let (mut holder, first) = until(|| lock_all(world))?;
    println!("locked: {first}");
    let changed = (1..=2).try_for_each(|changes| {
        let gone = ["delete", "pod", "producer", "--now", "--namespace", name];
        world.kubectl(&gone)?;
        world.apply(&[LOCKED.producer()])?;
        until(|| {
            let said = seen()?;
            let resumed = said.lines().filter(|line| line.contains("resumed after"));
            match resumed.collect::<Vec<_>>() {
                lines if lines.len() >= changes => {
                    println!("{}", lines[changes - 1]);
                    Ok(())
                }
                lines => Err(format!("{} changes of the epoch:\n{said}", lines.len())),
            }
        })
    });
    let removed = changed.and_then(|()| {
        until(|| {
            let look = format!("ls -d /run/tensorpool/shm/*/{first} 2>/dev/null || true");
            match world.inside("sh", &["-c", &look])? {
                nothing if nothing.is_empty() => Ok(()),
                left => Err(format!("the locked epoch is still there: {left}")),
            }
        })
    });
    // It ends with its input.
    drop(holder.stdin.take());
    let held = holder.wait().map_err(|error| error.to_string())?;
    removed?;
    if !held.success() {
        return Err(format!("the locks were not held to the end: {held}"));
    }
    let delete = ["delete", "namespace", name, "--wait=false"];
    world.kubectl(&delete).map(drop)
}

/// Locks the newest files that the consumer's volume shows, through the consumer's own mount. The process that
/// holds the locks, and the epoch's directory below its base.
fn lock_all(world: &World) -> Result<(Child, String), String> {
    let script = "pid=$(pgrep --full '^/exchange watch locked'); cd /proc/$pid/root/run/tensorpool || exit 1; \
         epoch=$(find . -name header.ring -printf '%h\\n' | sort --version-sort | tail -n 1); \
         ring=$epoch/header.ring; pool=$(find ${epoch:-none} -name '*.pool'); \
         test -f \"$ring\" && test -f \"$pool\" && exec 5<$ring 6<$pool || exit 1; \
         flock --exclusive --nonblock 5 && flock --exclusive --nonblock 6 || exit 1; \
         echo $epoch; read -r _ || exit 0";
    let mut shell = world.command("sh");
    shell.args(["-c", script]);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = shell.spawn().map_err(|error| error.to_string())?;
    let mut epoch = String::new();
    if let Some(said) = holder.stdout.take() {
        let read = BufReader::new(said).read_line(&mut epoch);
        read.map_err(|error| error.to_string())?;
    }
    match epoch.trim().strip_prefix("./") {
        Some(epoch) => Ok((holder, epoch.to_owned())),
        None => {
            let status = holder.wait().map_err(|error| error.to_string())?;
            Err(format!(
                "the consumer's files could not be locked: {status}"
            ))
        }
    }
}
