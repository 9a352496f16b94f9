//! Memory on a machine with several NUMA nodes, and with control groups of version 2 alone.
//!
//! `cargo xtask ci emulated` runs these in a machine of its own: NUMA nodes 0 and 1 with two CPUs and 16
//! huge pages each, node 2 with as many huge pages and no CPU.

mod harness;

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{CREATOR, layout, map_reader, map_writer, options, publish};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::sched_getaffinity;
use tempfile::TempDir;
use tensorpool_shm::{
    CreateError, CreateOptions, CreatedEpoch, EpochStore, Look, NodeShare, Numa, NumaError,
    Permissions, Start, numa_nodes, numa_pages,
};
use tensorpool_wire::Epoch;

const PAGE: u64 = 2 << 20;
/// Pages of every node.
const PAGES: u64 = 16;
/// Pages of an epoch: one of the ring, three of the pool.
const EPOCH_PAGES: u64 = 4;

/// A filesystem of memory, unmounted when dropped.
struct Mounted(TempDir);

impl Mounted {
    fn new(kind: &str, data: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = CString::new(data).expect("plain text");
        let flags = MountFlags::empty();
        mount(kind, dir.path(), kind, flags, Some(data.as_c_str())).expect("it is mounted");
        Self(dir)
    }

    fn huge_pages() -> Self {
        Self::new("hugetlbfs", "pagesize=2M")
    }

