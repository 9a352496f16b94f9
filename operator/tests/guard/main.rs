//! `tensorpool-guard` before a real API server, in which no kubelet touches the pods.

use std::process::{Command, Output};

use tensorpool_cluster::ControlPlane;

/// One server for all of it: it takes longer to start than to answer.
#[test]
fn control_plane_is_asked_by_the_guard_and_the_answers_are_words() {
    let world = World::start();
    world.nobody_is_in_the_way_of_an_uninstall();
    world.pods_with_our_volumes_are();
    world.force_deletes_them_and_nobody_else();
    world.force_says_when_pods_do_not_go();
    world.a_refused_pod_is_seen();
    world.a_pod_that_runs_is_no_refusal();
    world.silence_is_no_refusal();
    world.streams_without_an_operator_are_let_go();
}

struct World {
    control_plane: ControlPlane,
}

/// A pod with a volume of this CSI driver.
fn pod(name: &str, driver: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: vision, labels: {{app: {name}}}}}
spec:
  containers: [{{name: main, image: none}}]
  volumes: [{{name: data, csi: {{driver: {driver}, readOnly: true}}}}]
"#
    )
}

impl World {
    fn start() -> Self {
        let control_plane = ControlPlane::start().expect("a control plane starts");
        let world = Self { control_plane };
        world.kubectl(&["create", "namespace", "vision"]);
        world.kubectl(&["create", "serviceaccount", "default", "-n", "vision"]);
        world
    }

