mod aeron;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use kube::{Client, Config};
use tensorpool_crds::{PageSize, TensorPoolNodeSpec};
use tensorpool_driver_core::config::{Access, Visible};
use tokio::runtime::Runtime;
use tokio::time::advance;

use super::*;
use crate::attachments::protocol::Held;
use crate::attachments::record::Records;
use crate::attachments::serve::restore;
use crate::attachments::views::Views;
use crate::cluster::CsiState;
use crate::cluster::{Here, PolicySlot, policy_channel, policy_of};
use crate::control::AttachmentId;
use crate::control::{self, Closed, Command, Commands};

/// Time between two reviews of these keepers.
const REVIEWED_WITHIN: Duration = Duration::from_secs(300);

/// How the API server answers SubjectAccessReviews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rbac {
    Allows,
    Denies,
    /// All but the verb `aeron`.
    DeniesAeron,
    /// 503.
    Away,
}

/// An API server that knows two questions.
struct Api {
    address: SocketAddr,
    rbac: Arc<StdMutex<Rbac>>,
    reviews: Arc<AtomicUsize>,
}

impl Api {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = Self {
            address: listener.local_addr().unwrap(),
            rbac: Arc::new(StdMutex::new(Rbac::Allows)),
            reviews: Arc::default(),
        };
        let (rbac, reviews) = (Arc::clone(&api.rbac), Arc::clone(&api.reviews));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (rbac, reviews) = (Arc::clone(&rbac), Arc::clone(&reviews));
                std::thread::spawn(move || answer(connection.unwrap(), &rbac, &reviews));
            }
        });
        api
    }

    fn set(&self, rbac: Rbac) {
        *self.rbac.lock().unwrap() = rbac;
    }

    fn reviews(&self) -> usize {
        self.reviews.load(Ordering::SeqCst)
    }
}

/// Answers the requests of one connection.
fn answer(connection: TcpStream, rbac: &StdMutex<Rbac>, reviews: &AtomicUsize) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut writer = connection;
    loop {
        let mut head = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let lower = line.to_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (status, said) = if head.contains("/subjectaccessreviews") {
            reviews.fetch_add(1, Ordering::SeqCst);
            let review = |allowed: bool| {
                let mut review: serde_json::Value = serde_json::from_slice(&body).unwrap();
                review["status"] = serde_json::json!({ "allowed": allowed });
                review.to_string()
            };
            match *rbac.lock().unwrap() {
                Rbac::Allows => ("201 Created", review(true)),
                Rbac::Denies => ("201 Created", review(false)),
                Rbac::DeniesAeron => {
                    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let verb = &body["spec"]["resourceAttributes"]["verb"];
                    ("201 Created", review(verb != "aeron"))
                }
                Rbac::Away => ("503 Service Unavailable", "{}".to_owned()),
            }
        } else {
            let csi_driver = serde_json::json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
                "metadata": {"name": "csi.tensorpool.io"},
                "spec": {"podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"]},
            });
            ("200 OK", csi_driver.to_string())
        };
        let sent = write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{said}",
            said.len()
        );
        if sent.is_err() {
            return;
        }
    }
}

/// What the duty cycle was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    Open(Access),
    SetAccess(Access, String),
    Close,
}

