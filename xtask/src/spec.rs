//! `spec`: which requirements are obeyed in code and shown by a test.
//!
//! Requirements are the lines `- **ID** LEVEL …` of `docs/requirements/*.md` and of
//! `docs/extensions.md`. A mark is a comment `// spec: ID, ID` in a Rust file; it counts for the
//! test side when it stands in a test, else for the code side. What misses one side is listed,
//! never hidden. This program's own sources are left out: their marks are examples.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::workspace::Workspace;

mod marks;

/// Requirements of messages that this project does not have yet: merge maps (schema 903) and trace
/// links (schema 904).
const LATER: [&str; 2] = ["J-10-1", "T-9.2-1"];

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    id: String,
    group: Group,
    /// Whether some form of MUST stands in its line.
    must: bool,
    text: String,
}

/// The file that a requirement stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// `docs/requirements/NN-….md`.
    Protocol(u32),
    /// `docs/extensions.md`.
    Extension,
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(number) => write!(out, "{number}"),
            Self::Extension => out.write_str("X"),
        }
    }
}

impl Requirement {
    /// Whether code and a test must exist: every MUST of the groups that a driver, a client and
    /// their memory live by (1 to 8), of the supervisor (10) and of our own extensions.
    fn is_required(&self) -> bool {
        let group = match self.group {
            Group::Protocol(number) => (1..=8).contains(&number) || number == 10,
            Group::Extension => true,
        };
        group && self.must && !LATER.contains(&self.id.as_str())
    }
}

/// Which sides of a requirement are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Coverage {
    Covered,
    CodeOnly,
    TestOnly,
    Missing,
}

impl Coverage {
    fn of(code: bool, test: bool) -> Self {
        match (code, test) {
            (true, true) => Self::Covered,
            (true, false) => Self::CodeOnly,
            (false, true) => Self::TestOnly,
            (false, false) => Self::Missing,
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Covered => "covered",
            Self::CodeOnly => "code only",
            Self::TestOnly => "test only",
            Self::Missing => "missing",
        })
    }
}

/// The whole count.
#[derive(Debug)]
pub(crate) struct Count {
    rows: Vec<(Requirement, Coverage)>,
    /// Marks that name no requirement, with their place.
    unknown: Vec<String>,
}

impl Count {
    /// How many required ids there are.
    pub(crate) fn required(&self) -> usize {
        self.rows.iter().filter(|(id, _)| id.is_required()).count()
    }

    /// How many required ids lack code or a test.
    pub(crate) fn uncovered(&self) -> usize {
        self.open().count()
    }

    /// Marks that name no requirement, with their place.
    pub(crate) fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        let number = |wanted| {
            self.rows
                .iter()
                .filter(|(_, found)| *found == wanted)
                .count()
        };
        format!(
            "spec: {} of {} required ids covered by code and test; of all {} ids {} covered, {} code only, {} test only, {} missing",
            self.required() - self.uncovered(),
            self.required(),
            self.rows.len(),
            number(Coverage::Covered),
            number(Coverage::CodeOnly),
            number(Coverage::TestOnly),
            number(Coverage::Missing),
        )
    }

    fn open(&self) -> impl Iterator<Item = &(Requirement, Coverage)> {
        self.rows
            .iter()
            .filter(|(id, found)| id.is_required() && *found != Coverage::Covered)
    }

    fn print(&self, everything: bool) {
        println!("group  required  covered  code only  test only  missing");
        let groups: BTreeSet<Group> = self.rows.iter().map(|(id, _)| id.group).collect();
        for group in groups {
            let number = |wanted| {
                let all = self.rows.iter().filter(|(id, _)| id.group == group);
                all.filter(|(_, found)| *found == wanted).count()
            };
            let required = self.rows.iter();
            let required = required.filter(|(id, _)| id.group == group && id.is_required());
            println!(
                "{:>5}  {:>8}  {:>7}  {:>9}  {:>9}  {:>7}",
                group.to_string(),
                required.count(),
                number(Coverage::Covered),
                number(Coverage::CodeOnly),
                number(Coverage::TestOnly),
                number(Coverage::Missing),
            );
        }
        for (id, found) in self.open() {
            println!("{found:<9} {} {}", id.id, id.text);
        }
        let optional = self.rows.iter();
        let optional =
            optional.filter(|(id, found)| !id.is_required() && *found != Coverage::Covered);
        if everything {
            for (id, found) in optional {
                println!("{found:<9} {} (not required here) {}", id.id, id.text);
            }
        } else {
            let ids: Vec<&str> = optional.map(|(id, _)| id.id.as_str()).collect();
            println!("not required here, and not covered: {}", ids.join(" "));
        }
        for mark in &self.unknown {
            println!("unknown   {mark}");
        }
    }
}

