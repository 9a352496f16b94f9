//! What a real API server makes of the chart, and what its containers may do.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::rendering::{GOOD, Helm, SYSTEM, Server, of_kind};

#[test]
fn control_plane_takes_the_chart_and_its_containers_have_no_privilege_too_many() {
    let (server, helm) = (Server::start(), Helm::new());
    for values in GOOD {
        let manifest = helm.template(values, &[]);
        let objects = server.would_store(&manifest);
        assert!(objects.len() > 30, "{values}: {} objects", objects.len());
        let drivers = of_kind(&objects, "DaemonSet");
        assert!(!drivers.is_empty(), "{values}");
        for driver in drivers {
            privileges_are_those_of_the_design(&driver["spec"]["template"]["spec"]);
        }
        operator_has_none(of_kind(&objects, "Deployment"));
        kubelet_tells_which_pod_asks(of_kind(&objects, "CSIDriver"));
        nobody_reads_secrets(&objects);
    }
    pools_become_requests(&server, &helm);
    aeron_becomes_a_media_driver(&server, &helm);
    helm_itself_would_install_it(&server);
}

/// Privileges by container: `mount` and `csi` all, `driver` none.
fn privileges_are_those_of_the_design(pod: &Value) {
    assert_eq!(pod["automountServiceAccountToken"], false);
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod[field].is_null(), "{field}");
    }
    let names = |containers: &Value| {
        let all = containers.as_array().expect("a list").iter();
        all.map(|container| container["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&pod["initContainers"]), ["mount"]);
    let containers = names(&pod["containers"]);
    // The media driver is there where the profile has one.
    let has_aeron = containers.len() == 3;
    let expected = ["csi", "driver", "aeronmd"];
    assert_eq!(containers, expected[..if has_aeron { 3 } else { 2 }]);
    let privileged = json!({"privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 0});
    let driver_group = &pod["containers"][1]["securityContext"]["runAsGroup"];
    assert!([&json!(65532), &json!(7000)].contains(&driver_group));
    let none = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true, "runAsGroup": driver_group, "runAsNonRoot": true,
        "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let (mount, csi, driver) = (
        &pod["initContainers"][0],
        &pod["containers"][0],
        &pod["containers"][1],
    );
    assert_eq!(mount["securityContext"], privileged);
    assert_eq!(csi["securityContext"], privileged);
    assert_eq!(driver["securityContext"], none);
    let mounts = |container: &Value| {
        let all = container["volumeMounts"].as_array().expect("a list").iter();
        all.map(|mount| {
            let word = |field: &str| mount[field].as_str().unwrap_or_default().to_owned();
            (word("name"), word("mountPropagation"))
        })
        .collect::<BTreeSet<_>>()
    };
    let expected = |mounts: &[(&str, &str)]| {
        let all = mounts.iter();
        all.map(|(name, propagation)| ((*name).to_owned(), (*propagation).to_owned()))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(mounts(mount), expected(&[("base", "Bidirectional")]));
    let of_csi = [
        ("base", "HostToContainer"),
        ("internal", ""),
        ("kubelet", "Bidirectional"),
    ];
    assert_eq!(mounts(csi), expected(&of_csi), "no token");
    let of_driver = [("base", ""), ("internal", ""), ("token", "")];
    assert_eq!(mounts(driver), expected(&of_driver));
    if has_aeron {
        let media_driver = &pod["containers"][2];
        assert_eq!(media_driver["securityContext"], none);
        assert_eq!(mounts(media_driver), expected(&[("base", "")]), "no token");
    }
}

fn operator_has_none(deployments: Vec<&Value>) {
    let name = |object: &&&Value| object["metadata"]["name"] == "tensorpool-operator";
    let operator = deployments.iter().find(name).expect("an operator");
    let pod = &operator["spec"]["template"]["spec"];
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    assert!(pod["volumes"].is_null(), "nothing of the node");
}

fn kubelet_tells_which_pod_asks(drivers: Vec<&Value>) {
    assert_eq!(drivers.len(), 1);
    let driver = drivers[0];
    assert_eq!(driver["metadata"]["name"], "csi.tensorpool.io");
    let profile =
        &driver["metadata"]["labels"]["security.openshift.io/csi-ephemeral-volume-profile"];
    assert_eq!(profile, "restricted");
    let spec = &driver["spec"];
    assert_eq!(spec["volumeLifecycleModes"], json!(["Ephemeral"]));
    assert_eq!(spec["podInfoOnMount"], true);
    assert_eq!(spec["attachRequired"], false);
    assert_eq!(spec["fsGroupPolicy"], "None");
    assert_eq!(spec["requiresRepublish"], false);
}

fn nobody_reads_secrets(objects: &[Value]) {
    let roles = of_kind(objects, "ClusterRole");
    for role in roles.iter().chain(&of_kind(objects, "Role")) {
        for rule in role["rules"].as_array().into_iter().flatten() {
            let text = rule.to_string();
            assert!(!text.contains('*'), "a wildcard in {role}");
            assert!(!text.contains("secrets"), "{role}");
            assert!(!text.contains("escalate"), "{role}");
        }
    }
}

fn pools_become_requests(server: &Server, helm: &Helm) {
    let objects = server.would_store(&helm.template("every-key.yaml", &[]));
    let pod = |profile: &str| {
        let name = format!("tensorpool-node-driver-{profile}");
        let all = of_kind(&objects, "DaemonSet");
        let found = all
            .into_iter()
            .find(|object| object["metadata"]["name"] == name);
        found.expect("one for each profile")["spec"]["template"]["spec"].clone()
    };
    let resources = |profile: &str| pod(profile)["containers"][1]["resources"].clone();
    assert_eq!(
        pod("large")["initContainers"][0]["args"],
        json!([
            "mount",
            "--base-dir=/run/tensors",
            "--pool=1Gi=8Gi",
            "--guarantee=1Gi",
            "--pool=2Mi=1024Mi",
            "--pool=4Ki=1Gi",
            "--aeron=1Gi",
            "--gid=7000",
            "--selinux-context=system_u:object_r:tensors_t:s0",
        ])
    );
    assert_eq!(
        resources("large"),
        json!({
            "limits": {"hugepages-1Gi": "8Gi", "hugepages-2Mi": "1Gi", "memory": "2Gi"},
            "requests": {"cpu": "1", "hugepages-1Gi": "8Gi", "hugepages-2Mi": "1Gi", "memory": "1280Mi"},
        })
    );
    assert_eq!(
        resources("small"),
        json!({
            "limits": {"hugepages-2Mi": "64Mi", "memory": "1Gi"},
            "requests": {"cpu": "1", "hugepages-2Mi": "64Mi", "memory": "256Mi"},
        })
    );
}

/// A media driver where the profile has one, with memory for its directory.
fn aeron_becomes_a_media_driver(server: &Server, helm: &Helm) {
    let objects = server.would_store(&helm.template("every-key.yaml", &[]));
    let containers = |profile: &str| {
        let name = format!("tensorpool-node-driver-{profile}");
        let all = of_kind(&objects, "DaemonSet");
        let found = all
            .into_iter()
            .find(|object| object["metadata"]["name"] == name);
        found.expect("one for each profile")["spec"]["template"]["spec"]["containers"].clone()
    };
    let variable = |profile: &str, name: &str| {
        let driver = &containers(profile)[1];
        let all = driver["env"].as_array().expect("a list").clone();
        let found = all.into_iter().find(|it| it["name"] == name);
        found.map(|it| it["value"].clone())
    };
    let (large, small) = (containers("large"), containers("small"));
    assert_eq!(small.as_array().expect("a list").len(), 2);
    assert_eq!(
        large[2]["resources"],
        json!({
            "limits": {"memory": "1120Mi"},
            "requests": {"cpu": "30m", "memory": "1072Mi"},
        })
    );
    assert_eq!(variable("small", "DRIVER_MEDIA_DRIVER"), Some(json!("off")));
    let dir = json!("/run/tensors/aeron/media");
    assert_eq!(
        variable("large", "DRIVER_MEDIA_DRIVER"),
        Some(json!("external"))
    );
    assert_eq!(variable("large", "DRIVER_AERON_DIR"), Some(dir));
    assert!(
        large[2]["args"]
            .to_string()
            .contains("--dir=/run/tensors/aeron/media")
    );
}

fn helm_itself_would_install_it(server: &Server) {
    let mut binaries = tensorpool_cluster::Binaries::from_environment().expect("a place");
    let helm = binaries.ensure(
        tensorpool_cluster::Program::Helm,
        &tensorpool_cluster::Progress::stderr(),
    );
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/tensorpool");
    let output = Command::new(helm.expect("Helm is built"))
        .env("KUBECONFIG", server.kubeconfig())
        .args(["install", "tensorpool", chart, "--namespace", SYSTEM])
        .arg("--dry-run=server")
        .output()
        .expect("Helm starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("helm test tensorpool"),
        "the notes are there: {said}"
    );
    assert!(!said.contains("It was NOT there"), "Helm sees the kinds");
}
