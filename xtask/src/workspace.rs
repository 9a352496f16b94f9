//! Where things are: the checkout, the cache, the build directory and the tools.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{self, Finished, Show};

/// Environment variables that `cargo run` sets for us and that must not leak into the commands we
/// start: build scripts that watch them would run again for nothing.
const CARGO_RUN_VARIABLES: [&str; 5] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_CRATE_NAME",
    "CARGO_BIN_NAME",
    "CARGO_PRIMARY_PACKAGE",
];

/// The checkout and what surrounds it.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// `${XDG_CACHE_HOME:-~/.cache}/tensorpool`, for what is slow to make.
    pub(crate) cache: PathBuf,
    /// For work beside other work: where everything goes that would be shown.
    beside: Option<File>,
}

impl Workspace {
    /// The workspace that this program was built from.
    pub(crate) fn find() -> Self {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .map_or_else(|| manifest.clone(), Path::to_path_buf);
        Self {
            root,
            cache: cache_home().join("tensorpool"),
            beside: None,
        }
    }

    /// The same for work beside other work: its commands get what others leave of the processors, and
    /// what would be shown goes to `log`.
    pub(crate) fn beside(&self, log: File) -> Self {
        Self {
            root: self.root.clone(),
            cache: self.cache.clone(),
            beside: Some(log),
        }
    }

    /// Runs one of our commands to its end, showing and keeping what it prints.
    pub(crate) fn run(&self, command: &mut Command, show: Show) -> Result<Finished, String> {
        match &self.beside {
            None => command::run(command, show),
            Some(log) => command::run_into(command, show, log),
        }
    }

    /// Shows a line.
    pub(crate) fn say(&self, line: &str) {
        match &self.beside {
            None => println!("{line}"),
            Some(log) => {
                let mut log: &File = log;
                // The log is for people; what a gate found is in its row.
                if let Err(error) = writeln!(log, "{line}") {
                    eprintln!("{line} (not in the log: {error})");
                }
            }
        }
    }

    /// A cargo command in the workspace, with the tools that `setup` installed on its path.
    pub(crate) fn cargo(&self, target: &Path) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        self.command(cargo, target)
    }

    /// Any command in the workspace, with the tools that `setup` installed on its path.
    pub(crate) fn command(&self, program: impl Into<OsString>, target: &Path) -> Command {
        let mut command = if self.beside.is_some() && has_chrt() {
            let mut idle = Command::new("chrt");
            idle.args(["--idle", "0"]).arg(program.into());
            idle
        } else {
            Command::new(program.into())
        };
        command
            .current_dir(&self.root)
            .env("PATH", self.path())
            .env("CARGO_TARGET_DIR", target)
            // What would be kept for the next change of this checkout costs time, and gigabytes in a
            // directory that is shared by all checkouts.
            .env("CARGO_INCREMENTAL", "0");
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || CARGO_RUN_VARIABLES.contains(&text.as_ref()) {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Where `setup` keeps the tools that it installs. The name changes with their versions.
    pub(crate) fn tools(&self) -> PathBuf {
        self.cache.join("tools-1")
    }

    /// The paths of all files that git tracks here, relative to the root, plus new ones that it
    /// does not ignore.
    pub(crate) fn files(&self) -> Result<Vec<String>, String> {
        let mut git = Command::new("git");
        git.current_dir(&self.root).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let listed = command::output_of(&mut git)
            .ok_or_else(|| format!("`git ls-files` failed in {}", self.root.display()))?;
        let mut files: Vec<String> = listed
            .lines()
            .filter(|file| self.root.join(file).is_file())
            .map(str::to_owned)
            .collect();
        files.sort_unstable();
        files.dedup();
        Ok(files)
    }

    /// The text of one file of the workspace.
    pub(crate) fn read(&self, file: &str) -> Result<String, String> {
        fs::read_to_string(self.root.join(file))
            .map_err(|error| format!("could not read {file}: {error}"))
    }

    fn path(&self) -> OsString {
        let ours = self.tools().join("bin");
        let theirs = env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(ours).chain(env::split_paths(&theirs));
        env::join_paths(all).unwrap_or(theirs)
    }
}

/// The build directory, held for this checkout until dropped.
///
/// It is shared by all checkouts of one user (third-party code, the C part of Aeron above all, is
/// compiled once) and keyed by the compiler. Cargo tells by file times whether a workspace crate
/// is fresh, which is wrong between two checkouts of different commits: when the checkout changes,
/// what was built of the workspace itself is forgotten.
#[derive(Debug)]
pub(crate) struct BuildDirectory {
    /// For `CARGO_TARGET_DIR`.
    pub(crate) path: PathBuf,
    _lock: Option<File>,
}

impl BuildDirectory {
    /// Waits until no other checkout builds, then takes the directory. `CARGO_TARGET_DIR` of the
    /// environment wins and is left alone.
    pub(crate) fn take(workspace: &Workspace) -> Result<Self, String> {
        if let Some(path) = env::var_os("CARGO_TARGET_DIR") {
            let path = workspace.root.join(path);
            return Ok(Self { path, _lock: None });
        }
        let path = workspace
            .cache
            .join(format!("target-{}", compiler_key(&workspace.root)?));
        fs::create_dir_all(&path)
            .map_err(|error| format!("could not create {}: {error}", path.display()))?;
        let lock = lock(&path.join("xtask.lock"))?;
        let owner = path.join("xtask.checkout");
        let here = workspace.root.to_string_lossy().into_owned();
        if fs::read_to_string(&owner).is_ok_and(|last| last != here) {
            forget_workspace_crates(&path, 3)
                .map_err(|error| format!("could not clean {}: {error}", path.display()))?;
        }
        fs::write(&owner, here)
            .map_err(|error| format!("could not write {}: {error}", owner.display()))?;
        Ok(Self {
            path,
            _lock: Some(lock),
        })
    }
}

/// Of util-linux: runs a program when no other wants to run.
fn has_chrt() -> bool {
    command::output_of(Command::new("chrt").arg("--version")).is_some()
}

fn lock(path: &Path) -> Result<File, String> {
    let file = File::create(path)
        .map_err(|error| format!("could not create {}: {error}", path.display()))?;
    if file.try_lock().is_err() {
        println!("waiting for another checkout that builds in the same directory");
        file.lock()
            .map_err(|error| format!("could not lock {}: {error}", path.display()))?;
    }
    Ok(file)
}

/// Removes cargo's notes on the crates of this workspace, so that they are compiled again.
fn forget_workspace_crates(directory: &Path, depth: u32) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if entry.file_name() == ".fingerprint" {
            for note in fs::read_dir(entry.path())? {
                let note = note?;
                let name = note.file_name();
                let name = name.to_string_lossy();
                if name.starts_with("tensorpool-") || name.starts_with("xtask-") {
                    fs::remove_dir_all(note.path())?;
                }
            }
        } else if depth > 0 {
            forget_workspace_crates(&entry.path(), depth - 1)?;
        }
    }
    Ok(())
}

/// Names the compiler: release and host, as `1.95.0-x86_64-unknown-linux-gnu`.
fn compiler_key(root: &Path) -> Result<String, String> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(root).arg("-vV");
    let text = command::output_of(&mut rustc).ok_or("`rustc -vV` failed")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
            .ok_or_else(|| format!("`rustc -vV` does not say its {name}"))
    };
    Ok(format!("{}-{}", field("release:")?, field("host:")?))
}

fn cache_home() -> PathBuf {
    let home = || env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| home().join(".cache"))
}
