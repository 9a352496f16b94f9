//! Where a driver may be reached, and where its memory appears to this process.
//!
//! It owns the order in which a client looks (X-2-70) and the rebasing of announced paths onto a
//! mounted volume. What was set explicitly is never passed over for something found elsewhere. It
//! refuses to connect and to open regions.

#[cfg(test)]
mod tests;
pub(crate) mod volume;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::lease::ClientIds;

/// The file name of a driver's socket.
const SOCKET_NAME: &str = "driver.sock";
/// Where volumes are mounted and where a root driver has its socket.
const RUN_DIR: &str = "/run/tensorpool";
/// Directories that regions may lie in, beside those of `TENSORPOOL_ALLOWED_BASE_DIRS`.
const BASE_DIRS: [&str; 3] = ["/dev/shm", "/dev/hugepages", RUN_DIR];

/// The variables and directories that a search looks at. Read once, so that a search can be tested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) socket: Option<OsString>,
    pub(crate) volumes: Option<OsString>,
    pub(crate) xdg_runtime_dir: Option<OsString>,
    pub(crate) aeron_dir: Option<OsString>,
    pub(crate) allowed_base_dirs: Option<OsString>,
    pub(crate) run_dir: PathBuf,
    /// More directories that regions may lie in, from the builder.
    pub(crate) more_bases: Vec<PathBuf>,
    /// A media driver that the builder names; no socket is looked for then.
    pub(crate) aeron_only: Option<PathBuf>,
    /// Whether this process runs in a pod: Kubernetes names its API server to every container.
    pub(crate) is_pod: bool,
}

/// One driver that may be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// A socket file. `volume` is the directory that holds it, where that may be a mounted view.
    Socket {
        path: PathBuf,
        volume: Option<PathBuf>,
        /// Whether that directory is, or is said to be, a volume of a pod.
        is_mounted: bool,
    },
    /// A media driver's directory.
    Aeron { dir: PathBuf },
}

/// What was looked at, in order: the words of the error when nothing is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked(Vec<String>);

impl std::fmt::Display for Looked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Looked {
    pub(crate) fn at(&mut self, place: impl Into<String>) {
        self.0.push(place.into());
    }
}

impl Surroundings {
    /// What this process sees.
    pub(crate) fn of_process() -> Self {
        // An empty variable is as good as none.
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            socket: var("TENSORPOOL_SOCKET"),
            volumes: var("TENSORPOOL_VOLUME"),
            xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
            aeron_dir: var("TENSORPOOL_AERON_DIR"),
            allowed_base_dirs: var("TENSORPOOL_ALLOWED_BASE_DIRS"),
            run_dir: PathBuf::from(RUN_DIR),
            more_bases: Vec::new(),
            aeron_only: None,
            is_pod: var("KUBERNETES_SERVICE_HOST").is_some(),
        }
    }

    /// The drivers that may be there, best first, and what was looked at.
    ///
    /// `explicit` is the builder's socket. The first setting that names something decides: a socket
    /// that was asked for and is missing is waited for, not replaced by another.
    // spec: X-2-70
    pub(crate) fn candidates(&self, explicit: Option<&Path>) -> (Vec<Candidate>, Looked) {
        let mut looked = Looked::default();
        if let Some(path) = explicit {
            looked.at(format!("{} (the builder's socket)", path.display()));
            return (vec![socket(path)], looked);
        }
        if let Some(dir) = &self.aeron_only {
            looked.at(format!("{} (the builder's media driver)", dir.display()));
            return (vec![Candidate::Aeron { dir: dir.clone() }], looked);
        }
        if let Some(path) = &self.socket {
            let path = Path::new(path);
            looked.at(format!("{} (TENSORPOOL_SOCKET)", path.display()));
            return (vec![socket(path)], looked);
        }
        if let Some(volumes) = &self.volumes {
            looked.at(format!(
                "{SOCKET_NAME} in {} (TENSORPOOL_VOLUME)",
                Path::new(volumes).display()
            ));
            let found = std::env::split_paths(volumes).filter(|dir| !dir.as_os_str().is_empty());
            return (found.map(|dir| in_volume(&dir, true)).collect(), looked);
        }
        looked.at(format!(
            "{SOCKET_NAME} in {} and its sub-directories",
            self.run_dir.display()
        ));
        let mut found: Vec<Candidate> = self
            .run_dirs()
            .into_iter()
            .filter(|dir| dir.join(SOCKET_NAME).exists())
            .map(|dir| in_volume(&dir, self.is_pod))
            .collect();
        if let Some(dir) = &self.xdg_runtime_dir {
            let path = Path::new(dir).join("tensorpool").join(SOCKET_NAME);
            looked.at(path.display().to_string());
            if path.exists() {
                found.push(Candidate::Socket {
                    path,
                    volume: None,
                    is_mounted: false,
                });
            }
        } else {
            looked.at("no socket of the user (XDG_RUNTIME_DIR is not set)");
        }
        match &self.aeron_dir {
            Some(dir) if found.is_empty() => found.push(Candidate::Aeron { dir: dir.into() }),
            Some(_) => {}
            None => looked.at("no media driver (TENSORPOOL_AERON_DIR is not set)"),
        }
        (found, looked)
    }

    /// The directories that regions may lie in.
    // spec: W-15.21a-14
    pub(crate) fn base_dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = BASE_DIRS.iter().map(PathBuf::from).collect();
        if let Some(more) = &self.allowed_base_dirs {
            dirs.extend(std::env::split_paths(more).filter(|dir| dir.is_absolute()));
        }
        dirs.extend(self.more_bases.iter().cloned());
        dirs
    }

    /// `/run/tensorpool` and its direct sub-directories, in the order of their names.
    fn run_dirs(&self) -> Vec<PathBuf> {
        let mut dirs = vec![self.run_dir.clone()];
        let mut below: Vec<PathBuf> = std::fs::read_dir(&self.run_dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        below.sort();
        dirs.append(&mut below);
        dirs
    }
}

