//! The field reference: one table per kind, from the same schema that the API server has.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

/// The page.
pub(crate) fn of(crds: &[CustomResourceDefinition]) -> String {
    let mut page = String::from(
        "# API reference\n\nMade by `cargo xtask codegen` from `crds/src`; do not edit. `kubectl explain` shows the same. What the kinds are for is in [kubernetes.md](kubernetes.md).\n",
    );
    for crd in crds {
        kind(&mut page, crd);
    }
    page
}

fn kind(page: &mut String, crd: &CustomResourceDefinition) {
    let names = &crd.spec.names;
    let short = names
        .short_names
        .iter()
        .flatten()
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let Some(version) = crd.spec.versions.first() else {
        return;
    };
    let Some(schema) = version
        .schema
        .as_ref()
        .and_then(|it| it.open_api_v3_schema.as_ref())
    else {
        return;
    };
    line(
        page,
        format_args!(
            "\n## {}\n\n{}\n\n`{}/{}`, {}, short name `{short}`.\n",
            names.kind,
            text(schema.description.as_deref()),
            crd.spec.group,
            version.name,
            if crd.spec.scope == "Namespaced" {
                "namespaced"
            } else {
                "cluster-wide"
            },
        ),
    );
    line(
        page,
        format_args!("| field | type | meaning |\n|---|---|---|"),
    );
    fields(page, schema, "");
    rules(page, schema);
}

fn fields(page: &mut String, schema: &JSONSchemaProps, path: &str) {
    for (name, field) in schema.properties.iter().flatten() {
        let required = schema.required.iter().flatten().any(|it| it == name);
        let path = format!("{path}.{}", quoted(name));
        line(
            page,
            format_args!(
                "| `{}` | {}{} | {}{} |",
                path.trim_start_matches('.'),
                type_of(field),
                if required { ", required" } else { "" },
                text(field.description.as_deref()),
                constraints(field),
            ),
        );
        fields(page, field, &path);
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = &field.items {
            fields(page, item, &format!("{path}[]"));
        }
    }
}

/// A name with a dot is one step of a path.
fn quoted(name: &str) -> String {
    if name.contains('.') {
        format!("['{name}']")
    } else {
        name.to_owned()
    }
}

fn type_of(field: &JSONSchemaProps) -> String {
    if field.x_kubernetes_int_or_string == Some(true) {
        return "quantity".to_owned();
    }
    let name = field.type_.as_deref().unwrap_or("any");
    match (name, &field.items) {
        ("array", Some(JSONSchemaPropsOrArray::Schema(item))) => {
            format!("list of {}", type_of(item))
        }
        ("object", _) if field.additional_properties.is_some() => "map of strings".to_owned(),
        _ => name.to_owned(),
    }
}

fn constraints(field: &JSONSchemaProps) -> String {
    let mut words = String::new();
    if let Some(values) = &field.enum_ {
        let values: Vec<String> = values
            .iter()
            .filter(|value| !value.0.is_null())
            .map(|value| format!("`{}`", value.0.to_string().trim_matches('"')))
            .collect();
        append(&mut words, format_args!(" One of {}.", values.join(", ")));
    }
    if let Some(default) = &field.default {
        append(&mut words, format_args!(" Default `{}`.", default.0));
    }
    words
}

/// The rules of the whole object, with what they say when they are broken.
fn rules(page: &mut String, schema: &JSONSchemaProps) {
    let mut found = Vec::new();
    collect(schema, &mut found);
    if found.is_empty() {
        return;
    }
    line(page, format_args!("\nRules:\n"));
    for rule in found {
        line(page, format_args!("- {rule}"));
    }
}

fn collect(schema: &JSONSchemaProps, found: &mut Vec<String>) {
    let rules = schema.x_kubernetes_validations.iter().flatten();
    for message in rules.filter_map(|rule| rule.message.clone()) {
        if !found.contains(&message) {
            found.push(message);
        }
    }
    for field in schema.properties.iter().flat_map(|it| it.values()) {
        collect(field, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        collect(item, found);
    }
}

/// Text for a cell of a table.
fn text(description: Option<&str>) -> String {
    description
        .unwrap_or_default()
        .replace('\n', " ")
        .replace('|', "\\|")
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    append(page, text);
    page.push('\n');
}

fn append(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes every text");
}
