//! What the tests of a whole cluster share: one that goes down whatever happens, an image, and a
//! look at the machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tensorpool_cluster::{Cluster, Options, Progress, Runtime, StaticImage};

pub(crate) mod machine;

/// The image that the tests' pods run: busybox.
pub(crate) const PROBE_IMAGE: &str = "tensorpool.test/probe:1";

/// A cluster that is taken down at the end of the test, also of one that fails.
#[derive(Debug)]
pub(crate) struct TestCluster {
    /// How it was started.
    pub(crate) options: Options,
    cluster: Cluster,
    is_down: bool,
}

impl std::ops::Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl TestCluster {
    pub(crate) fn options(name: &str, runtime: Runtime) -> Options {
        Options {
            name: name.to_owned(),
            control_plane: false,
            runtime: Some(runtime),
            hugepages: Some(64),
            program: PathBuf::from(env!("CARGO_BIN_EXE_tensorpool-cluster")),
        }
    }

    pub(crate) fn up(name: &str, runtime: Runtime) -> Self {
        Self::up_telling(name, runtime).0
    }

    /// The cluster and what a person would have seen.
    pub(crate) fn up_telling(name: &str, runtime: Runtime) -> (Self, Vec<String>) {
        let options = Self::options(name, runtime);
        let told = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&told);
        let progress = Progress::to(move |line| {
            println!("{line}");
            lines
                .lock()
                .expect("nobody panics with it")
                .push(line.to_owned());
        });
        let cluster = match Cluster::up(&options, &progress) {
            Ok(cluster) => cluster,
            Err(error) => panic!("{}", in_full(&error)),
        };
        let told = told.lock().expect("nobody panics with it").clone();
        let is_down = false;
        (
            Self {
                options,
                cluster,
                is_down,
            },
            told,
        )
    }

    /// Takes it down; whether it was up.
    pub(crate) fn down(mut self) -> bool {
        self.is_down = true;
        match Cluster::down(&self.options.name, &self.options.program) {
            Ok(was_up) => was_up,
            Err(error) => panic!("{}", in_full(&error)),
        }
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> PathBuf {
        let servers = self.kubeconfig().parent().expect("it lies in a directory");
        servers.parent().expect("of the cluster").into()
    }

    /// Pid 1 of its namespaces, in the machine's numbers.
    pub(crate) fn first_process(&self) -> String {
        let state = std::fs::read_to_string(self.directory().join("state.json"));
        let state: serde_json::Value =
            serde_json::from_str(&state.expect("a cluster has a state")).expect("which is JSON");
        state["process"]["pid"].to_string()
    }

    /// Until nothing of it lives.
    pub(crate) fn wait_until_dead(&self) {
        let limit = Instant::now() + Duration::from_secs(30);
        while Cluster::find(&self.options.name)
            .expect("it can be looked for")
            .is_some()
        {
            assert!(Instant::now() < limit, "a killed cluster lives on");
            std::thread::yield_now();
        }
    }

    /// `kubectl apply`.
    pub(crate) fn apply(&self, manifest: &str) {
        let mut kubectl = self.kubectl();
        kubectl.args(["apply", "-f", "-"]);
        kubectl.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = kubectl.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(manifest.as_bytes()).expect("kubectl reads");
        drop(stdin);
        assert!(child.wait().expect("kubectl ends").success(), "{manifest}");
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if self.is_down {
            return;
        }
        if std::thread::panicking() {
            tell_what_runs(&self.cluster);
        }
        if let Err(error) = Cluster::down(&self.options.name, &self.options.program) {
            eprintln!("the cluster of a failed test stays: {}", in_full(&error));
        }
    }
}

/// An error with its causes.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// For the one who reads a failed test.
fn tell_what_runs(cluster: &Cluster) {
    for arguments in [
        ["get", "pods", "-A", "-o", "wide"].as_slice(),
        &["get", "events", "-A"],
    ] {
        if let Ok(output) = cluster.kubectl().args(arguments).output() {
            eprintln!("{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// busybox, a static program, from Debian.
pub(crate) fn busybox() -> PathBuf {
    tensorpool_cluster::unpack_debian_package("busybox-static", &Progress::stderr())
        .expect("Debian has busybox")
        .join("bin/busybox")
}

/// Makes busybox an image, and loads it.
pub(crate) fn load_probe_image(cluster: &Cluster) {
    let busybox = busybox();
    let applets = [
        "cat",
        "fallocate",
        "grep",
        "hostname",
        "httpd",
        "mkdir",
        "mount",
        "nc",
        "sh",
        "sleep",
        "tail",
        "timeout",
    ];
    let links: Vec<(String, &str)> = applets
        .iter()
        .map(|applet| (format!("bin/{applet}"), "/bin/busybox"))
        .collect();
    let links: Vec<(&str, &str)> = links
        .iter()
        .map(|(link, to)| (link.as_str(), *to))
        .collect();
    let archive = tempfile::NamedTempFile::new().expect("a temporary file");
    let image = StaticImage {
        name: PROBE_IMAGE,
        files: &[(&busybox, "bin/busybox")],
        links: &links,
        command: &["/bin/sh"],
    };
    image.write(archive.path()).expect("an image is written");
    cluster.load_images(archive.path()).expect("it is loaded");
}

/// Waits until a pod of the default namespace is ready.
pub(crate) fn wait_for_pod(cluster: &Cluster, name: &str) {
    let wait = ["wait", "--for=condition=Ready", "--timeout=90s", "pod"];
    said(cluster.kubectl().args(wait).arg(name));
}

/// Standard output of a command that must succeed.
pub(crate) fn said(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Standard error of a command that must fail.
pub(crate) fn refused(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    assert!(!output.status.success(), "{command:?} was allowed");
    String::from_utf8(output.stderr).expect("it prints UTF-8")
}

/// The cache in which clusters have their directories.
pub(crate) fn clusters() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = set("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
        let home = set("HOME").expect("HOME is set where XDG_CACHE_HOME is not");
        Path::new(&home).join(".cache")
    });
    cache.join("tensorpool/clusters")
}