/// Prints the count; fails while a required id lacks code or a test, or a mark names no id.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), String> {
    let count = count(workspace)?;
    count.print(arguments.iter().any(|flag| flag == "--list"));
    println!("{}", count.summary());
    match (count.uncovered(), count.unknown.len()) {
        (0, 0) => Ok(()),
        (open, unknown) => Err(format!(
            "{open} required ids lack code or a test, {unknown} marks name no requirement"
        )),
    }
}

/// Reads requirements and marks.
pub(crate) fn count(workspace: &Workspace) -> Result<Count, String> {
    let files = workspace.files()?;
    let mut requirements = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".md")) {
        if let Some(group) = group_of(file) {
            requirements.extend(read_requirements(&workspace.read(file)?, group));
        }
    }
    let mut known = BTreeSet::new();
    for requirement in &requirements {
        if !known.insert(requirement.id.clone()) {
            return Err(format!("requirement {} is written twice", requirement.id));
        }
    }
    let mut sides: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut sources = BTreeMap::new();
    let is_source = |file: &&String| file.ends_with(".rs") && !file.starts_with("xtask/");
    for file in files.iter().filter(is_source) {
        sources.insert(file.clone(), workspace.read(file)?);
    }
    for mark in marks::find(&sources) {
        if known.contains(&mark.id) {
            let side = sides.entry(mark.id).or_default();
            side.0 |= !mark.in_test;
            side.1 |= mark.in_test;
        } else {
            unknown.push(format!("{} at {}:{}", mark.id, mark.file, mark.line));
        }
    }
    let rows = requirements
        .into_iter()
        .map(|requirement| {
            let (code, test) = sides.get(&requirement.id).copied().unwrap_or_default();
            (requirement, Coverage::of(code, test))
        })
        .collect();
    Ok(Count { rows, unknown })
}

fn group_of(file: &str) -> Option<Group> {
    if file == "docs/extensions.md" {
        return Some(Group::Extension);
    }
    let name = file.strip_prefix("docs/requirements/")?;
    let (number, _) = name.split_once('-')?;
    Some(Group::Protocol(number.parse().ok()?))
}

/// The lines `- **ID** LEVEL …` of one file. In `docs/extensions.md` only ids with `X-` count.
fn read_requirements(text: &str, group: Group) -> Vec<Requirement> {
    text.lines()
        .filter_map(|line| {
            let (id, rest) = line.trim().strip_prefix("- **")?.split_once("**")?;
            let wanted = match group {
                Group::Protocol(_) => marks::is_id(id),
                Group::Extension => id.starts_with("X-"),
            };
            wanted.then(|| Requirement {
                id: id.to_owned(),
                group,
                must: rest.contains("MUST"),
                text: rest.trim().to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(line: &str, group: Group) -> Requirement {
        read_requirements(line, group).remove(0)
    }

    #[test]
    fn any_form_of_must_in_groups_1_to_8_and_10_is_required() {
        let protocol = Group::Protocol;
        let lines = [
            ("- **W-1-1** MUST §1: a", protocol(1), true),
            ("- **W-1-2** MUST* §1: a", protocol(8), true),
            ("- **W-1-3** SHOULD §1: a; **MUST** b", protocol(3), true),
            ("- **W-1-4** SHOULD §1: a", protocol(3), false),
            ("- **DI-1-5** MUST §1: a", protocol(9), false),
            ("- **W-1-6** MUST §1: a", protocol(10), true),
            ("- **J-10-1** MUST §1: a", protocol(1), false),
            ("- **X-1-1** MUST: a", Group::Extension, true),
        ];
        for (line, group, required) in lines {
            assert_eq!(requirement(line, group).is_required(), required, "{line}");
        }
    }

    #[test]
    fn other_lists_of_the_extensions_are_not_requirements() {
        assert_eq!(read_requirements("- **Packet**: u8", Group::Extension), []);
    }
}
