//! Sizes: files and functions that a person can hold in mind.

use std::collections::BTreeMap;

use crate::tree::{files, is_test, none, production_lines, read, root};

/// Lines of code of a file: more than this must stand in the ratchet file.
const FILE_LINES: usize = 400;
/// Lines of code of a file: more than this is never allowed.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, its head and its closing brace included.
const FUNCTION_LINES: usize = 70;
/// File and number of lines, one a line; numbers may only shrink.
const RATCHET: &str = "xtask/tests/tidy/long-files.txt";

#[test]
fn files_stay_short() {
    let allowed = ratchet();
    let mut findings = Vec::new();
    let mut long = BTreeMap::new();
    for file in files(&[".rs"]).into_iter().filter(|file| !is_test(file)) {
        let lines = production_lines(&read(&file))
            .into_iter()
            .filter(|(_, line)| is_code(line))
            .count();
        if lines > FILE_LINES_MAX {
            findings.push(format!("{file}: {lines} lines, at most {FILE_LINES_MAX}"));
        } else if lines > FILE_LINES {
            long.insert(file.clone(), lines);
            if allowed.get(&file).copied().unwrap_or(FILE_LINES) < lines {
                findings.push(format!("{file}: {lines} lines, more than {RATCHET} allows"));
            }
        }
    }
    for (file, lines) in &allowed {
        match long.get(file) {
            Some(now) if now < lines => {
                findings.push(format!("{file}: shrank to {now}, lower {RATCHET}"));
            }
            Some(_) => {}
            None => findings.push(format!("{file}: short now, take it out of {RATCHET}")),
        }
    }
    none("files of the wrong length", &findings);
}

#[test]
fn functions_stay_short() {
    let mut findings = Vec::new();
    for file in files(&[".rs"]).into_iter().filter(|file| !is_test(file)) {
        let text = read(&file);
        let mut open: Option<(usize, String)> = None;
        for (number, line) in production_lines(&text) {
            let indent = line.len() - line.trim_start().len();
            if let Some((start, closing)) = &open {
                if line == closing {
                    let lines = number - start + 1;
                    if lines > FUNCTION_LINES {
                        findings.push(format!("{file}:{start}: {lines} lines"));
                    }
                    open = None;
                } else if line.trim_end().ends_with(';') && indent + 1 == closing.len() {
                    open = None;
                }
            } else if is_function_head(line.trim()) && !line.ends_with('}') {
                open = Some((number, format!("{}}}", " ".repeat(indent))));
            }
        }
    }
    none("functions that are too long", &findings);
}

fn ratchet() -> BTreeMap<String, usize> {
    if !root().join(RATCHET).is_file() {
        return BTreeMap::new();
    }
    let text = read(RATCHET);
    let entries = text.lines().map(|line| {
        let (file, lines) = line.split_once(' ').expect("`FILE LINES` in the ratchet");
        (file.to_owned(), lines.parse().expect("a number of lines"))
    });
    entries.collect()
}

fn is_code(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("//")
}

fn is_function_head(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let modifiers = [
        "pub",
        "pub(crate)",
        "pub(super)",
        "const",
        "async",
        "unsafe",
        "extern",
    ];
    let first = words.find(|word| !modifiers.contains(word) && !word.starts_with('"'));
    first == Some("fn") && !line.ends_with(';')
}
