//! Rust files: each is compiled, unsafe code stands where it may, forbidden words stand nowhere.

use std::collections::BTreeSet;

use crate::tree::{
    code_of, files, is_test, metadata, none, production_lines, read, relative, root,
};

/// The only files with unsafe code; each can be read in one sitting.
const UNSAFE_FILES: [&str; 5] = [
    "node-driver/src/csi/mount.rs",
    "shm/src/fault.rs",
    "shm/src/region.rs",
    "shm/src/words.rs",
    "wire/transport/src/aeron/ffi.rs",
];

/// Names that say nothing about what a module owns.
const EMPTY_NAMES: [&str; 6] = ["common", "details", "helpers", "manager", "types", "util"];

#[test]
fn every_rust_file_is_compiled() {
    let mut reached = BTreeSet::new();
    let mut open = roots();
    while let Some(file) = open.pop() {
        if reached.insert(file.clone()) {
            open.extend(modules_of(&file));
        }
    }
    let orphans: Vec<String> = files(&[".rs"])
        .into_iter()
        .filter(|file| !reached.contains(file))
        .collect();
    none("files that no crate compiles", &orphans);
}

#[test]
fn unsafe_code_stands_only_in_the_files_named_for_it() {
    let mut findings = Vec::new();
    for file in files(&[".rs"]) {
        if UNSAFE_FILES.contains(&file.as_str()) || file.contains("/tests/ui/") {
            continue;
        }
        for (index, line) in read(&file).lines().enumerate() {
            let code = code_of(line);
            let mut words = code.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            if words.any(|word| word == "unsafe") {
                findings.push(format!("{file}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    none("unsafe outside the files for it", &findings);
}

#[test]
fn nothing_unfinished_or_nameless_is_left() {
    let mut findings = Vec::new();
    for file in files(&[".rs"]) {
        let name = file.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        let name = name.rsplit('/').next().unwrap_or_default();
        if EMPTY_NAMES.contains(&name) {
            findings.push(format!("{file}: a name that says nothing"));
        }
        if file.starts_with("xtask/tests/tidy/") {
            continue;
        }
        for (index, line) in read(&file).lines().enumerate() {
            let place = format!("{file}:{}", index + 1);
            if let Some(word) = unfinished(line) {
                findings.push(format!("{place}: {word}"));
            }
        }
    }
    none("unfinished or nameless things", &findings);
}

#[test]
fn our_own_code_does_not_unwrap() {
    let mut findings = Vec::new();
    for file in files(&[".rs"]).into_iter().filter(|file| !is_test(file)) {
        for (number, line) in production_lines(&read(&file)) {
            if code_of(line).contains(".unwrap()") {
                findings.push(format!("{file}:{number}: {}", line.trim()));
            }
        }
    }
    none("unwraps outside tests", &findings);
}

#[test]
fn every_ignored_test_says_why() {
    let mut findings = Vec::new();
    for file in files(&[".rs"]) {
        for (index, line) in read(&file).lines().enumerate() {
            if code_of(line).trim() == "#[ignore]" {
                findings.push(format!("{file}:{}", index + 1));
            }
        }
    }
    none("tests ignored without a reason", &findings);
}

fn unfinished(line: &str) -> Option<&'static str> {
    let marks = ["todo!(", "unimplemented!(", "dbg!("];
    let code = code_of(line);
    if let Some(mark) = marks.into_iter().find(|mark| code.contains(mark)) {
        return Some(mark);
    }
    let comment = line.split_once("//").map_or("", |(_, comment)| comment);
    ["TODO", "FIXME", "XXX", "SPDX-License", "Copyright"]
        .into_iter()
        .find(|word| comment.contains(word))
}

/// The first file of every target, of every fuzz target, and the files that compile-fail tests
/// read.
fn roots() -> Vec<String> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array();
    let targets = packages
        .into_iter()
        .flatten()
        .filter_map(|package| package["targets"].as_array());
    let mut roots: Vec<String> = targets
        .flatten()
        .filter_map(|target| target["src_path"].as_str())
        .map(relative)
        .collect();
    for manifest in files(&["Cargo.toml"]) {
        let Some(directory) = manifest.strip_suffix("fuzz/Cargo.toml") else {
            continue;
        };
        let named = read(&manifest);
        let named = named.lines().filter_map(|line| {
            let path = line.trim().strip_prefix("path = \"")?;
            path.strip_suffix(".rs\"").map(str::to_owned)
        });
        roots.extend(named.map(|path| format!("{directory}fuzz/{path}.rs")));
        let library = format!("{directory}fuzz/src/lib.rs");
        roots.extend(root().join(&library).is_file().then_some(library));
    }
    let of_ui_tests = |file: &String| file.contains("/tests/ui/");
    roots.extend(files(&[".rs"]).into_iter().filter(of_ui_tests));
    roots
}

/// The files of the modules that a file declares.
fn modules_of(file: &str) -> Vec<String> {
    let Some((directory, name)) = file.rsplit_once('/') else {
        return Vec::new();
    };
    let stem = name.trim_end_matches(".rs");
    let own_directory = ["lib", "main", "mod"].contains(&stem) || roots_directory(directory);
    let below = if own_directory {
        directory.to_owned()
    } else {
        format!("{directory}/{stem}")
    };
    let mut found = Vec::new();
    let mut path: Option<String> = None;
    let mut conditional: Option<String> = None;
    let mut nesting: Vec<(usize, String)> = Vec::new();
    for line in read(file).lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim();
        if text == "}" && nesting.last().is_some_and(|(level, _)| *level == indent) {
            nesting.pop();
        }
        if let Some((_, given)) = text
            .split_once("path = \"")
            .filter(|(before, _)| before.starts_with("#["))
        {
            path = given.split('"').next().map(str::to_owned);
            if text.starts_with("#[cfg_attr") {
                // Without the condition the module stands in its usual place.
                conditional = path.take();
            }
        } else if let Some(declared) = module_name(text) {
            let mut base = below.clone();
            for (_, outer) in &nesting {
                base = format!("{base}/{outer}");
            }
            if let Some(name) = declared.strip_suffix(';') {
                let elsewhere = conditional.take().into_iter();
                found.extend(elsewhere.map(|given| joined(directory, &given)));
                let candidates = match path.take() {
                    Some(given) => vec![joined(directory, &given)],
                    None => vec![format!("{base}/{name}.rs"), format!("{base}/{name}/mod.rs")],
                };
                let there = |candidate: &String| root().join(candidate).is_file();
                found.extend(candidates.into_iter().filter(there));
            } else if let Some(name) = declared.strip_suffix(" {") {
                nesting.push((indent, name.to_owned()));
            }
        }
    }
    found
}

/// A path relative to a directory, without `..`.
fn joined(directory: &str, given: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').collect();
    for part in given.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// Roots of integration tests, benches and examples own the directory that they stand in.
fn roots_directory(directory: &str) -> bool {
    ["tests", "benches", "examples", "bin", "fuzz_targets"]
        .iter()
        .any(|name| directory.ends_with(&format!("/{name}")))
}

/// `name;` or `name {` of a module declaration.
fn module_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub").map_or(line, |rest| {
        let rest = rest.trim_start();
        rest.strip_prefix('(')
            .and_then(|rest| rest.split_once(") "))
            .map_or(rest, |(_, rest)| rest)
    });
    rest.strip_prefix("mod ")
}
