//! The process: its two sockets, kubelet's registration, and its end.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::args::CsiArgs;
use super::calls::Counted;
use super::driver::Driver;
use super::identity::IdentityService;
use super::node::NodeService;
use super::proto::csi::identity_server::IdentityServer;
use super::proto::csi::node_server::NodeServer;
use super::proto::pluginregistration::registration_server::RegistrationServer;
use super::publish::Volumes;
use super::registration::{Registered, RegistrationService};
use super::turns::Turns;
use super::{authority, collect};
use crate::attachments::attributes::DRIVER_NAME;

/// Longest path that kubelet can dial.
const PATH_MAX_BYTES: usize = 107;
/// Time until the driver is asked again whether it is there.
const PROBE_PERIOD: Duration = Duration::from_millis(500);
/// Time until registration is offered again after kubelet refused it; doubled each time.
const REGISTER_AGAIN: Duration = Duration::from_secs(1);
const REGISTER_AGAIN_MAX: Duration = Duration::from_secs(60);

/// Time for requests that are under way when the process is told to end.
const LAST_REQUESTS: Duration = Duration::from_secs(20);
/// Time for their answers. Connections that say nothing are not waited for any longer.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Why the CSI driver did not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    /// A socket's path is too long.
    #[error(
        "the path {} has {} bytes, and kubelet can dial {PATH_MAX_BYTES}: run kubelet with a shorter directory (--root-dir)",
        .0.display(), .0.as_os_str().len()
    )]
    PathTooLong(
        /// The path.
        PathBuf,
    ),
    /// A directory or socket could not be made.
    #[error("could not {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Threads, signals.
    #[error("the kernel refused {what}")]
    Kernel {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A server ended by itself.
    #[error("the gRPC server failed")]
    Server(#[from] tonic::transport::Error),
}

/// Serves kubelet until SIGTERM or SIGINT.
///
/// # Errors
/// [`CsiError`].
pub fn run(args: &CsiArgs) -> Result<(), CsiError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(kernel("a runtime"))?;
    runtime.block_on(serve(args))
}

async fn serve(args: &CsiArgs) -> Result<(), CsiError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(kernel("a signal handler"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(kernel("a signal handler"))?;
    let (stop, stopped) = watch::channel(false);
    let paths = Paths::below(&args.kubelet_dir)?;
    let counted = Counted::default();
    let driver = Driver::new(args.internal_socket.clone(), counted.clone());
    let turns = Turns::default();
    let volumes = Arc::new(Volumes {
        driver: driver.clone(),
        kubelet_dir: args.kubelet_dir.clone(),
        shm_dir: args.shm_dir.clone(),
        aeron_dir: args.aeron_dir.clone(),
        turns: turns.clone(),
    });
    // What a predecessor left says that this one is ready, which it is not yet.
    remove(&paths.registration)?;
    let plugin = Server::builder()
        .add_service(IdentityServer::new(IdentityService {
            driver: driver.clone(),
            counted: counted.clone(),
        }))
        .add_service(NodeServer::new(NodeService {
            volumes: Arc::clone(&volumes),
            counted: counted.clone(),
        }))
        .serve_with_incoming_shutdown(listen(&paths.plugin)?, until(stopped.clone()));
    let plugin = tokio::spawn(plugin);
    let collector = tokio::spawn(collect::run(volumes));
    let teller = tokio::spawn(counted.tell(driver.clone()));
    let registration = register(driver, paths.clone(), stopped);
    tracing::info!(socket = %paths.plugin.display(), "serving CSI");
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        failed = registration => failed,
    };
    tracing::info!("ending");
    let gone = remove(&paths.registration);
    collector.abort();
    teller.abort();
    stop.send_replace(true);
    // What kubelet asked for is finished first. Then it gets its answer, if it is there to take it.
    let _done = timeout(LAST_REQUESTS, turns.idle()).await;
    if let Ok(Ok(served)) = timeout(LAST_ANSWERS, plugin).await {
        served?;
    }
    remove(&paths.plugin)?;
    gone.and(ended)
}

/// The sockets that kubelet dials.
#[derive(Clone, Debug)]
struct Paths {
    plugin: PathBuf,
    registration: PathBuf,
}

impl Paths {
    fn below(kubelet_dir: &Path) -> Result<Self, CsiError> {
        let paths = Self {
            plugin: kubelet_dir
                .join("plugins")
                .join(DRIVER_NAME)
                .join("csi.sock"),
            registration: kubelet_dir
                .join("plugins_registry")
                .join(format!("{DRIVER_NAME}-reg.sock")),
        };
        for path in [&paths.plugin, &paths.registration] {
            if path.as_os_str().len() > PATH_MAX_BYTES {
                return Err(CsiError::PathTooLong(path.clone()));
            }
        }
        for path in [&paths.plugin, &paths.registration] {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).map_err(at("make the directory", directory))?;
            }
        }
        Ok(paths)
    }
}

