//! A gate that needs several NUMA nodes and control groups of version 2 alone: tests run in an emulated
//! machine that has them.
//!
//! The machine is Debian's kernel, a busybox and the static test program, without a disk. It is emulated
//! and not virtualised, so that it runs wherever this program does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tests::totals;
use super::{MUSL, Outcome, own_artifacts};
use crate::ci::Bench;
use crate::command::{self, Show};
use crate::setup;

/// Depends on the kernel of the day.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// Seconds after which the machine is given up. It takes ten when it has a processor for itself, and has
/// only what others leave where all gates run.
const LIMIT: &str = "1800";
/// What the machine says when the tests have ended well.
const ENDED_WELL: &str = "the tests ended with 0";

/// Its first process. The third node has memory and no CPU.
const INIT: &str = r#"#!/bin/busybox sh
busybox=/bin/busybox
$busybox mkdir -p /proc /sys /tmp
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
$busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
for node in 0 1 2; do
    echo 16 > /sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages
done
/bin/emulated_machine --ignored --nocapture --test-threads=1
echo "the tests ended with $?"
$busybox poweroff -f
"#;

pub(super) fn emulated(bench: &Bench<'_>) -> Result<Outcome, String> {
    if !bench.tools.musl {
        return Ok(Outcome::Skipped { tool: MUSL });
    }
    let is_there = |program: &str| {
        let version = Command::new(program).arg("--help").output();
        version.is_ok_and(|output| output.status.success())
    };
    if !is_there("qemu-system-x86_64") {
        return Ok(Outcome::Skipped {
            tool: "qemu-system-x86_64",
        });
    }
    if !is_there("busybox") {
        return Ok(Outcome::Skipped { tool: "busybox" });
    }
    let Some(kernel) = kernel(bench)? else {
        return Ok(Outcome::Skipped {
            tool: "a kernel from apt-get",
        });
    };
    let tests = tests(bench)?;
    let disk = pack(bench, &tests)?;
    let done = bench
        .workspace
        .run(&mut machine(bench, &kernel, &disk), Show::All)?
        .success("the emulated machine")?;
    if !done.stdout.contains(ENDED_WELL) {
        return Err("a test failed on the emulated machine".to_owned());
    }
    let passed = totals(&done.stdout).passed;
    Ok(Outcome::tested(
        passed,
        "tests on an emulated machine",
        vec![("emulated machine".to_owned(), passed)],
    ))
}

/// Debian's kernel, kept in the cache; `None` where there is no Debian. It is unpacked, never installed.
fn kernel(bench: &Bench<'_>) -> Result<Option<PathBuf>, String> {
    let has_apt = command::output_of(Command::new("apt-get").arg("--version")).is_some();
    if !has_apt {
        return Ok(None);
    }
    let package = match newest_kernel() {
        Some(package) => package,
        None => {
            setup::apt_get(&["update", "-q"])?;
            newest_kernel().ok_or_else(|| format!("apt-get knows no package {KERNEL_PACKAGE}"))?
        }
    };
    let directory = bench.workspace.cache.join("kernels");
    let kernel = directory.join(&package);
    if kernel.is_file() {
        return Ok(Some(kernel));
    }
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |error| format!("{what}: {error}")
    };
    let unpacked = bench.target.join("kernel");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).map_err(failed(&unpacked))?;
    }
    fs::create_dir_all(&unpacked).map_err(failed(&unpacked))?;
    bench.workspace.say(&format!("fetching {package}"));
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(&unpacked).args(arguments);
        let done = bench.workspace.run(&mut command, Show::All)?;
        done.success(&command::describe(&command)).map(drop)
    };
    let download = ["download", "-q", &package];
    if run("apt-get", &download).is_err() {
        // The list of packages is older than the archive.
        setup::apt_get(&["update", "-q"])?;
        run("apt-get", &download)?;
    }
    let archive = only(&unpacked, |name| name.ends_with(".deb"))?;
    run("dpkg-deb", &["-x", &archive, "."])?;
    let image = only(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    fs::create_dir_all(&directory).map_err(failed(&directory))?;
    // Under its name it is whole.
    let incoming = directory.join(format!("{package}.{}", std::process::id()));
    fs::copy(unpacked.join("boot").join(image), &incoming).map_err(failed(&incoming))?;
    fs::rename(&incoming, &kernel).map_err(failed(&kernel))?;
    fs::remove_dir_all(&unpacked).map_err(failed(&unpacked))?;
    Ok(Some(kernel))
}

