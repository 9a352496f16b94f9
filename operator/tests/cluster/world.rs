//! An API server with our definitions, Nodes, and drivers played by the test.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tensorpool_cluster::{Caller, ControlPlane, FaultProxy, rendered_chart};
use tensorpool_crds::{
    Pool, StreamLayout, TensorPoolNode, TensorStream, TensorStreamSpec, field_manager,
};
use tokio::time::timeout;

use crate::process::{LIMIT, Operator};

/// Where the release would be.
const SYSTEM: &str = "tensorpool-system";
/// The operator, as the API server names its service account.
const OPERATOR: &str = "system:serviceaccount:tensorpool-system:tensorpool-operator";

pub(crate) struct World {
    control_plane: ControlPlane,
    pub(crate) client: Client,
}

impl World {
    /// With these Nodes, and the namespaces `tensorpool-system` and `vision`.
    pub(crate) async fn start(nodes: &[&str]) -> Self {
        let control_plane = ControlPlane::start().expect("a control plane starts");
        let file = Kubeconfig::read_from(control_plane.kubeconfig()).expect("it wrote one");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("the file is complete"));
        let world = Self {
            control_plane,
            client: client.expect("a client can be made of it"),
        };
        let templates = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../helm/tensorpool-crds/templates"
        );
        world.kubectl(&["apply", "--server-side", "-f", templates]);
        world.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=60s",
        ]);
        world.kubectl(&["create", "namespace", SYSTEM]);
        world.kubectl(&["create", "namespace", "vision"]);
        world.apply_rights();
        for name in nodes {
            let node = Node {
                metadata: ObjectMeta {
                    name: Some((*name).to_owned()),
                    labels: Some(BTreeMap::from([("zone".to_owned(), "a".to_owned())])),
                    ..ObjectMeta::default()
                },
                ..Node::default()
            };
            world
                .all::<Node>()
                .create(&PostParams::default(), &node)
                .await
                .expect("it is one");
        }
        world
    }

    /// The service account and the roles that the chart gives the operator.
    fn apply_rights(&self) {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/tensorpool");
        let rights = ["templates/operator-rbac.yaml"];
        let objects = rendered_chart(Path::new(chart), SYSTEM, &rights);
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(objects.expect("the chart is good").as_bytes())
            .expect("there is space");
        let path = file.path().to_str().expect("a path of ours");
        self.kubectl(&["apply", "--filename", path]);
    }

    /// An operator with the rights that the chart gives it, and no others.
    pub(crate) fn operator(&self, name: &str) -> Operator {
        Operator::start(&self.operators_kubeconfig(), name)
    }

    pub(crate) fn operators_kubeconfig(&self) -> PathBuf {
        let kubeconfig = self.control_plane.kubeconfig_of(OPERATOR, None);
        kubeconfig.expect("a kubeconfig is written")
    }

    /// In front of the API server, with the operator's rights.
    pub(crate) fn proxy(&self) -> FaultProxy {
        let proxy = FaultProxy::start(&self.control_plane, Caller::User(OPERATOR));
        proxy.expect("a proxy starts")
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .unwrap_or_else(|errors| panic!("{arguments:?}: {errors}"))
    }

    /// Repeats it until the API server takes it: changed definitions count a moment later.
    pub(crate) fn kubectl_until_taken(&self, arguments: &[&str]) {
        let deadline = Instant::now() + LIMIT;
        while let Err(errors) = self.try_kubectl(arguments) {
            assert!(Instant::now() < deadline, "{arguments:?}: {errors}");
        }
    }

    fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self
            .control_plane
            .kubectl()
            .args(arguments)
            .output()
            .expect("it starts");
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).expect("it prints UTF-8"))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub(crate) fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub(crate) fn vision<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "vision")
    }

    /// The object, once `is` holds.
    pub(crate) async fn when<K>(&self, api: Api<K>, name: &str, is: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let holds = |object: Option<&K>| object.is_some_and(&is);
        let found = timeout(LIMIT, await_condition(api.clone(), name, holds)).await;
        match found {
            Ok(found) => found
                .expect("the watch goes on")
                .expect("the condition asks for it"),
            Err(_) => panic!("{name} never became so: {:?}", api.get_opt(name).await),
        }
    }

    /// Returns once the object is gone.
    pub(crate) async fn gone<K>(&self, api: Api<K>, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let holds = |object: Option<&K>| object.is_none();
        let gone = timeout(LIMIT, await_condition(api, name, holds)).await;
        gone.expect("it goes in time").expect("the watch goes on");
    }

    pub(crate) async fn make_stream(&self, name: &str) {
        let layout = StreamLayout {
            header_slots: 8,
            pools: vec![Pool {
                pool_id: 1,
                stride_bytes: 4_096,
            }],
        };
        let stream = TensorStream::new(name, TensorStreamSpec::new(layout));
        let api = self.vision::<TensorStream>();
        api.create(&PostParams::default(), &stream)
            .await
            .expect("it is a good one");
    }

    /// The driver of `node` follows its current policy and has memory for these streams.
    pub(crate) async fn driver_serves(&self, node: &str, names: &[&str]) {
        let api = self.all::<TensorPoolNode>();
        let object = api.get(node).await.expect("the operator made it");
        let streams = object
            .spec
            .streams
            .iter()
            .filter(|it| names.contains(&it.name.as_str()));
        let streams: Vec<Value> = streams
            .map(|it| {
                json!({
                    "namespace": it.namespace, "name": it.name, "uid": it.uid,
                    "streamId": it.stream_id, "epoch": 1, "layoutVersion": 1, "phase": "Ready",
                    "bytes": it.bytes, "producers": 1, "consumers": 2,
                })
            })
            .collect();
        let pools: Vec<Value> = object
            .spec
            .pools
            .iter()
            .map(|it| {
                json!({
                    "className": it.class_name, "pageSize": it.page_size,
                    "capacityBytes": it.size_bytes, "allocatedBytes": 0,
                })
            })
            .collect();
        let body = json!({
            "apiVersion": "tensorpool.io/v1alpha1",
            "kind": "TensorPoolNode",
            "metadata": {"name": node},
            "status": {
                "observedPolicyRevision": object.spec.policy_revision,
                "streamCount": streams.len(),
                "attachments": 3 * streams.len(),
                "pools": pools,
                "streams": streams,
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "AsExpected",
                    "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        });
        let parameters = PatchParams::apply(field_manager::NODE_DRIVER).force();
        let applied = api
            .patch_status(node, &parameters, &Patch::Apply(&body))
            .await;
        applied.expect("a driver may write its status");
    }

    /// How often the operator wrote anything but its lease.
    pub(crate) fn writes(&self) -> usize {
        let requests = self.requests_of_operators();
        let writes = requests.iter().filter(|it| {
            let verb = it["verb"].as_str().unwrap_or_default();
            ["create", "update", "patch", "delete"].contains(&verb)
                && it["objectRef"]["resource"] != "leases"
        });
        writes.count()
    }

    /// Verb and resource of everything that the operator asked for and may not.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        let requests = self.requests_of_operators();
        let refused = requests
            .iter()
            .filter(|it| it["responseStatus"]["code"] == 403);
        refused
            .map(|it| format!("{} {}", it["verb"], it["objectRef"]["resource"]))
            .collect()
    }

    fn requests_of_operators(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.control_plane.audit_log()).expect("there is a log");
        let requests: Vec<Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|it: &Value| it["user"]["username"] == OPERATOR)
            .collect();
        assert!(
            !requests.is_empty(),
            "the audit log shows what the operator asks"
        );
        requests
    }
}

/// Reason of a condition, if its status is as given.
pub(crate) fn reason(stream: &TensorStream, kind: &str, status: &str) -> Option<String> {
    let conditions = &stream.status.as_ref()?.conditions;
    let found = conditions
        .iter()
        .find(|it| it.type_ == kind && it.status == status);
    found.map(|it| it.reason.clone())
}
