//! `tensorpool-cluster`: a real Kubernetes on this machine. `cargo xtask cluster` builds and runs
//! it.

use std::error::Error;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};
use tensorpool_cluster::{
    Binaries, Cluster, ClusterError, Options, Program, Progress, Runtime, fetch_packages, inside,
};

fn main() -> ExitCode {
    let error = match run(Arguments::parse()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    if let Some(ClusterError::NotRoot) = error.downcast_ref() {
        // Returns only where there is no sudo.
        become_root();
    }
    let mut error: Option<&dyn Error> = Some(error.as_ref());
    let mut lead = "error";
    while let Some(cause) = error {
        eprintln!("{lead}: {cause}");
        lead = "  because";
        error = cause.source();
    }
    ExitCode::FAILURE
}

/// Runs the same command again by `sudo`, with the user's cache and path, which it would change.
fn become_root() {
    let mut sudo = Command::new("sudo");
    sudo.args(["--preserve-env", "--", "env"]);
    for name in ["HOME", "XDG_CACHE_HOME", "PATH"] {
        if let Some(value) = std::env::var_os(name) {
            let mut variable = OsString::from(format!("{name}="));
            variable.push(value);
            sudo.arg(variable);
        }
    }
    if let Ok(program) = std::env::current_exe() {
        drop(sudo.arg(program).args(std::env::args_os().skip(1)).exec());
    }
}

const DEFAULT_NAME: &str = "main";

/// A real Kubernetes on this machine, for tests and for trying things.
///
/// etcd, API server, controllers, scheduler, kubelet, kube-proxy, containerd and runc, built from
/// source once (some ten minutes on two cores) and then up in seconds. They live in namespaces of
/// their own: nothing listens outside, no file of the machine changes, and `down` leaves nothing.
///
/// With KUBECONFIG set, the cluster that it names is used instead: `up` only looks whether it
/// answers, `exec` and `kubectl` go to it, `down` leaves it alone.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster", bin_name = "cargo xtask cluster")]
#[command(after_help = "\
Examples:
  cargo xtask cluster up                          everything, with a node (asks sudo for root)
  cargo xtask cluster up --control-plane          etcd and API server only, without root
  cargo xtask cluster kubectl get nodes
  cargo xtask cluster load target/image.tar       images of an archive, for pods
  cargo xtask cluster exec -- helm install …      any program, inside
  cargo xtask cluster down")]
struct Arguments {
    /// Which cluster; several live side by side.
    #[arg(long, default_value = DEFAULT_NAME, global = true)]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Bring the cluster up, or find it up.
    Up(Up),
    /// Run a program inside: with the cluster's network and mounts, its programs on PATH, and
    /// KUBECONFIG set.
    Exec {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Run kubectl as the cluster's administrator.
    Kubectl {
        /// Arguments of kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Make the images of an archive known to the node (`docker save`, `buildah push
    /// docker-archive:FILE`).
    Load {
        /// The archive.
        archive: PathBuf,
    },
    /// End the cluster and remove everything of it.
    Down,
    /// Build the programs of a cluster into the cache, and do nothing else.
    Build {
        /// Only etcd, the API server and kubectl.
        #[arg(long)]
        control_plane: bool,
    },
    #[command(hide = true)]
    Enter(Inside),
    #[command(hide = true)]
    PidOne(Inside),
    #[command(hide = true)]
    Shielded {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    #[command(hide = true)]
    KeepControlPlane(Inside),
    #[command(hide = true)]
    RemoveGroups(Inside),
}

#[derive(Debug, Args)]
struct Up {
    /// Only etcd and the API server: no root, no node, up in about two seconds.
    #[arg(long)]
    control_plane: bool,
    /// What runs pods: containerd 2.1 and runc 1.3, or those of Debian (1.6 and 1.1 in Debian 12).
    #[arg(long, value_enum, conflicts_with = "control_plane")]
    runtime: Option<Runtime>,
    /// Huge pages of 2 MiB for pods, reserved while the cluster is up [default: 256].
    #[arg(long, value_name = "PAGES", conflicts_with = "control_plane")]
    hugepages: Option<u64>,
}

#[derive(Debug, Args)]
struct Inside {
    #[arg(long)]
    directory: PathBuf,
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let name = arguments.name;
    match arguments.action {
        Action::Up(wanted) => match given_kubeconfig() {
            Some(given) => look_at(&given),
            None => up(name, &wanted),
        },
        Action::Exec { command } => {
            let (program, rest) = command.split_first().ok_or("no program was named")?;
            let mut entering = match given_kubeconfig() {
                Some(_) => Command::new(program),
                None => found(&name)?.command(program),
            };
            Err(entering.args(rest).exec().into())
        }
        Action::Kubectl { arguments } => {
            let mut kubectl = match given_kubeconfig() {
                Some(_) => built_kubectl()?,
                None => found(&name)?.kubectl(),
            };
            Err(kubectl.args(arguments).exec().into())
        }
        Action::Load { archive } => match given_kubeconfig() {
            Some(given) => Err(format!(
                "KUBECONFIG is {}: load images into that cluster by its own means (`kind load image-archive`, a registry), or unset KUBECONFIG",
                given.to_string_lossy()
            )
            .into()),
            None => Ok(found(&name)?.load_images(&archive)?),
        },
        Action::Down => down(&name),
        Action::Build { control_plane } => build(control_plane),
        Action::Enter(at) => Err(inside::enter(&at.directory).into()),
        Action::PidOne(at) => {
            inside::pid_one(&at.directory);
            Err("the cluster did not come up".into())
        }
        Action::Shielded { command } => Err(inside::become_shielded(&command).into()),
        Action::KeepControlPlane(at) => inside::keep_control_plane(&at.directory),
        Action::RemoveGroups(at) => Ok(inside::remove_groups(&at.directory)?),
    }
}

fn up(name: String, wanted: &Up) -> Result<(), Box<dyn Error>> {
    let options = Options {
        name,
        control_plane: wanted.control_plane,
        runtime: wanted.runtime,
        hugepages: wanted.hugepages,
        program: std::env::current_exe()?,
    };
    if !options.control_plane && !rustix::process::geteuid().is_root() {
        // What root builds belongs to root.
        build(false)?;
    }
    let cluster = Cluster::up(&options, &Progress::stderr())?;
    println!(
        "the cluster `{}` is up: {}",
        options.name,
        cluster.describe()
    );
    println!("logs in {}", cluster.logs().display());
    let named = match options.name.as_str() {
        DEFAULT_NAME => String::new(),
        name => format!(" --name {name}"),
    };
    let what = if wanted.control_plane {
        "namespaces"
    } else {
        "nodes"
    };
    println!("try: cargo xtask cluster{named} kubectl get {what}");
    Ok(())
}

fn down(name: &str) -> Result<(), Box<dyn Error>> {
    let was_up = Cluster::down(name, &std::env::current_exe()?)?;
    if was_up {
        println!("the cluster `{name}` is gone");
    } else {
        println!("the cluster `{name}` was not up");
    }
    if let Some(given) = given_kubeconfig() {
        println!(
            "the cluster of KUBECONFIG ({}) is left alone",
            given.to_string_lossy()
        );
    }
    Ok(())
}

fn build(control_plane: bool) -> Result<(), Box<dyn Error>> {
    let programs = if control_plane {
        vec![Program::Etcd, Program::Kubectl, Program::KubeApiserver]
    } else {
        Program::ALL.to_vec()
    };
    let mut binaries = Binaries::from_environment()?;
    for program in &programs {
        binaries.ensure(*program, &Progress::stderr())?;
    }
    if !control_plane {
        // Elsewhere than on Debian that is no reason not to build.
        if let Err(error) = fetch_packages(&Progress::stderr()) {
            eprintln!("no whole cluster can be started here: {error}");
        }
    }
    println!("{} programs of the cluster are built", programs.len());
    Ok(())
}

/// `KUBECONFIG`, where it is set.
fn given_kubeconfig() -> Option<OsString> {
    std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty())
}

/// Whether the cluster of `KUBECONFIG` answers.
fn look_at(given: &OsString) -> Result<(), Box<dyn Error>> {
    println!(
        "KUBECONFIG is {}: using its cluster, starting none",
        given.to_string_lossy()
    );
    let status = built_kubectl()?.arg("version").status()?;
    if status.success() {
        Ok(())
    } else {
        Err(
            "the cluster of KUBECONFIG does not answer; unset KUBECONFIG for a cluster of our own"
                .into(),
        )
    }
}

fn built_kubectl() -> Result<Command, Box<dyn Error>> {
    let mut binaries = Binaries::from_environment()?;
    let kubectl = binaries.ensure(Program::Kubectl, &Progress::stderr())?;
    Ok(Command::new(kubectl))
}

fn found(name: &str) -> Result<Cluster, ClusterError> {
    let cluster = Cluster::find(name)?.ok_or_else(|| ClusterError::NotUp(name.to_owned()))?;
    cluster.may_enter()?;
    Ok(cluster)
}
