//! One key at a time: from what was written to a value of the right type within its rule.
//!
//! Every reader returns a value in any case and notes what is wrong, so that one run names all
//! problems at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::raw::{Problem, Raw, Source, Written};
use super::settings::{Endpoint, IdRange};

/// Reads scalars out of [`Raw`] and collects problems.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    raw: &'a Raw,
    /// What is wrong so far.
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a Raw) -> Self {
        Self {
            raw,
            problems: Vec::new(),
        }
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        self.raw.scalars.contains_key(key)
    }

    /// Notes that `key` breaks `rule`, with its value as written, or as it is by default.
    pub(super) fn refuse(&mut self, key: &str, default: &str, rule: impl Into<String>) {
        let found = match self.raw.scalars.get(key) {
            Some(written) => (written.shown(), written.source()),
            None => (default.to_owned(), Source::Default),
        };
        self.problems.push(Problem {
            key: key.into(),
            found: Some(found),
            rule: rule.into(),
        });
    }

    pub(super) fn text(&mut self, key: &str, default: &str) -> String {
        match self.raw.scalars.get(key) {
            None => default.to_owned(),
            Some(Written::Text(text, _) | Written::Toml(toml::Value::String(text))) => text.clone(),
            Some(Written::Toml(_)) => {
                self.refuse(key, default, "must be a string in quotes");
                default.to_owned()
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &str, default: bool) -> bool {
        match self.raw.scalars.get(key) {
            None => default,
            Some(Written::Toml(toml::Value::Boolean(value))) => *value,
            Some(Written::Text(text, _)) if text == "true" => true,
            Some(Written::Text(text, _)) if text == "false" => false,
            Some(_) => {
                self.refuse(key, "", "must be true or false");
                default
            }
        }
    }

    pub(super) fn number(&mut self, key: &str, default: u64, min: u64, max: u64) -> u64 {
        let value = match self.raw.scalars.get(key) {
            None => return default,
            Some(Written::Toml(toml::Value::Integer(value))) => u64::try_from(*value).ok(),
            Some(Written::Text(text, _)) => text.parse().ok(),
            Some(Written::Toml(_)) => None,
        };
        match value.filter(|value| (min..=max).contains(value)) {
            Some(value) => value,
            None => {
                self.refuse(key, "", format!("must be a whole number, {min} to {max}"));
                default
            }
        }
    }

    pub(super) fn number_u32(&mut self, key: &str, default: u32, min: u32, max: u32) -> u32 {
        let value = self.number(key, default.into(), min.into(), max.into());
        u32::try_from(value).expect("number() keeps within a u32 range")
    }

    /// An Aeron stream id. Ids above 2^31-1 do not exist in Aeron.
    pub(super) fn aeron_stream_id(&mut self, key: &str, default: i32) -> i32 {
        let default = u64::try_from(default).expect("stream ids are positive");
        let value = self.number(key, default, 1, i32::MAX.unsigned_abs().into());
        i32::try_from(value).expect("number() keeps within an i32 range")
    }

    pub(super) fn endpoint(&mut self, name: &str, channel: &str, stream_id: i32) -> Endpoint {
        let channel_key = format!("{name}_channel");
        Endpoint {
            channel: self.channel(&channel_key, channel),
            stream_id: self.aeron_stream_id(&format!("{name}_stream_id"), stream_id),
        }
    }

    pub(super) fn channel(&mut self, key: &str, default: &str) -> String {
        let channel = self.text(key, default);
        if !channel.starts_with("aeron:") {
            self.refuse(
                key,
                default,
                "must be an Aeron channel, such as aeron:ipc?term-length=4m",
            );
        }
        channel
    }

    /// A file mode, octal.
    pub(super) fn mode(&mut self, key: &str, default: u32) -> u32 {
        let text = self.text(key, &format!("{default:o}"));
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode & 0o7 != 0 => {
                // Consumers of the C implementation refuse such regions, and so do ours.
                self.refuse(
                    key,
                    "",
                    "must grant nothing to others: the last digit must be 0",
                );
                default
            }
            Ok(mode) if mode & 0o600 == 0o600 && mode <= 0o770 => mode,
            _ => {
                self.refuse(
                    key,
                    "",
                    "must be an octal file mode in quotes that lets the owner read and write, such as \"660\"",
                );
                default
            }
        }
    }

    /// A file mode, octal, that may let everybody read.
    pub(super) fn open_mode(&mut self, key: &str, default: u32) -> u32 {
        let text = self.text(key, &format!("{default:o}"));
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode & 0o600 == 0o600 && mode & !0o664 == 0 => mode,
            _ => {
                self.refuse(
                    key,
                    "",
                    "must be an octal file mode in quotes that lets the owner read and write and others read at most, such as \"644\"",
                );
                default
            }
        }
    }

    /// One of `choices`, of which the one at `default` stands where nothing is written.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        default: usize,
        choices: &[(&str, T)],
    ) -> T {
        let (default_name, default) = choices[default];
        let text = self.text(key, default_name);
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => *value,
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                self.refuse(
                    key,
                    default_name,
                    format!("must be one of {}", names.join(", ")),
                );
                default
            }
        }
    }

    /// `"a-b"` or `[a, b]`; empty or missing is no range.
    pub(super) fn range(&mut self, key: &str) -> Option<IdRange> {
        let bounds = match self.raw.scalars.get(key)? {
            Written::Text(text, _) | Written::Toml(toml::Value::String(text)) => {
                if text.is_empty() {
                    return None;
                }
                text.split_once('-').and_then(|(start, end)| {
                    Some((start.trim().parse().ok()?, end.trim().parse().ok()?))
                })
            }
            Written::Toml(toml::Value::Array(items)) => match items.as_slice() {
                [] => return None,
                [toml::Value::Integer(start), toml::Value::Integer(end)] => {
                    u32::try_from(*start).ok().zip(u32::try_from(*end).ok())
                }
                _ => None,
            },
            Written::Toml(_) => None,
        };
        let rule = match bounds {
            // spec: D-11-4
            Some((start, end)) if start > end => "must start at or below its end",
            Some((0, _)) => "must not contain 0",
            Some((_, u32::MAX)) => "must end below 4294967295, which stands for no id",
            Some((start, end)) => return Some(IdRange { start, end }),
            None => "must be two ids, \"a-b\" or [a, b]",
        };
        self.refuse(key, "", rule);
        None
    }

    pub(super) fn absolute_path(&mut self, key: &str, default: &Path) -> PathBuf {
        let text = self.text(key, &default.to_string_lossy());
        if let Some(rule) = path_rule(&text) {
            self.refuse(key, &text, rule);
        }
        PathBuf::from(text)
    }

    /// A list of absolute paths; the environment separates them by colons.
    pub(super) fn paths(&mut self, key: &str, default: Vec<PathBuf>) -> Vec<PathBuf> {
        let texts: Option<Vec<String>> = match self.raw.scalars.get(key) {
            None => return default,
            Some(Written::Text(text, _)) => Some(text.split(':').map(str::to_owned).collect()),
            Some(Written::Toml(toml::Value::Array(items))) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect(),
            Some(Written::Toml(_)) => None,
        };
        let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
            self.refuse(key, "", "must be a list of absolute paths");
            return default;
        };
        for text in &texts {
            if let Some(rule) = path_rule(text) {
                self.refuse(key, text, format!("{text}: {rule}"));
            }
        }
        texts.into_iter().map(PathBuf::from).collect()
    }
}

