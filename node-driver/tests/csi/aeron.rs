//! Volumes with `transport: aeron`: two mounts that come and go as one, and a pod that may write.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tensorpool_node_driver::csi::mountinfo;

use crate::node::Node;

/// Its memory and a media driver's directory are as `mount` makes them.
fn node(test: &str) -> Option<Node> {
    Node::new(test, |kubelet, _| {
        let output = Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
            .args(["mount", "--pool=4Ki=256Mi", "--aeron=16Mi"])
            .args(["--uid=0", "--gid=0", "--base-dir"])
            .arg(kubelet.node_dir())
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
    })
}

impl Node {
    fn assert_clean(&self, pod: &str) {
        let target = self.kubelet.target(pod);
        let mounts = mountinfo::read().expect("mountinfo");
        let left = mounts.iter().filter(|it| it.point.starts_with(&target));
        assert_eq!(left.count(), 0, "no mount is left");
        assert!(!target.exists());
        let views = self.base.views.on_disk(self.base.store.path());
        assert_eq!(views.expect("views can be listed"), []);
        assert_eq!(self.driver.holds(), Vec::<String>::new());
    }
}

fn is_read_only(path: &Path) -> bool {
    match File::create_new(path.join("written")) {
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => true,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

#[test]
fn a_consumer_on_aeron_reads_its_stream_and_writes_to_the_media_drivers_directory() {
    let test =
        "aeron::a_consumer_on_aeron_reads_its_stream_and_writes_to_the_media_drivers_directory";
    let Some(node) = node(test) else { return };
    let _csi = node.kubelet.start_csi();
    node.kubelet
        .publish_on_aeron("pod", "csi-1", "consume")
        .unwrap();
    let volume = node.kubelet.target("pod");
    let ring = volume.join("shm/4Ki/tensorpool-k8s/default/1/5/header.ring");
    File::open(&ring).expect("the announced path, below the node's directory");
    assert!(is_read_only(&volume));
    assert!(!is_read_only(&volume.join("aeron")));
    let here = node.kubelet.node_dir().join("aeron/written");
    assert!(here.exists(), "it is the node's own directory");
    assert!(volume.join("driver.sock").exists());
    node.kubelet.unpublish("pod", "csi-1").unwrap();
    node.assert_clean("pod");
}

#[test]
fn what_a_hostile_producer_leaves_in_its_view_is_gone_when_its_volume_is() {
    let test = "aeron::what_a_hostile_producer_leaves_in_its_view_is_gone_when_its_volume_is";
    let Some(node) = node(test) else { return };
    let _csi = node.kubelet.start_csi();
    node.kubelet
        .publish_on_aeron("pod", "csi-1", "produce")
        .unwrap();
    let volume = node.kubelet.target("pod");
    let ring = volume.join("shm/4Ki/tensorpool-k8s/default/1/5/header.ring");
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&ring)
        .expect("a producer writes");

    let mine = volume.join("mine");
    fs::DirBuilder::new().mode(0o700).create(&mine).unwrap();
    fs::hard_link(&ring, mine.join("kept")).unwrap();
    fs::rename(volume.join("shm"), mine.join("renamed")).unwrap();
    symlink("/etc", volume.join("shm")).unwrap();
    for number in 0..100_000 {
        File::create(mine.join(number.to_string())).unwrap();
    }
    let mut deep = mine.clone();
    for _ in 0..200 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o000)).unwrap();

    // The other streams of the node go on meanwhile.
    node.base.make(2, 7);
    node.base.make(1, 6);
    node.kubelet.unpublish("pod", "csi-1").unwrap();
    node.assert_clean("pod");
    assert!(Path::new("/etc").exists());
    node.kubelet
        .unpublish("pod", "csi-1")
        .expect("again is no error");
}

#[test]
fn killed_between_the_two_mounts_the_next_one_begins_anew() {
    let test = "aeron::killed_between_the_two_mounts_the_next_one_begins_anew";
    let Some(node) = node(test) else { return };
    for access in ["produce", "consume"] {
        let csi = node.kubelet.start_csi();
        node.kubelet
            .publish_on_aeron("pod", "csi-1", access)
            .unwrap();
        csi.kill();
        let nested = node.kubelet.target("pod").join("aeron");
        unmount(&nested, UnmountFlags::empty()).unwrap();

        let csi = node.kubelet.start_csi();
        node.kubelet
            .publish_on_aeron("pod", "csi-1", access)
            .unwrap();
        assert!(!is_read_only(&nested), "{access}");
        fs::remove_file(nested.join("written")).unwrap();
        let mounts = mountinfo::read().expect("mountinfo");
        let here = mounts.iter().filter(|it| it.point == nested);
        assert_eq!(here.count(), 1, "{access}: not mounted twice");
        node.kubelet.unpublish("pod", "csi-1").unwrap();
        node.assert_clean("pod");
        assert!(csi.terminate().success());
    }
}

#[test]
fn without_the_media_drivers_directory_nothing_stays_mounted() {
    let test = "aeron::without_the_media_drivers_directory_nothing_stays_mounted";
    let Some(node) = node(test) else { return };
    let aeron = node.kubelet.node_dir().join("aeron");
    unmount(&aeron, UnmountFlags::empty()).unwrap();
    fs::remove_dir(&aeron).unwrap();
    let _csi = node.kubelet.start_csi();
    let refused = node.kubelet.publish_on_aeron("pod", "csi-1", "produce");
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("aeron"), "{refused}");
    node.assert_clean("pod");
}

#[test]
fn a_volume_that_is_mounted_otherwise_is_named_and_left_alone() {
    let test = "aeron::a_volume_that_is_mounted_otherwise_is_named_and_left_alone";
    let Some(node) = node(test) else { return };
    let _csi = node.kubelet.start_csi();
    node.kubelet
        .publish_on_aeron("pod", "csi-1", "produce")
        .unwrap();
    let refused = node.kubelet.publish("pod", "csi-1").unwrap_err();
    assert!(
        refused.message().contains("is mounted at")
            && refused.message().contains("otherwise than the pod wants"),
        "{refused}"
    );
    node.kubelet
        .publish_on_aeron("pod", "csi-1", "produce")
        .expect("what is mounted stays");
    node.kubelet.unpublish("pod", "csi-1").unwrap();
    node.assert_clean("pod");
}

/// A mount that somebody made inside of the volume goes with it.
#[test]
fn what_is_mounted_inside_is_unmounted_first() {
    let Some(node) = node("aeron::what_is_mounted_inside_is_unmounted_first") else {
        return;
    };
    let _csi = node.kubelet.start_csi();
    node.kubelet
        .publish_on_aeron("pod", "csi-1", "consume")
        .unwrap();
    let place = node.kubelet.target("pod").join("aeron/more");
    fs::create_dir(&place).unwrap();
    let options = CString::new("size=1m").unwrap();
    let flags = MountFlags::empty();
    mount("none", &place, "tmpfs", flags, options.as_c_str()).unwrap();
    node.kubelet.unpublish("pod", "csi-1").unwrap();
    node.assert_clean("pod");
}
