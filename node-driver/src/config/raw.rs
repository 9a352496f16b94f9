//! What was written, and where: the TOML file and the environment, before any meaning.
//!
//! Owns the refusal of unknown keys and the rule that the environment wins.

use std::collections::BTreeMap;
use std::fmt;

use super::key::{KEYS, POOL_KEYS, PROFILE_KEYS, STREAM_KEYS, nearest};

/// Where a value was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The TOML file.
    File,
    /// An environment variable, by name.
    Environment(String),
    /// A command line flag, by name.
    Flag(&'static str),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("in the file"),
            Self::Environment(name) => write!(f, "in {name}"),
            Self::Flag(name) => write!(f, "from {name}"),
            Self::Default => f.write_str("by default"),
        }
    }
}

/// One thing that is wrong with the configuration: key, value, rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, or the table that lacks something.
    pub key: String,
    /// The value as written and where, if there is one.
    pub found: Option<(String, Source)>,
    /// What would be right.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some((value, source)) => {
                write!(f, "{} = {value} ({source}): {}", self.key, self.rule)
            }
            None => write!(f, "{}: {}", self.key, self.rule),
        }
    }
}

/// A scalar (or a list of scalars) as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written {
    /// From the TOML file, typed.
    Toml(toml::Value),
    /// From the environment or a flag: text that is read as the key needs it.
    Text(String, Source),
}

impl Written {
    /// Where it stands.
    #[must_use]
    pub(super) fn source(&self) -> Source {
        match self {
            Self::Toml(_) => Source::File,
            Self::Text(_, source) => source.clone(),
        }
    }

    /// As the writer sees it.
    #[must_use]
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Toml(value) => value.to_string(),
            Self::Text(text, _) => format!("{text:?}"),
        }
    }
}

/// All that was written, known keys only.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw {
    /// Scalar keys by their canonical name.
    pub(super) scalars: BTreeMap<&'static str, Written>,
    /// `profiles.NAME`, its keys checked for being known.
    pub(super) profiles: BTreeMap<String, toml::Table>,
    /// `streams.NAME`, likewise.
    pub(super) streams: BTreeMap<String, toml::Table>,
}

impl Raw {
    /// Reads the file's text and takes every override from `environment`.
    ///
    /// # Errors
    /// One [`Problem`] per syntax error, unknown key or table of the wrong shape.
    pub(super) fn read(
        file: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<Problem>> {
        let table: toml::Table = toml::from_str(file).map_err(|error| {
            vec![Problem {
                key: "syntax".into(),
                found: None,
                rule: error.to_string().trim_end().replace('\n', "\n    "),
            }]
        })?;
        let mut raw = Self::default();
        let mut problems = Vec::new();
        for (name, value) in table {
            raw.take_table(&name, value, &mut problems);
        }
        for key in KEYS {
            let variable = key.environment_name();
            if let Some(text) = environment(&variable) {
                // spec: D-17-3
                raw.scalars
                    .insert(key.name, Written::Text(text, Source::Environment(variable)));
            }
        }
        if problems.is_empty() {
            Ok(raw)
        } else {
            Err(problems)
        }
    }

    fn take_table(&mut self, name: &str, value: toml::Value, problems: &mut Vec<Problem>) {
        let known = tables().any(|table| table == name);
        match value {
            toml::Value::Table(table) if name == "profiles" => {
                self.profiles = named_tables(name, table, PROFILE_KEYS, problems);
                check_pools(&self.profiles, problems);
            }
            toml::Value::Table(table) if name == "streams" => {
                self.streams = named_tables(name, table, STREAM_KEYS, problems);
            }
            toml::Value::Table(table) if known => {
                for (key, value) in table {
                    let full = format!("{name}.{key}");
                    match KEYS.iter().find(|candidate| candidate.name == full) {
                        Some(key) => {
                            self.scalars.insert(key.name, Written::Toml(value));
                        }
                        None => problems.push(unknown(&full, KEYS.iter().map(|key| key.name))),
                    }
                }
            }
            _ if known => problems.push(Problem {
                key: name.into(),
                found: None,
                rule: format!("must be a table, [{name}]"),
            }),
            _ => {
                // A key without its table is the usual slip; name the whole key that is meant.
                let meant = KEYS
                    .iter()
                    .find(|key| {
                        key.name
                            .split_once('.')
                            .is_some_and(|(_, last)| last == name)
                    })
                    .map(|key| key.name)
                    .or_else(|| nearest(name, tables()));
                problems.push(unknown(name, meant));
            }
        }
    }
}

/// The names of all top-level tables.
fn tables() -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .filter_map(|key| key.name.split_once('.').map(|(table, _)| table))
        .chain(["profiles", "streams"])
}

fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Problem {
    let known: Vec<&str> = known.into_iter().collect();
    let meant = match known.as_slice() {
        [only] => Some(*only),
        many => nearest(name, many.iter().copied()),
    };
    Problem {
        key: name.into(),
        found: None,
        rule: match meant {
            Some(meant) => format!("unknown key; did you mean {meant}?"),
            None => "unknown key".into(),
        },
    }
}

fn named_tables(
    kind: &str,
    table: toml::Table,
    known: &[(&str, &str, &str)],
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, toml::Table> {
    let mut named = BTreeMap::new();
    for (name, value) in table {
        let toml::Value::Table(entry) = value else {
            problems.push(Problem {
                key: format!("{kind}.{name}"),
                found: Some((value.to_string(), Source::File)),
                rule: format!("must be a table, [{kind}.NAME]"),
            });
            continue;
        };
        check_known(&format!("{kind}.{name}"), &entry, known, problems);
        named.insert(name, entry);
    }
    named
}

fn check_known(
    place: &str,
    entry: &toml::Table,
    known: &[(&str, &str, &str)],
    problems: &mut Vec<Problem>,
) {
    for key in entry.keys() {
        if !known.iter().any(|(name, _, _)| name == key) {
            let meant = nearest(key, known.iter().map(|(name, _, _)| *name));
            problems.push(Problem {
                key: format!("{place}.{key}"),
                found: None,
                rule: match meant {
                    Some(meant) => format!("unknown key; did you mean {place}.{meant}?"),
                    None => "unknown key".into(),
                },
            });
        }
    }
}

fn check_pools(profiles: &BTreeMap<String, toml::Table>, problems: &mut Vec<Problem>) {
    for (name, profile) in profiles {
        let pools = profile.get("payload_pools").and_then(|v| v.as_array());
        for (index, pool) in pools.into_iter().flatten().enumerate() {
            if let Some(pool) = pool.as_table() {
                let place = format!("profiles.{name}.payload_pools[{index}]");
                check_known(&place, pool, POOL_KEYS, problems);
            }
        }
    }
}