/// In the duty cycle's place: it does what it is asked and notes it.
fn duty_cycle(commands: Commands) -> Arc<StdMutex<Vec<Did>>> {
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

struct Rig {
    keeper: Keeper,
    slot: PolicySlot,
    api: Api,
    done: Arc<StdMutex<Vec<Did>>>,
    dir: tempfile::TempDir,
    /// Of the API client: its time is not the test's.
    _other: Runtime,
}

impl Rig {
    fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    /// The next driver on the same node.
    fn next(self) -> Self {
        Self::in_dir(self.dir)
    }

    fn in_dir(dir: tempfile::TempDir) -> Self {
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
    fn follow(&self, streams: &[(&str, u32)]) {
        self.follow_with(streams, &["Socket"]);
    }

    fn follow_with(&self, streams: &[(&str, u32)], transports: &[&str]) {
        self.follow_in("default", streams, transports);
    }

    /// On a node whose media driver is of the domain `default`, a class of this one.
    fn follow_in(&self, domain: &str, streams: &[(&str, u32)], transports: &[&str]) {
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
    async fn restore(&self) {
        let (_, found) = Records::open(self.dir.path()).unwrap();
        restore(&self.keeper, found.records).await;
    }

    fn view(&self) -> PathBuf {
        self.dir.path().join("4Ki/views/csi-1")
    }

    async fn publish(&self) -> Answer {
        self.publish_as("consume", "socket").await
    }

    async fn publish_as(&self, access: &str, transport: &str) -> Answer {
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

    fn take_done(&self) -> Vec<Did> {
        std::mem::take(&mut *self.done.lock().unwrap())
    }

    fn is_allowed_on_disk(&self) -> bool {
        let (_, found) = Records::open(self.dir.path()).unwrap();
        found.records[0].allowed
    }
}

/// A test whose clock only moves when it says so.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test);
}

fn consumer_of(stream: Option<u32>) -> Access {
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

fn prepared() -> Answer {
    Answer::Prepared {
        base: PageSize::Base.name().into(),
        mount: Mounting::ReadOnly,
    }
}

#[test]
fn a_permission_that_went_is_noticed_within_five_minutes_and_one_that_came_back_too() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        assert_eq!(rig.take_done(), [Did::Open(consumer_of(Some(7)))]);
        let asked = rig.api.reviews();
        rig.api.set(Rbac::Denies);
        assert!(rig.keeper.review_due().await.is_some());
        assert_eq!(rig.api.reviews(), asked, "it is not asked all the time");

        advance(REVIEWED_WITHIN).await;
        rig.keeper.review_due().await;
        let done = rig.take_done();
        let [Did::SetAccess(access, text)] = done.as_slice() else {
            panic!("{done:?}");
        };
        assert_eq!(*access, consumer_of(None));
        assert!(
            text.contains("may not `consume` TensorStream vision/camera"),
            "{text}"
        );
        assert!(!rig.is_allowed_on_disk(), "a restart does not give it back");

        rig.api.set(Rbac::Allows);
        advance(REVIEWED_WITHIN).await;
        rig.keeper.review_due().await;
        let again = Did::SetAccess(consumer_of(Some(7)), String::new());
        assert_eq!(rig.take_done(), [again]);
        assert!(rig.is_allowed_on_disk());
    });
}

#[test]
fn a_permission_that_went_is_noticed_within_the_time_that_was_set() {
    let mut rig = Rig::new();
    rig.keeper.review_every = Duration::from_secs(2);
    run(async {
        assert_eq!(rig.publish().await, prepared());
        rig.take_done();
        rig.api.set(Rbac::Away);
        advance(Duration::from_secs(2)).await;
        let next = rig.keeper.review_due().await.unwrap();
        assert!(next <= Instant::now() + Duration::from_secs(2));
        rig.api.set(Rbac::Denies);
        advance(Duration::from_secs(2)).await;
        rig.keeper.review_due().await;
        let done = rig.take_done();
        let [Did::SetAccess(access, _)] = done.as_slice() else {
            panic!("{done:?}");
        };
        assert_eq!(*access, consumer_of(None));
    });
}

#[test]
fn without_an_answer_of_the_api_server_a_live_volume_goes_on_and_is_asked_about_sooner() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        rig.take_done();
        rig.api.set(Rbac::Away);
        advance(REVIEWED_WITHIN).await;
        let next = rig.keeper.review_due().await.unwrap();
        assert!(next <= Instant::now() + REVIEW_AGAIN);
        assert_eq!(rig.take_done(), []);
        rig.api.set(Rbac::Denies);
        advance(REVIEW_AGAIN).await;
        rig.keeper.review_due().await;
        assert_eq!(rig.take_done().len(), 1, "now it is known");
    });
}

#[test]
fn a_new_volume_needs_an_answer_of_the_api_server() {
    let rig = Rig::new();
    run(async {
        rig.api.set(Rbac::Away);
        let Answer::Refused(refusal) = rig.publish().await else {
            panic!("nobody said that it may");
        };
        assert_eq!(refusal.code, Code::Unavailable);
        assert_eq!(rig.take_done(), []);
        assert_eq!(rig.keeper.table.lock().await.list(), []);
    });
}

#[test]
fn a_volume_follows_its_stream_through_policies() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        rig.take_done();
        rig.keeper.follow_policy().await;
        assert_eq!(rig.take_done(), [], "nothing changed");
        rig.follow(&[("lidar", 9)]);
        rig.keeper.follow_policy().await;
        let gone = "node n1 does not carry TensorStream vision/camera any more".to_owned();
        assert_eq!(
            rig.take_done(),
            [Did::SetAccess(consumer_of(None), gone.clone())]
        );
        rig.follow(&[("camera", 8)]);
        rig.keeper.follow_policy().await;
        assert_eq!(
            rig.take_done(),
            [Did::SetAccess(consumer_of(Some(8)), gone)]
        );
    });
}

