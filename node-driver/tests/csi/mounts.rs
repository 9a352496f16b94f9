//! What a pod gets: read-only, its own stream only, live.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use tensorpool_node_driver::attachments::protocol::{Code as Kind, Question, Refusal};
use tensorpool_node_driver::csi::mountinfo;
use tensorpool_node_driver::csi::proto::csi::NodeGetVolumeStatsRequest;
use tensorpool_transport::socket::SocketClient;
use tensorpool_wire::Superblock;
use tonic::Code;

use crate::driver::{Base, Driver};
use crate::inside::own_mounts;
use crate::kubelet::Kubelet;
use crate::support::facility;

/// Runs `mount` as the init container does, with memory of this page size.
fn mount(kubelet: &Kubelet, pool: &str) -> String {
    mount_with(kubelet, pool, &[])
}

fn mount_with(kubelet: &Kubelet, pool: &str, more: &[&str]) -> String {
    let output = run_mount(kubelet, pool, more);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{error}");
    said
}

fn run_mount(kubelet: &Kubelet, pool: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
        .args(["mount", "--pool", pool, "--uid", "0", "--gid", "0"])
        .args(more)
        .arg("--base-dir")
        .arg(kubelet.node_dir())
        .output()
        .expect("the binary runs")
}

/// A base in memory of this page size, which is mounted.
fn base(kubelet: &Kubelet, page_size: &str) -> Arc<Base> {
    Arc::new(Base::new(&kubelet.shm_dir().join(page_size)))
}

fn have_huge_pages() -> bool {
    let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free = std::fs::read_to_string(free).unwrap_or_default();
    let free: u32 = free.trim().parse().unwrap_or(0);
    let missing = (free < 8).then(|| format!("{free} huge pages of 2 MiB are free, 8 are needed"));
    facility("huge pages", missing)
}

#[test]
fn a_pod_sees_its_stream_read_only_on_tmpfs() {
    if own_mounts("mounts::a_pod_sees_its_stream_read_only_on_tmpfs") {
        pod_sees_its_stream_read_only("4Ki", "4Ki=16Mi");
    }
}

#[test]
fn a_pod_sees_its_stream_read_only_on_hugepages() {
    if have_huge_pages() && own_mounts("mounts::a_pod_sees_its_stream_read_only_on_hugepages") {
        pod_sees_its_stream_read_only("2Mi", "2Mi=16Mi");
    }
}

fn pod_sees_its_stream_read_only(page_size: &str, pool: &str) {
    let kubelet = Kubelet::new();
    mount(&kubelet, pool);
    let base = base(&kubelet, page_size);
    let old = base.make(1, 5);
    let other = base.make(2, 6);
    let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
    let csi = kubelet.start_csi();
    kubelet.publish("pod", "csi-1").expect("it works");
    let volume = kubelet.target("pod");

    let ring = volume.join(Base::below(old)).join("header.ring");
    let mut head = [0; 64];
    File::open(&ring)
        .expect("it works")
        .read_exact(&mut head)
        .expect("it works");
    let found = Superblock::decode(&head).expect("it works");
    assert_eq!((found.stream_id, found.epoch), (old.stream, old.epoch));
    assert!(!volume.join(Base::below(other)).exists(), "another stream");
    assert_eq!(names(&volume), ["driver.sock", "tensorpool-k8s"]);
    nobody_can_write(&volume, &ring);
    anybody_can_read(&ring);

    let new = base.make(1, 7);
    let ring = volume.join(Base::below(new)).join("header.ring");
    File::open(&ring).expect("a new epoch appears in a live volume");
    base.remove(old);
    assert!(!volume.join(Base::below(old)).exists());

    SocketClient::connect(&volume.join("driver.sock")).expect("the socket works through the mount");
    stats_are_those_of_the_view(&kubelet);

    kubelet.unpublish("pod", "csi-1").expect("it works");
    assert!(!volume.exists());
    assert!(driver.holds().is_empty());
    kubelet
        .unpublish("pod", "csi-1")
        .expect("again is no error");
    assert!(csi.terminate().success());
}

