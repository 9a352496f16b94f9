//! Pods with `transport: aeron` mount their volume where the announced paths hold, or are not taken.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rendering::{Helm, Server};

/// The API server follows a new policy a moment after it has taken it.
const SOON: Duration = Duration::from_secs(30);

fn volume(name: &str, transport: &str) -> Value {
    json!({"name": name, "csi": {
        "driver": "csi.tensorpool.io", "readOnly": true,
        "volumeAttributes": {"stream": name, "access": "consume", "transport": transport},
    }})
}

/// A pod that mounts these volumes so.
fn pod(volumes: Value, mounts: Value, of_init: Value) -> String {
    let container = |name: &str, mounts: Value| {
        json!({
            "name": name, "image": "x", "volumeMounts": mounts,
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            },
        })
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "tensorpool-test"},
        "spec": {
            "serviceAccountName": "consumer",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container("main", mounts)],
            "initContainers": [container("first", of_init)],
            "volumes": volumes,
        },
    });
    pod.to_string()
}

#[test]
fn control_plane_takes_pods_on_aeron_only_where_the_announced_paths_hold() {
    let (server, helm) = (Server::start(), Helm::new());
    let only = [
        "template",
        "tensorpool",
        "--show-only",
        "templates/pods-on-aeron.yaml",
    ];
    let rendered = helm.run(&only, "", &[]);
    let policy = String::from_utf8(rendered.stdout).expect("UTF-8");
    server.kubectl(&["apply", "--server-side", "--filename=-"], &policy);
    let refusal = |pod: &str| {
        let create = ["create", "--dry-run=server", "--filename=-"];
        server.refusal(&create, pod)
    };
    let here = |name: &str, path: &str| json!([{"name": name, "mountPath": path}]);

    let elsewhere = pod(
        json!([volume("camera", "aeron")]),
        here("camera", "/data"),
        json!([]),
    );
    let asked = Instant::now();
    let text = loop {
        match refusal(&elsewhere) {
            Some(text) => break text,
            None => assert!(asked.elapsed() < SOON, "the policy is not followed"),
        }
    };
    assert!(
        text.contains("has to be mounted at /run/tensorpool"),
        "{text}"
    );

    let path = "/run/tensorpool";
    let camera = || json!([volume("camera", "aeron")]);
    let two = json!([volume("camera", "aeron"), volume("lidar", "aeron")]);
    let part = json!([{"name": "camera", "mountPath": path, "subPath": "shm"}]);
    for (pod, words) in [
        (
            pod(camera(), here("camera", path), here("camera", "/data")),
            "has to be mounted at /run/tensorpool",
        ),
        (pod(camera(), part, json!([])), "without `subPath`"),
        (
            pod(two, here("camera", path), json!([])),
            "one volume with `transport: aeron` at most",
        ),
    ] {
        let text = refusal(&pod).expect(words);
        assert!(text.contains(words), "{text}");
    }

    let both = json!([volume("camera", "aeron"), volume("lidar", "socket")]);
    let mounts = json!([
        {"name": "camera", "mountPath": path}, {"name": "lidar", "mountPath": "/lidar"},
    ]);
    let socket = json!([volume("camera", "socket")]);
    for pod in [
        pod(camera(), here("camera", path), here("camera", path)),
        pod(both, mounts, json!([])),
        pod(socket, here("camera", "/data"), json!([])),
        pod(json!([]), json!([]), json!([])),
    ] {
        assert_eq!(refusal(&pod), None, "{pod}");
    }
}
