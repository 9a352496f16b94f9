//! The same verdicts from a real API server, and what people see of the kinds there.

use std::fmt::Write as _;
use std::process::Command;

use crate::corpus::{Case, Finding, corpus};
use k8s_openapi::serde_json::{Value, json};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, Request};
use kube::{Client, Config, Error, ResourceExt};
use tensorpool_cluster::ControlPlane;
use tensorpool_crds::{
    Condition, Pool, StreamLayout, StreamPhase, StreamReport, TensorPoolNode, TensorPoolNodeSpec,
    TensorPoolNodeStatus, TensorStream, TensorStreamSpec, field_manager,
};

/// One server for all of it: it takes longer to start than to answer.
#[tokio::test]
async fn control_plane_judges_as_the_corpus_says_and_shows_what_people_want() {
    let server = Server::start().await;
    server.the_chart_s_definitions_apply_without_a_warning();
    server.corpus_gets_its_verdicts().await;
    server.explain_reads_as_recorded();
    server.columns_show_what_a_person_wants().await;
    server.fields_can_be_selected();
    server.defaults_are_those_of_the_types().await;
    server.two_managers_share_a_list_map().await;
    server
        .a_full_node_status_is_taken_and_one_more_stream_is_not()
        .await;
}

struct Server {
    control_plane: ControlPlane,
    client: Client,
}

impl Server {
    async fn start() -> Self {
        let control_plane = ControlPlane::start().expect("a control plane starts");
        let file = Kubeconfig::read_from(control_plane.kubeconfig()).expect("it wrote one");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("the file is complete"));
        let client = client.expect("a client can be made of it");
        Self {
            control_plane,
            client,
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = self.control_plane.kubectl();
        let (out, _) = said(command.args(arguments));
        out
    }