fn nobody_can_write(volume: &Path, ring: &Path) {
    let read_only = |result: std::io::Result<()>, what: &str| {
        let error = result.expect_err(what);
        assert_eq!(
            error.kind(),
            ErrorKind::ReadOnlyFilesystem,
            "{what}: {error}"
        );
    };
    let open = OpenOptions::new().read(true).write(true).open(ring);
    read_only(open.map(drop), "O_RDWR");
    let create = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(volume.join("new"));
    read_only(create.map(drop), "create");
    read_only(std::fs::rename(ring, volume.join("moved")), "rename");
    let mode = std::fs::Permissions::from_mode(0o600);
    read_only(std::fs::set_permissions(ring, mode), "chmod");
    read_only(std::fs::remove_file(ring), "unlink");
    read_only(std::fs::hard_link(ring, volume.join("link")), "link");
    read_only(std::fs::create_dir(volume.join("dir")), "mkdir");
    let mounts = mountinfo::read().expect("it works");
    let mount = mountinfo::at(&mounts, volume).expect("it works");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.options.iter().any(|it| it == option), "{mount:?}");
    }
}

/// The mount is the permission: whoever has it may read, whatever the directories above it say.
fn anybody_can_read(ring: &Path) {
    // As a container has it: the mount, and not the directories that lead to it on the host.
    let directory = ring.parent().expect("it works");
    let status = Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
        .args(["head", "-c", "64", "header.ring"])
        .current_dir(directory)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("setpriv of util-linux runs");
    assert!(status.success());
}

fn stats_are_those_of_the_view(kubelet: &Kubelet) {
    let stats = |path: &Path| {
        let request = NodeGetVolumeStatsRequest {
            volume_id: "csi-1".to_owned(),
            volume_path: path.display().to_string(),
            ..NodeGetVolumeStatsRequest::default()
        };
        kubelet.block_on(async { kubelet.node().await.node_get_volume_stats(request).await })
    };
    let usage = stats(&kubelet.target("pod"))
        .expect("it works")
        .into_inner()
        .usage;
    let [usage] = usage.as_slice() else {
        panic!("{usage:?}");
    };
    assert_eq!(usage.total, 16 << 20);
    assert!(usage.used > 0 && usage.used < usage.total, "{usage:?}");
    assert!(usage.available < usage.total, "{usage:?}");
    let elsewhere = stats(&kubelet.root()).expect_err("it is refused");
    assert_eq!(elsewhere.code(), Code::NotFound);
}

#[test]
fn what_the_driver_refuses_kubelet_hears_in_its_words_and_nothing_is_left() {
    let test = "mounts::what_the_driver_refuses_kubelet_hears_in_its_words_and_nothing_is_left";
    if !own_mounts(test) {
        return;
    }
    let kubelet = Kubelet::new();
    mount(&kubelet, "4Ki=16Mi");
    let base = base(&kubelet, "4Ki");
    let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
    let _csi = kubelet.start_csi();
    driver.refuse(Some(Refusal::new(Kind::PermissionDenied, "you may not")));
    let refused = kubelet.publish("pod", "csi-1").unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "you may not");
    assert!(!kubelet.target("pod").exists());

    driver.refuse(None);
    driver.take_asked();
    // Something in the way: what the driver prepared is given back.
    std::fs::write(kubelet.target("pod"), "a file").unwrap();
    let failed = kubelet.publish("pod", "csi-1").unwrap_err();
    assert_eq!(failed.code(), Code::Internal);
    let place = kubelet.target("pod").display().to_string();
    assert!(failed.message().contains(&place), "{}", failed.message());
    assert!(driver.holds().is_empty());
    let asked = driver.take_asked();
    assert!(
        matches!(
            asked.as_slice(),
            [Question::Publish(_), Question::Unpublish { .. }]
        ),
        "{asked:?}"
    );
    std::fs::remove_file(kubelet.target("pod")).unwrap();
    kubelet
        .publish("pod", "csi-1")
        .expect("kubelet tries again");
    kubelet.unpublish("pod", "csi-1").unwrap();
}

#[test]
fn a_mount_of_somebody_else_is_not_touched() {
    if !own_mounts("mounts::a_mount_of_somebody_else_is_not_touched") {
        return;
    }
    let kubelet = Kubelet::new();
    let driver = Driver::start(&kubelet.internal_socket(), None);
    let _csi = kubelet.start_csi();
    let place = kubelet.target("pod");
    std::fs::create_dir_all(&place).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", &place, "tmpfs", flags, None).unwrap();
    let refused = kubelet.publish("pod", "csi-1").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("tmpfs"), "{}", refused.message());
    assert!(driver.take_asked().is_empty(), "the driver was not asked");
    let mounts = mountinfo::read().unwrap();
    assert!(mountinfo::at(&mounts, &place).is_some());
}

