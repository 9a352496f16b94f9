//! `e2e`: builds what goes into the images, and the program that uses them on a real cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::command::{self, Show};
use crate::setup;
use crate::workspace::{BuildDirectory, Workspace};

/// Programs that the Dockerfile's first stage compiles together, all of them static.
struct Compiled {
    packages: &'static [&'static str],
    arguments: &'static [&'static str],
    libc: Libc,
    /// With the directory that each lies in.
    programs: &'static [&'static str],
    /// Where they go, below `out`.
    into: &'static str,
}

/// What `ci` runs: every suite, then on the container runtimes of Debian what differs there, since those
/// make no volume writable that is mounted read-only.
const PASSES: [&[&str]; 2] = [&[], &["--runtime", "debian", "--only", "quickstart,access"]];

/// What the programs are linked with.
#[derive(Clone, Copy)]
enum Libc {
    /// Needs no C at all.
    Musl,
    /// With Aeron's native part, whose libraries Debian has for glibc only.
    Glibc,
}

const EXAMPLES: [&str; 4] = [
    "examples/producer",
    "examples/consumer",
    "examples/exchange",
    "examples/pace",
];

/// As the Dockerfile has them. The operator goes with the driver, since both have the same client of the
/// API server, which is then compiled once.
const STATIC: [Compiled; 4] = [
    Compiled {
        packages: &["tensorpool-operator", "tensorpool-node-driver"],
        arguments: &["--bins"],
        libc: Libc::Glibc,
        programs: &[
            "tensorpool-operator",
            "tensorpool-guard",
            "tensorpool-node-driver",
        ],
        into: "",
    },
    Compiled {
        packages: &["tensorpool-client"],
        arguments: &["--examples", "--no-default-features"],
        libc: Libc::Musl,
        programs: &EXAMPLES,
        into: "",
    },
    Compiled {
        packages: &["tensorpool-client"],
        arguments: &["--examples", "--features", "aeron"],
        libc: Libc::Glibc,
        programs: &EXAMPLES,
        into: "aeron",
    },
    // In no image of the product: e2e/probe.Dockerfile.
    Compiled {
        packages: &["tensorpool-e2e"],
        arguments: &["--bin", "tensorpool-probe", "--no-default-features"],
        libc: Libc::Musl,
        programs: &["tensorpool-probe"],
        into: "",
    },
];

impl Libc {
    const fn target(self) -> &'static str {
        match self {
            Self::Musl => "x86_64-unknown-linux-musl",
            Self::Glibc => "x86_64-unknown-linux-gnu",
        }
    }

    /// The Dockerfile has the same, and says why.
    fn set(self, cargo: &mut Command) {
        match self {
            Self::Musl => {}
            Self::Glibc => {
                cargo.env(
                    "RUSTFLAGS",
                    "-C target-feature=+crt-static -C link-arg=-l:libbsd.a -C link-arg=-l:libmd.a",
                );
                cargo.env("RUSTERON_C_MARCH", "x86-64-v2");
            }
        }
    }
}

/// Builds everything and runs it.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    if arguments.iter().any(|it| it == "--help" || it == "-h") {
        return help(workspace);
    }
    let tools = setup::run(workspace)?;
    if !tools.go || !tools.musl || !tools.cmake {
        return Err(format!(
            "an end-to-end run needs Go, CMake and the Rust target {}; {}",
            Libc::Musl.target(),
            tools.summary()
        ));
    }
    let directory = BuildDirectory::take(workspace)?;
    let built = build(workspace, &directory.path)?;
    let mut e2e = built.command(workspace, &directory.path);
    e2e.args(arguments);
    // Others may build while a cluster is up.
    drop(directory);
    follow(as_root(e2e)).map(drop)
}

fn help(workspace: &Workspace) -> Result<(), String> {
    let directory = BuildDirectory::take(workspace)?;
    build_programs(workspace, &directory.path)?;
    let program = directory.path.join("debug/tensorpool-e2e");
    let mut e2e = workspace.command(program, &directory.path);
    command::run(e2e.arg("--help"), Show::All)?
        .success("the help")
        .map(drop)
}