    fn kubectl(&self, arguments: &[&str]) {
        let output = self.control_plane.kubectl().args(arguments).output();
        let output = output.expect("kubectl starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
    }

    fn apply(&self, yaml: &str) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), yaml).expect("written");
        let path = file.path().to_str().expect("UTF-8");
        self.kubectl(&["apply", "-f", path]);
    }

    fn status(&self, name: &str, status: &str) {
        let patch = format!(r#"{{"status":{status}}}"#);
        let pod = ["-n", "vision", "pod", name];
        self.kubectl(
            &[
                &[
                    "patch",
                    "--subresource=status",
                    "--type=merge",
                    "-p",
                    &patch,
                ][..],
                &pod,
            ]
            .concat(),
        );
    }

    fn guard(&self, arguments: &[&str]) -> (bool, String) {
        let output: Output = Command::new(env!("CARGO_BIN_EXE_tensorpool-guard"))
            .env("KUBECONFIG", self.control_plane.kubeconfig())
            .args(arguments)
            .output()
            .expect("the program starts");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).expect("UTF-8");
        (output.status.success(), said)
    }

    fn nobody_is_in_the_way_of_an_uninstall(&self) {
        let (may, said) = self.guard(&["uninstall"]);
        assert!(may, "{said}");
        assert_eq!(said, "no pod has a volume of csi.tensorpool.io\n");
    }

    fn pods_with_our_volumes_are(&self) {
        self.apply(&pod("camera", "csi.tensorpool.io"));
        self.apply(&pod("detector", "csi.tensorpool.io"));
        self.apply(&pod("database", "csi.example.org"));
        self.apply(&pod("finished", "csi.tensorpool.io"));
        self.status("finished", r#"{"phase":"Succeeded"}"#);
        let (may, said) = self.guard(&["uninstall"]);
        assert!(!may, "{said}");
        assert!(said.starts_with("2 pods have Tensorpool volumes"), "{said}");
        assert!(said.contains("vision/camera, vision/detector;"), "{said}");
        assert!(said.contains("uninstall.force=true"), "{said}");
        let how = ["uninstall", "--how-to-force=helm rollback this"];
        let (_, said) = self.guard(&how);
        assert!(
            said.ends_with("delete them: helm rollback this\n"),
            "{said}"
        );
    }

    fn force_deletes_them_and_nobody_else(&self) {
        let (may, said) = self.guard(&["uninstall", "--force"]);
        assert!(may, "{said}");
        assert_eq!(
            said,
            "deleting the pod vision/camera\ndeleting the pod vision/detector\n\
             2 pods with volumes of csi.tensorpool.io were deleted and have ended\n"
        );
        self.kubectl(&["get", "-n", "vision", "pod", "database", "finished"]);
    }

    fn force_says_when_pods_do_not_go(&self) {
        self.apply(&pod("stuck", "csi.tensorpool.io"));
        let hold = r#"{"metadata":{"finalizers":["tensorpool.test/held"]}}"#;
        self.kubectl(&["patch", "-n", "vision", "pod", "stuck", "-p", hold]);
        // As kubelet says before it unmounts the volumes of a pod that is deleted.
        self.status("stuck", r#"{"phase":"Succeeded"}"#);
        self.kubectl(&["delete", "-n", "vision", "pod", "stuck", "--wait=false"]);
        let (may, said) = self.guard(&["uninstall", "--force", "--limit-s", "2"]);
        assert!(!may, "{said}");
        assert!(
            said.contains("1 pods with Tensorpool volumes are there 2 s after"),
            "{said}"
        );
        assert!(said.contains("vision/stuck"), "{said}");
        let release = r#"{"metadata":{"finalizers":null}}"#;
        self.kubectl(&["patch", "-n", "vision", "pod", "stuck", "-p", release]);
    }

    fn refusal(&self, name: &str, limit: &str) -> (bool, String) {
        let selector = format!("app={name}");
        let of = ["--namespace", "vision", "--selector", &selector];
        self.guard(&[&["expect-refusal", "--limit-s", limit][..], &of].concat())
    }

    fn event(&self, pod: &str, message: &str) {
        self.apply(&format!(
            r#"
apiVersion: v1
kind: Event
metadata: {{name: {pod}.1, namespace: vision}}
involvedObject: {{kind: Pod, name: {pod}, namespace: vision}}
reason: FailedMount
type: Warning
message: '{message}'
"#
        ));
    }

    fn a_refused_pod_is_seen(&self) {
        self.apply(&pod("stranger", "csi.tensorpool.io"));
        let words = "rpc error: code = PermissionDenied desc = may not consume";
        self.event("stranger", words);
        let (refused, said) = self.refusal("stranger", "30");
        assert!(refused, "{said}");
        assert_eq!(said, format!("the pod stranger is refused: {words}\n"));
    }

    fn a_pod_that_runs_is_no_refusal(&self) {
        self.apply(&pod("intruder", "csi.tensorpool.io"));
        let runs = r#"{"containerStatuses":[{"name":"main","image":"none","imageID":"","ready":true,
            "started":true,"restartCount":0,"state":{"running":{}}}]}"#;
        self.status("intruder", runs);
        let (refused, said) = self.refusal("intruder", "30");
        assert!(!refused, "{said}");
        assert!(said.contains("the pod intruder runs"), "{said}");
    }

    fn silence_is_no_refusal(&self) {
        self.apply(&pod("quiet", "csi.tensorpool.io"));
        self.event("quiet", "driver name csi.tensorpool.io not found");
        let (refused, said) = self.refusal("quiet", "1");
        assert!(!refused, "{said}");
        assert!(said.contains("was refused within 1 s"), "{said}");
        assert!(said.contains("csi.tensorpool.io not found"), "{said}");
    }

    fn streams_without_an_operator_are_let_go(&self) {
        let nothing = "0 streams do not wait for their nodes any more\n";
        assert_eq!(self.guard(&["release-streams"]), (true, nothing.to_owned()));
        for definition in tensorpool_crds::crds() {
            self.apply(&serde_json::to_string(&definition).expect("JSON"));
        }
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
        let stream = |name: &str, finalizers: &str| {
            format!(
                r#"
apiVersion: tensorpool.io/v1alpha1
kind: TensorStream
metadata: {{name: {name}, namespace: vision, finalizers: [{finalizers}]}}
spec: {{layout: {{headerSlots: 8, pools: [{{poolId: 1, strideBytes: 64}}]}}}}
"#
            )
        };
        self.apply(&stream("camera", "tensorpool.io/teardown"));
        let two = "tensorpool.test/held, tensorpool.io/teardown";
        self.apply(&stream("shared", two));
        self.kubectl(&[
            "delete",
            "-n",
            "vision",
            "tensorstream",
            "camera",
            "--wait=false",
        ]);
        let said = "2 streams do not wait for their nodes any more\n";
        assert_eq!(self.guard(&["release-streams"]), (true, said.to_owned()));
        let gone = [
            "wait",
            "--for=delete",
            "-n",
            "vision",
            "tensorstream/camera",
        ];
        self.kubectl(&gone);
        let left = "--for=jsonpath={.metadata.finalizers[*]}=tensorpool.test/held";
        self.kubectl(&["wait", left, "-n", "vision", "tensorstream/shared"]);
    }
}
