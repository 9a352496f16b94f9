//! The driver's place: it answers the `csi` container on the internal socket as it was told to, and
//! keeps real views of real regions with a real socket in each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tensorpool_driver_core::EpochKey;
use tensorpool_node_driver::attachments::calls::Calls;
use tensorpool_node_driver::attachments::protocol::{
    Answer, Held, Mounting, Publish, Question, Refusal, hear, say,
};
use tensorpool_node_driver::attachments::views::{Kind as ViewKind, Views, directory_of};
use tensorpool_node_driver::attachments::volume::VolumeId;
use tensorpool_shm::{CreatedEpoch, Creator, EpochStore, Permissions, StoreOptions, StreamLayout};
use tensorpool_transport::socket::{Limits, SocketServer};
use tensorpool_wire::{Epoch, MonoNanos, PoolId, PoolStride, StreamId};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// What the stand-in knows and was asked.
#[derive(Default)]
struct State {
    asked: Vec<Question>,
    held: BTreeMap<VolumeId, Publish>,
    /// What a publish is answered with instead.
    refusal: Option<Refusal>,
    /// Questions of this kind get no answer.
    silent: Option<Kind>,
}

/// The kinds of questions that can be left without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Publish,
    Unpublish,
}

/// One base with the epochs of one driver.
pub(crate) struct Base {
    pub(crate) name: String,
    pub(crate) store: Arc<EpochStore>,
    pub(crate) views: Views,
    /// Each ends the thread that listens in a view.
    sockets: Mutex<Vec<Sender<()>>>,
    created: Mutex<Vec<CreatedEpoch>>,
}

impl Base {
    /// The base in this directory, which exists.
    pub(crate) fn new(directory: &Path) -> Self {
        let store = EpochStore::open(StoreOptions {
            base_dir: directory.to_owned(),
            user: Some("k8s".to_owned()),
            namespace: "default".to_owned(),
            permissions: Permissions::from_mode(0o644, true).expect("readable by all"),
            require_hugepages: false,
            expected_page_bytes: None,
            prefault: false,
            lock: false,
        });
        let name = directory.file_name().expect("a base has a name");
        Self {
            name: name.to_string_lossy().into_owned(),
            store: Arc::new(store.expect("the base can be used")),
            views: Views::default(),
            sockets: Mutex::default(),
            created: Mutex::new(Vec::new()),
        }
    }

    /// Makes an epoch as the file worker does.
    pub(crate) fn make(&self, stream: u32, epoch: u64) -> EpochKey {
        let key = EpochKey {
            stream: StreamId(stream),
            epoch: Epoch(epoch),
        };
        let pool = PoolStride {
            pool_id: PoolId(1),
            stride_bytes: 4096,
        };
        let layout = StreamLayout::new(key.stream, key.epoch, 8, vec![pool]).expect("it is small");
        let creator = Creator {
            pid: u64::from(std::process::id()),
            start: MonoNanos(1),
        };
        let created = self.store.create(layout, creator);
        let created = created.expect("there is memory for a small epoch");
        self.created
            .lock()
            .expect("no test panics here")
            .push(created);
        self.views.epoch_made(self.store.path(), key);
        key
    }

    pub(crate) fn remove(&self, key: EpochKey) {
        self.views.epoch_goes(self.store.path(), key);
        let removed = self.store.remove(key.stream, key.epoch);
        removed.expect("an epoch can be removed");
    }

    /// Where the files of an epoch are, below a base or a view.
    pub(crate) fn below(key: EpochKey) -> PathBuf {
        PathBuf::from("tensorpool-k8s/default")
            .join(key.stream.to_string())
            .join(key.epoch.to_string())
    }

    fn open(&self, volume: &VolumeId, kind: ViewKind) {
        let streams = BTreeSet::from([StreamId(1)]);
        let view = self.views.open(volume, self.store.path(), streams, kind);
        let view = view.expect("a view can be made");
        let (end, ended) = channel::<()>();
        let (ready, is_ready) = channel();
        std::thread::spawn(move || {
            let mut server = SocketServer::new(Limits::default()).expect("epoll is there");
            let listening = server.add_listener(1, &view.join("driver.sock"), 0o666);
            ready.send(listening).expect("the view waits");
            let _ended = ended.recv();
        });
        let listening = is_ready.recv().expect("the thread runs");
        listening.expect("a socket can be made in a view");
        self.sockets.lock().expect("no test panics here").push(end);
    }

    /// Whether the view of a volume lies there.
    pub(crate) fn has_view(&self, volume: &VolumeId) -> bool {
        directory_of(self.store.path(), volume).exists()
    }

    fn close(&self, volume: &VolumeId) {
        let closed = self.views.close(volume, self.store.path());
        closed.expect("a view can be removed");
    }
}

