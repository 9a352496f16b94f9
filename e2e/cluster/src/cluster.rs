//! A cluster of this machine: bringing it up, going into it, taking it down.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::{BuildError, cache_directory};
use crate::control_plane::StartError;
use crate::debian::DebianError;
use crate::init;
use crate::page_pool::HugepageError;
use crate::progress::Progress;
use crate::runtime::Runtime;
use crate::state::{Extent, ProcessId, State, directory_of};

mod removal;
mod start;

/// What cluster is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clusters of different names live side by side. Letters, digits and `-`.
    pub name: String,
    /// Only etcd and the API server: no root, no namespaces, no node.
    pub control_plane: bool,
    /// What runs pods. `None`: the current ones, or whatever the cluster has that is up.
    pub runtime: Option<Runtime>,
    /// Pages of 2 MiB for pods, added to what the machine has. `None`: 256, or whatever the
    /// cluster has that is up.
    pub hugepages: Option<u64>,
    /// The program `tensorpool-cluster`, which becomes the cluster's first process.
    pub program: PathBuf,
}

/// Why something could not be done with a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A program could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A Debian package could not be had.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// Huge pages could not be had.
    #[error(transparent)]
    Hugepages(#[from] HugepageError),
    /// The control plane did not start.
    #[error(transparent)]
    ControlPlane(#[from] StartError),
    /// The name would not be a good file name.
    #[error("`{0}` is no name for a cluster: use up to 32 letters, digits and `-`")]
    Name(String),
    /// Not root.
    #[error(
        "a whole cluster needs root (namespaces, mounts, control groups, huge pages): become root, or use only a control plane (`up --control-plane`), or set KUBECONFIG to a cluster that you have"
    )]
    NotRoot,
    /// Nothing to go into.
    #[error("the cluster `{0}` is not up; `cargo xtask cluster up` brings it up")]
    NotUp(String),
    /// A cluster of this name is up and is another kind of cluster.
    #[error(
        "the cluster `{name}` is up as {is}, not as {wanted}: take it down first (`cargo xtask cluster down`), or use another `--name`"
    )]
    Different {
        /// Its name.
        name: String,
        /// What there is.
        is: String,
        /// What was asked for.
        wanted: String,
    },
    /// It did not come up.
    #[error("the cluster did not come up: {why}\nits logs stay in {} until the next `up` or `down`", logs.display())]
    Failed {
        /// What pid 1 said.
        why: String,
        /// Where its logs are.
        logs: PathBuf,
    },
    /// Its files would be hidden from it.
    #[error(
        "{} lies below {by}, which a cluster covers with its own: set XDG_CACHE_HOME (and CARGO_TARGET_DIR) to a directory elsewhere",
        path.display()
    )]
    Covered {
        /// What it must see.
        path: PathBuf,
        /// What hides it.
        by: &'static str,
    },
    /// Something did not let itself be done.
    #[error("{what}")]
    Io {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl ClusterError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    state: State,
    kubeconfig: PathBuf,
    process: ProcessId,
}

