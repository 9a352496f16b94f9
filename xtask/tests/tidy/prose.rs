//! Documents and layout: links lead somewhere, lists are complete, nothing of a machine leaks in.

use std::collections::BTreeSet;

use crate::tree::{files, none, read, root};

/// What may stand at the top of the repository.
const TOP_LEVEL: [&str; 27] = [
    ".cargo",
    ".ci",
    ".config",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "cli",
    "client",
    "clippy.toml",
    "crds",
    "deny.toml",
    "docs",
    "e2e",
    "helm",
    "node-driver",
    "operator",
    "python",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "shm",
    "wire",
    "xtask",
    ".dockerignore",
];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 4] = ["/work/", "/root/", "/home/", "/Users/"];

#[test]
fn links_in_documents_lead_somewhere() {
    let mut findings = Vec::new();
    let mut followed = 0;
    for file in files(&[".md"]) {
        let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
        for target in links(&read(&file)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let linked = if path.is_empty() {
                root().join(&file)
            } else {
                root().join(directory).join(path)
            };
            if !linked.exists() {
                findings.push(format!("{file}: {target}"));
            } else if !anchor.is_empty() && linked.is_file() {
                let text = std::fs::read_to_string(&linked).unwrap_or_default();
                if !anchors(&text).contains(anchor) {
                    findings.push(format!("{file}: no heading for {target}"));
                }
            }
        }
    }
    assert!(followed > 0, "no document links to another");
    none("links that lead nowhere", &findings);
}

#[test]
fn the_top_level_holds_only_what_is_agreed() {
    let mut findings = BTreeSet::new();
    for file in files(&[""]) {
        let top = file.split('/').next().unwrap_or_default().to_owned();
        if !TOP_LEVEL.contains(&top.as_str()) {
            findings.insert(top);
        }
    }
    let findings: Vec<String> = findings.into_iter().collect();
    none("unknown things at the top", &findings);
}

#[test]
fn no_path_of_a_machine_stands_in_a_text() {
    let mut findings = Vec::new();
    let texts = [".rs", ".md", ".toml", ".yaml", ".yml", ".xml", "run"];
    for file in files(&texts) {
        if file.starts_with("xtask/tests/tidy/") {
            continue;
        }
        for (index, line) in read(&file).lines().enumerate() {
            let leaked = MACHINE_PATHS.iter().any(|path| {
                line.match_indices(path).any(|(at, _)| {
                    let before = line.split_at(at).0.chars().next_back();
                    !before.is_some_and(|letter| letter.is_alphanumeric() || "._-".contains(letter))
                })
            });
            if leaked {
                findings.push(format!("{file}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    none("paths of a machine", &findings);
}

#[test]
fn decisions_are_numbered_without_a_gap() {
    let text = read("docs/decisions.md");
    let numbers: Vec<usize> = text
        .lines()
        .filter_map(|line| line.strip_prefix("## ")?.split_once(". ")?.0.parse().ok())
        .collect();
    assert!(
        numbers.len() >= 10,
        "docs/decisions.md has too few decisions"
    );
    let expected: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, expected);
    for part in ["Context:", "Choice:", "What would change our mind:"] {
        let found = text.matches(&format!("**{part}**")).count();
        assert_eq!(found, numbers.len(), "every decision has one `**{part}**`");
    }
}

#[test]
fn the_changelog_has_an_unreleased_section() {
    assert!(read("CHANGELOG.md").contains("\n## [Unreleased]\n"));
}

#[test]
fn flaky_tests_are_not_retried_and_tests_run_in_parallel() {
    let config = read(".config/nextest.toml");
    assert!(config.contains("retries = 0"));
    assert!(!config.contains("test-threads = 1"));
}

/// The targets of `[text](target)`, outside code.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for piece in outside.split("](").skip(1) {
            if let Some((target, _)) = piece.split_once(')') {
                targets.push(target.to_owned());
            }
        }
    }
    targets
}

/// The anchors that a forge makes of the headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = line.trim_start_matches('#').trim().to_lowercase();
            let kept = kept
                .chars()
                .filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
            kept.map(|letter| if letter == ' ' { '-' } else { letter })
                .collect()
        })
        .collect()
}