/// All of [`PASSES`], with the same images, in a build directory that is held already. How many steps
/// passed.
pub(crate) fn through(workspace: &Workspace, target: &Path) -> Result<u64, String> {
    let built = build(workspace, target)?;
    let archives = built.statics.join("archives");
    // Of programs that were built earlier.
    if archives.exists() {
        fs::remove_dir_all(&archives)
            .map_err(|error| format!("could not remove {}: {error}", archives.display()))?;
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for arguments in PASSES {
        let mut e2e = built.command(workspace, target);
        e2e.arg("--archives").arg(&archives).args(arguments);
        let started = Instant::now();
        match follow(as_root(e2e)) {
            Ok(steps) => passed += steps,
            Err(why) => failed.push(why),
        }
        let (name, seconds) = (arguments.join(" "), started.elapsed().as_secs());
        println!("cargo xtask e2e {name}: {seconds} s");
    }
    if failed.is_empty() {
        Ok(passed)
    } else {
        Err(failed.join("; "))
    }
}

/// What an end-to-end run takes.
struct Built {
    /// The directory that has the static programs for the images in `out`.
    statics: PathBuf,
    /// The directory of the programs that run here.
    programs: PathBuf,
}

impl Built {
    /// The end-to-end program, without what a person may say.
    fn command(&self, workspace: &Workspace, target: &Path) -> Command {
        let mut e2e = workspace.command(self.programs.join("tensorpool-e2e"), target);
        e2e.arg("--root").arg(&workspace.root);
        e2e.arg("--static").arg(&self.statics);
        e2e.arg("--cluster")
            .arg(self.programs.join("tensorpool-cluster"));
        // A cluster of its own, whatever the shell knows.
        e2e.env_remove("KUBECONFIG");
        e2e
    }
}

fn build(workspace: &Workspace, target: &Path) -> Result<Built, String> {
    let statics = build_static(workspace, target)?;
    build_programs(workspace, target)?;
    let programs = target.join("debug");
    Ok(Built { statics, programs })
}

/// The program, and the one that it brings a cluster up with.
fn build_programs(workspace: &Workspace, target: &Path) -> Result<(), String> {
    let mut cargo = workspace.cargo(target);
    cargo.args(["build", "--locked", "--quiet"]);
    cargo.args([
        "--package",
        "tensorpool-cluster",
        "--bin",
        "tensorpool-cluster",
    ]);
    cargo.args(["--package", "tensorpool-e2e", "--bin", "tensorpool-e2e"]);
    command::run(&mut cargo, Show::All)?
        .success("building the end-to-end program")
        .map(drop)
}

fn follow(mut e2e: Command) -> Result<u64, String> {
    let done = command::run(&mut e2e, Show::All)?;
    let last = done.stdout.lines().last().unwrap_or_default().to_owned();
    done.success("the end-to-end run")?;
    let passed = last
        .strip_prefix("e2e: ")
        .and_then(|rest| rest.split(' ').next());
    passed
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("the end-to-end run ended with `{last}`, not with a summary"))
}

/// [`build_static`] alone. How many programs there are.
pub(crate) fn build_programs_of_images(
    workspace: &Workspace,
    target: &Path,
) -> Result<usize, String> {
    build_static(workspace, target)?;
    Ok(STATIC.iter().map(|compiled| compiled.programs.len()).sum())
}

/// The gate `images` builds beside the others, with what they leave of the processors: without this it may
/// still copy a program that the gate `e2e` already packs.
static BUILDING: Mutex<()> = Mutex::new(());

/// Compiles what the images hold, and puts it where the Dockerfile's first stage would.
fn build_static(workspace: &Workspace, target: &Path) -> Result<PathBuf, String> {
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    workspace
        .say("building static programs for the images (the first time this takes some minutes)");
    let stage = target.join("images");
    let out = stage.join("out");
    fs::create_dir_all(&out)
        .map_err(|error| format!("could not make {}: {error}", out.display()))?;
    for compiled in &STATIC {
        let mut cargo = workspace.cargo(target);
        cargo.args(["build", "--locked", "--quiet", "--release"]);
        cargo.args(["--target", compiled.libc.target()]);
        for package in compiled.packages {
            cargo.args(["--package", package]);
        }
        cargo.args(compiled.arguments);
        compiled.libc.set(&mut cargo);
        // Symbols are for people; the images have none.
        cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        cargo.env("CARGO_PROFILE_RELEASE_STRIP", "true");
        let what = format!("the static {}", compiled.packages.join(" and "));
        workspace.run(&mut cargo, Show::All)?.success(&what)?;
        let built = target.join(compiled.libc.target()).join("release");
        let into = out.join(compiled.into);
        fs::create_dir_all(&into)
            .map_err(|error| format!("could not make {}: {error}", into.display()))?;
        for program in compiled.programs {
            let built = built.join(program);
            let name = built.file_name().unwrap_or_default();
            fs::copy(&built, into.join(name))
                .map_err(|error| format!("could not copy {}: {error}", built.display()))?;
        }
    }
    Ok(stage)
}

/// Whether nobody has to be asked.
pub(crate) fn is_root() -> bool {
    command::output_of(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// By sudo where we are not root, with the environment as it is.
fn as_root(command: Command) -> Command {
    if is_root() {
        return command;
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["--preserve-env", "--", "env"]);
    for name in ["HOME", "PATH"] {
        let set = command.get_envs().find(|(key, _)| *key == name);
        let value = set
            .and_then(|(_, value)| value.map(ToOwned::to_owned))
            .or_else(|| std::env::var_os(name));
        if let Some(value) = value {
            let mut word = std::ffi::OsString::from(format!("{name}="));
            word.push(value);
            sudo.arg(word);
        }
    }
    sudo.arg(command.get_program()).args(command.get_args());
    if let Some(here) = command.get_current_dir() {
        sudo.current_dir(here);
    }
    sudo
}
