//! Specs written by hand, as the operator compiles them.

use serde_json::{Value, json};

/// A stream of namespace `vision`, in the class `default`.
pub(crate) fn stream(name: &str, id: u32) -> Value {
    json!({
        "namespace": "vision", "name": name, "uid": format!("uid-{name}"), "streamId": id,
        "className": "default", "pageSize": "4Ki", "bytes": 12_288, "priority": 0,
        "preemptionPolicy": "Never", "limits": {"producers": 1, "consumers": 4},
        "layout": {"headerSlots": 8, "pools": [{"poolId": 1, "strideBytes": 64}]},
    })
}

/// The object of a node with the class `default` and these streams.
pub(crate) fn node(name: &str, revision: &str, streams: &[Value]) -> Value {
    json!({
        "apiVersion": "tensorpool.io/v1alpha1", "kind": "TensorPoolNode",
        "metadata": {"name": name},
        "spec": {
            "policyRevision": revision,
            "pools": [{
                "className": "default", "pageSize": "4Ki", "sizeBytes": 67_108_864,
                "transports": ["Socket"], "domain": "default",
            }],
            "streams": streams,
        },
    })
}
