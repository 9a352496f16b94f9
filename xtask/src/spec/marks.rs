//! Finds `// spec: ID, ID` marks in Rust sources and says which stand in tests.

use std::collections::{BTreeMap, BTreeSet};

/// One id of one mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The requirement that it names.
    pub(crate) id: String,
    /// The file, relative to the workspace.
    pub(crate) file: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// Whether it stands in a test.
    pub(crate) in_test: bool,
}

/// Whether a word has the form of a requirement id: `W-10.1.2-3`, `GC-1`, `D-B.1-2`, `X-sock-4`.
pub(crate) fn is_id(word: &str) -> bool {
    let prefix = word.split('-').next().unwrap_or_default();
    let known = ["W", "D", "DI", "T", "J", "R", "S", "GC", "X"].contains(&prefix);
    known
        && word.len() > prefix.len() + 1
        && word
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.')
}

/// All marks of the given files (path to text).
pub(crate) fn find(sources: &BTreeMap<String, String>) -> Vec<Mark> {
    let test_files = test_modules(sources);
    let mut marks = Vec::new();
    for (file, text) in sources {
        let whole_file = is_test_path(file)
            || test_files.iter().any(|module| {
                file == &format!("{module}.rs") || file.starts_with(&format!("{module}/"))
            });
        let inside = test_lines(text);
        for (index, line) in text.lines().enumerate() {
            for id in ids_of(line) {
                marks.push(Mark {
                    id,
                    file: file.clone(),
                    line: index + 1,
                    in_test: whole_file || inside.contains(&index),
                });
            }
        }
    }
    marks
}

/// The ids of the mark in a line, none if there is no mark.
fn ids_of(line: &str) -> Vec<String> {
    let Some((before, after)) = line.split_once("spec: ") else {
        return Vec::new();
    };
    let opens_comment = ["//", "//!"]
        .iter()
        .any(|opener| before.trim_end().ends_with(opener));
    if !opens_comment {
        return Vec::new();
    }
    after
        .split([',', ' '])
        .map(|word| word.trim_end_matches(['.', ';', ':', ')']))
        .filter(|word| !word.is_empty())
        .take_while(|word| is_id(word))
        .map(str::to_owned)
        .collect()
}

fn is_test_path(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or_default();
    file.starts_with("e2e/")
        || file.contains("/tests/")
        || file.contains("/fuzz/")
        || name == "tests.rs"
        || name.ends_with("_tests.rs")
}

/// Module paths (without `.rs`) that are declared `#[cfg(test)] mod name;`.
fn test_modules(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (file, text) in sources {
        let directory = module_directory(file);
        let mut guarded = false;
        for line in text.lines() {
            let declared = line.trim_start_matches("pub(crate) ").strip_prefix("mod ");
            if let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')) {
                if guarded {
                    modules.insert(format!("{directory}/{name}"));
                }
                guarded = false;
            } else {
                guarded = is_test_guard(line) || guarded && line.starts_with("#[");
            }
        }
    }
    modules
}

/// Where the sub-modules of a file are.
fn module_directory(file: &str) -> String {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    match stem.rsplit_once('/') {
        Some((directory, "lib" | "main" | "mod")) => directory.to_owned(),
        _ => stem.to_owned(),
    }
}

/// Whether an attribute compiles the next item for tests or models only.
fn is_test_guard(line: &str) -> bool {
    let names = |word: &str| line.contains(word) && !line.contains(&format!("not({word}"));
    line.starts_with("#[cfg(") && (names("test") || names("loom"))
}

/// Indices of the lines inside `#[cfg(test)] mod … { … }` at the top of a file.
fn test_lines(text: &str) -> BTreeSet<usize> {
    let mut lines = BTreeSet::new();
    let mut guarded = false;
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        if inside {
            lines.insert(index);
            inside = line != "}";
        } else if guarded && line.starts_with("mod ") && line.ends_with('{') {
            inside = true;
            guarded = false;
        } else {
            guarded = is_test_guard(line) || guarded && line.starts_with("#[");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(files: &[(&str, &str)]) -> Vec<(String, bool)> {
        let sources = files
            .iter()
            .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()))
            .collect();
        let found = find(&sources).into_iter();
        found.map(|mark| (mark.id, mark.in_test)).collect()
    }

    fn expect(pairs: &[(&str, bool)]) -> Vec<(String, bool)> {
        let owned = pairs.iter().map(|(id, test)| ((*id).to_owned(), *test));
        owned.collect()
    }

    #[test]
    fn a_mark_may_stand_alone_or_end_a_line_and_name_several_ids() {
        let text = "// spec: W-6-1, D-4.8-4\nlet x = 1; // spec: GC-1 because\n";
        assert_eq!(
            marks(&[("a/src/lib.rs", text)]),
            expect(&[("W-6-1", false), ("D-4.8-4", false), ("GC-1", false)])
        );
    }

    #[test]
    fn text_that_only_looks_like_a_mark_is_none() {
        let text = "let spec: W-6-1 = 3;\nprintln!(\"spec: W-6-1\");\n";
        assert_eq!(marks(&[("a/src/lib.rs", text)]), []);
    }

    #[test]
    fn test_modules_inline_and_in_their_own_file_are_tests() {
        let lib = "// spec: W-1-1\n#[cfg(test)]\nmod checks;\n#[cfg(test)]\nmod tests {\n    // spec: W-1-2\n}\n// spec: W-1-3\n";
        assert_eq!(
            marks(&[
                ("a/src/checks.rs", "// spec: W-1-4\n"),
                ("a/src/lib.rs", lib),
                ("a/tests/all.rs", "// spec: W-1-5\n"),
            ]),
            expect(&[
                ("W-1-4", true),
                ("W-1-1", false),
                ("W-1-2", true),
                ("W-1-3", false),
                ("W-1-5", true),
            ])
        );
    }
}