    fn store(&self) -> EpochStore {
        EpochStore::open(options(self.0.path())).expect("a store")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

fn make(store: &EpochStore, epoch: u64, numa: Numa) -> Result<CreatedEpoch, CreateError> {
    let options = CreateOptions {
        permissions: Permissions::GROUP,
        numa: Some(numa),
    };
    store.create_with(layout(Epoch(epoch), 64, &[65_536]), CREATOR, options)
}

/// Free huge pages of every node, as the kernel counts them.
fn free() -> Vec<u64> {
    let pages = numa_pages().into_iter().filter(|it| it.page_bytes == PAGE);
    pages.map(|it| it.free).collect()
}

fn names(directory: &Path) -> Vec<PathBuf> {
    harness::tree(directory)
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask ci emulated"]
fn bound_pages_come_from_that_node_alone_and_carry_frames() {
    assert_eq!(numa_nodes(), [0, 1, 2]);
    let mounted = Mounted::huge_pages();
    let store = mounted.store();
    let before = sched_getaffinity(None).expect("the thread has one");
    for (number, node) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
        let mut wanted = free();
        let epoch = make(&store, number, Numa::Bind(node)).expect("there is room");
        wanted[usize::from(node)] -= EPOCH_PAGES;
        assert_eq!(free(), wanted);
        let bytes = EPOCH_PAGES * PAGE;
        let all = NodeShare {
            node,
            bytes,
            there: bytes,
        };
        assert_eq!(epoch.on_node(), Some(all));
        let after = sched_getaffinity(None).expect("the thread has one");
        assert!(after == before, "the thread is back on all its CPUs");

        let mut writer = map_writer(mounted.0.path(), &epoch);
        let reader = map_reader(mounted.0.path(), &epoch);
        let mut cursor = reader.start(Start::Newest);
        publish(&mut writer, 0, &[7; 65_536]);
        assert!(matches!(reader.poll(&mut cursor), Ok(Look::Frame(_))));
        assert_eq!(free(), wanted, "clients take nothing");
    }
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask ci emulated"]
fn a_full_node_is_named_nothing_is_left_and_the_other_one_still_gives() {
    let mounted = Mounted::huge_pages();
    let store = mounted.store();
    for number in 1..=3 {
        make(&store, number, Numa::Bind(1)).expect("there is room");
    }
    fs::write(
        "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        (PAGES - 1).to_string(),
    )
    .expect("a page is taken away");
    assert_eq!(free(), [PAGES, 3, PAGES]);
    let left = names(mounted.0.path());
    let error = make(&store, 4, Numa::Bind(1)).expect_err("one page short");
    assert!(
        matches!(
            error,
            CreateError::NodeFull { node: 1, needed, had, page_bytes: PAGE, .. }
                if (needed, had) == (4 * PAGE, 3 * PAGE)
        ),
        "{error:?}"
    );
    println!("{error}");
    assert!(
        error
            .to_string()
            .contains("needs 8388608 bytes (4 pages of 2097152 bytes) on NUMA node 1, but 6291456 bytes could be had there"),
        "{error}"
    );
    assert_eq!(free(), [PAGES, 3, PAGES]);
    assert_eq!(names(mounted.0.path()), left);
    make(&store, 4, Numa::Bind(0)).expect("the other node has room");

    // Preferred takes what is there, and the rest from elsewhere.
    let epoch = make(&store, 5, Numa::Preferred(1)).expect("there is room");
    let share = epoch.on_node().expect("the kernel says where pages are");
    assert_eq!((share.bytes, share.there), (4 * PAGE, 3 * PAGE));
    assert_eq!(free().iter().sum::<u64>(), 3 * PAGES - 1 - 5 * EPOCH_PAGES);
    assert_eq!(free()[1], 0);

    // What comes free is found.
    drop(epoch);
    store.remove(harness::STREAM, Epoch(5)).expect("removed");
    store.remove(harness::STREAM, Epoch(1)).expect("removed");
    make(&store, 6, Numa::Bind(1)).expect("there is room again");
    drop(mounted);
    fs::write(
        "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        PAGES.to_string(),
    )
    .expect("the page is given back");
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask ci emulated"]
fn a_node_without_cpus_is_an_error_in_words_and_no_obstacle_where_it_is_preferred() {
    let mounted = Mounted::huge_pages();
    let store = mounted.store();
    let error = make(&store, 1, Numa::Bind(2)).expect_err("nobody can run there");
    assert!(
        matches!(error, CreateError::Node(NumaError::NoCpus(2))),
        "{error:?}"
    );
    println!("{error}");
    assert!(!store.path().join("10000/1").exists());
    let epoch = make(&store, 2, Numa::Preferred(2)).expect("others have room");
    let there = epoch.on_node().map(|share| share.there);
    assert_eq!(there, Some(0));
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask ci emulated"]
fn ordinary_pages_can_be_bound_too() {
    let mounted = Mounted::new("tmpfs", "size=64M");
    let store = mounted.store();
    for (number, node) in [(1, 1), (2, 0), (3, 1)] {
        let epoch = make(&store, number, Numa::Bind(node)).expect("there is room");
        let share = epoch.on_node().expect("the kernel says where pages are");
        assert_eq!((share.node, share.there), (node, share.bytes));
        assert!(share.bytes > 64 * 65_536);
    }
}

/// This process alone in a control group of its own.
struct Group(PathBuf);

impl Group {
    fn enter(settings: &[(&str, &str)]) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let controllers = root.join("cgroup.subtree_control");
        fs::write(controllers, "+cpuset +hugetlb").expect("it has both controllers");
        let group = Self(root.join("tests"));
        fs::create_dir(&group.0).expect("it is new");
        for (name, value) in settings {
            fs::write(group.0.join(name), value).expect("a setting of the group");
        }
        let pid = std::process::id().to_string();
        fs::write(group.0.join("cgroup.procs"), pid).expect("this process is in it");
        group
    }

    fn says(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.0.join(name)).expect("the group counts it");
        text.trim().parse().expect("a number")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let pid = std::process::id().to_string();
        let _ = fs::write("/sys/fs/cgroup/cgroup.procs", pid);
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask ci emulated"]
fn a_control_group_without_the_nodes_cpus_is_named() {
    let mounted = Mounted::huge_pages();
    let store = mounted.store();
    let group = Group::enter(&[("cpuset.cpus", "0-1")]);
    let error = make(&store, 1, Numa::Bind(1)).expect_err("it may not run there");
    assert!(
        matches!(
            error,
            CreateError::Node(NumaError::OtherCpus { node: 1, .. })
        ),
        "{error:?}"
    );
    println!("{error}");
    assert!(error.to_string().contains("(CPUs 2-3)"), "{error}");
    make(&store, 2, Numa::Bind(0)).expect("it may run there");
    drop(group);
    make(&store, 3, Numa::Bind(1)).expect("it may again");
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask ci emulated"]
fn pages_that_came_from_elsewhere_all_the_same_are_noticed_and_given_back() {
    let mounted = Mounted::huge_pages();
    let store = mounted.store();
    // It may run on node 1 and have no memory there: only a look at the pages can tell.
    let group = Group::enter(&[("cpuset.mems", "0")]);
    let error = make(&store, 1, Numa::Bind(1)).expect_err("they are on node 0");
    assert!(
        matches!(
            error,
            CreateError::NodeFull {
                node: 1,
                had: 0,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(free(), [PAGES; 3]);
    drop(group);
    make(&store, 2, Numa::Bind(1)).expect("it may again");
}

#[test]
#[ignore = "needs a machine of its own: cargo xtask ci emulated"]
fn clients_in_a_control_group_that_may_have_no_huge_page_are_charged_for_none() {
    let mounted = Mounted::huge_pages();
    let store = mounted.store();
    let options = CreateOptions {
        permissions: Permissions::GROUP,
        numa: None,
    };
    let make = |epoch| store.create_with(layout(Epoch(epoch), 64, &[65_536]), CREATOR, options);
    let epoch = make(1).expect("there is room");
    let left = free();
    // As kubelet makes it for a pod without a request of huge pages.
    let group = Group::enter(&[("hugetlb.2MB.max", "0"), ("hugetlb.2MB.rsvd.max", "0")]);
    let mut writer = map_writer(mounted.0.path(), &epoch);
    let reader = map_reader(mounted.0.path(), &epoch);
    let mut cursor = reader.start(Start::Newest);
    for seq in 0..64 {
        publish(&mut writer, seq, &[9; 65_536]);
        assert!(matches!(reader.poll(&mut cursor), Ok(Look::Frame(_))));
    }
    assert_eq!(group.says("hugetlb.2MB.current"), 0);
    assert_eq!(group.says("hugetlb.2MB.rsvd.current"), 0);
    assert_eq!(free(), left);
    // The limits hold: memory of its own it gets none.
    let error = make(2).expect_err("the group may have no huge page");
    println!("{error}");
    assert!(matches!(error, CreateError::NoSpace { .. }), "{error:?}");
    drop(group);
    make(2).expect("out of the group it may");
}