/// Offers registration once the driver answers, and again whenever kubelet could not take it.
async fn register(
    driver: Driver,
    paths: Paths,
    stopped: watch::Receiver<bool>,
) -> Result<(), CsiError> {
    let mut pause = REGISTER_AGAIN;
    loop {
        let node = await_driver(&driver).await;
        let (said, mut hears) = watch::channel(Registered::NotAsked);
        let (over, is_over) = watch::channel(false);
        let service = RegistrationService {
            endpoint: String::from_utf8_lossy(paths.plugin.as_os_str().as_bytes()).into_owned(),
            said,
        };
        let server = Server::builder()
            .add_service(RegistrationServer::new(service))
            .serve_with_incoming_shutdown(
                listen(&paths.registration)?.map(|dialed| dialed.map(authority::replaced)),
                until(is_over),
            );
        let server = tokio::spawn(server);
        tracing::info!(node, "the driver answers: offering registration to kubelet");
        let why = loop {
            let mut stopped = stopped.clone();
            let changed = tokio::select! {
                changed = hears.changed() => changed.is_ok(),
                _ = stopped.changed() => false,
            };
            let said = hears.borrow_and_update().clone();
            match said {
                Registered::Yes if changed => {
                    tracing::info!("registered with kubelet");
                    tell(&driver, true).await;
                    pause = REGISTER_AGAIN;
                }
                Registered::No(why) if changed => break why,
                Registered::NotAsked | Registered::Yes | Registered::No(_) => return Ok(()),
            }
        };
        tracing::error!(
            error = why,
            again_s = pause.as_secs(),
            "kubelet did not register the driver"
        );
        tell(&driver, false).await;
        remove(&paths.registration)?;
        over.send_replace(true);
        // Whoever keeps its connection open does not hold up the next offer.
        let _ended = timeout(LAST_ANSWERS, server).await;
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(REGISTER_AGAIN_MAX);
    }
}

/// Tells the driver whether kubelet has registered us. One that is away hears it later.
async fn tell(driver: &Driver, registered: bool) {
    driver.set_registered(registered);
    if let Err(error) = driver.probe().await {
        tracing::debug!(error = %error, "the driver hears later that kubelet spoke");
    }
}

async fn await_driver(driver: &Driver) -> String {
    let mut said = false;
    loop {
        match driver.probe().await {
            Ok(node) => return node,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::info!(error = %error, "waiting for the driver before registering");
                }
                tokio::time::sleep(PROBE_PERIOD).await;
            }
        }
    }
}

async fn until(mut told: watch::Receiver<bool>) {
    // Who tells is gone: then it is over as well.
    let _told = told.wait_for(|over| *over).await;
}

/// A socket that only root can use; it appears under its name when it listens already.
fn listen(path: &Path) -> Result<UnixListenerStream, CsiError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Kubelet passes over names that begin so.
    let beside = path.with_file_name(format!(".{}", &name[..name.len().min(8)]));
    remove(&beside)?;
    let bound = StdListener::bind(&beside).map_err(at("listen on", &beside))?;
    bound
        .set_nonblocking(true)
        .and_then(|()| fs::set_permissions(&beside, Permissions::from_mode(0o600)))
        .and_then(|()| fs::rename(&beside, path))
        .map_err(at("listen on", path))?;
    let listener = UnixListener::from_std(bound).map_err(at("listen on", path))?;
    Ok(UnixListenerStream::new(listener))
}

fn remove(path: &Path) -> Result<(), CsiError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CsiError + 'a {
    move |source| CsiError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

fn kernel(what: &'static str) -> impl FnOnce(io::Error) -> CsiError {
    move |source| CsiError::Kernel { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kubelet's directory with a path of this many bytes.
    fn kubelet_dir(below: &Path, bytes: usize) -> PathBuf {
        let rest = bytes - below.as_os_str().len() - 1;
        below.join("k".repeat(rest))
    }

    #[test]
    fn a_path_that_kubelet_cannot_dial_is_refused_with_its_length() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let too_long = kubelet_dir(dir.path(), 64);
        let error = Paths::below(&too_long).unwrap_err();
        assert!(matches!(error, CsiError::PathTooLong(_)), "{error}");
        let words = "has 108 bytes, and kubelet can dial 107";
        assert!(error.to_string().contains(words), "{error}");
        assert!(!too_long.exists(), "nothing is made that would not be used");
        let longest = kubelet_dir(dir.path(), 63);
        assert_eq!(
            Paths::below(&longest)
                .unwrap()
                .registration
                .as_os_str()
                .len(),
            PATH_MAX_BYTES
        );
    }
}