#[test]
fn publishing_again_before_the_mount_starts_anew_and_unpublishing_ends_all() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        assert_eq!(rig.publish().await, prepared());
        let open = || Did::Open(consumer_of(Some(7)));
        assert_eq!(rig.take_done(), [open(), Did::Close, open()]);
        assert_eq!(
            rig.keeper.surroundings.borrow().pods,
            BTreeMap::from([(AttachmentId(1), "viewer-0".to_owned())])
        );
        for _ in 0..2 {
            let volume = "csi-1".to_owned();
            let released = rig.keeper.answer(Question::Unpublish { volume }).await;
            assert_eq!(released, Answer::Released);
        }
        assert_eq!(rig.take_done(), [Did::Close]);
        assert_eq!(rig.keeper.table.lock().await.list(), []);
        assert!(rig.keeper.surroundings.borrow().pods.is_empty());
        let views: PathBuf = rig.dir.path().join("4Ki/views");
        assert_eq!(std::fs::read_dir(views).unwrap().count(), 0);
    });
}

#[test]
fn a_driver_that_was_killed_before_the_view_was_there_is_followed_by_one_that_makes_it() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
    });
    std::fs::remove_dir_all(rig.view()).unwrap();
    let next = rig.next();
    run(async {
        next.restore().await;
        assert_eq!(next.take_done(), [Did::Open(consumer_of(Some(7)))]);
        assert!(next.view().is_dir());
        let asked = next.api.reviews();
        next.keeper.review_due().await;
        assert_eq!(next.api.reviews(), asked + 1, "it is asked about at once");
    });
}

#[test]
fn a_view_whose_record_is_gone_is_emptied_and_offered_for_collection() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
    });
    std::fs::write(rig.view().join("driver.sock"), "stands for the socket").unwrap();
    std::fs::remove_dir_all(rig.dir.path().join("attachments")).unwrap();
    let next = rig.next();
    run(async {
        next.restore().await;
        assert_eq!(next.take_done(), []);
        assert_eq!(std::fs::read_dir(next.view()).unwrap().count(), 0);
        let volume = "csi-1".to_owned();
        let held = Held {
            volume: volume.clone(),
            target_path: None,
        };
        let volumes = vec![held];
        let list = next.keeper.answer(Question::List).await;
        assert_eq!(list, Answer::Volumes { volumes });
        let released = next.keeper.answer(Question::Unpublish { volume }).await;
        // Nobody knows what a pod could do there.
        let base = "4Ki".to_owned();
        assert_eq!(released, Answer::Sweep { base });
        std::fs::remove_dir(next.view()).unwrap();
        let volume = "csi-1".to_owned();
        let released = next.keeper.answer(Question::Unpublish { volume }).await;
        assert_eq!(released, Answer::Released);
    });
}

#[test]
fn a_pod_that_lost_its_permission_does_not_get_it_back_by_a_restart() {
    let rig = Rig::new();
    run(async {
        assert_eq!(rig.publish().await, prepared());
        rig.api.set(Rbac::Denies);
        advance(REVIEWED_WITHIN).await;
        rig.keeper.review_due().await;
    });
    let next = rig.next();
    next.api.set(Rbac::Away);
    run(async {
        next.restore().await;
        next.keeper.review_due().await;
        assert_eq!(next.take_done(), [Did::Open(consumer_of(None))]);
    });
}

#[test]
fn the_nodes_status_hears_whether_kubelet_knows_the_driver() {
    let rig = Rig::new();
    run(async {
        for (registered, state) in [
            (false, CsiState::NotRegistered),
            (true, CsiState::Registered),
        ] {
            let answer = rig
                .keeper
                .answer(Question::Probe {
                    registered,
                    calls: Vec::new(),
                })
                .await;
            assert_eq!(answer, Answer::Ready { node: "n1".into() });
            assert_eq!(rig.keeper.surroundings.borrow().csi, Some(state));
        }
    });
}

#[test]
fn questions_are_spread_and_never_later_than_they_must_be() {
    let rig = Rig::new();
    run(async {
        let now = Instant::now();
        for number in 0..50 {
            let volume = VolumeId::new(format!("csi-{number}")).unwrap();
            rig.keeper.review_later(&volume).await;
        }
        let due = rig.keeper.due.lock().await;
        let times: std::collections::BTreeSet<Duration> =
            due.values().map(|at| at.duration_since(now)).collect();
        assert!(times.len() > 40, "{times:?}");
        assert!(times.last().is_some_and(|last| *last <= REVIEWED_WITHIN));
        assert!(
            times
                .first()
                .is_some_and(|first| *first >= REVIEWED_WITHIN - REVIEWED_WITHIN / 5)
        );
    });
}