/// What is wrong with a path that goes into a region URI, if anything.
fn path_rule(text: &str) -> Option<&'static str> {
    // spec: W-15.22-3, D-9-1
    if !text.starts_with('/') {
        Some("must be an absolute path")
    } else if text.split('/').any(|part| part == ".." || part == ".") {
        Some("must not contain . or .. components")
    } else if !text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'|')
    {
        Some("must be printable ASCII without space, ? and |: it becomes part of region URIs")
    } else {
        None
    }
}

/// Reads the keys of one named table, for profiles and streams.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// `profiles.camera` and the like.
    pub(super) place: String,
    table: &'a toml::Table,
}

impl<'a> Entry<'a> {
    pub(super) fn new(place: String, table: &'a toml::Table) -> Self {
        Self { place, table }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a toml::Value> {
        self.table.get(key)
    }

    pub(super) fn problem(&self, key: &str, rule: impl Into<String>) -> Problem {
        Problem {
            key: format!("{}.{key}", self.place),
            found: self
                .table
                .get(key)
                .map(|value| (value.to_string(), Source::File)),
            rule: rule.into(),
        }
    }

    pub(super) fn number(
        &self,
        key: &str,
        min: u32,
        max: u32,
        problems: &mut Vec<Problem>,
    ) -> Option<u32> {
        let rule = format!("must be a whole number, {min} to {max}");
        let value = match self.table.get(key) {
            None => {
                problems.push(self.problem(key, format!("is missing; it {rule}")));
                return None;
            }
            Some(value) => value
                .as_integer()
                .and_then(|value| u32::try_from(value).ok()),
        };
        let value = value.filter(|value| (min..=max).contains(value));
        if value.is_none() {
            problems.push(self.problem(key, rule));
        }
        value
    }

    pub(super) fn text(&self, key: &str, problems: &mut Vec<Problem>) -> Option<String> {
        match self.table.get(key) {
            None => None,
            Some(toml::Value::String(text)) => Some(text.clone()),
            Some(_) => {
                problems.push(self.problem(key, "must be a string in quotes"));
                None
            }
        }
    }
}

/// The tables of one kind by name, in name order.
pub(super) fn entries<'a>(
    kind: &str,
    tables: &'a BTreeMap<String, toml::Table>,
) -> Vec<(String, Entry<'a>)> {
    tables
        .iter()
        .map(|(name, table)| (name.clone(), Entry::new(format!("{kind}.{name}"), table)))
        .collect()
}
