//! Whether an external media driver is set up so that one client cannot cost another a frame.
//!
//! Two sources: `cnc.dat`, which holds what it was started with for two settings, and, where they may
//! be read, the environment and command line of its process. A setting that neither shows is
//! reported as unread, never as right. Only a process that has this very `cnc.dat` mapped is
//! believed: the pid in the file is one of its own PID namespace.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cnc::{Cnc, CncError};

/// What was found about one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it must be.
    Right {
        /// Its value.
        found: String,
    },
    /// Something else.
    Wrong {
        /// Its value.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// Not to be seen from here.
    Unread {
        /// Why.
        why: String,
        /// What it must be.
        wanted: &'static str,
    },
}

/// One setting with what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The environment variable that sets it.
    pub name: &'static str,
    /// What was found.
    pub finding: Finding,
}

/// What [`inspect`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The Aeron directory.
    pub dir: PathBuf,
    /// The head of its `cnc.dat`.
    pub cnc: Cnc,
    /// Every setting that matters, always all of them.
    pub settings: Vec<Setting>,
}

impl Report {
    /// A text for the log that names each setting that is wrong or could not be read, with what it
    /// must be. `None` if all are right.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let mut lines = Vec::new();
        for setting in &self.settings {
            let name = setting.name;
            match &setting.finding {
                Finding::Right { .. } => {}
                Finding::Wrong { found, wanted } => {
                    lines.push(format!("{name} is {found}, it must be {wanted}"));
                }
                Finding::Unread { why, wanted } => {
                    lines.push(format!(
                        "{name} could not be read ({why}), it must be {wanted}"
                    ));
                }
            }
        }
        if lines.is_empty() {
            return None;
        }
        Some(format!(
            "the media driver at {} (pid {}) can let one client stop the others: {}",
            self.dir.display(),
            self.cnc.pid,
            lines.join("; ")
        ))
    }
}

/// Looks at the media driver of `dir`.
///
/// # Errors
/// [`CncError`] when there is no usable `cnc.dat`. An unreadable process is not an error but unread
/// settings.
pub fn inspect(dir: &Path) -> Result<Report, CncError> {
    let cnc = Cnc::read(dir)?;
    let process = Process::of(dir, &cnc);
    let settings = RULES
        .iter()
        .map(|rule| Setting {
            name: rule.name,
            finding: judge(rule, &cnc, &process),
        })
        .collect();
    Ok(Report {
        dir: dir.to_path_buf(),
        cnc,
        settings,
    })
}

/// One setting that matters.
struct Rule {
    name: &'static str,
    /// What a media driver of the C implementation does without it.
    default: &'static str,
    wanted: &'static str,
    source: Source,
    right: fn(Value, &Cnc) -> bool,
}

/// Where a setting shows.
enum Source {
    /// In the head of `cnc.dat`.
    Cnc(fn(&Cnc) -> Value),
    /// In the process only, in this form.
    Process(fn(&str) -> Option<Value>),
}

/// A setting's value, whatever its text was.
#[derive(Clone, Copy)]
enum Value {
    Flag(bool),
    Time(Duration),
    Bytes(u64),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Time(time) => write!(f, "{time:?}"),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}

fn at_most(value: Value, limit: Duration) -> bool {
    matches!(value, Value::Time(time) if !time.is_zero() && time <= limit)
}

const RULES: [Rule; 8] = [
    Rule {
        name: "AERON_TETHER_SUBSCRIPTIONS",
        default: "true",
        wanted: "false",
        source: Source::Process(flag),
        right: |value, _| matches!(value, Value::Flag(false)),
    },
    Rule {
        name: "AERON_TIMER_INTERVAL",
        default: "1s",
        wanted: "100ms or less (10ms is best)",
        source: Source::Process(time),
        right: |value, _| at_most(value, Duration::from_millis(100)),
    },
    Rule {
        name: "AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT",
        default: "5s",
        wanted: "200ms or less (12ms is best)",
        source: Source::Process(time),
        right: |value, _| at_most(value, Duration::from_millis(200)),
    },
    Rule {
        name: "AERON_UNTETHERED_RESTING_TIMEOUT",
        default: "10s",
        wanted: "200ms or less",
        source: Source::Process(time),
        right: |value, _| at_most(value, Duration::from_millis(200)),
    },
    Rule {
        name: "AERON_CLIENT_LIVENESS_TIMEOUT",
        default: "10s",
        wanted: "3s to 5s",
        source: Source::Cnc(|cnc| Value::Time(cnc.client_liveness)),
        right: |value, _| {
            at_most(value, Duration::from_secs(5)) && !at_most(value, Duration::from_millis(2999))
        },
    },
    Rule {
        name: "AERON_PUBLICATION_UNBLOCK_TIMEOUT",
        default: "15s",
        wanted: "longer than AERON_CLIENT_LIVENESS_TIMEOUT and at most twice as long",
        source: Source::Process(time),
        right: |value, cnc| {
            at_most(value, cnc.client_liveness * 2) && !at_most(value, cnc.client_liveness)
        },
    },
    Rule {
        name: "AERON_CLIENTS_BUFFER_LENGTH",
        default: "1048704",
        wanted: "16777344 (16 MiB + 128) or more",
        source: Source::Cnc(|cnc| Value::Bytes(cnc.to_clients_len.into())),
        right: |value, _| matches!(value, Value::Bytes(len) if len >= 16 * 1024 * 1024 + 128),
    },
    Rule {
        name: "AERON_TERM_BUFFER_SPARSE_FILE",
        default: "true",
        wanted: "false",
        source: Source::Process(flag),
        right: |value, _| matches!(value, Value::Flag(false)),
    },
];

