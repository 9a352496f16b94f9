//! A keeper with everything around it: the API server, the duty cycle, a directory.

use super::*;

/// What the duty cycle was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Did {
    Open(Access),
    SetAccess(Access, String),
    Close,
}

/// In the duty cycle's place: it does what it is asked and notes it.
pub(super) fn duty_cycle(commands: Commands) -> Arc<StdMutex<Vec<Did>>> {
    let done = Arc::new(StdMutex::new(Vec::new()));
    let noted = Arc::clone(&done);
    std::thread::spawn(move || {
        loop {
            let mut fds = [rustix::event::PollFd::new(
                &commands,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            commands.hush();
            while let Some(command) = commands.next() {
                let note = |did| noted.lock().unwrap().push(did);
                match command {
                    Command::Open { opening, reply } => {
                        note(Did::Open(opening.access));
                        reply.send(Ok(())).unwrap();
                    }
                    Command::SetAccess {
                        access,
                        text,
                        reply,
                        ..
                    } => {
                        note(Did::SetAccess(access, text));
                        reply.send(true).unwrap();
                    }
                    Command::Close { reply, .. } => {
                        note(Did::Close);
                        reply.send(Closed::default()).unwrap();
                    }
                    other => panic!("attachments never ask for {other:?}"),
                }
            }
        }
    });
    done
}

pub(super) struct Rig {
    pub(super) keeper: Keeper,
    pub(super) slot: PolicySlot,
    pub(super) api: Api,
    pub(super) done: Arc<StdMutex<Vec<Did>>>,
    pub(super) dir: tempfile::TempDir,
    /// Of the API client: its time is not the test's.
    _other: Runtime,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    /// The next driver on the same node.
    pub(super) fn next(self) -> Self {
        Self::in_dir(self.dir)
    }

    pub(super) fn in_dir(dir: tempfile::TempDir) -> Self {
        let other = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let api = Api::start();
        let url = format!("http://{}", api.address);
        let client = {
            let _inside = other.enter();
            Client::try_from(Config::new(url.parse().unwrap())).unwrap()
        };
        let store = dir.path().join("4Ki/tensorpool-k8s/default");
        std::fs::create_dir_all(&store).unwrap();
        let (control, commands) = control::channel().unwrap();
        let done = duty_cycle(commands);
        let (records, _) = Records::open(dir.path()).unwrap();
        let stores = BTreeMap::from([("4Ki".to_owned(), store)]);
        let table = Table::new(
            "n1".into(),
            stores,
            Views::default(),
            control,
            Some("/run/tensorpool/aeron/media".into()),
            records,
        );
        let (slot, policy) = policy_channel();
        let (surroundings, _) = watch::channel(Surroundings::default());
        let keeper = Keeper {
            table: Arc::new(Mutex::new(table)),
            node: "n1".into(),
            reviewer: Reviewer::new(client.clone(), other.handle().clone()),
            csi_driver: CsiDriverObject::new(client, other.handle().clone()),
            surroundings: Arc::new(surroundings),
            policy,
            review_every: REVIEWED_WITHIN,
            due: Arc::default(),
            sooner: Arc::default(),
        };
        let rig = Self {
            keeper,
            slot,
            api,
            done,
            dir,
            _other: other,
        };
        rig.follow(&[("camera", 7)]);
        rig
    }

    /// A policy with these streams, of a class with sockets only.
    pub(super) fn follow(&self, streams: &[(&str, u32)]) {
        self.follow_with(streams, &["Socket"]);
    }

    pub(super) fn follow_with(&self, streams: &[(&str, u32)], transports: &[&str]) {
        self.follow_in("default", streams, transports);
    }

    /// On a node whose media driver is of the domain `default`, a class of this one.
    pub(super) fn follow_in(&self, domain: &str, streams: &[(&str, u32)], transports: &[&str]) {
        let streams = streams.iter().map(|(name, id)| {
            serde_json::json!({
                "namespace": "vision", "name": name, "uid": "u", "streamId": id,
                "className": "default", "pageSize": "4Ki", "bytes": 12_288, "priority": 0,
                "preemptionPolicy": "Never", "limits": {"producers": 1, "consumers": 4},
                "layout": {"headerSlots": 8, "pools": [{"poolId": 1, "strideBytes": 64}]},
            })
        });
        let spec = serde_json::json!({
            "policyRevision": "1", "streams": streams.collect::<Vec<_>>(),
            "pools": [{
                "className": "default", "pageSize": "4Ki", "sizeBytes": 67_108_864,
                "transports": transports, "domain": domain,
            }],
        });
        let spec: TensorPoolNodeSpec = serde_json::from_value(spec).unwrap();
        self.slot.put(Arc::new(policy_of(
            &spec,
            &Here {
                numa_nodes: &[0],
                aeron_domain: "default",
            },
        )));
    }

    /// What a driver does first with what it finds.
    pub(super) async fn restore(&self) {
        let (_, found) = Records::open(self.dir.path()).unwrap();
        restore(&self.keeper, found.records).await;
    }

    pub(super) fn view(&self) -> PathBuf {
        self.dir.path().join("4Ki/views/csi-1")
    }

    pub(super) async fn publish(&self) -> Answer {
        self.publish_as("consume", "socket").await
    }

    pub(super) async fn publish_as(&self, access: &str, transport: &str) -> Answer {
        let attributes = [
            ("stream", "camera"),
            ("access", access),
            ("transport", transport),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", "viewer-0"),
            ("csi.storage.k8s.io/pod.namespace", "vision"),
            ("csi.storage.k8s.io/pod.uid", "1234"),
            ("csi.storage.k8s.io/serviceAccount.name", "viewer"),
        ];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let wanted = Publish {
            volume: "csi-1".into(),
            target_path: "/k/pods/1/volumes/kubernetes.io~csi/v/mount".into(),
            read_only: (access, transport) != ("produce", "aeron"),
            attributes: attributes.into(),
            already_mounted: false,
        };
        self.keeper.answer(Question::Publish(wanted)).await
    }

    pub(super) fn take_done(&self) -> Vec<Did> {
        std::mem::take(&mut *self.done.lock().unwrap())
    }

    pub(super) fn is_allowed_on_disk(&self) -> bool {
        let (_, found) = Records::open(self.dir.path()).unwrap();
        found.records[0].allowed
    }
}

/// A test whose clock only moves when it says so.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test);
}

pub(super) fn consumer_of(stream: Option<u32>) -> Access {
    let roles = tensorpool_driver_core::config::Roles {
        produce: false,
        consume: true,
    };
    let visible = stream.map(|id| (tensorpool_wire::StreamId(id), roles));
    Access {
        visible: Visible::Only(visible.into_iter().collect()),
        leases: u32::MAX,
        aeron: None,
    }
}

pub(super) fn prepared() -> Answer {
    Answer::Prepared {
        base: PageSize::Base.name().into(),
        mount: Mounting::ReadOnly,
    }
}
