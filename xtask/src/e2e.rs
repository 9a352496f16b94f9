//! `e2e`: builds what goes into the images, and the program that uses them on a real cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{self, Show};
use crate::setup;
use crate::workspace::{BuildDirectory, Workspace};

/// What the Dockerfile's first stage compiles: package, further arguments, and programs with the
/// directory that they lie in.
const STATIC: [(&str, &[&str], &[&str]); 3] = [
    (
        "tensorpool-operator",
        &["--bins"],
        &["tensorpool-operator", "tensorpool-guard"],
    ),
    (
        "tensorpool-node-driver",
        &[
            "--bins",
            "--no-default-features",
            "--features",
            "kubernetes",
        ],
        &["tensorpool-node-driver"],
    ),
    (
        "tensorpool-client",
        &["--examples", "--no-default-features"],
        &[
            "examples/producer",
            "examples/consumer",
            "examples/exchange",
        ],
    ),
];
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds everything and runs it. `--keep` leaves the cluster up.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    let tools = setup::run(workspace)?;
    if !tools.go || !tools.musl {
        return Err(format!(
            "an end-to-end run needs Go and the Rust target {TARGET}; {}",
            tools.summary()
        ));
    }
    let directory = BuildDirectory::take(workspace)?;
    through(workspace, &directory.path, arguments).map(drop)
}

/// The same in a build directory that is held already. How many steps passed.
pub(crate) fn through(
    workspace: &Workspace,
    target: &Path,
    arguments: &[String],
) -> Result<u64, String> {
    println!("building static programs for the images (the first time this takes some minutes)");
    let statics = build_static(workspace, target)?;
    let mut cargo = workspace.cargo(target);
    cargo.args(["build", "--locked", "--quiet"]);
    cargo.args([
        "--package",
        "tensorpool-cluster",
        "--bin",
        "tensorpool-cluster",
    ]);
    cargo.args(["--package", "tensorpool-e2e", "--bin", "tensorpool-e2e"]);
    command::run(&mut cargo, Show::All)?.success("building the end-to-end program")?;
    let programs = target.join("debug");
    let mut e2e = workspace.command(programs.join("tensorpool-e2e"), target);
    e2e.arg("--root").arg(&workspace.root);
    e2e.arg("--static").arg(statics);
    e2e.arg("--cluster")
        .arg(programs.join("tensorpool-cluster"));
    e2e.args(arguments);
    // A cluster of its own, whatever the shell knows.
    e2e.env_remove("KUBECONFIG");
    let done = command::run(&mut as_root(e2e), Show::All)?;
    let last = done.stdout.lines().last().unwrap_or_default().to_owned();
    done.success("the end-to-end run")?;
    let passed = last
        .strip_prefix("e2e: ")
        .and_then(|rest| rest.split(' ').next());
    passed
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("the end-to-end run ended with `{last}`, not with a summary"))
}

/// Compiles what the images hold, and puts it where the Dockerfile's first stage would.
fn build_static(workspace: &Workspace, target: &Path) -> Result<PathBuf, String> {
    let stage = target.join("images");
    let out = stage.join("out");
    fs::create_dir_all(&out)
        .map_err(|error| format!("could not make {}: {error}", out.display()))?;
    for (package, arguments, programs) in STATIC {
        let mut cargo = workspace.cargo(target);
        cargo.args([
            "build",
            "--locked",
            "--quiet",
            "--release",
            "--target",
            TARGET,
        ]);
        cargo.args(["--package", package]).args(arguments);
        // Symbols are for people; the images have none.
        cargo.env("CARGO_PROFILE_RELEASE_STRIP", "true");
        command::run(&mut cargo, Show::All)?.success(&format!("the static {package}"))?;
        for program in programs {
            let built = target.join(TARGET).join("release").join(program);
            let name = built.file_name().unwrap_or_default();
            fs::copy(&built, out.join(name))
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
