//! Putting the driver together and running it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use tensorpool_driver_core::config::ConfigError as CoreConfigError;
use tensorpool_driver_core::{Driver, Restored};
use tensorpool_shm::{FaultError, StoreError, install_fault_handler};
use tensorpool_transport::socket::{Limits, ListenError, PacketClass, SocketServer};
use tensorpool_wire::{FrameProgress, LogicalStream, SCHEMA_WIRE};

use crate::aeron::{Aeron, LinkError};
use crate::args::exit;
use crate::attachments::views::Views;
use crate::clock;
use crate::config::{Budget, BudgetError, Loaded, Settings};
use crate::control;
use crate::core_config::core_config;
use crate::counters::Counters;
use crate::files::{Files, in_words};
use crate::health::{self, Observer};
use crate::http::{self, HttpError};
use crate::journal::{self, Found, Journal, JournalError};
use crate::lock::{InstanceLock, LockError};
use crate::log_filter::LogFilter;
use crate::runtime::{Fatal, Parts, Runtime, STANDALONE};
use crate::scan;
use crate::signals::Signals;
use crate::stores::{Stores, StoresError};
use crate::telemetry::{self, FilterError};

/// Why the driver did not run, or ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The log filter.
    #[error("the log cannot be started")]
    Log(#[from] FilterError),
    /// The SIGBUS handler.
    #[error("regions cannot be guarded against truncation")]
    Fault(#[from] FaultError),
    /// A directory of the driver's own.
    #[error("cannot make the directory {path}: {key} must name one that can be made or is there")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The configuration key that names it.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The regions' directories.
    #[error("shm.base_dir cannot be used")]
    Stores(#[from] StoresError),
    /// What earlier drivers left there.
    #[error("old epochs cannot be listed")]
    Old(#[from] StoreError),
    /// The mount.
    #[error("shm.base_dir cannot be measured")]
    Budget(#[from] BudgetError),
    /// Another driver.
    #[error("this driver may not run here")]
    Lock(#[from] LockError),
    /// The journal.
    #[error("epochs cannot be kept")]
    Journal(#[from] JournalError),
    /// A rule of the core.
    #[error("the configuration is not valid")]
    Config(#[from] CoreConfigError),
    /// The socket server as a whole.
    #[error("the socket server cannot be started")]
    Socket(#[source] io::Error),
    /// The socket file.
    #[error("socket.path cannot be used")]
    Listen(#[from] ListenError),
    /// Aeron.
    #[error("Aeron clients cannot be served")]
    Aeron(#[from] LinkError),
    /// HTTP.
    #[error("metrics cannot be served")]
    Http(#[from] HttpError),
    /// Signals, random numbers, threads.
    #[error("the kernel refused {what}")]
    Kernel {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Kubernetes.
    #[cfg(feature = "kubernetes")]
    #[error("the node's policy cannot be followed")]
    Cluster(#[from] crate::cluster::StartError),
    /// Volumes of pods.
    #[cfg(feature = "kubernetes")]
    #[error("volumes of pods cannot be served")]
    Attachments(#[from] crate::attachments::AttachmentsError),
    /// While it ran.
    #[error("the driver ended early")]
    Fatal(#[from] Fatal),
}

impl ServeError {
    /// The exit code for it.
    #[must_use]
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Lock(LockError::Held { .. }) => exit::LOCKED,
            Self::Config(_) => exit::INVALID,
            Self::Log(_)
            | Self::Fault(_)
            | Self::Directory { .. }
            | Self::Stores(_)
            | Self::Old(_)
            | Self::Budget(_)
            | Self::Lock(LockError::Io { .. })
            | Self::Journal(_)
            | Self::Socket(_)
            | Self::Listen(_)
            | Self::Aeron(_)
            | Self::Http(_)
            | Self::Kernel { .. }
            | Self::Fatal(_) => exit::FAILED,
            #[cfg(feature = "kubernetes")]
            Self::Cluster(_) | Self::Attachments(_) => exit::FAILED,
        }
    }
}

/// Runs the driver until it is told to end.
///
/// # Errors
/// [`ServeError`]; what was started is ended again.
pub(crate) fn serve(loaded: &Loaded) -> Result<(), ServeError> {
    let settings = &loaded.settings;
    let log = telemetry::start(&settings.log)?;
    let signals = Signals::install().map_err(kernel("signal handlers"))?;
    install_fault_handler()?;
    greet(loaded);
    let descriptors = raise_descriptor_limit();
    make_dir(&settings.driver.state_dir, "driver.state_dir")?;

    let stores = Arc::new(Stores::open(settings)?);
    let _lock = InstanceLock::take(
        &settings.driver.state_dir,
        stores.named().map(|(_, store)| store.path()),
    )?;
    let largest_bytes = memory(settings, &stores)?;

    let (journal, restored) = restore(settings, &stores)?;
    let others_alive = scan::others_alive(&restored.existing);
    let config = core_config(settings, &stores, largest_bytes, random()?)?;
    let reserved_stream_ids = config.reserved_stream_ids();
    let core = Driver::restore(config, &restored);

    let mut counters = Counters::default();
    let aeron = Aeron::start(settings, &mut counters)?;
    let socket = listen(settings, descriptors)?;
    let (observer, observed) = health::channel();
    serve_http(settings, observer)?;
    let views = Views::default();
    let (control, commands) = control::channel().map_err(kernel("an event descriptor"))?;
    let files = Files::start(Arc::clone(&stores), journal, views.clone());
    let files = files.map_err(kernel("a thread"))?;
    let parts = Parts {
        core,
        socket,
        aeron,
        files,
        stores: Arc::clone(&stores),
        commands,
        reserved_stream_ids,
        observed,
        signals,
        log_filter: LogFilter::new(log, &settings.driver.state_dir),
        counters,
        others_alive,
    };
    #[cfg(feature = "kubernetes")]
    let cluster = crate::cluster::begin(settings, &control)?;
    #[cfg(feature = "kubernetes")]
    if let Some(cluster) = &cluster {
        crate::attachments::begin(settings, &stores, &control, &views, cluster)?;
    }
    drop((control, views, stores));
    let ended = Runtime::new(parts, settings, clock::now()).run();
    #[cfg(feature = "kubernetes")]
    if let Some(cluster) = cluster {
        cluster.finish();
    }
    ended?;
    Ok(())
}

fn kernel(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Kernel { what, source }
}

/// Says who this is and, where nobody configured anything, what it does by default.
fn greet(loaded: &Loaded) {
    let settings = &loaded.settings;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        instance = settings.driver.instance_id,
        "tensorpool-node-driver"
    );
    if loaded.built_in {
        tracing::info!(
            "no configuration was given: serving stream `default` (id 10000, 64 slots of 256 KiB) and dynamic streams 20000-29999; see --help for a stream of your own, --check-config for all settings"
        );
    }
    if let Some(kubernetes) = &settings.kubernetes {
        tracing::info!(
            node = kubernetes.node,
            namespace = kubernetes.namespace,
            internal_socket = %kubernetes.internal_socket.display(),
            "in a cluster: streams come from the TensorPoolNode of this name"
        );
    }
    tracing::info!(
        socket = settings
            .socket
            .as_ref()
            .map_or_else(|| "off".to_owned(), |s| s.path.display().to_string()),
        media_driver = settings.driver.media_driver.name(),
        aeron_dir = %settings.driver.aeron_dir.display(),
        base_dir = %settings.shm.base_dir.display(),
        state_dir = %settings.driver.state_dir.display(),
        streams = settings.streams.len(),
        "settings"
    );
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}

/// Bytes that may be asked for at the same time, and words about them.
fn memory(settings: &Settings, stores: &Stores) -> Result<u64, ServeError> {
    if settings.kubernetes.is_none() {
        let budget = Budget::measure(settings)?;
        say_budget(&budget);
        return Ok(budget.needed_bytes());
    }
    for (name, store) in stores.named() {
        let free_bytes = store.backing().map_or(0, |backing| backing.free_bytes);
        tracing::info!(
            page_size = name,
            directory = %store.path().display(),
            free_bytes,
            "memory is mounted"
        );
    }
    Ok(stores.total_bytes())
}

fn say_budget(budget: &Budget) {
    if budget.fits() {
        tracing::info!(
            needed_bytes = budget.needed_bytes(),
            usable_bytes = budget.usable_bytes(),
            "memory for three epochs of each stream is there"
        );
    } else {
        tracing::warn!(
            needed_bytes = budget.needed_bytes(),
            usable_bytes = budget.usable_bytes(),
            mount = %budget.mount.path.display(),
            "memory for three epochs of each stream is NOT there: restarts of producers will find too little and remove old epochs early"
        );
    }
}

/// Every connection and every producer's answer needs descriptors. Returns how many there are.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            limit.current
        }
    }
    .unwrap_or(u64::MAX)
}

fn make_dir(path: &Path, key: &'static str) -> Result<(), ServeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|source| ServeError::Directory {
            path: path.to_owned(),
            key,
            source,
        })
}

/// What earlier drivers left: the journal's number and the directories.
// spec: D-10-2, D-14-1
fn restore(settings: &Settings, stores: &Stores) -> Result<(Journal, Restored), ServeError> {
    let boot_id = journal::boot_id();
    let (journal, found) = Journal::open(&settings.driver.state_dir, &boot_id)?;
    let existing = scan::epochs(stores)?;
    match &found {
        Found::Nothing => tracing::info!(
            directories = existing.len(),
            "no journal: epochs start above those of the directories"
        ),
        Found::Trusted {
            last_epoch,
            same_boot,
        } => tracing::info!(
            %last_epoch,
            same_boot,
            directories = existing.len(),
            "journal read"
        ),
        Found::PutAside { kept_as, why } => tracing::error!(
            kept_as = %kept_as.display(),
            reason = why.reason(),
            error = %why,
            directories = existing.len(),
            "the journal is damaged and was put aside; epochs start above those of the directories"
        ),
    }
    let restored = Restored {
        last_epoch: journal.last_epoch(),
        existing,
    };
    Ok((journal, restored))
}

fn listen(settings: &Settings, descriptors: u64) -> Result<Option<SocketServer>, ServeError> {
    if settings.socket.is_none() && settings.kubernetes.is_none() {
        return Ok(None);
    }
    let count = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    let connections = settings.limits.connections;
    if u64::from(connections) > descriptors {
        tracing::warn!(
            descriptors,
            connections,
            "fewer open files are allowed than limits.connections: raise RLIMIT_NOFILE"
        );
    }
    let per_attachment = settings
        .kubernetes
        .as_ref()
        .map_or(connections, |it| it.connections_per_attachment);
    let mut server = SocketServer::new(Limits {
        per_attachment: count(per_attachment),
        per_uid: count(settings.limits.connections_per_uid),
        total: count(connections),
        classify,
        ..Limits::default()
    })
    .map_err(ServeError::Socket)?;
    if let Some(socket) = &settings.socket {
        if let Some(dir) = socket.path.parent() {
            make_dir(dir, "socket.path")?;
        }
        server.add_listener(STANDALONE, &socket.path, socket.mode)?;
    }
    Ok(Some(server))
}

/// FrameProgress has a limit of its own, by stream; its stream id stands first in its block.
// spec: X-2-32
fn classify(_: LogicalStream, bytes: &[u8]) -> PacketClass {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    };
    let is_progress =
        number(2) == Some(FrameProgress::TEMPLATE_ID) && number(4) == Some(SCHEMA_WIRE);
    match bytes.get(8..12) {
        Some(&[a, b, c, d]) if is_progress => {
            PacketClass::Keyed(u32::from_le_bytes([a, b, c, d]).into())
        }
        _ => PacketClass::Ordinary,
    }
}

fn serve_http(settings: &Settings, observer: Observer) -> Result<(), ServeError> {
    let Some(http) = settings.http else {
        return Ok(());
    };
    match http::serve(http.listen, observer) {
        Ok(address) => tracing::info!(%address, "serving /metrics, /livez and /readyz"),
        Err(error) if http.required => return Err(error.into()),
        Err(error) => tracing::warn!(
            reason = error.reason(),
            error = in_words(&error),
            "no metrics: nobody asked for this address, so the driver goes on without"
        ),
    }
    Ok(())
}

/// The first lease id: random, so that drivers on one control stream do not use the same.
fn random() -> Result<u64, ServeError> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| kernel("random numbers")(errno.into()))?;
    Ok(u64::from_le_bytes(bytes))
}
