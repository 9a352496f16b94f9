//! A whole cluster: pods run, and afterwards the machine is as it was.

use std::path::Path;
use std::process::Command;

use support::machine::Machine;
use support::{PROBE_IMAGE, TestCluster, busybox, load_probe_image, refused, said, wait_for_pod};
use tensorpool_cluster::{Cluster, Runtime};

mod support;

/// Why these tests cannot run here, said aloud. Where they must run, that is a failure.
fn cannot_run() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    assert!(
        std::env::var_os("TENSORPOOL_CI").is_none(),
        "a whole cluster needs root, and here every test must run"
    );
    println!("not run: a whole cluster needs root");
    true
}

#[test]
fn whole_cluster_runs_pods_and_leaves_nothing_behind() {
    if cannot_run() {
        return;
    }
    let before = Machine::look();
    let cluster = TestCluster::up("test-pods", Runtime::Current);
    Machine::look().shows_nothing_of_a_cluster_since(&before);
    let nodes = said(cluster.kubectl().args(["get", "nodes", "--no-headers"]));
    assert!(nodes.contains(" Ready "), "{nodes}");
    assert!(nodes.contains("v1.34."), "{nodes}");
    load_probe_image(&cluster);
    pods_run_and_answer(&cluster);
    service_addresses_work(&cluster);
    huge_pages_are_given_and_limited(&cluster);
    mounts_of_one_pod_are_seen_by_others(&cluster);
    user_namespaces_work(&cluster);
    a_server_that_is_killed_comes_back(&cluster);
    let again = Cluster::up(&cluster.options, &tensorpool_cluster::Progress::to(|_| {}))
        .expect("a second `up` finds it");
    assert_eq!(again.kubeconfig(), cluster.kubeconfig());
    assert!(cluster.down(), "it was up");
    Machine::look().is_as(&before);
    let gone = Cluster::find("test-pods").expect("its directory can be looked at");
    assert!(gone.is_none());
}

fn pods_run_and_answer(cluster: &TestCluster) {
    let script = "echo hello from $(hostname); echo tensors > /index.html; exec httpd -f -p 8080";
    let run = ["run", "server", "--image", PROBE_IMAGE, "--port=8080"];
    said(
        cluster
            .kubectl()
            .args(run)
            .args(["--command", "--", "sh", "-c", script]),
    );
    wait_for_pod(cluster, "server");
    let log = said(cluster.kubectl().args(["logs", "server"]));
    assert_eq!(log, "hello from server\n");
    let exec = ["exec", "server", "--", "cat", "/index.html"];
    assert_eq!(said(cluster.kubectl().args(exec)), "tensors\n");
    // The pod sees the cluster's namespaces, not the machine's.
    let exec = ["exec", "server", "--", "cat", "/proc/1/comm"];
    assert_eq!(said(cluster.kubectl().args(exec)), "httpd\n");
}

fn service_addresses_work(cluster: &TestCluster) {
    let expose = ["expose", "pod", "server", "--port=80", "--target-port=8080"];
    said(cluster.kubectl().args(expose));
    let address = [
        "get",
        "service",
        "server",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ];
    let address = said(cluster.kubectl().args(address));
    let wait = [
        "wait",
        "--timeout=60s",
        "--for=jsonpath={.endpoints[0].conditions.ready}=true",
    ];
    said(cluster.kubectl().args(wait).args([
        "endpointslice",
        "-l",
        "kubernetes.io/service-name=server",
    ]));
    let run = ["run", "visitor", "--image", PROBE_IMAGE, "--command", "--"];
    said(cluster.kubectl().args(run).args(["sleep", "1000"]));
    wait_for_pod(cluster, "visitor");
    // Rules for the address appear a moment after the Service.
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 80");
    let fetch = format!("until {ask} | tail -n 1 | grep .; do sleep 0.1; done");
    let exec = ["exec", "visitor", "--", "timeout", "60", "sh", "-c", &fetch];
    assert_eq!(said(cluster.kubectl().args(exec)), "tensors\n");
    // From the node's own network too.
    let mut from_node = cluster.command(busybox());
    from_node.args(["timeout", "60", "sh", "-c", &fetch]);
    assert_eq!(said(&mut from_node), "tensors\n");
}

