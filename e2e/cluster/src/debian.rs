//! Programs of Debian packages, unpacked into the cache instead of installed.
//!
//! Installing containerd or runc would replace those of a machine that runs containers; unpacked
//! they are only files for us.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::binaries::{BuildError, cache_directory};
use crate::progress::Progress;

/// Why a package is not there.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// No cache.
    #[error(transparent)]
    Cache(#[from] BuildError),
    /// A program failed or is missing.
    #[error(
        "could not get the Debian package {package}: {what} failed: {output}; a cluster needs apt-get and dpkg-deb, and once the network"
    )]
    Failed {
        /// The package.
        package: &'static str,
        /// The command.
        what: &'static str,
        /// What it said.
        output: String,
    },
    /// A file of the cache.
    #[error("could not write {}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The directory with the files of `package`, fetched the first time. It is named after the
/// release of Debian, which decides the version.
///
/// # Errors
/// When the package cannot be fetched or unpacked.
pub fn unpacked(package: &'static str, progress: &Progress) -> Result<PathBuf, DebianError> {
    let parent = cache_directory()?.join("cluster-programs");
    let directory = parent.join(format!("debian-{}-{package}", release()));
    if directory.is_dir() {
        return Ok(directory);
    }
    progress.step(&format!("fetching the Debian package {package}"));
    fs::create_dir_all(&parent).map_err(cannot_write(&parent))?;
    let unfinished = tempfile::tempdir_in(&parent).map_err(cannot_write(&parent))?;
    let archive = download(package, unfinished.path())?;
    let files = unfinished.path().join("files");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&archive).arg(&files);
    succeed(package, "dpkg-deb -x", unpack.output())?;
    match fs::rename(&files, &directory) {
        // Another process may have been quicker.
        Err(_) if directory.is_dir() => Ok(directory),
        renamed => renamed
            .map(|()| directory.clone())
            .map_err(cannot_write(&directory)),
    }
}

fn download(package: &'static str, into: &Path) -> Result<PathBuf, DebianError> {
    let fetch = || {
        let mut apt = Command::new("apt-get");
        apt.args(["download", "-q", package]).current_dir(into);
        succeed(package, "apt-get download", apt.output())
    };
    if fetch().is_err() {
        // A new machine has no lists of packages yet.
        let mut apt = Command::new("apt-get");
        succeed(
            package,
            "apt-get update",
            apt.args(["update", "-q"]).output(),
        )?;
        fetch()?;
    }
    let entries = fs::read_dir(into).map_err(cannot_write(into))?;
    let archive = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"));
    archive.ok_or_else(|| DebianError::Failed {
        package,
        what: "apt-get download",
        output: "it wrote no .deb file".to_owned(),
    })
}

fn succeed(
    package: &'static str,
    what: &'static str,
    output: io::Result<Output>,
) -> Result<(), DebianError> {
    let said = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(DebianError::Failed {
        package,
        what,
        output: said,
    })
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> DebianError {
    let path = path.to_owned();
    |source| DebianError::Write { path, source }
}

/// The release's word, like `bookworm`.
fn release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let word = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    word.unwrap_or("unknown").trim_matches('"').to_owned()
}
