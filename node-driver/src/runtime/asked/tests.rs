//! A duty cycle that runs, asked from another thread, with clients on the sockets of attachments.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use tensorpool_driver_core::config::{
    ClassSpec, PoolSpec, Profile, QuotaSpec, Roles, StreamSpec, Visible,
};
use tensorpool_driver_core::{BaseId, Driver, Restored, StreamPhase};
use tensorpool_transport::port::ClientPort;
use tensorpool_transport::socket::{Limits, SocketClient, SocketServer};
use tensorpool_wire::{
    ClientId, CorrelationId, HugepagesPolicy, LogicalStream, Message, PoolId, PublishMode,
    ResponseCode, Role, ShmAttachRequest, ShmAttachResponse, StreamId,
};

use super::*;
use crate::attachments::views::{self, Views};
use crate::attachments::volume::VolumeId;
use crate::clock;
use crate::config::{self, Settings, Surroundings};
use crate::control::{self, Commands, Control, SetPolicyError};
use crate::core_config::core_config;
use crate::counters::Counters;
use crate::files::Files;
use crate::health::{self, Observed, Observer, Readiness};
use crate::journal::Journal;
use crate::log_filter::LogFilter;
use crate::runtime::Parts;
use crate::signals::Signals;
use crate::stores::Stores;
use crate::telemetry;

const CAMERA: StreamId = StreamId(10_000);
const PATIENCE: Duration = Duration::from_secs(20);

/// A driver of a cluster on a tmpfs, without the cluster.
struct Node {
    dir: TempDir,
    settings: Settings,
    control: Control,
    observer: Observer,
    stores: Arc<Stores>,
    views: Views,
    signals: Signals,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    fn start() -> Self {
        let dir = TempDir::new_in("/dev/shm").expect("a directory");
        fs::create_dir_all(dir.path().join("shm/4Ki")).expect("a base");
        Self::start_in(dir)
    }

    /// Starts on what lies in `dir`.
    fn start_in(dir: TempDir) -> Self {
        let settings = settings(dir.path());
        fs::create_dir_all(&settings.driver.state_dir).expect("a state directory");
        let stores = Arc::new(Stores::open(&settings).expect("the stores"));
        let (control, commands) = control::channel().expect("a channel");
        let (observer, observed) = health::channel();
        let views = Views::default();
        let signals = Signals::default();
        let given = (settings.clone(), Arc::clone(&stores), views.clone());
        let asked = signals.clone();
        // What it is made of does not change threads.
        let thread = std::thread::spawn(move || {
            let (settings, stores, views) = given;
            let parts = parts(&settings, stores, views, commands, observed, asked);
            let runtime = Runtime::new(parts, &settings, clock::now());
            runtime.run().expect("the driver runs");
        });
        Self {
            dir,
            settings,
            control,
            observer,
            stores,
            views,
            signals,
            thread: Some(thread),
        }
    }

    fn stop(mut self) -> TempDir {
        self.signals.request_end();
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("it ends well");
        self.dir
    }

    fn set_policy(&self, policy: PolicySpec) -> Result<(), SetPolicyError> {
        answer(self.control.set_policy("r1".to_owned(), policy))
    }

    fn look(&self) -> Snapshot {
        answer(self.control.look()).expect("an answer")
    }

    /// Opens the attachment of a volume that may do this with the camera, and returns its view.
    fn open(&self, number: u32, produce: bool) -> PathBuf {
        let store = self.stores.get(BaseId(0)).path().to_owned();
        let volume = VolumeId::new(format!("csi-{number}")).expect("a volume id");
        let view = self
            .views
            .open(&volume, &store, [CAMERA].into(), views::Kind::Socket)
            .expect("a view");
        let opening = Opening {
            attachment: AttachmentId(number),
            directory: OwnedFd::from(fs::File::open(&view).expect("the view")),
            mode: 0o666,
            access: may(produce),
        };
        answer(self.control.open(opening)).expect("an attachment");
        assert_eq!(view, views::directory_of(&store, &volume));
        view
    }
}