    fn the_chart_s_definitions_apply_without_a_warning(&self) {
        let templates = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../helm/tensorpool-crds/templates"
        );
        let mut command = self.control_plane.kubectl();
        let (out, warnings) = said(command.args(["apply", "--server-side", "-f", templates]));
        assert_eq!(warnings, "");
        assert_eq!(out.lines().count(), tensorpool_crds::crds().len(), "{out}");
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=60s",
        ]);
        let flaws =
            "-o=jsonpath={.items[*].status.conditions[?(@.type==\"NonStructuralSchema\")].message}";
        assert_eq!(self.kubectl(&["get", "crd", flaws]), "");
    }

    async fn corpus_gets_its_verdicts(&self) {
        let mut contradictions = Vec::new();
        let mut count = 0;
        for (_, cases) in corpus() {
            for case in cases {
                count += 1;
                contradictions.extend(case.contradiction(&self.verdict(&case).await));
            }
        }
        assert_eq!(contradictions, Vec::<String>::new());
        println!("count: API objects (API server) = {count}");
    }

    async fn verdict(&self, case: &Case) -> Vec<Finding> {
        let api = self.api(&case.object);
        let Some(before) = &case.before else {
            let dry = PostParams {
                dry_run: true,
                ..PostParams::default()
            };
            let request = Request::new(api.resource_url()).create(&dry, bytes(&case.object));
            return self.findings(request).await;
        };
        let created: DynamicObject = serde_json(before);
        let created = api.create(&PostParams::default(), &created).await;
        let created = created.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        // The status of a new object is dropped; it has an endpoint of its own.
        let created = match before.get("status") {
            None => created,
            Some(status) => {
                let patch = Patch::Merge(json!({ "status": status }));
                let name = created.name_any();
                let patched = api
                    .patch_status(&name, &PatchParams::default(), &patch)
                    .await;
                patched.unwrap_or_else(|error| panic!("{}: {error}", case.name))
            }
        };
        let mut object = case.object.clone();
        object["metadata"]["resourceVersion"] = json!(created.resource_version());
        let request = Request::new(api.resource_url()).replace(
            &created.name_any(),
            &PostParams::default(),
            bytes(&object),
        );
        let findings = self.findings(request).await;
        let deleted = api
            .delete(&created.name_any(), &kube::api::DeleteParams::default())
            .await;
        deleted.expect("what was created can be deleted");
        findings
    }

    /// Sends a request as `kubectl` would: unknown fields are errors.
    async fn findings(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Vec<Finding> {
        let mut request = request.expect("the request is one");
        let uri = request.uri().to_string();
        let joint = if uri.contains('?') { '&' } else { '?' };
        *request.uri_mut() = format!("{uri}{joint}fieldValidation=Strict")
            .parse()
            .expect("it is a URI");
        match self.client.request::<DynamicObject>(request).await {
            Ok(_) => Vec::new(),
            Err(Error::Api(status)) => of_status(&status),
            Err(error) => panic!("no verdict: {error}"),
        }
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let kind = object["kind"].as_str().expect("an object has a kind");
        let crd = tensorpool_crds::crds()
            .into_iter()
            .find(|crd| crd.spec.names.kind == kind);
        let crd = crd.unwrap_or_else(|| panic!("{kind} is a kind"));
        let resource = ApiResource {
            group: crd.spec.group.clone(),
            version: tensorpool_crds::VERSION.to_owned(),
            api_version: format!("{}/{}", crd.spec.group, tensorpool_crds::VERSION),
            kind: kind.to_owned(),
            plural: crd.spec.names.plural.clone(),
        };
        if crd.spec.scope == "Namespaced" {
            Api::namespaced_with(self.client.clone(), "default", &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    fn explain_reads_as_recorded(&self) {
        let mut text = String::new();
        for path in [
            "tensorstream",
            "tensorstream.spec",
            "tensorstream.spec.layout",
            "tensorstream.spec.layout.pools",
            "tensorstream.spec.revocation",
            "tensorpoolclass.spec",
            "tensorquota.spec.hard",
            "tensorpriorityclass",
            "tensorpoolnode.status",
        ] {
            let said = self.kubectl(&["explain", path]);
            writeln!(text, "$ kubectl explain {path}\n{said}").expect("a String takes text");
        }
        insta::assert_snapshot!("explain", text);
    }

    async fn columns_show_what_a_person_wants(&self) {
        let mut stream = stream("camera");
        self.streams()
            .create(&PostParams::default(), &stream)
            .await
            .expect("it is a good one");
        let status = json!({"status": {
            "streamId": 20000,
            "priority": {"className": "realtime", "named": true, "value": 100_000, "preemptionPolicy": "Never"},
            "bytesPerNode": "6Mi",
            "nodes": {"eligible": 3, "desired": 3, "ready": 2, "degraded": 0},
            "attachments": {"producers": 1, "consumers": 7},
            "conditions": [condition("Ready", "False", "NodesPending")],
        }});
        let merge = Patch::Merge(&status);
        stream = self
            .streams()
            .patch_status("camera", &PatchParams::default(), &merge)
            .await
            .expect("the status is a good one");
        assert_eq!(stream.status.expect("it has one").stream_id, Some(20_000));
        let table = self.kubectl(&["get", "tstream"]);
        let mut lines = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(
            lines.next().expect("there is a head"),
            [
                "NAME",
                "ID",
                "CLASS",
                "PRIORITY",
                "BYTES/NODE",
                "READY",
                "DESIRED",
                "CONSUMERS",
                "STATUS",
                "AGE"
            ]
        );
        let row = lines.next().expect("there is a row");
        assert_eq!(
            row[..9],
            [
                "camera",
                "20000",
                "default",
                "100000",
                "6Mi",
                "2",
                "3",
                "7",
                "NodesPending"
            ]
        );
        for short in ["tpc", "tpn", "tquota", "tprio", "tensorpool"] {
            self.kubectl(&["get", short]);
        }
    }

    fn fields_can_be_selected(&self) {
        let select = |selector: &str| {
            self.kubectl(&["get", "tstream", "-o", "name", "--field-selector", selector])
        };
        let camera = "tensorstream.tensorpool.io/camera\n";
        assert_eq!(select("spec.className=default"), camera);
        assert_eq!(select("status.streamId=20000"), camera);
        assert_eq!(select("spec.className=other"), "");
    }

    async fn defaults_are_those_of_the_types(&self) {
        let sent = json!({
            "apiVersion": "tensorpool.io/v1alpha1",
            "kind": "TensorStream",
            "metadata": {"name": "short", "namespace": "default"},
            "spec": {"layout": layout()},
        });
        let api = self.api(&sent);
        api.create(&PostParams::default(), &serde_json(&sent))
            .await
            .expect("it is a good one");
        let stored = self.streams().get("short").await.expect("it was created");
        assert_eq!(stored.spec, TensorStreamSpec::new(layout()));
        // What the types make of it is what the API server stored: nothing gets lost or added.
        let raw = api.get("short").await.expect("it was created");
        assert_eq!(json!(stored.spec), raw.data["spec"]);
    }

    async fn two_managers_share_a_list_map(&self) {
        let streams = self.streams();
        let apply = |manager: &'static str, conditions: Value| {
            let streams = streams.clone();
            async move {
                let object = json!({
                    "apiVersion": "tensorpool.io/v1alpha1",
                    "kind": "TensorStream",
                    "metadata": {"name": "short"},
                    "status": {"conditions": conditions},
                });
                let parameters = PatchParams::apply(manager);
                let patch = Patch::Apply(&object);
                let stream = streams.patch_status("short", &parameters, &patch).await?;
                let mut types: Vec<String> = stream
                    .status
                    .unwrap_or_default()
                    .conditions
                    .into_iter()
                    .map(|it| it.type_)
                    .collect();
                types.sort();
                Ok::<_, Error>(types)
            }
        };
        let one = json!([
            condition("Accepted", "True", "Accepted"),
            condition("Ready", "True", "Ready")
        ]);
        let foreign = json!([condition("example.com/Seen", "True", "Seen")]);
        let both = ["Accepted", "Ready", "example.com/Seen"];
        assert_eq!(
            apply(field_manager::OPERATOR, one).await.expect("it may"),
            both[..2]
        );
        assert_eq!(apply("somebody-else", foreign).await.expect("it may"), both);
        // Each takes back its own only.
        let fewer = json!([condition("Ready", "True", "Ready")]);
        assert_eq!(
            apply(field_manager::OPERATOR, fewer).await.expect("it may"),
            both[1..]
        );
        // What the other one owns is a conflict, not an overwrite.
        let taken = json!([condition("Ready", "False", "Stolen")]);
        let conflict = apply("somebody-else", taken).await;
        assert!(matches!(conflict, Err(Error::Api(status)) if status.code == 409));
    }

    async fn a_full_node_status_is_taken_and_one_more_stream_is_not(&self) {
        let nodes: Api<TensorPoolNode> = Api::all(self.client.clone());
        let node = TensorPoolNode::new("node-1", TensorPoolNodeSpec::default());
        nodes
            .create(&PostParams::default(), &node)
            .await
            .expect("it is a good one");
        let apply = |streams: usize| {
            let nodes = nodes.clone();
            async move {
                let object = json!({
                    "apiVersion": "tensorpool.io/v1alpha1",
                    "kind": "TensorPoolNode",
                    "metadata": {"name": "node-1"},
                    "status": full_status(streams),
                });
                let parameters = PatchParams::apply(field_manager::NODE_DRIVER).force();
                nodes
                    .patch_status("node-1", &parameters, &Patch::Apply(&object))
                    .await
            }
        };
        let stored = apply(256).await.expect("a full status is taken");
        let status = stored.status.clone().expect("it has one");
        assert_eq!(status, full_status(256));
        let bytes = serde_json_bytes(&stored);
        println!("count: bytes of a node with 256 streams = {bytes}");
        assert!(
            bytes < 200_000,
            "{bytes} bytes: a status costs every watcher that much"
        );
        let Err(Error::Api(refused)) = apply(257).await else {
            panic!("257 streams were taken");
        };
        assert_eq!(of_status(&refused)[0].field, "status.streams");
    }

    fn streams(&self) -> Api<TensorStream> {
        Api::namespaced(self.client.clone(), "default")
    }
}

fn said(command: &mut Command) -> (String, String) {
    let output = command.output().expect("the command starts");
    let errors = String::from_utf8(output.stderr).expect("it prints UTF-8");
    assert!(output.status.success(), "{command:?}: {errors}");
    (
        String::from_utf8(output.stdout).expect("it prints UTF-8"),
        errors,
    )
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn serde_json<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    k8s_openapi::serde_json::from_value(value.clone()).expect("it is such an object")
}

fn serde_json_bytes<T: serde::Serialize>(value: &T) -> usize {
    json!(value).to_string().len()
}

/// The causes of a refusal. An unknown field is in the message only.
fn of_status(status: &kube::core::Status) -> Vec<Finding> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut findings: Vec<Finding> = causes
        .map(|cause| Finding {
            field: cause.field.replace("<nil>", ""),
            message: cause.message.clone(),
        })
        .collect();
    if findings.is_empty() {
        let unknown = status.message.split_once("unknown field \"");
        let field = unknown.and_then(|(_, rest)| rest.split('"').next());
        findings.push(Finding {
            field: field.unwrap_or_default().to_owned(),
            message: status.message.clone(),
        });
    }
    findings
}

fn layout() -> StreamLayout {
    StreamLayout {
        header_slots: 1_024,
        pools: vec![Pool {
            pool_id: 1,
            stride_bytes: 4_096,
        }],
    }
}

fn stream(name: &str) -> TensorStream {
    TensorStream::new(name, TensorStreamSpec::new(layout()))
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!(Condition {
        last_transition_time: tensorpool_crds::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
        message: "in words".to_owned(),
        observed_generation: None,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: kind.to_owned(),
    })
}

fn full_status(streams: usize) -> TensorPoolNodeStatus {
    let report = |index: usize| {
        let id = u32::try_from(20_000 + index).expect("it is small");
        let uri = |file: &str| {
            format!(
                "shm:file?path=/run/tensorpool/shm/2Mi/tensorpool-k8s/production/{id}/1700000000000000000/{file}|require_hugepages=true"
            )
        };
        StreamReport {
            namespace: "production".to_owned(),
            name: format!("camera-{index:04}"),
            uid: format!("5f7c2a3e-0000-4000-8000-{index:012}"),
            stream_id: id,
            epoch: Some(1_700_000_000_000_000_000),
            layout_version: 1,
            phase: StreamPhase::Ready,
            reason: None,
            message: None,
            bytes: 6 << 20,
            header_uri: Some(uri("header.ring")),
            pool_uris: vec![uri("1.pool")],
            producer_pod: Some(format!("camera-{index:04}-7d4b9c5f6-abcde")),
            producers: 1,
            consumers: 3,
        }
    };
    TensorPoolNodeStatus {
        stream_count: u32::try_from(streams).expect("it is small"),
        streams: (0..streams).map(report).collect(),
        ..TensorPoolNodeStatus::default()
    }
}
