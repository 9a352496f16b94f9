//! The cluster that is used up, and programs in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tensorpool_cluster::{Cluster, Options, Progress};

use crate::arguments::Arguments;

/// How long anything may take that ends by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(200);
/// Pages of 2 MiB: the chart's default pool, 96 for the suites' classes, and something for mistakes.
const HUGEPAGES: u64 = 400;

/// A cluster that is up, and what was built before.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// The checkout.
    root: PathBuf,
    /// The Dockerfile's first stage: its directory `out` has the static programs for the images.
    pub(crate) statics: PathBuf,
    /// Where images are kept for further runs.
    pub(crate) archives: Option<PathBuf>,
    /// The program `tensorpool-cluster`.
    program: PathBuf,
    name: String,
    is_strict: bool,
    cluster: Arc<Cluster>,
}

impl World {
    /// Brings a cluster up, without anything that an earlier run left.
    pub(crate) fn up(arguments: &Arguments) -> Result<Self, String> {
        let options = Options {
            name: arguments.name.clone(),
            control_plane: false,
            runtime: Some(arguments.runtime),
            hugepages: Some(HUGEPAGES),
            program: arguments.cluster.clone(),
        };
        let name = &arguments.name;
        Cluster::down(name, &arguments.cluster).map_err(|error| in_full(&error))?;
        let progress = Progress::to(|line| println!("{line}"));
        let cluster = Cluster::up(&options, &progress).map_err(|error| in_full(&error))?;
        Ok(Self::of(arguments, cluster))
    }

    /// The cluster of an earlier run.
    pub(crate) fn kept(arguments: &Arguments) -> Result<Self, String> {
        let name = &arguments.name;
        let found = Cluster::find(name).map_err(|error| in_full(&error))?;
        let cluster = found.ok_or_else(|| {
            format!("the cluster `{name}` is not up: leave it up with `cargo xtask e2e --name {name} --keep`")
        })?;
        Ok(Self::of(arguments, cluster))
    }

    fn of(arguments: &Arguments, cluster: Cluster) -> Self {
        Self {
            root: arguments.root.clone(),
            statics: arguments.statics.clone(),
            archives: arguments.archives.clone(),
            program: arguments.cluster.clone(),
            name: arguments.name.clone(),
            is_strict: arguments.strict,
            cluster: Arc::new(cluster),
        }
    }

    /// Takes it down.
    pub(crate) fn down(self) -> Result<(), String> {
        match Cluster::down(&self.name, &self.program) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the cluster was gone already".to_owned()),
            Err(error) => Err(in_full(&error)),
        }
    }

    /// Makes the images of an archive known to the node.
    pub(crate) fn load_images(&self, archive: &Path) -> Result<(), String> {
        self.cluster
            .load_images(archive)
            .map_err(|error| in_full(&error))
    }

    /// Whether times count as well.
    pub(crate) const fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// A program that runs inside, to be started.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.cluster.command(program)
    }

    /// A static program that an image has, on the machine.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.statics.join("out").join(name)
    }

    /// What kubectl prints.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        said(self.cluster.kubectl().args(arguments))
    }

    /// What Helm prints.
    pub(crate) fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        said(self.cluster.command("helm").args(arguments))
    }

    /// Applies these objects.
    pub(crate) fn apply(&self, objects: &[Value]) -> Result<(), String> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        std::fs::write(file.path(), list.to_string()).map_err(|error| error.to_string())?;
        let path = file.path().display().to_string();
        self.kubectl(&["apply", "--filename", &path]).map(drop)
    }

    /// What any program prints that runs inside.
    pub(crate) fn inside(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        said(self.cluster.command(program).args(arguments))
    }

    /// What Helm says when it refuses.
    pub(crate) fn helm_refuses(&self, arguments: &[&str]) -> Result<String, String> {
        let mut helm = self.cluster.command("helm");
        let output = output(helm.args(arguments))?;
        if output.status.success() {
            return Err(format!("`helm {}` was allowed", arguments.join(" ")));
        }
        Ok(text(&output))
    }

    /// The API server's audit log.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.cluster.audit_log()
    }

    /// A path of the checkout.
    pub(crate) fn path(&self, below: &str) -> String {
        self.root.join(below).display().to_string()
    }

    /// For the one who reads a failed run.
    pub(crate) fn tell_what_runs(&self) {
        let system = ["--namespace", "tensorpool-system"];
        let component = |name| format!("--selector=app.kubernetes.io/component={name}");
        let (driver, operator) = (component("node-driver"), component("operator"));
        let looks: [&[&str]; 7] = [
            &["get", "pods", "-A", "-o", "wide"],
            &["get", "tensorpool", "-A", "-o", "yaml"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &["describe", "pods", "-A"],
            &[
                "logs",
                &driver,
                "--all-containers",
                "--tail=200",
                "--prefix",
                system[0],
                system[1],
            ],
            &[
                "logs",
                &operator,
                "--tail=100",
                "--prefix",
                system[0],
                system[1],
            ],
            &["get", "nodes", "-o", "wide"],
        ];
        for look in looks {
            println!("-- kubectl {}", look.join(" "));
            match self.kubectl(look) {
                Ok(said) | Err(said) => println!("{said}"),
            }
        }
    }
}

/// Looks until there is something. What was last said where there is nothing within [`PATIENCE`].
pub(crate) fn until<T>(look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    until_within(PATIENCE, look)
}

/// As [`until`], within another time.
pub(crate) fn until_within<T>(
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(why) if Instant::now() >= deadline => {
                return Err(format!("not within {} s: {why}", limit.as_secs()));
            }
            Err(_) => thread::sleep(PERIOD),
        }
    }
}

/// What a program prints; how it failed, if it did.
pub(crate) fn said(command: &mut Command) -> Result<String, String> {
    let output = output(command)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let name = described(command);
        Err(format!("{name} ({}):\n{}", output.status, text(&output)))
    }
}

fn output(command: &mut Command) -> Result<Output, String> {
    let output = command.output();
    output.map_err(|error| format!("{} could not be started: {error}", described(command)))
}

fn text(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// What a person would type: the program that runs inside, and its arguments.
fn described(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy());
    let words: Vec<_> = words.collect();
    let inside = words
        .iter()
        .rposition(|word| word.starts_with("KUBECONFIG="));
    let from = inside.map_or(0, |at| at + 1);
    let mut line = words[from..].join(" ");
    if inside.is_none() {
        line = format!("{} {line}", command.get_program().to_string_lossy());
    }
    line
}

fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