fn parts(
    settings: &Settings,
    stores: Arc<Stores>,
    views: Views,
    commands: Commands,
    observed: Observed,
    signals: Signals,
) -> Parts {
    let existing = crate::scan::epochs(&stores).expect("a scan");
    let (journal, _) = Journal::open(&settings.driver.state_dir, "boot").expect("a journal");
    let restored = Restored {
        last_epoch: journal.last_epoch(),
        existing,
    };
    let core = core_config(settings, &stores, 0, 1).expect("a configuration");
    let log = telemetry::start(&settings.log).expect("a log");
    Parts {
        reserved_stream_ids: core.reserved_stream_ids(),
        core: Driver::restore(core, &restored),
        socket: Some(SocketServer::new(Limits::default()).expect("a server")),
        aeron: None,
        files: Files::start(Arc::clone(&stores), journal, views).expect("a worker"),
        stores,
        commands,
        observed,
        signals,
        log_filter: LogFilter::new(log, &settings.driver.state_dir),
        counters: Counters::default(),
        others_alive: false,
    }
}

fn settings(dir: &Path) -> Settings {
    let text = format!(
        "[driver]\nstate_dir = \"{0}/state\"\n[shm]\nbase_dir = \"{0}/shm\"\n[http]\nlisten = \"\"\n[kubernetes]\nnode = \"n1\"\n[policies]\nannounce_period_ms = 50\n",
        dir.display()
    );
    let file = dir.join("driver.toml");
    fs::write(&file, text).expect("a file");
    let surroundings = Surroundings {
        variable: &|_| None,
        root: true,
    };
    let loaded = config::load(Some(&file), &[], &surroundings);
    loaded.expect("a valid configuration").settings
}

fn answer<T>(asked: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(PATIENCE, asked).await })
        .expect("an answer in time")
}

fn may(produce: bool) -> Access {
    let roles = Roles {
        produce,
        consume: !produce,
    };
    Access {
        visible: Visible::Only([(CAMERA, roles)].into()),
        leases: 8,
        aeron: None,
    }
}

fn policy() -> PolicySpec {
    let pools = vec![PoolSpec {
        pool_id: PoolId(1),
        stride_bytes: 4_096,
    }];
    let camera = StreamSpec {
        on_aeron: false,
        name: "camera".to_owned(),
        namespace: "vision".to_owned(),
        stream_id: CAMERA,
        profile: "p".to_owned(),
        class: "default".to_owned(),
        quotas: vec!["vision/one".to_owned()],
        ..StreamSpec::default()
    };
    let profile = Profile {
        header_nslots: 8,
        pools,
    };
    let class = ClassSpec {
        base: "4Ki".to_owned(),
        size_bytes: 1 << 20,
    };
    let quota = QuotaSpec {
        consumers: Some(1),
        ..QuotaSpec::default()
    };
    PolicySpec {
        profiles: [("p".to_owned(), profile)].into(),
        streams: vec![camera],
        classes: [("default".to_owned(), class)].into(),
        quotas: [("vision/one".to_owned(), quota)].into(),
        ..PolicySpec::default()
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// A client on an attachment's socket.
struct Client {
    port: SocketClient,
    inbox: Vec<(Message, Vec<OwnedFd>)>,
}

impl Client {
    fn connect(view: &Path) -> Self {
        let port = SocketClient::connect(&view.join(SOCKET)).expect("a connection");
        let inbox = Vec::new();
        Self { port, inbox }
    }

    fn attach(&mut self, role: Role, client: u32) -> (ShmAttachResponse, Vec<OwnedFd>) {
        let request = ShmAttachRequest {
            correlation_id: CorrelationId(client.into()),
            stream_id: CAMERA,
            client_id: ClientId(client),
            role,
            expected_layout_version: 1,
            publish_mode: Some(PublishMode::RequireExisting),
            require_hugepages: HugepagesPolicy::Unspecified,
            desired_node_id: None,
        };
        let bytes = Message::from(request).encode();
        self.port
            .send(LogicalStream::Control, &bytes)
            .expect("room for one message");
        self.expect(|message| match message {
            Message::ShmAttachResponse(answer) => Some(answer.clone()),
            _ => None,
        })
    }

    /// The text with which a lease was revoked.
    fn revoked(&mut self) -> String {
        let revoked = self.expect(|message| match message {
            Message::ShmLeaseRevoked(revoked) => Some(revoked.error_message.clone()),
            _ => None,
        });
        revoked.0
    }

    fn expect<T>(&mut self, wanted: impl Fn(&Message) -> Option<T>) -> (T, Vec<OwnedFd>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let inbox = &mut self.inbox;
            let polled = self.port.poll(&mut |inbound| {
                let message = Message::decode(inbound.bytes).expect("a message");
                inbox.push((message, std::mem::take(inbound.fds)));
            });
            let found = self.inbox.iter().position(|(it, _)| wanted(it).is_some());
            if let Some(at) = found {
                let (message, fds) = self.inbox.remove(at);
                return (wanted(&message).expect("it was found"), fds);
            }
            polled.expect("the connection holds");
            assert!(Instant::now() < deadline, "{:?}", self.inbox);
            let fd = self.port.as_fd();
            let briefly = Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            let _woken = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&briefly));
        }
    }
}