fn judge(rule: &Rule, cnc: &Cnc, process: &Process) -> Finding {
    let value = match &rule.source {
        Source::Cnc(read) => Ok(read(cnc)),
        Source::Process(parse) => process.setting(rule).and_then(|text| {
            parse(&text).ok_or_else(|| format!("its value {text:?} is not understood"))
        }),
    };
    match value {
        Ok(value) if (rule.right)(value, cnc) => Finding::Right {
            found: value.to_string(),
        },
        Ok(value) => Finding::Wrong {
            found: value.to_string(),
            wanted: rule.wanted,
        },
        Err(why) => Finding::Unread {
            why,
            wanted: rule.wanted,
        },
    }
}

/// What could be seen of the media driver's process.
enum Process {
    Seen {
        /// Environment and `-Dname=value` arguments, under the environment's names.
        set: HashMap<String, String>,
        /// Whether nothing else can have set anything: the C media driver without a file of settings.
        complete: bool,
    },
    Unseen {
        why: String,
    },
}

impl Process {
    fn of(dir: &Path, cnc: &Cnc) -> Self {
        Self::read(dir, cnc).unwrap_or_else(|why| Self::Unseen { why })
    }

    fn read(dir: &Path, cnc: &Cnc) -> Result<Self, String> {
        let home = PathBuf::from(format!("/proc/{}", cnc.pid));
        let unreadable = |what: &str, error: &io::Error| {
            format!("{what} of process {} cannot be read: {error}", cnc.pid)
        };
        let maps = fs::read_to_string(home.join("maps"))
            .map_err(|error| unreadable("the memory map", &error))?;
        let inode = fs::metadata(dir.join("cnc.dat"))
            .map_err(|error| unreadable("cnc.dat", &error))?
            .ino();
        if !maps.lines().any(|line| maps_inode(line) == Some(inode)) {
            return Err(format!(
                "process {} here is not this media driver, which runs in another PID namespace or is dead",
                cnc.pid
            ));
        }
        let environ = fs::read(home.join("environ"))
            .map_err(|error| unreadable("the environment", &error))?;
        let cmdline = fs::read(home.join("cmdline"))
            .map_err(|error| unreadable("the command line", &error))?;
        Ok(Self::parse(&environ, &cmdline))
    }

    fn parse(environ: &[u8], cmdline: &[u8]) -> Self {
        let texts = |bytes: &[u8]| -> Vec<String> {
            bytes
                .split(|byte| *byte == 0)
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .filter(|text| !text.is_empty())
                .collect()
        };
        let mut set: HashMap<String, String> = texts(environ)
            .iter()
            .filter_map(|text| text.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let args = texts(cmdline);
        let program = args
            .first()
            .map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        let mut complete = program == "aeronmd";
        for arg in args.iter().skip(1) {
            match arg.strip_prefix("-D").and_then(|text| text.split_once('=')) {
                Some((name, value)) => {
                    let name = name.replace('.', "_").to_uppercase();
                    set.insert(name, value.to_owned());
                }
                // A file of settings, or something that is not known here.
                None => complete = false,
            }
        }
        Self::Seen { set, complete }
    }

    fn setting(&self, rule: &Rule) -> Result<String, String> {
        match self {
            Self::Unseen { why } => Err(why.clone()),
            Self::Seen { set, complete } => match set.get(rule.name) {
                Some(value) => Ok(value.clone()),
                None if *complete => Ok(rule.default.to_owned()),
                None => Err(
                    "it is neither in the environment nor on the command line of the process, which may set it otherwise"
                        .to_owned(),
                ),
            },
        }
    }
}

/// The inode of one line of a memory map.
fn maps_inode(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().nth(4)?.parse().ok()
}

fn flag(text: &str) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "true" | "yes" => Some(Value::Flag(true)),
        "0" | "off" | "false" | "no" => Some(Value::Flag(false)),
        _ => None,
    }
}

/// A whole number of nanoseconds, or with one of the units `ns`, `us`, `ms`, `s`.
fn time(text: &str) -> Option<Value> {
    let text = text.to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit = match &text[digits.len()..] {
        "" | "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    Some(Value::Time(Duration::from_nanos(number.checked_mul(unit)?)))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
