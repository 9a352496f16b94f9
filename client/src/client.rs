//! A client process's end: one conductor and the attachments that it drives.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tensorpool_shm::{ForkGuard, install_fault_handler};
use tensorpool_wire::StreamId;

use crate::aeron::AeronOptions;
use crate::conductor::{Agent, Command, Conductor, Desk, Plan};
use crate::error::ClientError;
use crate::find::Surroundings;
use crate::link::{LinkOptions, NeedsAeron};

/// One conductor for any number of producers and consumers. Cheap to clone; the conductor ends with
/// the last clone and the last handle.
///
/// Without any option it takes the driver's socket where there is one, and Aeron where
/// `TENSORPOOL_AERON_DIR` names a media driver.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    desk: Arc<Desk>,
    guard: ForkGuard,
    thread: Mutex<Option<JoinHandle<()>>>,
    next_id: AtomicU64,
    options: ClientOptions,
}

/// Options of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The driver's socket, instead of looking for one.
    pub socket: Option<PathBuf>,
    /// The media driver's directory, instead of looking for a socket.
    pub aeron_dir: Option<PathBuf>,
    /// Channels and stream ids on Aeron.
    pub aeron: AeronOptions,
    /// Directories that regions may lie in, beside the defaults and `TENSORPOOL_ALLOWED_BASE_DIRS`.
    pub allowed_base_dirs: Vec<PathBuf>,
    /// Survive regions that are truncated while they are mapped: installs a SIGBUS handler, which
    /// passes on every fault outside mapped regions.
    // spec: X-1-29
    pub guard_regions: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            socket: None,
            aeron_dir: None,
            aeron: AeronOptions::default(),
            allowed_base_dirs: Vec::new(),
            guard_regions: true,
        }
    }
}

impl Client {
    /// A client whose conductor has a thread of its own.
    ///
    /// # Errors
    /// [`ClientError`] if the process has no thread, descriptor or page left.
    // spec: X-2-65
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let client = Self::without_thread(options)?;
        let conductor = Arc::clone(&client.inner.desk);
        let thread = std::thread::Builder::new()
            .name("tensorpool".to_owned())
            .spawn(move || Conductor::new(conductor).run())
            .map_err(ClientError::Start)?;
        *client
            .inner
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(client)
    }

    /// A client whose conductor the application drives by [`Agent::do_work`]. Start producers and
    /// consumers with `start`: `build` would wait for a conductor that nobody drives.
    ///
    /// # Errors
    /// [`ClientError`] if the process has no descriptor or page left.
    // spec: X-2-68
    pub fn agent(options: ClientOptions) -> Result<(Self, Agent), ClientError> {
        let client = Self::without_thread(options)?;
        let agent = Agent::new(Conductor::new(Arc::clone(&client.inner.desk)));
        Ok((client, agent))
    }

    fn without_thread(options: ClientOptions) -> Result<Self, ClientError> {
        if options.guard_regions {
            install_fault_handler()?;
        }
        let inner = Inner {
            desk: Desk::new().map_err(ClientError::Start)?,
            guard: ForkGuard::new().map_err(ClientError::Start)?,
            thread: Mutex::new(None),
            next_id: AtomicU64::new(1),
            options,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub(crate) fn link_options(&self, needs: NeedsAeron) -> LinkOptions {
        let options = &self.inner.options;
        let mut surroundings = Surroundings::of_process();
        surroundings
            .more_bases
            .clone_from(&options.allowed_base_dirs);
        surroundings.aeron_only.clone_from(&options.aeron_dir);
        LinkOptions {
            surroundings,
            socket: options.socket.clone(),
            needs,
            aeron: options.aeron.clone(),
        }
    }

    pub(crate) fn attach(&self, stream: Arc<AtomicU32>, plan: Plan) -> AttachmentHandle {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        self.inner.desk.ask(Command::Attach(id, plan));
        AttachmentHandle {
            id,
            stream,
            client: self.clone(),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The conductor's thread, and the driver's connection, are the parent's.
        if self.guard.is_forked_child() {
            return;
        }
        self.desk.ask(Command::Close);
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Leases are given back first, which a driver that does not answer delays by a second. A
            // conductor that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// One attachment, held by a producer or consumer. Detaches when dropped.
#[derive(Debug)]
pub(crate) struct AttachmentHandle {
    id: u64,
    stream: Arc<AtomicU32>,
    client: Client,
}

impl AttachmentHandle {
    /// The stream's number; 0 until the first attach where it was asked for by name.
    pub(crate) fn stream(&self) -> StreamId {
        StreamId(self.stream.load(Ordering::Acquire))
    }

    /// Makes the conductor look at what the data path left for it.
    pub(crate) fn wake(&self) {
        self.client.inner.desk.ring();
    }
}

impl Drop for AttachmentHandle {
    fn drop(&mut self) {
        // spec: X-2-24
        if !self.client.inner.guard.is_forked_child() {
            self.client.inner.desk.ask(Command::Detach(self.id));
        }
    }
}

/// A number that no other process is likely to draw.
pub(crate) fn seed() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(crate::clock::mono_now().get());
    hasher.write_u32(std::process::id());
    hasher.finish()
}
