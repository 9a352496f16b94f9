//! Pods that mean harm, with rights for a stream of their own, beside a pair that must not notice.

use std::time::{Duration, Instant};

use crate::report::Report;
use crate::world::{World, until};

mod bystanders;
mod driver;
mod keeper;

use driver::Driver;

/// The namespace of those that mean harm.
const HOSTILE: &str = "hostile";
/// One may produce the stream, one may consume it.
const PRODUCING: &str = "producing";
const CONSUMING: &str = "consuming";
/// Consumes it too, and means no harm.
const LISTENING: &str = "listening";
const SOCKET: &str = "/run/tensorpool/driver.sock";
/// How long whoever comes during a flood may wait for a lease and ten frames.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// What can be tried with a volume, and how it ends.
const REFUSALS: [(&str, &str); 14] = [
    ("remove driver.sock", "Read-only"),
    ("rename driver.sock", "Read-only"),
    ("link it", "Read-only"),
    ("put a symbolic link beside it", "Read-only"),
    ("make a file beside it", "Read-only"),
    ("make a directory beside it", "Read-only"),
    ("listen beside it", "Read-only"),
    ("listen in its place", "Address in use"),
    ("change its mode", "Read-only"),
    ("change the volume's mode", "Read-only"),
    ("open a region for writing", "Permission denied"),
    ("remove a region", "Read-only"),
    ("connect to another's socket", "No such file"),
    ("connect to a socket beside the volume", "No such file"),
];
/// Each rule of the framing that is broken, and what is told.
const GARBAGE: [&str; 8] = [
    "an empty packet: told `the packet has 0 bytes, its prefix alone needs 8`",
    "7 bytes: told `the packet has 7 bytes, its prefix alone needs 8`",
    "version 2: told `the packet has version 2, only 1 is known`",
    "logical stream 0: told `the packet is for logical stream 0, only 1 to 6 exist`",
    "logical stream 7: told `the packet is for logical stream 7, only 1 to 6 exist`",
    "a reserved field of 1: told `the packet's reserved field is 1, it must be 0`",
    "a length of 9 in 8 bytes: told `the packet says it has 9 bytes, 8 were received`",
    "131,073 bytes: told `the packet has 131073 bytes, at most 131072 are allowed`",
];
/// One volume may have so many connections.
const TOO_MANY: &str = "64 connections through this socket file are open, no more are allowed";
/// What is in the driver's log of it all, and the metric with at least so many.
const ACCOUNT: [(&str, &str, f64); 5] = [
    (TOO_MANY, "connections_refused_total", 9_936.0),
    (
        "no attach within 5000 ms of connecting",
        "connections_closed_total{reason=\"no_attach\"}",
        64.0,
    ),
    (
        "\"reason\":\"garbage\"",
        "connections_closed_total{reason=\"garbage\"}",
        16.0,
    ),
    (
        "more packets than 1000 within one second: 1001 seen",
        "connections_closed_total{reason=\"flood\"}",
        2.0,
    ),
    (
        "more unread bytes than 262144",
        "connections_closed_total{reason=\"overflow\"}",
        1.0,
    ),
];
/// What the driver may keep of it: freed memory that its allocator holds, and epochs whose time to go has
/// not come.
const KEPT_KIB: u64 = 16 * 1024;
const KEPT_DESCRIPTORS: u64 = 8;

type Attack = fn(&World) -> Result<(), String>;

/// In this order, the bystanders being looked at after each.
const ATTACKS: [(&str, Attack); 8] = [
    ("a volume leads to its own socket only", reach),
    ("garbage is cut off, in words", garbage),
    ("nobody speaks in another's name", forge),
    ("floods are cut off, and others are served meanwhile", flood),
    ("of 10,000 connections 64 are taken", connects),
    (
        "who never reads, or stops, loses what it had",
        mute_and_stop,
    ),
    (
        "damaged files are another epoch, and their reader lives",
        damage,
    ),
    (
        "who keeps a deleted stream's memory loses it, and is told",
        keeper::loses_it,
    ),
];

pub(crate) fn run(world: &World, report: &mut Report) {
    let before = report.step("a pair exchanges frames beside pods that mean harm", || {
        begin(world)
    });
    let Some(before) = before else { return };
    for (what, attack) in ATTACKS {
        report.step(what, || {
            attack(world)?;
            bystanders::are_unharmed(world)
        });
    }
    report.step("the driver is the one that it was, and as large", || {
        unchanged(world, &before)
    });
    report.step("what these pods had is gone with them", || gone(world));
}

