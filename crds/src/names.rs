//! Names that every writer and reader of the API shares.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{TensorPoolClass, TensorPoolNode, TensorPriorityClass, TensorQuota, TensorStream};

/// API group of all kinds.
pub const GROUP: &str = "tensorpool.io";

/// API version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// `kubectl get tensorpool` lists every kind of this category. Not `all`: that is noise.
pub const CATEGORY: &str = "tensorpool";

/// Finalizer of a [`TensorStream`]: removed by the operator when no node holds the stream any more.
pub const FINALIZER: &str = "tensorpool.io/teardown";

/// Beginning of the name of a driver's Lease, in the namespace of the release; the node's name follows.
/// The driver renews it every 30 s.
pub const DRIVER_LEASE_PREFIX: &str = "tensorpool-node-";

/// The definitions of all kinds, in the order in which a person meets them.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        TensorStream::crd(),
        TensorPoolClass::crd(),
        TensorPoolNode::crd(),
        TensorQuota::crd(),
        TensorPriorityClass::crd(),
    ];
    let versions = crds.iter_mut().flat_map(|crd| &mut crd.spec.versions);
    for schema in versions.filter_map(|version| version.schema.as_mut()) {
        if let Some(schema) = schema.open_api_v3_schema.as_mut() {
            finish(schema);
        }
    }
    crds
}

/// Two changes to what the derive makes. `nullable` goes: the API server then drops a null before it
/// looks at rules and defaults, so `has()` in a rule means what it says. And lines of the source are
/// joined to paragraphs, which `kubectl explain` breaks where its terminal wants.
fn finish(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(text) = &mut schema.description {
        let paragraphs = text.split("\n\n").map(|lines| lines.replace('\n', " "));
        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
    for field in schema.properties.iter_mut().flat_map(|it| it.values_mut()) {
        finish(field);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => finish(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(finish),
        None => {}
    }
    match &mut schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(value)) => finish(value),
        Some(JSONSchemaPropsOrBool::Bool(_)) | None => {}
    }
}
