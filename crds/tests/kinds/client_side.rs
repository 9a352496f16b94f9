//! The verdicts without an API server: schema and CEL rules.

use crate::corpus::{Finding, corpus};
use jsonschema::error::ValidationErrorKind;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::Validator;
use serde_json::{Map, Value, json};

#[test]
fn corpus_gets_its_verdicts_from_schema_and_rules() {
    let mut contradictions = Vec::new();
    let mut count = 0;
    for (file, cases) in corpus() {
        let validator = Client::of(&file);
        for case in cases {
            count += 1;
            if let Some(before) = &case.before {
                assert_eq!(
                    validator.findings(before, None),
                    [],
                    "{file}: {}",
                    case.name
                );
            }
            let findings = validator.findings(&case.object, case.before.as_ref());
            contradictions.extend(case.contradiction(&findings));
        }
    }
    assert_eq!(contradictions, Vec::<String>::new());
    println!("count: API objects (client side) = {count}");
}

#[test]
fn every_rule_is_broken_by_some_object_of_the_corpus() {
    let cases: Vec<_> = corpus().into_iter().flat_map(|(_, cases)| cases).collect();
    let words: Vec<String> = cases
        .iter()
        .filter_map(|case| case.refused.as_ref()?.words.clone())
        .collect();
    let mut untested = Vec::new();
    for crd in tensorpool_crds::crds() {
        for message in messages(&schema_of(&crd)) {
            if !words.iter().any(|part| message.contains(part)) {
                untested.push(message);
            }
        }
    }
    assert_eq!(untested, Vec::<String>::new());
}

/// The checks of one kind.
struct Client {
    rules: Value,
    schema: jsonschema::Validator,
    raw: Value,
}

impl Client {
    fn of(singular: &str) -> Self {
        let crd = tensorpool_crds::crds()
            .into_iter()
            .find(|crd| crd.spec.names.singular.as_deref() == Some(singular))
            .unwrap_or_else(|| panic!("{singular} is a kind"));
        let rules = schema_of(&crd);
        let mut strict = rules.clone();
        as_json_schema(&mut strict, true);
        Self {
            schema: jsonschema::validator_for(&strict).expect("the schema is one"),
            raw: rules.clone(),
            rules,
        }
    }

    fn findings(&self, object: &Value, before: Option<&Value>) -> Vec<Finding> {
        let object = without_nulls(object);
        let mut findings: Vec<Finding> = self
            .schema
            .iter_errors(&object)
            .flat_map(|e| of_schema(&e))
            .collect();
        duplicates(&self.raw, &object, "", &mut findings);
        // As the API server: rules are for objects that fit the schema.
        if findings.is_empty()
            && let Err(errors) =
                Validator::new().validate(&self.rules, &object, before.map(without_nulls).as_ref())
        {
            findings.extend(errors.as_slice().iter().map(|error| Finding {
                field: error.field_path.clone(),
                message: error.message.clone(),
            }));
        }
        findings
    }
}

fn schema_of(crd: &CustomResourceDefinition) -> Value {
    let schema = crd.spec.versions[0]
        .schema
        .as_ref()
        .expect("a version has a schema");
    serde_json::to_value(&schema.open_api_v3_schema).expect("a schema is JSON")
}

/// Turns Kubernetes' dialect into JSON Schema: unknown fields are refused (as `kubectl` has the API
/// server do), and a quantity is a number or text.
fn as_json_schema(schema: &mut Value, is_root: bool) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    if fields.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        fields.insert("type".to_owned(), json!(["integer", "string"]));
    }
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        if is_root {
            for name in ["apiVersion", "kind", "metadata"] {
                properties.insert(name.to_owned(), json!({}));
            }
        }
        properties
            .values_mut()
            .for_each(|it| as_json_schema(it, false));
        fields.insert("additionalProperties".to_owned(), json!(false));
    }
    if let Some(items) = fields.get_mut("items") {
        as_json_schema(items, false);
    }
}

fn of_schema(error: &jsonschema::ValidationError<'_>) -> Vec<Finding> {
    let path = dotted(error.instance_path().as_str());
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    let fields = match error.kind() {
        ValidationErrorKind::Required { property } => {
            vec![below(property.as_str().unwrap_or_default())]
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|name| below(name)).collect()
        }
        _ => vec![path],
    };
    let message = error.to_string();
    fields
        .into_iter()
        .map(|field| Finding {
            field,
            message: message.clone(),
        })
        .collect()
}

/// `/spec/pools/0/size` becomes `spec.pools[0].size`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for step in pointer.split('/').skip(1) {
        if step.chars().all(|char| char.is_ascii_digit()) {
            path.push_str(&format!("[{step}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(step);
        }
    }
    path
}

/// Lists that are sets or maps hold nothing twice; JSON Schema cannot say that of keys.
fn duplicates(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        duplicates(&schema["properties"][name], field, &path, findings);
    }
    let keys: Vec<&str> = match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            keys.into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect()
        }
        Some("set") => Vec::new(),
        _ => return duplicates_below(schema, value, path, findings),
    };
    let mut seen: Vec<Value> = Vec::new();
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        let key = if keys.is_empty() {
            item.clone()
        } else {
            keys.iter().map(|key| item[key].clone()).collect()
        };
        if seen.contains(&key) {
            findings.push(Finding {
                field: format!("{path}[{index}]"),
                message: format!("duplicate {key}"),
            });
        }
        seen.push(key);
    }
    duplicates_below(schema, value, path, findings);
}

fn duplicates_below(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        duplicates(
            &schema["items"],
            item,
            &format!("{path}[{index}]"),
            findings,
        );
    }
}

/// The API server drops nulls of fields that are not nullable; none is.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            let kept = kept.map(|(name, value)| (name.clone(), without_nulls(value)));
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Messages of all rules, at any depth.
fn messages(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(fields) => {
            let rules = fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array);
            let own = rules.into_iter().flatten().map(|rule| {
                let message = rule["message"].as_str();
                message.expect("every rule has a message").to_owned()
            });
            own.chain(fields.values().flat_map(messages)).collect()
        }
        Value::Array(items) => items.iter().flat_map(messages).collect(),
        _ => Vec::new(),
    }
}
