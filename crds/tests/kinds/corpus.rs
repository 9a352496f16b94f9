//! The corpus: objects, good and bad, with the verdict that everybody has to give.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// One object, with what was there before it, and the verdict.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) accepted: bool,
    pub(crate) refused: Option<Refusal>,
    pub(crate) before: Option<Value>,
    pub(crate) object: Value,
}

/// Why an object is refused.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    /// Path of the field; empty for the object.
    pub(crate) field: String,
    /// A part of the message, where both sides use the same words.
    pub(crate) words: Option<String>,
}

/// What a validator found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Case {
    /// `None` when the findings are the expected verdict, else what is wrong.
    pub(crate) fn contradiction(&self, findings: &[Finding]) -> Option<String> {
        let name = &self.name;
        let Some(refusal) = &self.refused else {
            return (!findings.is_empty()).then(|| format!("{name}: refused: {findings:?}"));
        };
        let fits = |finding: &Finding| {
            let words = refusal.words.as_deref().unwrap_or_default();
            finding.field == refusal.field && finding.message.contains(words)
        };
        if findings.is_empty() {
            Some(format!("{name}: accepted, expected {refusal:?}"))
        } else if findings.iter().any(fits) {
            None
        } else {
            Some(format!("{name}: expected {refusal:?}, found {findings:?}"))
        }
    }
}

/// All cases, by file.
pub(crate) fn corpus() -> Vec<(String, Vec<Case>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let entries = fs::read_dir(&directory).expect("the corpus is there");
    let mut files: Vec<_> = entries
        .map(|it| it.expect("it is readable").path())
        .collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).expect("a corpus file is readable");
        let cases: Vec<Case> = serde_saphyr::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for case in &cases {
            assert!(
                case.accepted != case.refused.is_some(),
                "{}: `{}` needs exactly one verdict",
                path.display(),
                case.name
            );
        }
        let name = path
            .file_stem()
            .expect("a file has a name")
            .to_string_lossy();
        (name.into_owned(), cases)
    };
    let corpus: Vec<_> = files.iter().map(read).collect();
    assert_eq!(
        corpus.len(),
        tensorpool_crds::crds().len(),
        "one file per kind"
    );
    corpus
}