/// The package that has the kernel of the day, as far as the list of packages goes.
fn newest_kernel() -> Option<String> {
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", KERNEL_PACKAGE]);
    let depends = command::output_of(&mut depends)?;
    let mut packages = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.next().map(ToOwned::to_owned)
}

/// The name of the one file that is wanted.
fn only(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<String, String> {
    let entries =
        fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found = names.filter(|name| wanted(name));
    found
        .next()
        .ok_or_else(|| format!("{} has not what was unpacked there", directory.display()))
}

/// The static test program.
fn tests(bench: &Bench<'_>) -> Result<PathBuf, String> {
    let mut cargo = bench.workspace.cargo(&bench.target);
    cargo.args(["test", "--locked", "--package", "tensorpool-shm"]);
    cargo.args(["--test", "emulated_machine", "--no-run"]);
    cargo.args(["--target", "x86_64-unknown-linux-musl"]);
    // For the benchmark library alone, as in the gate `musl`.
    cargo.env("CC_x86_64_unknown_linux_musl", "cc");
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let done = bench
        .workspace
        .run(&mut cargo, Show::Errors)?
        .success("the static tests")?;
    let built = own_artifacts(&done.stdout).into_iter().find_map(|line| {
        let (_, path) = line.split_once("\"executable\":\"")?;
        path.split('"').next()
    });
    let built = built.ok_or("cargo does not say where the static tests are")?;
    Ok(PathBuf::from(built))
}

/// All files of the machine, in the form that the kernel unpacks into memory.
fn pack(bench: &Bench<'_>, tests: &Path) -> Result<PathBuf, String> {
    let root = bench.target.join("emulated");
    let programs = root.join("files/bin");
    let failed = |error| format!("{}: {error}", root.display());
    fs::create_dir_all(&programs).map_err(failed)?;
    let busybox = command::output_of(Command::new("which").arg("busybox"));
    let busybox = busybox.ok_or("busybox went away")?;
    fs::copy(busybox.trim(), programs.join("busybox")).map_err(failed)?;
    fs::copy(tests, programs.join("emulated_machine")).map_err(failed)?;
    let init = root.join("files/init");
    fs::write(&init, INIT).map_err(failed)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    let disk = root.join("disk");
    let mut cpio = Command::new("sh");
    cpio.current_dir(root.join("files"));
    cpio.args(["-c", "find . | busybox cpio -o -H newc > ../disk"]);
    bench
        .workspace
        .run(&mut cpio, Show::All)?
        .success("packing the machine's files")?;
    Ok(disk)
}

/// Four CPUs on two nodes, and a third node of memory alone.
fn machine(bench: &Bench<'_>, kernel: &Path, disk: &Path) -> Command {
    let mut machine = bench.workspace.command("timeout", &bench.target);
    machine.args([LIMIT, "qemu-system-x86_64"]);
    machine.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "4"]);
    machine.args(["-m", "768", "-net", "none", "-nographic", "-no-reboot"]);
    for (node, cpus) in [(0, ",cpus=0-1"), (1, ",cpus=2-3"), (2, "")] {
        let memory = format!("memory-backend-ram,id=m{node},size=256M");
        let node = format!("node,nodeid={node},memdev=m{node}{cpus}");
        machine.args(["-object", &memory, "-numa", &node]);
    }
    machine.arg("-kernel").arg(kernel);
    machine.arg("-initrd").arg(disk);
    machine.args(["-append", "console=ttyS0 quiet panic=-1"]);
    machine
}