impl Cluster {
    /// The cluster of this name, if it is up.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn find(name: &str) -> Result<Option<Self>, ClusterError> {
        let directory = named(name)?;
        let state = load(&directory)?;
        Ok(state.and_then(|state| Self::of(directory, state)))
    }

    fn of(directory: PathBuf, state: State) -> Option<Self> {
        let process = state.living()?;
        let kubeconfig = state.kubeconfig.clone()?;
        Some(Self {
            directory,
            state,
            kubeconfig,
            process,
        })
    }

    /// Brings it up, or finds it up. Builds what was never built, and removes what a cluster of
    /// this name left that was killed.
    ///
    /// # Errors
    /// When something is missing or does not start; nothing stays but the logs.
    pub fn up(options: &Options, progress: &Progress) -> Result<Self, ClusterError> {
        let directory = named(&options.name)?;
        if !options.control_plane && !rustix::process::geteuid().is_root() {
            return Err(ClusterError::NotRoot);
        }
        for path in [&directory, &options.program] {
            let covering = init::covering(path).filter(|_| !options.control_plane);
            if let Some(by) = covering {
                let path = path.clone();
                return Err(ClusterError::Covered { path, by });
            }
        }
        if let Some(there) = Self::find(&options.name)? {
            there.must_be(options)?;
            progress.step(&format!("the cluster `{}` is up already", options.name));
            return Ok(there);
        }
        let wanted = start::Wanted::ensure(options, progress)?;
        let _lock = lock()?;
        // Somebody else may have brought it up while we waited.
        if let Some(there) = Self::find(&options.name)? {
            there.must_be(options)?;
            return Ok(there);
        }
        if removal::remove(&directory, &options.program)? {
            progress.step("removed what a killed cluster of this name had left");
        }
        progress.step(&format!("starting the cluster `{}`", options.name));
        let started = start::Start::new(&directory, options, progress).run(&wanted);
        if let Err(error) = started {
            removal::undo(&directory, &options.program)?;
            return Err(error);
        }
        Self::find(&options.name)?.ok_or_else(|| ClusterError::NotUp(options.name.clone()))
    }

    /// Ends it and removes everything of it. `false` when there was nothing. `program` is
    /// `tensorpool-cluster`, as in [`Options`].
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn down(name: &str, program: &Path) -> Result<bool, ClusterError> {
        let directory = named(name)?;
        if !directory.exists() {
            return Ok(false);
        }
        let _lock = lock()?;
        let state = load(&directory)?;
        let whole = |state: State| matches!(state.extent, Extent::Whole { .. });
        if state.is_some_and(whole) && !rustix::process::geteuid().is_root() {
            return Err(ClusterError::NotRoot);
        }
        removal::remove(&directory, program)
    }

    /// Whether we may go inside.
    ///
    /// # Errors
    /// When it takes root and we are not.
    pub fn may_enter(&self) -> Result<(), ClusterError> {
        match self.state.extent {
            Extent::Whole { .. } if !rustix::process::geteuid().is_root() => {
                Err(ClusterError::NotRoot)
            }
            Extent::Whole { .. } | Extent::ControlPlane => Ok(()),
        }
    }

    /// A command that runs inside: in the cluster's namespaces and the caller's directory, with
    /// the cluster's programs on `PATH` and its administrator's `KUBECONFIG`.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.state.extent {
            Extent::ControlPlane => Command::new("env"),
            Extent::Whole { .. } => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--target={}", self.process.pid));
                command.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"]);
                command.args(["--", "env"]);
                // `nsenter` itself would stay in the directory of the machine's own mounts.
                if let Ok(here) = std::env::current_dir() {
                    command.arg("--chdir").arg(here);
                }
                command
            }
        };
        let mut path = self.directory.join("bin").into_os_string();
        if let Some(outside) = std::env::var_os("PATH") {
            path.push(":");
            path.push(outside);
        }
        let mut variable = std::ffi::OsString::from("PATH=");
        variable.push(path);
        command.arg(variable);
        let mut variable = std::ffi::OsString::from("KUBECONFIG=");
        variable.push(&self.kubeconfig);
        command.arg(variable).arg(program);
        command
    }

    /// `kubectl` as the administrator.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = self.command("kubectl");
        // Its cache of discovery must not outlive the cluster.
        let cache = self.directory.join("kubectl-cache");
        command.arg("--cache-dir").arg(cache);
        command
    }

    /// Makes the images of an archive (`docker save`, `buildah push docker-archive:`,
    /// [`StaticImage::write`](crate::StaticImage::write)) known to the node. Pods use them with `imagePullPolicy: Never` or
    /// `IfNotPresent`.
    ///
    /// # Errors
    /// When the archive cannot be read, or there is no node.
    pub fn load_images(&self, archive: &Path) -> Result<(), ClusterError> {
        let what = format!("could not load images from {}", archive.display());
        if matches!(self.state.extent, Extent::ControlPlane) {
            let source = io::Error::other("a control plane has no node to load them on");
            return Err(ClusterError::Io { what, source });
        }
        // The archive may lie where the cluster sees something else.
        let archive = File::open(archive).map_err(ClusterError::io(what.clone()))?;
        let mut ctr = self.command("ctr");
        ctr.args(["--namespace", "k8s.io", "images", "import", "-"]);
        let output = ctr.stdin(archive).output();
        let output = output.map_err(ClusterError::io(what.clone()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let source = io::Error::other(format!("it is no archive of images: {said}"));
        Err(ClusterError::Io { what, source })
    }

    /// The administrator's kubeconfig. Its server can be reached from inside only, unless this is
    /// a control plane.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API server's audit log, one JSON object a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.kubeconfig.with_file_name("audit.log")
    }

    /// Where the logs of its servers are.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        match self.state.extent {
            Extent::ControlPlane => self.kubeconfig.with_file_name(""),
            Extent::Whole { .. } => self.directory.join("logs"),
        }
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.state.extent {
            Extent::ControlPlane => CONTROL_PLANE.to_owned(),
            Extent::Whole {
                runtime, hugepages, ..
            } => describe_whole(*runtime, hugepages.pages),
        }
    }

    fn must_be(&self, options: &Options) -> Result<(), ClusterError> {
        let is = self.describe();
        let wanted = match (&self.state.extent, options.control_plane) {
            (_, true) => CONTROL_PLANE.to_owned(),
            (Extent::ControlPlane, false) => "a cluster with a node".to_owned(),
            (
                Extent::Whole {
                    runtime, hugepages, ..
                },
                false,
            ) => describe_whole(
                options.runtime.unwrap_or(*runtime),
                options.hugepages.unwrap_or(hugepages.pages),
            ),
        };
        if is == wanted {
            return Ok(());
        }
        let name = options.name.clone();
        Err(ClusterError::Different { name, is, wanted })
    }
}

const CONTROL_PLANE: &str = "a control plane without a node";

fn describe_whole(runtime: Runtime, hugepages: u64) -> String {
    let runtime = match runtime {
        Runtime::Current => "containerd 2.1",
        Runtime::Debian => "Debian's containerd",
    };
    format!("a control plane and a node with {runtime} and {hugepages} huge pages of its own")
}

/// The directory of the cluster of this name.
fn named(name: &str) -> Result<PathBuf, ClusterError> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    if name.is_empty() || name.len() > 32 || !name.chars().all(fits) {
        return Err(ClusterError::Name(name.to_owned()));
    }
    Ok(directory_of(&cache_directory()?, name))
}

fn load(directory: &Path) -> Result<Option<State>, ClusterError> {
    let what = format!(
        "could not read the state in {}; if another version of this program wrote it, take the cluster down with that one",
        directory.display()
    );
    State::load(directory).map_err(ClusterError::io(what))
}

/// One cluster at a time is brought up or taken down.
fn lock() -> Result<File, ClusterError> {
    let cache = cache_directory()?;
    let what = format!("could not lock {}", cache.display());
    fs::create_dir_all(&cache)
        .and_then(|()| File::open(&cache))
        .and_then(|cache| cache.lock().map(|()| cache))
        .map_err(ClusterError::io(what))
}