#[test]
fn nothing_is_served_before_the_first_policy_and_everything_in_it_afterwards() {
    let node = Node::start();
    wait_until("the first cycle", || {
        node.observer.readiness() != Readiness::Starting
    });
    assert_eq!(node.observer.readiness(), Readiness::NoPolicy);
    assert_eq!(node.look().revision, None);
    let view = node.open(7, true);
    let mut client = Client::connect(&view);
    let (refused, _) = client.attach(Role::Producer, 1);
    assert_eq!(refused.error_message, "stream not provisioned");

    node.set_policy(policy()).expect("a good policy");
    let (granted, regions) = client.attach(Role::Producer, 1);
    assert_eq!(granted.code, ResponseCode::Ok, "{}", granted.error_message);
    assert_eq!(regions.len(), 2, "a producer gets its regions to write");
    wait_until("readiness", || {
        node.observer.readiness() == Readiness::Ready
    });

    let seen = node.look();
    assert_eq!(seen.revision.as_deref(), Some("r1"));
    let camera = &seen.status.streams[0];
    assert_eq!(
        (camera.phase, camera.epoch),
        (StreamPhase::Ready, granted.epoch)
    );
    assert_eq!(camera.uris.header, granted.header_region_uri);
    let producer = camera.producer.as_ref().expect("a producer");
    let tensorpool_driver_core::Way::Socket { connection, .. } = producer.way else {
        panic!("{producer:?}");
    };
    assert_eq!(seen.attachments[&connection], AttachmentId(7));
    assert_eq!(seen.bases[0].wanted_bytes, 1 << 20);
    assert!(
        seen.bases[0].is_resize_pending(),
        "the machine's tmpfs has another size"
    );
}

#[test]
fn an_epoch_lies_in_every_view_of_its_stream_before_anybody_hears_of_it() {
    let node = Node::start();
    node.set_policy(policy()).expect("a good policy");
    let (writes, reads) = (node.open(1, true), node.open(2, false));
    let (granted, _) = Client::connect(&writes).attach(Role::Producer, 1);
    let path = granted
        .header_region_uri
        .strip_prefix("shm:file?path=")
        .expect("a URI");
    let base = node
        .dir
        .path()
        .join("shm/4Ki")
        .canonicalize()
        .expect("a base");
    let below = Path::new(path).strip_prefix(&base).expect("below its base");
    assert!(
        below.starts_with("tensorpool-k8s/default/10000"),
        "{}",
        below.display()
    );
    let linked = fs::metadata(reads.join(below)).expect("it is there already");
    assert_eq!(linked.ino(), fs::metadata(path).expect("the file").ino());
    assert_eq!((linked.nlink(), linked.mode() & 0o777), (3, 0o644));
}

