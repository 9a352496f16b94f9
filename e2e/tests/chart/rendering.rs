//! Helm, and what it makes of the chart.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tensorpool_cluster::{Binaries, ControlPlane, Program, Progress};

/// The namespace of the release.
pub(crate) const SYSTEM: &str = "tensorpool-system";
/// Files with values that must do: the chart's own defaults, and these.
pub(crate) const GOOD: [&str; 3] = ["", "ordinary.yaml", "every-key.yaml"];

fn checkout(below: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(below)
}

/// Helm with this chart.
pub(crate) struct Helm {
    program: PathBuf,
}

impl Helm {
    pub(crate) fn new() -> Self {
        let mut binaries = Binaries::from_environment().expect("a place for programs");
        let program = binaries.ensure(Program::Helm, &Progress::stderr());
        Self {
            program: program.expect("Helm is built"),
        }
    }

    /// Runs it with the chart as its last argument.
    pub(crate) fn run(&self, arguments: &[&str], values: &str, sets: &[&str]) -> Output {
        let mut helm = Command::new(&self.program);
        helm.args(arguments).arg(checkout("helm/tensorpool"));
        if !values.is_empty() {
            let file = checkout("e2e/tests/chart/values").join(values);
            helm.arg("--values").arg(file);
        }
        for set in sets {
            helm.arg("--set-json").arg(set);
        }
        // It must not ask the cluster that the shell happens to know.
        helm.env_remove("KUBECONFIG");
        helm.output().expect("Helm starts")
    }

    /// The chart's objects, as text.
    pub(crate) fn template(&self, values: &str, sets: &[&str]) -> String {
        let namespaced = ["template", "tensorpool", "--namespace", SYSTEM];
        let output = self.run(&namespaced, values, sets);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{values}: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

/// A control plane that knows the kinds and the namespaces.
pub(crate) struct Server {
    control_plane: ControlPlane,
}

impl Server {
    pub(crate) fn start() -> Self {
        let control_plane = ControlPlane::start().expect("a control plane starts");
        let server = Self { control_plane };
        let definitions = checkout("helm/tensorpool-crds/templates");
        let definitions = definitions.to_str().expect("UTF-8");
        server.kubectl(&["apply", "--server-side", "-f", definitions], "");
        let established = "--for=condition=Established";
        server.kubectl(&["wait", established, "crd", "--all", "--timeout=60s"], "");
        server.kubectl(&["create", "namespace", SYSTEM], "");
        for namespace in ["tensorpool-test", "another-test"] {
            server.kubectl(&["create", "namespace", namespace], "");
            let level = "pod-security.kubernetes.io/enforce=restricted";
            let warn = "pod-security.kubernetes.io/warn=restricted";
            server.kubectl(&["label", "namespace", namespace, level, warn], "");
            // Pods are taken with a service account that is there; a dry run makes none.
            for account in ["consumer", "witness"] {
                let create = ["create", "serviceaccount", account, "-n", namespace];
                server.kubectl(&create, "");
            }
        }
        server
    }

    /// What kubectl prints. A warning is a failure.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let output = self.ask(arguments, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        assert_eq!(errors, "", "{arguments:?} warned");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What the server says if it does not take something.
    pub(crate) fn refusal(&self, arguments: &[&str], input: &str) -> Option<String> {
        let output = self.ask(arguments, input);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success()).then_some(errors)
    }

    fn ask(&self, arguments: &[&str], input: &str) -> Output {
        let mut kubectl = self.control_plane.kubectl();
        kubectl.args(arguments);
        kubectl.stdin(Stdio::piped());
        kubectl.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // One that reads nothing has closed it.
        drop(stdin.write_all(input.as_bytes()));
        drop(stdin);
        child.wait_with_output().expect("kubectl ends")
    }

    /// The objects as the server would store them.
    pub(crate) fn would_store(&self, manifest: &str) -> Vec<Value> {
        let arguments = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "--output=json",
            "--filename=-",
        ];
        let list = self.kubectl(&arguments, manifest);
        let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        list["items"].as_array().expect("a list").clone()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.control_plane.kubeconfig()
    }
}

/// Objects of one kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let found = objects.iter().filter(|object| object["kind"] == kind);
    found.collect()
}