fn huge_pages_are_given_and_limited(cluster: &TestCluster) {
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: pages}}
spec:
  containers:
  - name: pages
    image: {PROBE_IMAGE}
    command: [sleep, "1000"]
    resources: {{limits: {{hugepages-2Mi: 8Mi, memory: 64Mi, cpu: 100m}}}}
    volumeMounts: [{{name: pages, mountPath: /pages}}]
  volumes: [{{name: pages, emptyDir: {{medium: HugePages}}}}]
"#
    ));
    wait_for_pod(cluster, "pages");
    let exec = ["exec", "pages", "--"];
    let allocate = |length: &str| {
        let mut kubectl = cluster.kubectl();
        kubectl
            .args(exec)
            .args(["fallocate", "-l", length, "/pages/file"]);
        kubectl
    };
    said(&mut allocate("8388608"));
    let usage = "cat /sys/fs/cgroup/hugetlb/hugetlb.2MB.usage_in_bytes /sys/fs/cgroup/hugetlb.2MB.current 2>/dev/null";
    let used = cluster
        .kubectl()
        .args(exec)
        .args(["sh", "-c", usage])
        .output()
        .expect("kubectl starts");
    assert_eq!(String::from_utf8_lossy(&used.stdout), "8388608\n");
    let answer = refused(&mut allocate("10485760"));
    assert!(answer.contains("No space left on device"), "{answer}");
}

/// As the node driver's pod and those of its users do.
fn mounts_of_one_pod_are_seen_by_others(cluster: &TestCluster) {
    let pod = |name: &str, script: &str, rest: &str| {
        cluster.apply(&format!(
            r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  containers:
  - name: {name}
    image: {PROBE_IMAGE}
    command: [sh, -c, "{script}; sleep 1000"]
    volumeMounts: [{{name: base, mountPath: /base, {rest}}}]
    securityContext: {{privileged: {}}}
  volumes: [{{name: base, hostPath: {{path: /run/tensorpool, type: DirectoryOrCreate}}}}]
"#,
            rest.contains("Bidirectional")
        ));
        wait_for_pod(cluster, name);
    };
    let mount =
        "mkdir /base/shm; mount -t hugetlbfs -o pagesize=2M,size=2M none /base/shm; echo $?";
    pod("sees", "true", "mountPropagation: HostToContainer");
    pod("mounts", mount, "mountPropagation: Bidirectional");
    let seen = "until grep -q '/base/shm hugetlbfs' /proc/mounts; do sleep 0.1; done; echo seen";
    let exec = ["exec", "sees", "--", "timeout", "60", "sh", "-c", seen];
    assert_eq!(said(cluster.kubectl().args(exec)), "seen\n");
}

fn user_namespaces_work(cluster: &TestCluster) {
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: mapped}}
spec:
  hostUsers: false
  containers: [{{name: mapped, image: {PROBE_IMAGE}, command: [sleep, "1000"]}}]
"#
    ));
    wait_for_pod(cluster, "mapped");
    let exec = ["exec", "mapped", "--", "cat", "/proc/self/uid_map"];
    let map = said(cluster.kubectl().args(exec));
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(map.first(), Some(&"0"), "{map:?}");
    assert_ne!(
        map.get(1),
        Some(&"0"),
        "root of the pod is not root of the machine"
    );
}

fn a_server_that_is_killed_comes_back(cluster: &TestCluster) {
    for server in ["kube-scheduler", "kubelet"] {
        let pid = said(cluster.command("pgrep").args(["-x", server]));
        said(cluster.command("kill").args(["-KILL", pid.trim()]));
        let pid = pid.trim();
        let another = format!("pid=$(pgrep -x {server}) && test $pid != {pid}");
        let back = format!("until {another}; do sleep 0.1; done");
        said(cluster.command("timeout").args(["60", "sh", "-c", &back]));
    }
    let nodes = said(cluster.kubectl().args(["get", "nodes", "--no-headers"]));
    assert!(nodes.contains(" Ready "), "{nodes}");
}

