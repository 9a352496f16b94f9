//! Pairs of pods under users that pods rarely have, each with a stream and a namespace of its own.

use serde_json::{Value, json};

use crate::world::World;

/// Frames that each consumer waits for.
const FRAMES: &str = "1000";

/// A producer and a consumer, in a namespace that is called like its stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) name: &'static str,
    /// Pod Security level of the namespace.
    pub(super) level: &'static str,
    pub(super) user: u32,
    /// Whether the users of the pods are those of the node.
    pub(super) host_users: bool,
    /// What the consumer does, behind `/exchange`.
    pub(super) consumer: &'static [&'static str],
}

const REMAPPED: Pair = Pair {
    name: "remapped",
    level: "restricted",
    user: 10_001,
    host_users: false,
    consumer: &["consume", "remapped", FRAMES],
};
const PAIRS: [Pair; 3] = [
    REMAPPED,
    Pair {
        name: "roots",
        level: "baseline",
        user: 0,
        host_users: true,
        consumer: &["consume", "roots", FRAMES],
    },
    Pair {
        name: "namesakes",
        level: "restricted",
        user: 65_532,
        host_users: true,
        consumer: &["consume", "namesakes", FRAMES],
    },
];

/// Those that can be on this node.
fn pairs(world: &World) -> Result<Vec<Pair>, String> {
    let output = "--output=jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}";
    let runtime = world.kubectl(&["get", "nodes", output])?;
    let has_user_namespaces = !runtime.starts_with("containerd://1.");
    if !has_user_namespaces {
        println!("{runtime} has no user namespaces: no pair with `hostUsers: false`");
    }
    let can_be = |pair: &Pair| pair.host_users || has_user_namespaces;
    Ok(PAIRS.into_iter().filter(can_be).collect())
}

/// Begins: their images and volumes come while other steps go on.
pub(super) fn begin(world: &World) -> Result<(), String> {
    for pair in pairs(world)? {
        world.apply(&pair.objects())?;
    }
    Ok(())
}

/// Each consumer has its frames, and each pod has the user that it should.
pub(super) fn exchange(world: &World) -> Result<(), String> {
    for pair in pairs(world)? {
        let name = pair.name;
        let wait = ["wait", "--for=jsonpath={.status.phase}=Succeeded"];
        let most = ["pod/consumer", "--namespace", name, "--timeout=60s"];
        world.kubectl(&[&wait[..], &most].concat())?;
        let said = world.kubectl(&["logs", "--namespace", name, "consumer"])?;
        let last = said.lines().last().unwrap_or_default();
        let process = format!(
            "pid=$(pgrep --full '^/exchange produce {name}$'); awk '$1 == \"Uid:\" {{ print $2 }}' /proc/$pid/status; awk '{{ print $2 }}' /proc/$pid/uid_map"
        );
        let process = world.inside("sh", &["-c", &process])?;
        let mut numbers = process.lines().map(|line| line.parse::<u32>().ok());
        let (Some(user), Some(first)) = (numbers.next().flatten(), numbers.next().flatten()) else {
            return Err(format!("{name}: who it runs as cannot be seen: {process}"));
        };
        println!("{name}: as user {user} of the node, whose {first} is its 0: {last}");
        if (first == 0) != pair.host_users || user != first + pair.user {
            return Err(format!("{name} runs as user {user}, from {first}"));
        }
        let wanted = format!("{FRAMES} frames of 16001 bytes were as they should be, 0 were lost");
        if last != wanted {
            return Err(format!("{name} did not say `{wanted}`"));
        }
    }
    Ok(())
}

/// Takes them away, and waits until they are.
pub(super) fn end(world: &World) -> Result<(), String> {
    for pair in pairs(world)? {
        let delete = ["delete", "namespace", pair.name, "--wait=false"];
        world.kubectl(&delete)?;
    }
    Ok(())
}

impl Pair {
    /// Everything that it needs.
    pub(super) fn objects(&self) -> [Value; 7] {
        let name = self.name;
        let role = |binding: &str| {
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": binding, "namespace": name},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": format!("tensorpool-{binding}"),
                },
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": name}],
            })
        };
        [
            json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": self.level}},
            }),
            json!({
                "apiVersion": "tensorpool.io/v1alpha1",
                "kind": "TensorStream",
                "metadata": {"name": name, "namespace": name},
                "spec": {"layout": {"headerSlots": 512, "pools": [{"poolId": 1, "strideBytes": 16384}]}},
            }),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": name}}),
            role("producer"),
            role("consumer"),
            self.producer(),
            self.pod("consumer", "consume", self.consumer),
        ]
    }

    pub(super) fn producer(&self) -> Value {
        self.pod("producer", "produce", &["produce", self.name])
    }

    fn pod(&self, pod: &str, access: &str, words: &[&str]) -> Value {
        let name = self.name;
        let command: Vec<&str> = [&["/exchange"], words].concat();
        let mut security =
            json!({"runAsUser": self.user, "seccompProfile": {"type": "RuntimeDefault"}});
        let mut container = json!({});
        if self.level == "restricted" {
            security["runAsNonRoot"] = json!(true);
            container =
                json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        }
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": name},
            "spec": {
                "serviceAccountName": name,
                "automountServiceAccountToken": false,
                "hostUsers": self.host_users,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "securityContext": security,
                "containers": [{
                    "name": "exchange",
                    "image": concat!("tensorpool.io/examples:", env!("CARGO_PKG_VERSION")),
                    "command": command,
                    "securityContext": container,
                    "volumeMounts": [{"name": "stream", "mountPath": "/run/tensorpool", "readOnly": true}],
                }],
                "volumes": [{"name": "stream", "csi": {
                    "driver": "csi.tensorpool.io", "readOnly": true,
                    "volumeAttributes": {"stream": name, "access": access},
                }}],
            },
        })
    }
}
