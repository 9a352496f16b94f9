//! What runs inside a cluster's namespaces as pid 1: it makes the place, starts the servers,
//! says when everything answers, and from then on starts again what ends.
//!
//! When it ends, the kernel ends every process, mount and interface of the cluster with it.

use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api_server::FilesError;
use crate::certificate::Authority;
use crate::cgroups::{self, Group};
use crate::components::{self, Components, NODE, Programs};
use crate::probe::Probe;
pub(crate) use place::covering;
pub(crate) use shield::become_shielded;
use supervisor::Supervisor;

mod place;
mod shield;
mod supervisor;

/// How long each step of the start may take. A busy machine is slow; a second is usual.
const LIMIT: Duration = Duration::from_secs(120);

/// What pid 1 is told.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Plan {
    /// The cluster's directory.
    pub(crate) directory: PathBuf,
    /// Its control groups.
    pub(crate) groups: Vec<Group>,
    /// What it runs.
    pub(crate) programs: Programs,
}

impl Plan {
    /// The file of a cluster's plan.
    pub(crate) fn file(directory: &Path) -> PathBuf {
        directory.join("plan.json")
    }

    fn load(directory: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(Self::file(directory))?;
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    /// Where hierarchies of control groups are mounted while they are made or removed.
    pub(crate) fn group_mounts(directory: &Path) -> PathBuf {
        directory.join("groups")
    }
}

/// What pid 1 says while it starts, one JSON text a line.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Report {
    /// A step begins.
    Step(String),
    /// Everything answers.
    Ready {
        /// The administrator's way in.
        kubeconfig: PathBuf,
    },
    /// It does not, and the cluster ends.
    Failed(String),
}

impl Report {
    pub(crate) fn send(&self) {
        // The one who listens may be gone, which changes nothing for the cluster.
        if let Ok(text) = serde_json::to_string(self) {
            drop(writeln!(io::stdout(), "{text}"));
        }
    }
}

/// In a mount namespace of its own and nothing else: joins the cluster's control groups, then
/// becomes `unshare`, which makes the other namespaces and pid 1 in them.
pub(crate) fn enter(directory: &Path) -> io::Error {
    let entered = Plan::load(directory)
        .and_then(|plan| cgroups::enter(&plan.groups, &Plan::group_mounts(directory)))
        .and_then(|()| std::env::current_exe());
    let program = match entered {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut unshare = Command::new("unshare");
    unshare.args(["--cgroup", "--net", "--pid", "--uts", "--ipc", "--fork"]);
    unshare.args(["--kill-child", "--mount-proc", "--propagation", "slave"]);
    unshare.arg("--").arg(program);
    unshare.args(["pid-one", "--directory"]).arg(directory);
    std::os::unix::process::CommandExt::exec(&mut unshare)
}

/// Pid 1. Returns only when the cluster did not come up.
pub(crate) fn run(directory: &Path) {
    if !told_to_begin() {
        return;
    }
    match start(directory) {
        Ok((supervisor, kubeconfig)) => {
            Report::Ready { kubeconfig }.send();
            supervisor.run();
        }
        Err(error) => Report::Failed(error.to_string()).send(),
    }
}

/// Whoever starts a cluster first writes down who we are, so that we can be found and ended
/// whatever happens; then it says so. If it ends before, so do we.
pub(crate) fn told_to_begin() -> bool {
    matches!(io::stdin().lock().lines().next(), Some(Ok(_)))
}

/// Why a cluster did not come up.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{what}: {source}")]
    Place {
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("{name} ended by itself ({status}); the end of its log:\n{tail}")]
    Ended {
        name: &'static str,
        status: ExitStatus,
        tail: String,
    },
    #[error("{what} took longer than {} s; logs are in {}", LIMIT.as_secs(), logs.display())]
    Slow { what: &'static str, logs: PathBuf },
}

impl InitError {
    fn place(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Place { what, source }
    }
}

fn start(directory: &Path) -> Result<(Supervisor, PathBuf), InitError> {
    let step = |what: &str| Report::Step(what.to_owned()).send();
    let plan = Plan::load(directory).map_err(InitError::place("reading the plan"))?;
    step("namespaces, directories, network");
    place::make(&plan).map_err(InitError::place("making the cluster's place"))?;
    let authority = Authority::new().map_err(FilesError::from)?;
    let servers = directory.join("servers");
    fs::create_dir_all(&servers).map_err(InitError::place("making a directory"))?;
    let components = Components::prepare(&servers, &authority, &plan.programs)?;
    let mut supervisor = Supervisor::new(directory, &servers);
    step("etcd, containerd");
    supervisor.start(components.etcd())?;
    supervisor.start(components.containerd())?;
    supervisor.wait("etcd", || components.etcd_socket().exists())?;
    step("API server");
    supervisor.start(components.api_server())?;
    let address = components::api_address();
    let probe = Probe::new(address, authority.pem()).map_err(InitError::place("a TLS client"))?;
    supervisor.wait("containerd", || runs(&mut ctr(&plan, &["version"])))?;
    let archive = plan.programs.pause_archive.display().to_string();
    crate::mounts::run(&mut ctr(&plan, &["images", "import", &archive]))
        .map_err(InitError::place("loading the pause image"))?;
    supervisor.wait("the API server", || probe.is_ready())?;
    step("controllers, scheduler, kubelet, kube-proxy");
    let own_program = std::env::current_exe().map_err(InitError::place("finding itself"))?;
    supervisor.start(shield::behind(components.kubelet(), &own_program))?;
    for component in components.others() {
        supervisor.start(component)?;
    }
    step("node Ready");
    let node = format!("node/{NODE}");
    for condition in [
        vec!["--for=create", "-n", "default", "serviceaccount/default"],
        vec!["--for=create", &node],
        vec!["--for=condition=Ready", &node],
    ] {
        let mut kubectl = Command::new(&plan.programs.kubectl);
        kubectl.env("KUBECONFIG", components.kubeconfig());
        kubectl.args(["wait", "--timeout=120s"]).args(condition);
        supervisor.wait_for_command("the node", &mut kubectl)?;
    }
    Ok((supervisor, components.kubeconfig()))
}

fn ctr(plan: &Plan, arguments: &[&str]) -> Command {
    let mut command = Command::new(&plan.programs.runtime.ctr);
    command.args(["--namespace", "k8s.io"]).args(arguments);
    command
}

fn runs(command: &mut Command) -> bool {
    crate::mounts::run(command).is_ok()
}