#[test]
fn access_that_is_taken_away_and_attachments_that_are_closed_revoke_with_their_reasons() {
    let node = Node::start();
    node.set_policy(policy()).expect("a good policy");
    let view = node.open(1, false);
    let mut client = Client::connect(&view);
    assert_eq!(client.attach(Role::Consumer, 1).0.code, ResponseCode::Ok);
    let mut other = Client::connect(&view);
    let (refused, _) = other.attach(Role::Consumer, 2);
    assert_eq!(
        refused.error_message,
        "quota `vision/one` reached on this node: consumers: limit 1, used 1, asked 1"
    );

    let id = AttachmentId(1);
    let gone = "the role binding is gone".to_owned();
    assert_eq!(
        answer(node.control.set_access(id, Access::nothing(), gone)),
        Ok(true)
    );
    assert_eq!(client.revoked(), "the role binding is gone");
    assert_eq!(node.look().status.leases, 0);
    assert_eq!(
        answer(node.control.set_access(id, may(false), String::new())),
        Ok(true)
    );
    assert_eq!(client.attach(Role::Consumer, 1).0.code, ResponseCode::Ok);

    let ended = answer(
        node.control
            .close(id, "the volume was unmounted".to_owned()),
    );
    let one = Closed {
        was_open: true,
        leases: 1,
    };
    assert_eq!(ended, Ok(one));
    assert_eq!(client.revoked(), "the volume was unmounted");
    assert!(!view.join(SOCKET).exists());
    let seen = node.look();
    assert_eq!((seen.status.connections, seen.attachments.len()), (0, 0));
    let again = answer(node.control.close(id, String::new()));
    assert_eq!(again, Ok(Closed::default()));
    assert_eq!(
        answer(node.control.set_access(id, may(true), String::new())),
        Ok(false)
    );
}

#[test]
fn an_attachment_number_in_use_or_reserved_is_refused_and_harms_nothing() {
    let node = Node::start();
    let view = node.open(1, true);
    for (number, text) in [
        (1, "the attachment's socket cannot be made"),
        (0, "attachment number 0 is that of the stand-alone socket"),
    ] {
        let opening = Opening {
            attachment: AttachmentId(number),
            directory: OwnedFd::from(fs::File::open(&view).expect("the view")),
            mode: 0o666,
            access: may(true),
        };
        let error = answer(node.control.open(opening)).expect_err("not twice");
        assert_eq!(error.to_string(), text);
    }
    Client::connect(&view);
}

#[test]
fn a_policy_that_breaks_a_rule_is_refused_and_the_one_before_it_holds() {
    let node = Node::start();
    node.set_policy(policy()).expect("a good policy");
    let view = node.open(1, true);
    let mut client = Client::connect(&view);
    let (granted, _) = client.attach(Role::Producer, 1);
    let mut bad = policy();
    bad.classes.clear();
    let error = node
        .set_policy(bad)
        .expect_err("it names a class that is not there");
    assert_eq!(
        error.to_string(),
        "the policy cannot be followed: stream `vision/camera` names the class `default`, which is not defined"
    );
    assert_eq!(node.look().status.streams[0].epoch, granted.epoch);
}

#[test]
// spec: X-2-27, D-10-2
fn the_next_driver_uses_the_same_mount_with_new_files_under_a_higher_epoch() {
    let node = Node::start();
    node.set_policy(policy()).expect("a good policy");
    let view = node.open(1, true);
    let (before, _) = Client::connect(&view).attach(Role::Producer, 1);
    let node = Node::start_in(node.stop());
    node.set_policy(policy()).expect("a good policy");
    let view = node.open(1, true);
    let (after, _) = Client::connect(&view).attach(Role::Producer, 1);
    assert!(
        after.epoch > before.epoch,
        "{:?} {:?}",
        before.epoch,
        after.epoch
    );
    assert_eq!(node.settings.shm.base_dir, node.dir.path().join("shm"));
}

