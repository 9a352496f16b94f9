//! The Go compiler: the one on `PATH` if it is new enough, else the one that `cargo xtask setup`
//! put into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the newest of our modules asks for in its `go` line.
pub(crate) const OLDEST: (u32, u32) = (1, 26);

/// Why there is no compiler.
#[derive(Debug, thiserror::Error)]
#[error(
    "the programs of a cluster are built with Go {}.{} or newer, and {found}: run `cargo xtask setup`, or install it and put it on PATH",
    OLDEST.0, OLDEST.1
)]
pub struct GoError {
    found: String,
}

/// A compiler that was asked for its version.
#[derive(Debug)]
pub(crate) struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    /// The first one that is new enough.
    pub(crate) fn find() -> Result<Self, GoError> {
        let mut found = Vec::new();
        for program in candidates() {
            let Some(version) = version_of(&program) else {
                continue;
            };
            if new_enough(&version) {
                return Ok(Self { program, version });
            }
            found.push(format!("{} is {version}", program.display()));
        }
        if found.is_empty() {
            found.push("there is none".to_owned());
        }
        Err(GoError {
            found: found.join(", "),
        })
    }

    /// What to start.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Like `go1.26.8`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = vec![PathBuf::from("go")];
    if let Ok(cache) = crate::binaries::cache_directory() {
        candidates.push(cache.join("tools-1/bin/go"));
    }
    candidates
}

fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program)
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .current_dir("/")
        .output()
        .ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    let version = version.trim();
    version.starts_with("go").then(|| version.to_owned())
}

fn new_enough(version: &str) -> bool {
    let numbers = version.trim_start_matches("go");
    let mut numbers = numbers.split('.').map_while(|part| part.parse().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_as_numbers() {
        for version in ["go1.26", "go1.26.8", "go1.100.1", "go2.0"] {
            assert!(new_enough(version), "{version}");
        }
        for version in ["go1.9", "go1.25.9", "", "devel"] {
            assert!(!new_enough(version), "{version}");
        }
    }
}
