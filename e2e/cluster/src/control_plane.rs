//! etcd and an API server, for one test process.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::api_server::{FilesError, SIGNING_KEY, ServerFiles};
use crate::binaries::{Binaries, BuildError, Program};
use crate::certificate::{Authority, CertificateError, Identity};
use crate::kubeconfig;
use crate::probe::Probe;
use crate::process::{Keeper, ProcessError, Server};
use crate::progress::Progress;
use crate::token::{self, TokenError};

/// Beginning of the name of a control plane's directory.
const PREFIX: &str = "tensorpool-control-plane-";
/// A busy machine may be slow; two seconds are usual.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// How often another port is tried when somebody else took the one we found free.
const PORT_TRIES: usize = 5;

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A program could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// etcd or the API server does not run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The directory for its files.
    #[error(
        "could not write {}: a control plane needs about 100 MB in the temporary directory (TMPDIR)", path.display()
    )]
    Directory {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No port of the loopback interface.
    #[error("could not find a free port on 127.0.0.1")]
    Port {
        /// Why.
        source: io::Error,
    },
}

impl From<FilesError> for StartError {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::Certificate(error) => Self::Certificate(error),
            FilesError::Write { path, source } => Self::Directory { path, source },
        }
    }
}

/// etcd and an API server with Node and RBAC authorization, NodeRestriction, Pod Security and
/// ServiceAccount admission, and an audit log.
///
/// Everything is real but the absence of controllers: there is no controller-manager, so a
/// deleted namespace stays `Terminating`, nothing is garbage-collected, aggregated ClusterRoles
/// (`view`, `edit`, `admin`) are empty, and service accounts (pods cannot be created without) have
/// to be created by the test. There are no nodes, so no pod runs.
///
/// It needs no root, listens on a free port of 127.0.0.1 and keeps its files in a directory of its
/// own, so any number run side by side. It ends when it is dropped, and also when the process is
/// killed; what a killed process left in the temporary directory is removed by the next start.
///
/// `KUBECONFIG` is not looked at: tests against a control plane delete and forbid as they like,
/// which nobody wants to happen to a cluster that the shell happens to know.
///
/// ```no_run
/// let control_plane = tensorpool_cluster::ControlPlane::start()?;
/// let config = control_plane.kubeconfig(); // for kube::config::Kubeconfig::read_from
/// let names = control_plane.kubectl().args(["get", "namespaces", "-o", "name"]).output()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ControlPlane {
    // In the order in which they have to end.
    api_server: Server,
    _etcd: Server,
    _keeper: Keeper,
    authority: Authority,
    files: ServerFiles,
    kubectl: PathBuf,
    server: String,
    address: SocketAddr,
    directory: TempDir,
    _lock: File,
}

impl ControlPlane {
    /// Builds the programs if that was never done (some minutes), starts them, and returns when
    /// the API server is ready.
    ///
    /// # Errors
    /// When a program cannot be built or started; the message has the end of its log.
    pub fn start() -> Result<Self, StartError> {
        Self::start_with(&mut Binaries::from_environment()?, &Progress::stderr())
    }