#[test]
fn whoever_watches_is_told_of_what_changes_and_not_of_time() {
    let node = Node::start();
    let mut changes = node.control.changes();
    changes.mark_unchanged();
    node.set_policy(policy()).expect("a good policy");
    answer(changes.changed()).expect("a policy is a change");
    let view = node.open(1, false);
    let mut client = Client::connect(&view);
    changes.mark_unchanged();
    assert_eq!(client.attach(Role::Consumer, 1).0.code, ResponseCode::Ok);
    answer(changes.changed()).expect("a lease is a change");
}

/// A hugetlbfs of eight pages of 2 MiB, for as long as the test runs. Needs root and free pages.
struct HugePages(PathBuf);

impl HugePages {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).expect("a mount point");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "hugetlbfs", "-o", "pagesize=2M,size=16M", "none"])
            .arg(at)
            .output()
            .expect("`mount` is there");
        let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        let free = free.ok().and_then(|text| text.trim().parse::<u64>().ok());
        let missing = if mounted.status.success() {
            let mount = Self(at.to_owned());
            if free.unwrap_or(0) >= 8 {
                return Some(mount);
            }
            format!("{free:?} free pages of 2 MiB, 8 needed")
        } else {
            String::from_utf8_lossy(&mounted.stderr).into_owned()
        };
        let in_ci = std::env::var_os("TENSORPOOL_CI").is_some_and(|value| value == "1");
        assert!(!in_ci, "hugepages are required in CI: {missing}");
        println!("not run: hugepages: {missing}");
        None
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let undone = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        assert!(
            undone.is_ok_and(|it| it.success()),
            "the mount can be undone"
        );
    }
}

#[test]
// spec: W-15.22-4
fn two_page_sizes_are_two_bases_and_a_used_up_one_says_who_has_it_and_leaves_the_other_alone() {
    let dir = TempDir::new_in("/dev/shm").expect("a directory");
    fs::create_dir_all(dir.path().join("shm/4Ki")).expect("a base");
    let Some(_mount) = HugePages::mount(&dir.path().join("shm/2Mi")) else {
        return;
    };
    let node = Node::start_in(dir);
    let mut policy = policy();
    let huge = ClassSpec {
        base: "2Mi".to_owned(),
        // More than is mounted.
        size_bytes: 64 << 20,
    };
    policy.classes.insert("huge".to_owned(), huge);
    // Four pages for each, one of them for the ring.
    policy.profiles.get_mut("p").expect("a profile").pools[0].stride_bytes = 512 << 10;
    policy.quotas.clear();
    policy.streams[0].quotas.clear();
    for id in 1..4 {
        policy.streams.push(StreamSpec {
            name: format!("huge-{id}"),
            stream_id: StreamId(id),
            class: "huge".to_owned(),
            eager: true,
            ..policy.streams[0].clone()
        });
    }
    node.set_policy(policy).expect("a good policy");
    let mut failed = String::new();
    wait_until("a stream without memory", || {
        let streams = node.look().status.streams;
        let ready = streams.iter().filter(|it| it.phase == StreamPhase::Ready);
        let error = streams.iter().find_map(|it| it.error.clone());
        failed = error.unwrap_or_default();
        ready.count() == 2 && !failed.is_empty()
    });
    assert_eq!(
        failed,
        "pages of 2Mi for class `huge` are used up: 8388608 bytes needed, 0 bytes free, 0 bytes held by old epochs; held by vision/huge-1 (8388608), vision/huge-2 (8388608)"
    );
    let seen = node.look();
    let huge = seen
        .bases
        .iter()
        .find(|it| it.name == "2Mi")
        .expect("a base");
    assert!(huge.hugepages && huge.is_resize_pending(), "{huge:?}");
    assert_eq!(
        (huge.total_bytes, huge.free_bytes, huge.pinned_bytes),
        (16 << 20, 0, 0)
    );
    drop(node.stop());
}
