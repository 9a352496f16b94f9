//! The files of the repository, and what each test reads of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask stands in the root").into()
}

/// Files that git tracks or would track, relative to the root, with one of the endings.
pub(crate) fn files(endings: &[&str]) -> Vec<String> {
    let listed = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .expect("git runs");
    assert!(listed.status.success(), "git ls-files failed");
    let listed = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let chosen: BTreeSet<String> = listed
        .lines()
        .filter(|file| endings.iter().any(|ending| file.ends_with(ending)))
        .filter(|file| root().join(file).is_file())
        .map(str::to_owned)
        .collect();
    assert!(!chosen.is_empty(), "no file ends with {endings:?}");
    chosen.into_iter().collect()
}

/// The text of one file.
pub(crate) fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What `cargo metadata` says of the workspace's own packages.
pub(crate) fn metadata() -> Value {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata failed");
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// A path relative to the root, as git names it.
pub(crate) fn relative(path: &str) -> String {
    let path = Path::new(path).strip_prefix(root());
    path.expect("inside the checkout").display().to_string()
}

/// The line without strings' content, characters and the comment at its end. Good enough for
/// formatted code; a string over several lines is not seen.
pub(crate) fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut letters = line.chars().peekable();
    let mut in_string = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if in_string => {
                letters.next();
            }
            '"' => {
                in_string = !in_string;
                code.push('"');
            }
            '/' if !in_string && letters.peek() == Some(&'/') => break,
            other if !in_string => code.push(other),
            _ => {}
        }
    }
    code
}

/// Whether a file is test code as a whole.
pub(crate) fn is_test(file: &str) -> bool {
    ["/tests/", "/benches/", "/fuzz/", "/examples/"]
        .iter()
        .any(|part| file.contains(part))
        || file.ends_with("/tests.rs")
        || file.ends_with("_tests.rs")
}

/// Line numbers (from 1) and texts outside `#[cfg(test)] mod … { }`.
pub(crate) fn production_lines(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut guarded = false;
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let names = |word: &str| line.contains(word) && !line.contains(&format!("not({word}"));
        let is_guard = line.starts_with("#[cfg(") && (names("test") || names("loom"));
        if inside {
            inside = line != "}";
        } else if guarded && line.starts_with("mod ") && line.ends_with('{') {
            inside = true;
            guarded = false;
        } else {
            guarded = is_guard || guarded && line.starts_with("#[");
            lines.push((index + 1, line));
        }
    }
    lines
}

/// Fails with all findings, each on its line.
pub(crate) fn none(what: &str, findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{} {what}:\n  {}",
        findings.len(),
        findings.join("\n  ")
    );
}
