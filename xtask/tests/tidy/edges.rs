//! Which crate may use which.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::tree::{metadata, none};

const WIRE: &str = "tensorpool-wire";
const TRANSPORT: &str = "tensorpool-transport";
const SHM: &str = "tensorpool-shm";
const CORE: &str = "tensorpool-driver-core";
const NODE_DRIVER: &str = "tensorpool-node-driver";
const CLIENT: &str = "tensorpool-client";
const CRDS: &str = "tensorpool-crds";
const CLUSTER: &str = "tensorpool-cluster";

/// Package, the packages of this workspace that its normal dependencies may name, and other
/// crates that it must never see. `docs/architecture.md` has the reasons.
const EDGES: [(&str, &[&str], &[&str]); 11] = [
    (
        WIRE,
        &[],
        &[
            "libc", "nix", "rustix", "tokio", "kube", "memmap2", "socket2",
        ],
    ),
    (TRANSPORT, &[WIRE], &["kube", "tokio"]),
    (SHM, &[WIRE], &["kube", "tokio", "socket2"]),
    (
        CORE,
        &[WIRE],
        &[
            "libc",
            "nix",
            "rustix",
            "tokio",
            "kube",
            "rand",
            "tempfile",
            "rusteron-client",
        ],
    ),
    (NODE_DRIVER, &[CORE, WIRE, TRANSPORT, SHM, CRDS], &[]),
    (CLIENT, &[WIRE, SHM, TRANSPORT], &["kube"]),
    (CRDS, &[], &["tokio", "hyper"]),
    ("tensorpool-operator", &[CRDS], &["rusteron-client"]),
    (
        "tensorpool-e2e",
        &[
            WIRE,
            SHM,
            TRANSPORT,
            CLIENT,
            NODE_DRIVER,
            CORE,
            CRDS,
            CLUSTER,
        ],
        &[],
    ),
    (CLUSTER, &[], &["tokio", "kube", "tensorpool-crds"]),
    ("xtask", &[], &["serde", "serde_json"]),
];

#[test]
fn every_crate_uses_only_what_the_table_allows() {
    let table: BTreeMap<&str, (&[&str], &[&str])> = EDGES
        .into_iter()
        .map(|(package, allowed, never)| (package, (allowed, never)))
        .collect();
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for (package, dependencies) in normal_dependencies(&metadata()) {
        let Some((allowed, never)) = table.get(package.as_str()) else {
            findings.push(format!("{package} is not in the table"));
            continue;
        };
        for dependency in dependencies {
            let ours = table.contains_key(dependency.as_str());
            if never.contains(&dependency.as_str())
                || ours && !allowed.contains(&dependency.as_str())
            {
                findings.push(format!("{package} must not use {dependency}"));
            }
        }
        seen.insert(package);
    }
    for package in table.keys().filter(|package| !seen.contains(**package)) {
        findings.push(format!(
            "{package} is in the table but not in the workspace"
        ));
    }
    none("edges that the table does not have", &findings);
}

#[test]
fn every_crate_inherits_the_lints() {
    let mut findings = Vec::new();
    for package in packages(&metadata()) {
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let text = std::fs::read_to_string(manifest).expect("a manifest is readable");
        if !text.contains("[lints]\nworkspace = true") {
            findings.push(manifest.to_owned());
        }
    }
    none("manifests without the workspace's lints", &findings);
}

fn packages(metadata: &Value) -> Vec<Value> {
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    assert!(packages.len() >= 7, "cargo metadata names too few packages");
    packages
}

fn normal_dependencies(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    packages(metadata)
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array();
            let normal = all.into_iter().flatten();
            let normal = normal.filter(|dependency| dependency["kind"].is_null());
            let names = normal.map(|dependency| text(&dependency["name"]));
            (text(&package["name"]), names.collect())
        })
        .collect()
}