/// The running stand-in; it ends when this is dropped.
pub(crate) struct Driver {
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Listens for the `csi` container; volumes lie in `base`.
    pub(crate) fn start(socket: &Path, base: Option<Arc<Base>>) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = oneshot::channel();
        let (socket, shared) = (socket.to_owned(), Arc::clone(&state));
        let (ready, is_ready) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let _old = std::fs::remove_file(&socket);
                let listener = UnixListener::bind(&socket).expect("the internal socket");
                ready.send(()).expect("the test waits");
                tokio::select! {
                    () = serve(listener, shared, base) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().expect("the stand-in starts");
        Self {
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn refuse(&self, refusal: Option<Refusal>) {
        self.with(|state| state.refusal = refusal);
    }

    pub(crate) fn be_silent(&self, kind: Option<Kind>) {
        self.with(|state| state.silent = kind);
    }

    pub(crate) fn holds(&self) -> Vec<String> {
        self.with(|state| state.held.keys().map(ToString::to_string).collect())
    }

    /// What was asked since the last look, without the probes and lists that come by themselves.
    pub(crate) fn take_asked(&self) -> Vec<Question> {
        let asked = self.with(|state| std::mem::take(&mut state.asked));
        asked
            .into_iter()
            .filter(|question| !matches!(question, Question::Probe { .. } | Question::List))
            .collect()
    }

    /// What kubelet has called, as `csi` told last.
    pub(crate) fn calls(&self) -> Vec<Calls> {
        self.with(|state| {
            let told = state.asked.iter().rev().find_map(|asked| match asked {
                Question::Probe { calls, .. } => Some(calls.clone()),
                Question::Publish(_) | Question::Unpublish { .. } | Question::List => None,
            });
            told.unwrap_or_default()
        })
    }

    /// Whether a question of this kind was asked since the last look.
    pub(crate) fn was_asked(&self, kind: Kind) -> bool {
        self.with(|state| state.asked.iter().any(|asked| kind_of(asked) == Some(kind)))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no test panics here"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

async fn serve(listener: UnixListener, state: Arc<Mutex<State>>, base: Option<Arc<Base>>) {
    loop {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        let (state, base) = (Arc::clone(&state), base.clone());
        tokio::spawn(async move {
            let within = Duration::from_secs(30);
            let Ok(question) = hear::<Question>(&mut connection, within).await else {
                return;
            };
            match answer(&question, &state, base.as_deref()) {
                Some(answer) => {
                    // A csi that was killed does not read it.
                    let _unread = say(&mut connection, &answer).await;
                }
                // The question hangs until the asker is gone.
                None => drop(hear::<Question>(&mut connection, within).await),
            }
        });
    }
}

/// How a volume is mounted that asks for this.
fn mounting(wanted: &Publish) -> Mounting {
    let attribute = |key: &str| wanted.attributes.get(key).map(String::as_str);
    match (attribute("transport"), attribute("access")) {
        (Some("aeron"), Some("produce")) => Mounting::AeronProducer,
        (Some("aeron"), _) => Mounting::AeronConsumer,
        _ => Mounting::ReadOnly,
    }
}

fn kind_of_view(mounting: Mounting) -> ViewKind {
    match mounting {
        Mounting::ReadOnly => ViewKind::Socket,
        Mounting::AeronConsumer | Mounting::AeronProducer => ViewKind::Aeron,
    }
}

fn kind_of(question: &Question) -> Option<Kind> {
    match question {
        Question::Publish(_) => Some(Kind::Publish),
        Question::Unpublish { .. } => Some(Kind::Unpublish),
        Question::Probe { .. } | Question::List => None,
    }
}

fn answer(question: &Question, state: &Mutex<State>, base: Option<&Base>) -> Option<Answer> {
    let mut state = state.lock().expect("no test panics here");
    state.asked.push(question.clone());
    let is_silent = state.silent.is_some() && state.silent == kind_of(question);
    let answer = match question {
        Question::Probe { .. } => Answer::Ready {
            node: "node-a".to_owned(),
        },
        Question::Publish(wanted) => match (&state.refusal, base) {
            (Some(refusal), _) => Answer::Refused(refusal.clone()),
            (None, Some(base)) => {
                let volume = VolumeId::new(wanted.volume.as_str()).expect("csi checks ids");
                state.held.entry(volume).or_insert_with_key(|volume| {
                    base.open(volume, kind_of_view(mounting(wanted)));
                    wanted.clone()
                });
                Answer::Prepared {
                    base: base.name.clone(),
                    mount: mounting(wanted),
                }
            }
            (None, None) => panic!("this test has no base to publish from"),
        },
        Question::Unpublish { volume } => {
            let volume = VolumeId::new(volume.as_str()).expect("csi checks ids");
            let held = state.held.get(&volume).map(mounting);
            match base {
                // As the driver does where a pod could write.
                Some(base) if held.is_some_and(Mounting::is_writable) && base.has_view(&volume) => {
                    base.views.leave(&volume);
                    Answer::Sweep {
                        base: base.name.clone(),
                    }
                }
                Some(base) => {
                    state.held.remove(&volume);
                    base.close(&volume);
                    Answer::Released
                }
                None => {
                    state.held.remove(&volume);
                    Answer::Released
                }
            }
        }
        Question::List => Answer::Volumes {
            volumes: state
                .held
                .iter()
                .map(|(volume, wanted)| Held {
                    volume: volume.to_string(),
                    target_path: Some(wanted.target_path.clone()),
                })
                .collect(),
        },
    };
    (!is_silent).then_some(answer)
}