    /// Like [`start`](Self::start), with programs and progress of the caller's.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(binaries: &mut Binaries, progress: &Progress) -> Result<Self, StartError> {
        Self::start_in(&std::env::temp_dir(), binaries, progress)
    }

    /// Like [`start_with`](Self::start_with), with its files below `parent`.
    pub(crate) fn start_in(
        parent: &Path,
        binaries: &mut Binaries,
        progress: &Progress,
    ) -> Result<Self, StartError> {
        let etcd = binaries.ensure(Program::Etcd, progress)?;
        let api_server = binaries.ensure(Program::KubeApiserver, progress)?;
        let kubectl = binaries.ensure(Program::Kubectl, progress)?;
        remove_abandoned(parent);
        let (directory, lock) = locked_directory(parent)?;
        let authority = Authority::new()?;
        let files = ServerFiles::write(directory.path(), &authority, &["127.0.0.1"])?;
        let keeper = Keeper::start().map_err(in_directory(directory.path()))?;
        let etcd_log = directory.path().join("etcd.log");
        let mut etcd = keeper.spawn("etcd", &etcd, &files.etcd_flags(), &etcd_log)?;
        wait_until(&mut etcd, || files.etcd_socket().exists())?;
        let started = start_api_server(&keeper, &api_server, &files, &authority, directory.path())?;
        let (api_server, address) = started;
        let control_plane = Self {
            api_server,
            _etcd: etcd,
            _keeper: keeper,
            authority,
            files,
            kubectl,
            server: format!("https://{address}"),
            address,
            directory,
            _lock: lock,
        };
        control_plane.kubeconfig_of("admin", Some("system:masters"))?;
        Ok(control_plane)
    }

    /// Where the API server is, like `https://127.0.0.1:34567`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The authority that signed the API server's certificate, PEM.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        self.authority.pem()
    }

    /// A kubeconfig of an administrator (group `system:masters`). The file lives as long as the
    /// control plane.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }

    /// Writes a kubeconfig of any user, with at most one group besides `system:authenticated`.
    /// The user may do what RBAC objects allow it, which at first is next to nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_of(&self, user: &str, group: Option<&str>) -> Result<PathBuf, StartError> {
        let identity = self.authority.client(user, group)?;
        let text = kubeconfig::text(&self.server, self.authority.pem(), user, &identity);
        let name: String = user
            .chars()
            .map(|letter| {
                if letter.is_alphanumeric() {
                    letter
                } else {
                    '-'
                }
            })
            .collect();
        Ok(self.files.put(&format!("{name}.kubeconfig"), &text)?)
    }

    /// A service account token of this control plane, such as `kubectl create token` prints, signed
    /// again so that it is refused once `left` has passed: the API server gives out none for less
    /// than ten minutes. It remembers what it took for ten seconds more.
    ///
    /// # Errors
    /// When it is no token.
    pub fn token_ending_in(&self, token: &str, left: Duration) -> Result<String, TokenError> {
        let key = fs::read_to_string(self.directory.path().join(SIGNING_KEY));
        let key = key.map_err(|error| TokenError::Key(error.to_string()))?;
        token::ending_in(token, &key, left)
    }

    /// `kubectl` as the administrator.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        self.kubectl_as(&self.kubeconfig())
    }

    /// `kubectl` as the user of a kubeconfig.
    #[must_use]
    pub fn kubectl_as(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", kubeconfig);
        // Its cache of discovery must not outlive the server.
        command
            .arg("--cache-dir")
            .arg(self.directory.path().join("kubectl-cache"));
        command
    }

    /// Where the API server listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A certificate of any user.
    pub(crate) fn identity_of(&self, user: &str) -> Result<Identity, CertificateError> {
        self.authority.client(user, None)
    }

    /// Writes a file that lives as long as the control plane.
    pub(crate) fn put(&self, name: &str, text: &str) -> Result<PathBuf, StartError> {
        Ok(self.files.put(name, text)?)
    }

    /// The audit log: one JSON object per line, for every answered request.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.files.audit_log()
    }

    /// `Err`, with the end of its log, when the API server has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> Result<(), ProcessError> {
        self.api_server.still_runs()
    }
}

fn start_api_server(
    keeper: &Keeper,
    program: &Path,
    files: &ServerFiles,
    authority: &Authority,
    directory: &Path,
) -> Result<(Server, SocketAddr), StartError> {
    let log = directory.join("kube-apiserver.log");
    let mut tries = 0;
    loop {
        tries += 1;
        let address = free_address()?;
        let flags = files.api_server_flags(address, "127.0.0.1");
        let mut server = keeper.spawn("kube-apiserver", program, &flags, &log)?;
        let probe = Probe::new(address, authority.pem()).map_err(in_directory(directory))?;
        match wait_until(&mut server, || probe.is_ready()) {
            Ok(()) => return Ok((server, address)),
            Err(ProcessError::Ended { tail, .. })
                if tries < PORT_TRIES && tail.contains("address already in use") => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait_until(server: &mut Server, is_ready: impl Fn() -> bool) -> Result<(), ProcessError> {
    let started = Instant::now();
    while !is_ready() {
        server.still_runs()?;
        if started.elapsed() > READY_LIMIT {
            return Err(server.silent(READY_LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A port that was free a moment ago. Whoever finds it taken after all tries another one.
fn free_address() -> Result<SocketAddr, StartError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|source| StartError::Port { source })
}

/// A new directory that nobody else can look into, and a lock that says its owner lives.
fn locked_directory(parent: &Path) -> Result<(TempDir, File), StartError> {
    let directory = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(parent)
        .map_err(in_directory(parent))?;
    let path = directory.path().join("lock");
    let lock = File::create(&path).map_err(in_directory(&path))?;
    lock.lock().map_err(in_directory(&path))?;
    Ok((directory, lock))
}

/// Removes directories whose owner was killed: nobody holds their lock any more. One without a
/// lock file may be about to get it, so it has to be a minute old.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let abandoned = match File::open(entry.path().join("lock")) {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(_) => entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > Duration::from_secs(60))),
        };
        if abandoned {
            // Another user's directory, or another process that removes it too: neither is ours
            // to complain about.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

fn in_directory(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    |source| StartError::Directory { path, source }
}