#[test]
fn requests_that_no_kubelet_sends_are_refused_before_the_driver_is_asked() {
    let kubelet = Kubelet::new();
    let driver = Driver::start(&kubelet.internal_socket(), None);
    let _csi = kubelet.start_csi();
    let good = kubelet.request("pod", "csi-1");
    let mut requests = Vec::new();
    for (field, words) in [
        ("volume", "names no volume"),
        ("traversal", "no plain file name"),
        ("target", "names no target path"),
        ("elsewhere", "below kubelet's directory"),
        ("capability", "how the volume is to be used"),
    ] {
        let mut request = good.clone();
        match field {
            "volume" => request.volume_id.clear(),
            "traversal" => request.volume_id = "../../etc".to_owned(),
            "target" => request.target_path.clear(),
            "elsewhere" => request.target_path = "/etc".to_owned(),
            _capability => request.volume_capability = None,
        }
        requests.push((request, words));
    }
    for (request, words) in requests {
        let refused = kubelet
            .block_on(async { kubelet.node().await.node_publish_volume(request).await })
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    assert!(driver.take_asked().is_empty());
}

#[test]
fn memory_that_is_mounted_is_kept_grown_or_left_and_never_shrunk() {
    if !own_mounts("mounts::memory_that_is_mounted_is_kept_grown_or_left_and_never_shrunk") {
        return;
    }
    let kubelet = Kubelet::new();
    assert!(mount(&kubelet, "4Ki=16Mi").contains("mounted with 16777216 bytes"));
    let base = kubelet.shm_dir().join("4Ki");
    std::fs::write(base.join("kept"), "data").unwrap();
    let mode = std::fs::metadata(&base).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    assert!(mount(&kubelet, "4Ki=16Mi").contains("was mounted with 16777216 bytes already"));
    assert!(mount(&kubelet, "4Ki=32Mi").contains("grew from 16777216 to 33554432 bytes"));
    let smaller = mount(&kubelet, "4Ki=8Mi");
    assert!(
        smaller.contains("stays mounted with 33554432 bytes"),
        "{smaller}"
    );
    assert_eq!(std::fs::read(base.join("kept")).unwrap(), b"data");
    let mounts = mountinfo::read().unwrap();
    let here = mounts.iter().filter(|mount| mount.point == base);
    assert_eq!(here.count(), 1);
}

#[test]
fn guaranteed_pages_are_set_aside_at_once_or_the_mount_is_refused_with_numbers() {
    if !own_mounts(
        "mounts::guaranteed_pages_are_set_aside_at_once_or_the_mount_is_refused_with_numbers",
    ) || !have_huge_pages()
    {
        return;
    }
    let kubelet = Kubelet::new();
    let refused = run_mount(&kubelet, "2Mi=4Ti", &["--guarantee=2Mi"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(
        error.contains("2097152 pages of 2Mi shall be set aside"),
        "{error}"
    );
    assert!(error.contains("vm.nr_hugepages"), "{error}");

    let place = kubelet.shm_dir().join("2Mi");
    let is_set_aside = || {
        let mounts = mountinfo::read().unwrap();
        mountinfo::at(&mounts, &place).unwrap().is_set_aside()
    };
    let said = mount_with(&kubelet, "2Mi=8Mi", &["--guarantee=2Mi"]);
    assert!(
        said.contains("8388608 bytes, which are set aside"),
        "{said}"
    );
    assert!(is_set_aside());
    let said = mount_with(&kubelet, "2Mi=8Mi", &["--guarantee=2Mi"]);
    assert!(
        said.contains("was mounted with 8388608 bytes already"),
        "{said}"
    );
    let said = mount(&kubelet, "2Mi=8Mi");
    assert!(
        said.contains("stays so, with its pages set aside"),
        "{said}"
    );
    assert!(is_set_aside());
}

#[test]
fn memory_of_another_kind_in_the_place_of_a_pool_is_an_error_in_words() {
    if !own_mounts("mounts::memory_of_another_kind_in_the_place_of_a_pool_is_an_error_in_words") {
        return;
    }
    let kubelet = Kubelet::new();
    let place = kubelet.shm_dir().join("2Mi");
    std::fs::create_dir_all(&place).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", &place, "tmpfs", flags, None).unwrap();
    let output = run_mount(&kubelet, "2Mi=16Mi", &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("is mounted as tmpfs"), "{error}");
    assert!(error.contains("drain the node"), "{error}");
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("it works");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("it works")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
