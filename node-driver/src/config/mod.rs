//! The configuration: canonical TOML keys, environment overrides that win, and what follows from
//! them.
//!
//! `raw` reads what is written and refuses unknown keys by name; `read` gives each key its type and
//! rule; `build` makes [`Settings`]; `checks` looks at keys together; `budget` compares the
//! memory that the streams need with the mount. All problems of a file are named in one run.

// spec: D-17-2, D-17-3

mod budget;
mod build;
mod checks;
mod key;
mod print;
mod raw;
mod read;
mod settings;
mod shapes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use budget::bytes_in_words;
pub use budget::{Budget, BudgetError, EPOCHS_COUNTED, Mount, StreamNeed};
pub use key::{KEYS, Key, POOL_KEYS, PROFILE_KEYS, STREAM_KEYS};
pub use print::effective;
pub use raw::{Problem, Source};
pub use settings::{
    DiscoverySettings, DriverSettings, Endpoint, HttpSettings, IdRange, KubernetesSettings, Limits,
    LogFormat, LogSettings, MediaDriverMode, Policies, Pool, Profile, Settings, ShmSettings,
    ShutdownMode, SocketSettings, StreamSettings, SupervisorSettings,
};

/// What the configuration takes from the process's surroundings, passed in so that tests can choose.
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the effective user is root.
    pub root: bool,
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// A stream from the command line: `NAME=ID:STRIDE` or `NAME=ID:STRIDExNSLOTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFlag {
    /// The stream's name.
    pub name: String,
    /// Its id.
    pub stream_id: u32,
    /// Bytes per slot.
    pub stride_bytes: u32,
    /// Slots.
    pub header_nslots: u32,
}

/// A configuration and what is to be said about it without refusing it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective configuration.
    pub settings: Settings,
    /// Sentences for the log, in order.
    pub warnings: Vec<String>,
    /// Whether there was neither a file nor a stream on the command line.
    pub built_in: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}: give a readable file with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// At least one rule is broken.
    #[error("the configuration is not valid:{}", lines(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// Bounded label.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Invalid(_) => "invalid",
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        text.push_str("\n  ");
        text.push_str(&problem.to_string());
        text
    })
}

/// Loads the file (none: the built-in configuration), the overrides and the flags.
///
/// # Errors
/// [`ConfigError`] with every problem that was found.
pub fn load(
    path: Option<&Path>,
    flags: &[StreamFlag],
    surroundings: &Surroundings<'_>,
) -> Result<Loaded, ConfigError> {
    let (text, built_in) = match path {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
            (text, false)
        }
        None if flags.is_empty() && !is_in_cluster(surroundings) => (BUILT_IN.to_owned(), true),
        None => (String::new(), false),
    };
    parse(&text, flags, surroundings, built_in)
}

/// What runs when nobody configures anything: one stream, and more on demand, small enough for the
/// 64 MiB that a container has in /dev/shm by default.
pub const BUILT_IN: &str = r#"
[driver]
stream_id_range = "20000-29999"

[policies]
allow_dynamic_streams = true
default_profile = "default"

[profiles.default]
header_nslots = 64
payload_pools = [{ pool_id = 1, stride_bytes = 262144 }]

[streams.default]
stream_id = 10000
profile = "default"
"#;

/// Whether the environment says so; a file may say it as well.
fn is_in_cluster(surroundings: &Surroundings<'_>) -> bool {
    (surroundings.variable)("KUBERNETES_NODE").is_some_and(|node| !node.is_empty())
}

fn parse(
    text: &str,
    flags: &[StreamFlag],
    surroundings: &Surroundings<'_>,
    built_in: bool,
) -> Result<Loaded, ConfigError> {
    let raw = raw::Raw::read(text, surroundings.variable).map_err(ConfigError::Invalid)?;
    let (settings, mut problems) = build::settings(&raw, flags, surroundings);
    let mut warnings = Vec::new();
    checks::run(&settings, &mut problems, &mut warnings);
    if problems.is_empty() {
        Ok(Loaded {
            settings,
            warnings,
            built_in,
        })
    } else {
        Err(ConfigError::Invalid(problems))
    }
}
