//! `codegen`, second part: the Kubernetes API in YAML for the chart, and its field reference.
//!
//! The program `crdgen` of the crate `crds` writes both beneath a directory of ours; here they are
//! compared with the tree, or copied into it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{self, Show};
use crate::workspace::Workspace;

/// Everything in this directory is generated.
const TEMPLATES: &str = "helm/tensorpool-crds/templates";
const REFERENCE: &str = "docs/kubernetes-api.md";

/// Makes the files anew in `target`, and with `check` compares them with those in the tree. Returns
/// how many there are.
pub(crate) fn run(workspace: &Workspace, target: &Path, check: bool) -> Result<usize, String> {
    let out = target.join("crdgen");
    if out.exists() {
        fs::remove_dir_all(&out)
            .map_err(|error| format!("could not empty {}: {error}", out.display()))?;
    }
    let mut cargo = workspace.cargo(target);
    cargo.args(["run", "--quiet", "--locked", "--package", "tensorpool-crds"]);
    cargo.args(["--features", "crdgen", "--bin", "crdgen", "--"]);
    cargo.arg(&out);
    command::run(&mut cargo, Show::Errors)?.success("crdgen")?;
    let mut made = files_in(&out.join(TEMPLATES))?;
    let kept = files_in(&workspace.root.join(TEMPLATES)).unwrap_or_default();
    if let Some(stale) = kept.difference(&made).next() {
        return Err(format!(
            "{TEMPLATES}/{stale} is not generated any more; remove it"
        ));
    }
    let templates = std::mem::take(&mut made).into_iter();
    let names: Vec<String> = templates
        .map(|name| format!("{TEMPLATES}/{name}"))
        .chain([REFERENCE.to_owned()])
        .collect();
    for name in &names {
        let (from, to) = (out.join(name), workspace.root.join(name));
        if check {
            compare(name, &from, &to)?;
        } else {
            copy(&from, &to)?;
        }
    }
    Ok(names.len())
}

fn files_in(directory: &Path) -> Result<BTreeSet<String>, String> {
    let entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("could not list {}: {error}", directory.display()))?;
    let names = entries.iter().map(|it| it.file_name());
    Ok(names.map(|it| it.to_string_lossy().into_owned()).collect())
}

fn compare(name: &str, made: &PathBuf, kept: &PathBuf) -> Result<(), String> {
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
    if read(made) == read(kept) {
        return Ok(());
    }
    Err(format!(
        "{name} differs from what crds/src says; run `cargo xtask codegen` and look at the difference"
    ))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent)
        .and_then(|()| fs::copy(from, to))
        .map(drop)
        .map_err(|error| format!("could not write {}: {error}", to.display()))
}