fn begin(world: &World) -> Result<Driver, String> {
    let manifest = world.path("e2e/manifests/hostile.yaml");
    world.kubectl(&["apply", "--filename", &manifest])?;
    for namespace in [bystanders::NAMESPACE, HOSTILE] {
        let ready = ["wait", "--for=condition=Ready", "pods", "--all"];
        let most = ["--namespace", namespace, "--timeout=120s"];
        world.kubectl(&[&ready[..], &most].concat())?;
    }
    until(|| bystanders::are_unharmed(world))?;
    let driver = Driver::look(world)?;
    println!("the driver: {driver}");
    Ok(driver)
}

/// One attack through a pod's volume; what it says.
fn attack(world: &World, pod: &str, words: &[&str]) -> Result<String, String> {
    let exec = ["exec", "--namespace", HOSTILE, pod, "--"];
    let said = world.kubectl(&[&exec[..], &["/tensorpool-probe"], words].concat())?;
    let lines = said.lines().map(|line| format!("{pod}: {line}\n"));
    print!("{}", lines.collect::<String>());
    Ok(said)
}

/// Fails unless all of these words were said.
fn says(said: &str, all: &[&str]) -> Result<(), String> {
    match all.iter().find(|words| !said.contains(**words)) {
        Some(words) => Err(format!("not said: {words}")),
        None => Ok(()),
    }
}

/// Does two things at the same time.
fn both(
    one: impl FnOnce() -> Result<(), String> + Send,
    other: impl FnOnce() -> Result<(), String> + Send,
) -> Result<(), String> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        let one = one.join().map_err(|_| "a thread panicked".to_owned())?;
        one.and(other)
    })
}

fn reach(world: &World) -> Result<(), String> {
    let theirs = "find /run/tensorpool/shm -name driver.sock | head -n 1";
    let theirs = world.inside("sh", &["-c", theirs])?;
    for pod in [PRODUCING, CONSUMING] {
        let said = attack(world, pod, &["reach", "/run/tensorpool", theirs.trim()])?;
        for (what, why) in REFUSALS {
            let line = said.lines().find(|line| line.starts_with(what));
            if !line.is_some_and(|line| line.contains(why)) {
                return Err(format!("{pod}: {what} should be refused: {why}"));
            }
        }
        if said.lines().count() != REFUSALS.len() {
            return Err(format!("{pod} tried something else, too"));
        }
    }
    Ok(())
}

fn garbage(world: &World) -> Result<(), String> {
    let of = |pod| {
        let said = attack(world, pod, &["garbage", SOCKET])?;
        says(&said, &GARBAGE)?;
        let rest = [
            "9600 bodies that are no messages: 12 of 12 connections answered afterwards",
            "role 9: refused, `invalid role`",
            "10120 descriptors sent along: 40 requests answered",
        ];
        says(&said, &rest)
    };
    both(|| of(PRODUCING), || of(CONSUMING))
}

fn forge(world: &World) -> Result<(), String> {
    let id = "--output=jsonpath={.status.streamId}";
    let stream = ["get", "tensorstream", "steady", "--namespace"];
    let id = world.kubectl(&[&stream[..], &[bystanders::NAMESPACE, id]].concat())?;
    for (pod, other) in [(PRODUCING, "Consumer"), (CONSUMING, "Producer")] {
        let said = attack(world, pod, &["forge", SOCKET, &id])?;
        let denied = "role not allowed for this attachment";
        let words = [
            "Producer of another stream: refused, `stream not provisioned`",
            "Consumer of another stream: refused, `stream not provisioned`",
            &format!("{other} through the volume of a "),
            &format!("refused, `{denied}`"),
            "805 messages in others' names; our own lease given back: Ok",
        ];
        says(&said, &words)?;
    }
    Ok(())
}

fn flood(world: &World) -> Result<(), String> {
    let of = |pod| {
        let said = attack(world, pod, &["flood", SOCKET, "4"])?;
        says(&said, &["more packets than 1000 within one second"])
    };
    let latecomer = || {
        // The flood takes its time to begin: one who comes again and again is in the middle of it.
        for _ in 0..4 {
            let began = Instant::now();
            let exec = ["exec", "--namespace", bystanders::NAMESPACE];
            let consume = [
                bystanders::CONSUMER,
                "--",
                "/exchange",
                "consume",
                "steady",
                "10",
            ];
            let said = world.kubectl(&[&exec[..], &consume].concat())?;
            let took = began.elapsed();
            println!(
                "whoever comes meanwhile: 10 frames after {} ms",
                took.as_millis()
            );
            says(
                &said,
                &["10 frames of 16001 bytes were as they should be, 0 were lost"],
            )?;
            if took > SERVED_WITHIN {
                return Err("that is too long".to_owned());
            }
        }
        Ok(())
    };
    both(|| of(PRODUCING), || both(|| of(CONSUMING), latecomer))
}

