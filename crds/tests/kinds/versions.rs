//! What v1alpha1 looks like on disk. An object that was stored once stays readable, and nothing of it
//! is lost when it is written again.

use crate::corpus::corpus;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tensorpool_crds::{
    AcceptedReason, ClassReason, NodeCondition, NodeReason, ProgrammedReason, ReadyReason,
    StreamCondition, TensorPoolClass, TensorPoolNode, TensorPriorityClass, TensorQuota,
    TensorStream,
};

#[test]
fn corpus_survives_the_way_through_the_types() {
    let mut count = 0;
    for (file, cases) in corpus() {
        for case in cases.into_iter().filter(|case| case.accepted) {
            count += 1;
            let once = through_the_types(&file, &case.object);
            assert_kept(&case.object, &once, &case.name);
            assert_eq!(through_the_types(&file, &once), once, "{}", case.name);
        }
    }
    assert!(count > 20, "only {count} objects");
}

#[test]
fn stored_objects_of_every_version_keep_every_byte() {
    for (file, text) in [
        (
            "tensorstream",
            include_str!("versions/v1alpha1-tensorstream.json"),
        ),
        (
            "tensorpoolclass",
            include_str!("versions/v1alpha1-tensorpoolclass.json"),
        ),
        (
            "tensorpoolnode",
            include_str!("versions/v1alpha1-tensorpoolnode.json"),
        ),
        (
            "tensorquota",
            include_str!("versions/v1alpha1-tensorquota.json"),
        ),
        (
            "tensorpriorityclass",
            include_str!("versions/v1alpha1-tensorpriorityclass.json"),
        ),
    ] {
        let stored: Value = serde_json::from_str(text).expect("it is JSON");
        assert_eq!(through_the_types(file, &stored), stored, "{file}");
        let leaves = count_leaves(&stored);
        let schema_leaves = schema_leaves(file);
        assert_eq!(
            leaves.len(),
            schema_leaves.len(),
            "{file}: the stored object sets every field: {:?}",
            schema_leaves
                .iter()
                .filter(|it| !leaves.contains(*it))
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn words_of_conditions_are_as_recorded() {
    let words = [
        (
            "stream conditions",
            all(StreamCondition::ALL, StreamCondition::as_str),
        ),
        ("Accepted", all(AcceptedReason::ALL, AcceptedReason::as_str)),
        (
            "Programmed",
            all(ProgrammedReason::ALL, ProgrammedReason::as_str),
        ),
        ("Ready", all(ReadyReason::ALL, ReadyReason::as_str)),
        (
            "Ready of a class",
            all(ClassReason::ALL, ClassReason::as_str),
        ),
        (
            "node conditions",
            all(NodeCondition::ALL, NodeCondition::as_str),
        ),
        (
            "reasons of a node",
            all(NodeReason::ALL, NodeReason::as_str),
        ),
    ];
    insta::assert_debug_snapshot!("words", words);
}

fn all<T: Copy>(words: &[T], name: impl Fn(T) -> &'static str) -> Vec<&'static str> {
    words.iter().copied().map(name).collect()
}

fn through_the_types(file: &str, object: &Value) -> Value {
    fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
        let typed: T = serde_json::from_value(object.clone()).expect("it is such an object");
        serde_json::to_value(typed).expect("it is JSON")
    }
    match file {
        "tensorstream" => through::<TensorStream>(object),
        "tensorpoolclass" => through::<TensorPoolClass>(object),
        "tensorpoolnode" => through::<TensorPoolNode>(object),
        "tensorquota" => through::<TensorQuota>(object),
        "tensorpriorityclass" => through::<TensorPriorityClass>(object),
        other => panic!("{other} is no kind"),
    }
}

/// Everything that was there is still there; a quantity may have become text, an absent field its
/// default, and what is empty may be gone.
fn assert_kept(before: &Value, after: &Value, context: &str) {
    match (before, after) {
        (Value::Object(before), after) => {
            for (name, value) in before.iter().filter(|(_, value)| !is_empty(value)) {
                assert_kept(value, &after[name], &format!("{context}: {name}"));
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len(), "{context}");
            for (before, after) in before.iter().zip(after) {
                assert_kept(before, after, context);
            }
        }
        (Value::Number(number), Value::String(text)) => {
            assert_eq!(number.to_string(), *text, "{context}");
        }
        (before, after) => assert_eq!(before, after, "{context}"),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Paths of all leaves of an object below spec, status and the like.
fn count_leaves(object: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            leaves(value, name, &mut paths);
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

fn leaves(value: &Value, path: &str, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !path.ends_with("nodeSelector") => {
            for (name, value) in fields {
                leaves(value, &format!("{path}.{name}"), paths);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| leaves(item, path, paths)),
        _ => paths.push(path.to_owned()),
    }
}

/// The same of the schema.
fn schema_leaves(singular: &str) -> Vec<String> {
    fn walk(schema: &Value, path: &str, paths: &mut Vec<String>) {
        let schema = if schema["items"].is_object() {
            &schema["items"]
        } else {
            schema
        };
        match schema["properties"].as_object() {
            Some(fields) => {
                for (name, field) in fields {
                    let joint = if path.is_empty() { "" } else { "." };
                    walk(field, &format!("{path}{joint}{name}"), paths);
                }
            }
            None => paths.push(path.to_owned()),
        }
    }
    let crds = tensorpool_crds::crds();
    let crd = crds
        .iter()
        .find(|crd| crd.spec.names.singular.as_deref() == Some(singular));
    let schema = serde_json::to_value(&crd.expect("it is a kind").spec.versions[0].schema);
    let mut paths = Vec::new();
    walk(
        &schema.expect("it is JSON")["openAPIV3Schema"],
        "",
        &mut paths,
    );
    paths.sort();
    paths
}
