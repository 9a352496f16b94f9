//! `crdgen DIR`: writes what is generated from the types: the chart's YAML and the field reference.
//!
//! Files go beneath `DIR` under the names that they have in the repository. `cargo xtask codegen` calls
//! this and compares, or copies.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

mod reference;

/// Where the chart's templates lie.
const TEMPLATES: &str = "helm/tensorpool-crds/templates";

/// Where the field reference lies.
const REFERENCE: &str = "docs/kubernetes-api.md";

fn main() -> ExitCode {
    let Some(directory) = env::args_os().nth(1) else {
        eprintln!("usage: crdgen DIR");
        return ExitCode::FAILURE;
    };
    match run(Path::new(&directory)) {
        Ok(files) => {
            println!(
                "{files} files written beneath {}",
                Path::new(&directory).display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path) -> Result<usize, Failure> {
    let crds = tensorpool_crds::crds();
    for crd in &crds {
        let name = format!("{TEMPLATES}/{}.yaml", crd.spec.names.plural);
        write(directory.join(name), &yaml(crd)?)?;
    }
    write(directory.join(REFERENCE), &reference::of(&crds))?;
    Ok(crds.len() + 1)
}

/// A definition as the chart carries it. The file is both a template and plain YAML for
/// `kubectl apply --server-side -f`; deleting the release keeps it, and with it everybody's objects.
fn yaml(crd: &CustomResourceDefinition) -> Result<String, Failure> {
    let mut crd = crd.clone();
    crd.metadata.annotations = Some(BTreeMap::from([(
        "helm.sh/resource-policy".to_owned(),
        "keep".to_owned(),
    )]));
    crd.metadata.labels = Some(BTreeMap::from([(
        "app.kubernetes.io/part-of".to_owned(),
        "tensorpool".to_owned(),
    )]));
    let mut value = serde_json::to_value(&crd)?;
    whole_numbers(&mut value);
    let text = serde_saphyr::to_string(&value)?;
    if text.contains("{{") {
        return Err(Failure::LooksLikeATemplate(crd.spec.names.kind));
    }
    Ok(format!(
        "# Made by `cargo xtask codegen` from crds/src. Do not edit.\n{text}"
    ))
}

/// Bounds are floating-point numbers in the type; `65535.0` becomes `65535`.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let text = number.to_string();
            let whole = text
                .strip_suffix(".0")
                .and_then(|text| text.parse::<i64>().ok());
            if let Some(whole) = whole {
                *number = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn write(path: PathBuf, text: &str) -> Result<(), Failure> {
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&path, text));
    written.map_err(|source| Failure::Write { path, source })
}

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A file could not be written.
    #[error("could not write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    /// A definition could not be serialized.
    #[error("a definition is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The same.
    #[error("a definition is no YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
    /// Helm would take a part of a description for a directive.
    #[error("a description of {0} contains `{{{{`, which Helm takes for a directive")]
    LooksLikeATemplate(String),
}