fn connects(world: &World) -> Result<(), String> {
    let held = || {
        let said = attack(world, CONSUMING, &["connects", SOCKET, "10000"])?;
        let words = [
            "64 stayed open, 9936 were ended at once",
            &format!("9936 were told `{{\"closing\":\"{TOO_MANY}\"}}`"),
            "64 were told `{\"closing\":\"no attach within 5000 ms of connecting\"}`",
        ];
        says(&said, &words)
    };
    let churn = || {
        let said = attack(world, PRODUCING, &["churn", SOCKET, "10000"])?;
        says(&said, &["10000 connects, each closed at once"])
    };
    both(held, churn)
}

fn mute_and_stop(world: &World) -> Result<(), String> {
    let mute = || {
        let said = attack(world, CONSUMING, &["mute", SOCKET])?;
        says(
            &said,
            &["and nothing read: cut off, then told `more unread bytes than 262144"],
        )
    };
    let stop = || {
        let said = attack(world, PRODUCING, &["stop", "prey", SOCKET])?;
        let words = ["another may produce after", "it went on: the lease ended: "];
        says(&said, &words)
    };
    both(stop, mute)
}

fn damage(world: &World) -> Result<(), String> {
    for (what, told) in [
        ("empty", "region lost its pages"),
        ("punch", "region lost its pages"),
        ("grow", "region was made longer than it may be"),
    ] {
        let said = attack(world, PRODUCING, &["damage", SOCKET, what])?;
        says(&said, &[&format!("{what}: told `{told}`")])?;
    }
    // It reads the next epoch, in the process that it was.
    until(|| {
        let said = world.kubectl(&["logs", "--namespace", HOSTILE, LISTENING])?;
        let last = said.lines().last().unwrap_or_default();
        says(last, &[" frames, ", ", mapped"])
    })?;
    let said = world.kubectl(&["logs", "--namespace", HOSTILE, LISTENING])?;
    let told: Vec<_> = said
        .lines()
        .filter(|line| !line.contains(" frames, "))
        .collect();
    for line in &told {
        println!("{LISTENING}: {line}");
    }
    let of_memory = "its memory cannot be used";
    if !told
        .iter()
        .any(|line| line.contains(of_memory) || line.contains("the lease ended"))
    {
        return Err(format!("{LISTENING} was told nothing"));
    }
    let restarts = "--output=jsonpath={.status.containerStatuses[0].restartCount} {.status.phase}";
    let pod = ["get", "pod", LISTENING, "--namespace", HOSTILE, restarts];
    match world.kubectl(&pod)?.as_str() {
        "0 Running" => Ok(()),
        other => Err(format!("{LISTENING} did not live: {other}")),
    }
}

fn unchanged(world: &World, before: &Driver) -> Result<(), String> {
    let after = until(|| {
        let after = Driver::look(world)?;
        if after.descriptors > before.descriptors + KEPT_DESCRIPTORS {
            return Err(format!("before: {before}; after: {after}"));
        }
        Ok(after)
    })?;
    println!("before: {before}\nafter:  {after}");
    if after.identity != before.identity {
        return Err("it was started again".to_owned());
    }
    if after.resident_kib > before.resident_kib + KEPT_KIB {
        return Err("it keeps memory".to_owned());
    }
    let log = Driver::log(world)?;
    for (words, metric, at_least) in ACCOUNT {
        let counted = after.metric(metric) - before.metric(metric);
        println!("{metric}: {counted} more");
        if counted < at_least {
            return Err(format!("{metric} should have {at_least} more"));
        }
        says(&log.replace('\\', ""), &[words])?;
    }
    Ok(())
}

fn gone(world: &World) -> Result<(), String> {
    let namespaces = [bystanders::NAMESPACE, HOSTILE];
    for namespace in namespaces {
        let all = ["delete", "pods", "--all", "--now", "--namespace", namespace];
        world.kubectl(&all)?;
        world.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
    }
    world.kubectl(&["delete", "tensorpoolclass", "hostile", "--wait=false"])?;
    let names = namespaces.join("\\|");
    let left =
        format!("grep --files-with-matches '{names}' -r /run/tensorpool/state/attachments || true");
    let left = world.inside("sh", &["-c", &left])?;
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("left: {left}"))
    }
}
