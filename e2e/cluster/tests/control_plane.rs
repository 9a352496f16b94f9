//! etcd and an API server for tests: quick, real, alone, gone afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tensorpool_cluster::{Cluster, ControlPlane, Options, Progress};

fn start() -> ControlPlane {
    ControlPlane::start().expect("a control plane starts on every machine")
}

/// Standard output of a command that must succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Standard error of a command that must fail.
fn refused(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    assert!(!output.status.success(), "{command:?} was allowed");
    String::from_utf8(output.stderr).expect("it prints UTF-8")
}

#[test]
fn control_plane_grants_what_rbac_says_and_nothing_else() {
    let control_plane = start();
    let user = control_plane
        .kubeconfig_of("visitor", None)
        .expect("a kubeconfig is written");
    let list = ["get", "configmaps", "-n", "default", "-o", "name"];
    let before = refused(control_plane.kubectl_as(&user).args(list));
    assert!(
        before.contains(r#"User "visitor" cannot list resource "configmaps""#),
        "{before}"
    );
    for grant in [
        "create role reader --verb=list --resource=configmaps -n default",
        "create rolebinding visitor --role=reader --user=visitor -n default",
    ] {
        said(control_plane.kubectl().args(grant.split(' ')));
    }
    said(control_plane.kubectl_as(&user).args(list));
    let elsewhere = ["get", "configmaps", "-n", "kube-system"];
    refused(control_plane.kubectl_as(&user).args(elsewhere));
}

#[test]
fn control_plane_refuses_privileged_pods_in_a_restricted_namespace() {
    let control_plane = start();
    let kubectl = |arguments: &[&str]| {
        let mut command = control_plane.kubectl();
        command.args(arguments);
        command
    };
    said(&mut kubectl(&["create", "namespace", "strict"]));
    let label = "pod-security.kubernetes.io/enforce=restricted";
    said(&mut kubectl(&["label", "namespace", "strict", label]));
    let pod = ["run", "x", "--image=none", "--privileged", "-n", "strict"];
    let without_account = refused(&mut kubectl(&pod));
    assert!(
        without_account.contains("serviceaccount \"default\" not found"),
        "{without_account}"
    );
    said(&mut kubectl(&["create", "sa", "default", "-n", "strict"]));
    let answer = refused(&mut kubectl(&pod));
    assert!(answer.contains("violates PodSecurity"), "{answer}");
}

#[test]
fn control_plane_writes_who_asked_what_into_its_audit_log() {
    let control_plane = start();
    said(
        control_plane
            .kubectl()
            .args(["create", "namespace", "seen"]),
    );
    let log = fs::read_to_string(control_plane.audit_log()).expect("the log is readable");
    let seen = log
        .lines()
        .filter(|line| line.contains(r#""verb":"create""#))
        .find(|line| {
            line.contains(r#""resource":"namespaces""#) && line.contains(r#""name":"seen""#)
        });
    let seen = seen.expect("the creation is in the log");
    assert!(seen.contains(r#""username":"admin""#), "{seen}");
}

#[test]
fn control_plane_pairs_do_not_see_each_other() {
    let (one, other) = (start(), start());
    assert_ne!(one.server(), other.server());
    said(one.kubectl().args(["create", "namespace", "of-one"]));
    let names = said(other.kubectl().args(["get", "namespaces", "-o", "name"]));
    assert!(names.contains("namespace/default"), "{names}");
    assert!(!names.contains("of-one"), "{names}");
    // Each trusts its own authority only.
    let stranger = refused(
        other
            .kubectl()
            .args(["get", "namespaces", "--server", one.server()]),
    );
    assert!(stranger.contains("certificate"), "{stranger}");
}

#[test]
fn control_plane_is_gone_when_it_is_dropped() {
    let control_plane = start();
    let directory = directory_of(&control_plane);
    assert!(
        !processes_in(&directory).is_empty(),
        "its servers run there"
    );
    drop(control_plane);
    assert!(!directory.exists());
    assert_eq!(processes_in(&directory), Vec::<u32>::new());
}

#[test]
fn control_plane_of_a_killed_process_ends_and_the_next_one_cleans_up() {
    let quiet = Progress::to(|_| {});
    let options = Options {
        name: "test-keeper".to_owned(),
        control_plane: true,
        runtime: None,
        hugepages: None,
        program: PathBuf::from(env!("CARGO_BIN_EXE_tensorpool-cluster")),
    };
    let killed = Cluster::up(&options, &quiet).expect("it comes up");
    let directory = killed.kubeconfig().with_file_name("");
    let servers = processes_in(&directory);
    assert!(servers.len() >= 2, "etcd and the API server run there");
    let keepers = servers.iter().map(|server| parent_of(*server));
    let keepers: BTreeSet<u32> = keepers.collect();
    for keeper in keepers {
        said(Command::new("kill").args(["-KILL", &keeper.to_string()]));
    }
    let limit = Instant::now() + Duration::from_secs(30);
    while !processes_in(&directory).is_empty() {
        assert!(Instant::now() < limit, "servers outlive their owner");
        std::thread::yield_now();
    }
    // The servers go with the thread that started them, a moment before its process is gone.
    let is_up = || Cluster::find("test-keeper").expect("it can be looked for");
    while is_up().is_some() {
        assert!(Instant::now() < limit, "the owner outlives its end");
        std::thread::yield_now();
    }
    assert!(directory.exists(), "nobody was there to remove it");
    let next = Cluster::up(&options, &quiet).expect("the next one comes up");
    assert!(!directory.exists(), "the next one has removed it");
    said(next.kubectl().args(["get", "namespaces"]));
    assert!(Cluster::down("test-keeper", &options.program).expect("it goes down"));
    assert_eq!(
        processes_in(&next.kubeconfig().with_file_name("")),
        Vec::<u32>::new()
    );
}

#[test]
fn control_plane_of_somebody_else_is_used_where_kubeconfig_names_it() {
    let control_plane = start();
    said(
        control_plane
            .kubectl()
            .args(["create", "namespace", "theirs"]),
    );
    let cluster = |action: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tensorpool-cluster"));
        command.env("KUBECONFIG", control_plane.kubeconfig());
        command.args(["--name", "test-theirs"]).args(action);
        command
    };
    let up = said(&mut cluster(&["up"]));
    assert!(up.contains("using its cluster, starting none"), "{up}");
    assert!(
        Cluster::find("test-theirs")
            .expect("none is there")
            .is_none()
    );
    let names = ["kubectl", "get", "namespaces", "-o", "name"];
    assert!(said(&mut cluster(&names)).contains("namespace/theirs"));
    let variable = said(&mut cluster(&["exec", "--", "printenv", "KUBECONFIG"]));
    assert_eq!(Path::new(variable.trim()), control_plane.kubeconfig());
    let load = refused(&mut cluster(&["load", "/dev/null"]));
    assert!(
        load.contains("into that cluster by its own means"),
        "{load}"
    );
    let down = said(&mut cluster(&["down"]));
    assert!(down.contains("is left alone"), "{down}");
    said(control_plane.kubectl().args(["get", "namespace", "theirs"]));
}

fn parent_of(process: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = parent.expect("every process has a parent").trim();
    parent.parse().expect("which is a number")
}

fn directory_of(control_plane: &ControlPlane) -> PathBuf {
    let kubeconfig = control_plane.kubeconfig();
    kubeconfig.parent().expect("it lies in a directory").into()
}

/// Processes that work in a directory.
fn processes_in(directory: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
        })
        .collect()
}