#[test]
fn whole_cluster_that_was_killed_is_cleaned_by_the_next_up() {
    if cannot_run() {
        return;
    }
    let before = Machine::look();
    let cluster = TestCluster::up("test-killed", Runtime::Current);
    // As if the machine's owner had killed it: its first process, from outside.
    said(Command::new("kill").args(["-KILL", &cluster.first_process()]));
    cluster.wait_until_dead();
    let after = Machine::look();
    assert!(after.cgroups != before.cgroups, "kubelet's groups stay");
    assert!(after.hugepages > before.hugepages, "huge pages stay");
    assert!(cluster.directory().exists(), "its directory stays");
    let (again, told) = TestCluster::up_telling("test-killed", Runtime::Current);
    assert!(
        told.iter()
            .any(|line| line.contains("removed what a killed cluster")),
        "{told:?}"
    );
    said(again.kubectl().args(["get", "--raw", "/readyz"]));
    assert!(again.down());
    std::mem::forget(cluster);
    Machine::look().is_as(&before);
}

#[test]
fn whole_cluster_runs_pods_on_the_debian_runtime_too() {
    if cannot_run() {
        return;
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.contains("VERSION_CODENAME=bookworm") {
        assert!(std::env::var_os("TENSORPOOL_CI").is_none(), "{release}");
        println!("not run: only Debian 12 has containerd 1.6");
        return;
    }
    let before = Machine::look();
    let cluster = TestCluster::up("test-debian", Runtime::Debian);
    let version = [
        "get",
        "node",
        "node",
        "-o",
        "jsonpath={.status.nodeInfo.containerRuntimeVersion}",
    ];
    let version = said(cluster.kubectl().args(version));
    assert!(version.starts_with("containerd://1.6."), "{version}");
    load_probe_image(&cluster);
    pods_run_and_answer(&cluster);
    assert!(cluster.down());
    Machine::look().is_as(&before);
}

#[test]
fn whole_cluster_that_does_not_come_up_says_why_and_undoes_what_it_did() {
    if cannot_run() {
        return;
    }
    let before = Machine::look();
    // Programs of which etcd does not work.
    let programs = tempfile::tempdir().expect("a temporary directory");
    for (name, script) in [
        ("etcd", "echo no room for etcd >&2; exit 3"),
        ("kube-apiserver", "exec sleep 100"),
        ("kubectl", "exit 0"),
    ] {
        let file = programs.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a script is written");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, executable).expect("it becomes executable");
    }
    let cluster = |action: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tensorpool-cluster"));
        command
            .env_remove("KUBECONFIG")
            .args(["--name", "test-broken"]);
        command
            .env("KUBEBUILDER_ASSETS", programs.path())
            .args(action);
        command
    };
    let answer = refused(&mut cluster(&["up", "--hugepages=8"]));
    assert!(
        answer.contains("etcd ended by itself (exit status: 3)"),
        "{answer}"
    );
    assert!(answer.contains("no room for etcd"), "{answer}");
    let after = Machine::look();
    after.shows_nothing_of_a_cluster_since(&before);
    assert_eq!(after.cgroups, before.cgroups);
    assert_eq!(after.hugepages, before.hugepages);
    let logs = answer
        .split("logs stay in ")
        .nth(1)
        .expect("it names its logs");
    let logs = Path::new(logs.split(' ').next().unwrap_or_default()).join("etcd.log");
    let log = std::fs::read_to_string(logs).expect("the log is there");
    assert_eq!(log, "no room for etcd\n");
    let inside = refused(&mut cluster(&["kubectl", "get", "nodes"]));
    assert!(inside.contains("is not up"), "{inside}");
    said(&mut cluster(&["down"]));
    Machine::look().is_as(&before);
}

#[test]
fn whole_cluster_is_not_confused_with_a_control_plane_of_the_same_name() {
    if cannot_run() {
        return;
    }
    let before = Machine::look();
    let options = TestCluster::options("test-kinds", Runtime::Current);
    let quiet = tensorpool_cluster::Progress::to(|_| {});
    let small = tensorpool_cluster::Options {
        control_plane: true,
        ..options.clone()
    };
    let cluster = Cluster::up(&small, &quiet).expect("a control plane comes up");
    said(cluster.kubectl().args(["get", "--raw", "/readyz"]));
    let error = Cluster::up(&options, &quiet).expect_err("it is another kind");
    assert!(error.to_string().contains("take it down first"), "{error}");
    let image = cluster.load_images(Path::new("/dev/null"));
    assert!(image.is_err(), "no node to load images on");
    assert!(Cluster::down("test-kinds", &options.program).expect("it goes"));
    assert!(!Cluster::down("test-kinds", &options.program).expect("nothing is no error"));
    Machine::look().is_as(&before);
}