fn socket(path: &Path) -> Candidate {
    Candidate::Socket {
        path: path.to_owned(),
        volume: path.parent().map(Path::to_owned),
        is_mounted: false,
    }
}

fn in_volume(dir: &Path, is_mounted: bool) -> Candidate {
    Candidate::Socket {
        path: dir.join(SOCKET_NAME),
        volume: Some(dir.to_owned()),
        is_mounted,
    }
}

/// Where announced paths appear to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebase {
    /// The driver's announced base directory, from the `base=` tag (X-2-41).
    pub(crate) announced: PathBuf,
    /// Where a volume shows it here.
    pub(crate) volume: PathBuf,
}

impl Rebase {
    /// The path under the volume, if the announced one lies under the announced base and the volume
    /// holds it; otherwise the announced path itself. A volume that is mounted at the announced base
    /// changes nothing, and a stand-alone driver's socket directory holds no regions.
    pub(crate) fn apply(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.announced) {
            Ok(rest)
                if rest
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_))) =>
            {
                let here = self.volume.join(rest);
                if here.exists() { here } else { path.to_owned() }
            }
            Ok(_) | Err(_) => path.to_owned(),
        }
    }

    /// The announced base among a discovery result's tags.
    pub(crate) fn announced_base(tags: &[String]) -> Option<PathBuf> {
        tags.first()?
            .strip_prefix("base=")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    }
}

/// A volume's place on Aeron, as its driver tells on the volume's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AeronPlace {
    /// The media driver's directory.
    pub(crate) dir: PathBuf,
    /// The client ids that count there.
    pub(crate) clients: ClientIds,
}

impl AeronPlace {
    /// The place among a discovery result's tags; `None` for a volume with a socket only.
    // spec: X-2-75
    pub(crate) fn of_tags(tags: &[String]) -> Option<Self> {
        let tag = |name: &str| tags.iter().find_map(|tag| tag.strip_prefix(name));
        let (first, last) = tag("client_ids=")?.split_once('-')?;
        let clients = ClientIds::new(first.parse().ok()?, last.parse().ok()?)?;
        let dir = PathBuf::from(tag("aeron_dir=")?);
        dir.is_absolute().then_some(Self { dir, clients })
    }
}
