//! What the token of a node driver can do, and what it cannot.

use std::path::Path;

use serde_json::json;

use crate::world::{ACCOUNT, NAMESPACE, World, eventually};

const STATUS: &str = r#"{"status":{"observedPolicyRevision":"r1"}}"#;
const SPEC: &str = r#"{"spec":{"cordoned":true}}"#;

/// One attempt: who, what, and the words of the refusal; none where it must be allowed.
struct Attempt<'a> {
    who: &'a Path,
    what: &'a [&'a str],
    refused_with: Option<&'a str>,
}

impl Attempt<'_> {
    fn holds(&self, world: &World) -> Result<(), String> {
        let output = world.kubectl_as(self.who, self.what);
        let errors = String::from_utf8_lossy(&output.stderr);
        match self.refused_with {
            None if output.status.success() => Ok(()),
            Some(words) if !output.status.success() && errors.contains(words) => Ok(()),
            expected => Err(format!(
                "{:?}: expected {expected:?}, got {}: {errors}",
                self.what, output.status
            )),
        }
    }
}

#[test]
fn control_plane_lets_a_node_driver_write_its_own_nodes_status_and_lease_only() {
    let world = World::start();
    let own = world.kubeconfig(Some("n1"));
    let unbound = world.kubeconfig(None);
    // RBAC alone refuses whatever the driver never needs.
    let denied_by_rbac: [&[&str]; 4] = [
        &["patch", "tpn", "n1", "--type=merge", "-p", SPEC],
        &["delete", "tpn", "n1"],
        &["get", "secrets", "-n", NAMESPACE],
        &["get", "tensorstreams", "-A"],
    ];
    for what in denied_by_rbac {
        let attempt = Attempt {
            who: &own,
            what,
            refused_with: Some("cannot"),
        };
        attempt.holds(&world).expect("RBAC refuses");
    }
    // With every right that RBAC can give, the policies still hold.
    let account = format!("{NAMESPACE}:{ACCOUNT}");
    world.kubectl(&[
        "create",
        "clusterrolebinding",
        "too-much",
        "--clusterrole=cluster-admin",
        "--serviceaccount",
        &account,
    ]);
    the_policies_take_effect(&world, &own);
    statuses(&world, &own, &unbound);
    leases(&world, &own, &unbound);
    // Nobody else is in their way.
    world.kubectl(&["patch", "tpn", "n2", "--type=merge", "-p", SPEC]);
    world.kubectl(&["delete", "lease", "-n", NAMESPACE, "tensorpool-node-n1"]);
    world.kubectl(&["delete", "tpn", "n1"]);
}

/// The API server takes up a new policy after a moment.
fn the_policies_take_effect(world: &World, own: &Path) {
    let lease = lease(world, "tensorpool-node-n2", NAMESPACE);
    let attempts = [
        Attempt {
            who: own,
            what: &[
                "patch",
                "tpn",
                "n2",
                "--dry-run=server",
                "--type=merge",
                "-p",
                SPEC,
            ],
            refused_with: Some("may only update the status"),
        },
        Attempt {
            who: own,
            what: &["apply", "--server-side", "--dry-run=server", "-f", &lease],
            refused_with: Some("may not write Lease"),
        },
    ];
    for attempt in attempts {
        eventually("a policy takes effect", || attempt.holds(world));
    }
}

fn statuses(world: &World, own: &Path, unbound: &Path) {
    let status = |node| {
        [
            "patch",
            "tpn",
            node,
            "--subresource=status",
            "--type=merge",
            "-p",
            STATUS,
        ]
    };
    let spec = ["patch", "tpn", "n1", "--type=merge", "-p", SPEC];
    let object = json!({
        "apiVersion": "tensorpool.io/v1alpha1", "kind": "TensorPoolNode",
        "metadata": {"name": "n3"}, "spec": {},
    });
    let object = world.write("n3.json", &object.to_string());
    let create = ["create", "-f", object.to_str().expect("a path of ours")];
    let only_status = Some("a node driver may only update the status of a TensorPoolNode");
    let names_no_node = Some("a node driver needs a token that is bound to its pod");
    let attempts = [
        (own, &status("n1")[..], None),
        (
            own,
            &status("n2")[..],
            Some("the node driver on node n1 may not write TensorPoolNode n2"),
        ),
        (own, &spec[..], only_status),
        (own, &["delete", "tpn", "n1"][..], only_status),
        (own, &create[..], only_status),
        (unbound, &status("n1")[..], names_no_node),
        (unbound, &["delete", "tpn", "n1"][..], names_no_node),
    ];
    hold(world, &attempts);
    let written = world.kubectl(&[
        "get",
        "tpn",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name}={.status.observedPolicyRevision} {end}",
    ]);
    assert_eq!(written.trim(), "n1=r1 n2=");
}

fn leases(world: &World, own: &Path, unbound: &Path) {
    let name = "tensorpool-node-n1";
    let mine = lease(world, name, NAMESPACE);
    let others = lease(world, "tensorpool-node-n2", NAMESPACE);
    let elsewhere = lease(world, name, "vision");
    let operators = lease(world, "tensorpool-operator", NAMESPACE);
    fn apply(file: &str) -> [&str; 4] {
        ["apply", "--server-side", "-f", file]
    }
    let names_no_node = Some("a node driver needs a token that is bound to its pod");
    let attempts = [
        // Making it and renewing it.
        (own, &apply(&mine)[..], None),
        (own, &apply(&mine)[..], None),
        (
            own,
            &apply(&others)[..],
            Some("may not write Lease tensorpool-system/tensorpool-node-n2"),
        ),
        (
            own,
            &apply(&elsewhere)[..],
            Some("may not write Lease vision/tensorpool-node-n1"),
        ),
        (
            own,
            &apply(&operators)[..],
            Some("may not write Lease tensorpool-system/tensorpool-operator"),
        ),
        (
            own,
            &["delete", "lease", "-n", NAMESPACE, name][..],
            Some("a node driver may not delete Leases"),
        ),
        (unbound, &apply(&mine)[..], names_no_node),
    ];
    hold(world, &attempts);
}

fn hold(world: &World, attempts: &[(&Path, &[&str], Option<&str>)]) {
    for (who, what, refused_with) in attempts {
        let attempt = Attempt {
            who,
            what,
            refused_with: *refused_with,
        };
        if let Err(seen) = attempt.holds(world) {
            panic!("{seen}");
        }
    }
}

/// A file with a Lease.
fn lease(world: &World, name: &str, namespace: &str) -> String {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"holderIdentity": "driver-n1", "leaseDurationSeconds": 120},
    });
    let file = world.write(&format!("{namespace}-{name}.json"), &lease.to_string());
    file.to_str().expect("a path of ours").to_owned()
}
