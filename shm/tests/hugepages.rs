//! Epochs on 2 MiB hugepages: whole pages, clear refusals, nothing left behind.
//!
//! Each test takes its pages from the kernel, mounts a hugetlbfs of its own and gives both back. The
//! number of hugepages belongs to the whole machine, so a file lock lets one test at a time have it.

mod harness;

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::path::Path;

use harness::{CREATOR, hammer, layout, map_reader, map_writer, options, pool_path, publish};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;
use tensorpool_shm::{
    CopyError, CreateError, CreateOptions, EpochStore, Look, NodeShare, Numa, NumaError,
    Permissions, Poisoned, Start, StoreOptions, install_fault_handler, numa_nodes,
};
use tensorpool_wire::{Epoch, Seq};

const PAGE: u64 = 2 << 20;
const COUNT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// Some hugepages and a mount, both given back when dropped.
struct Hugepages {
    mount: TempDir,
    pages: u64,
    _lock: File,
}

impl Hugepages {
    /// `pages` more than the machine has, behind a mount that allows `limit` of them. Says why where
    /// they cannot be had.
    fn take(pages: u64, limit: u64) -> Option<Self> {
        let lock = File::create(std::env::temp_dir().join("tensorpool-hugepages.lock"));
        let lock = lock.expect("a lock file");
        flock(&lock, FlockOperation::LockExclusive).expect("the lock");
        let Some(before) = count(COUNT) else {
            harness::not_run("this kernel has no 2 MiB hugepages");
            return None;
        };
        let wanted = before + pages;
        if std::fs::write(COUNT, wanted.to_string()).is_err() || count(COUNT) < Some(wanted) {
            let _ = std::fs::write(COUNT, before.to_string());
            harness::not_run("setting the number of hugepages needs root and free memory");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let data = CString::new(format!("pagesize=2M,size={}", limit * PAGE)).expect("plain text");
        let flags = MountFlags::empty();
        let mounted = mount(
            "hugetlbfs",
            dir.path(),
            "hugetlbfs",
            flags,
            Some(data.as_c_str()),
        );
        let taken = Self {
            mount: dir,
            pages,
            _lock: lock,
        };
        if let Err(error) = mounted {
            harness::not_run(&format!("mounting a hugetlbfs failed: {error}"));
            return None;
        }
        Some(taken)
    }

    fn path(&self) -> &Path {
        self.mount.path()
    }

    fn store(&self) -> EpochStore {
        let options = StoreOptions {
            require_hugepages: true,
            expected_page_bytes: Some(PAGE),
            ..options(self.path())
        };
        EpochStore::open(options).expect("a store on hugepages")
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
        // As many as were taken, whatever others did to the number meanwhile.
        let rest = count(COUNT).unwrap_or(0).saturating_sub(self.pages);
        std::fs::write(COUNT, rest.to_string()).expect("hugepages given back");
    }
}

fn count(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

// spec: W-15.22-4 W-15.14-1
#[test]
fn hugepages_epochs_take_whole_pages_and_carry_frames() {
    let Some(pages) = Hugepages::take(4, 4) else {
        return;
    };
    let store = pages.store();
    let epoch = store
        .create(layout(Epoch(1), 64, &[65_536]), CREATOR)
        .expect("an epoch");
    // 64 slots of 64 KiB and a superblock: three pages, and one for the ring.
    assert_eq!(epoch.bytes(), 4 * PAGE);
    assert_eq!(
        std::fs::metadata(pool_path(&epoch, 1))
            .expect("metadata")
            .len(),
        3 * PAGE
    );
    let free = store.backing().expect("statfs");
    assert!(free.is_hugepages());
    assert_eq!((free.page_bytes, free.free_bytes), (PAGE, 0));
    for uri in epoch.uris().expect("uris") {
        assert!(uri.require_hugepages());
        assert!(
            uri.to_string().ends_with("|require_hugepages=true"),
            "{uri}"
        );
    }
    let (mut writer, reader) = (
        map_writer(pages.path(), &epoch),
        map_reader(pages.path(), &epoch),
    );
    let mut cursor = reader.start(Start::Newest);
    for seq in 0..100 {
        publish(
            &mut writer,
            seq,
            &[u8::try_from(seq).expect("small"); 65_536],
        );
        let Ok(Look::Frame(snapshot)) = reader.poll(&mut cursor) else {
            panic!("a frame")
        };
        let slot = reader.parse(&snapshot).expect("a valid slot");
        let mut bytes = vec![0; 65_536];
        reader
            .payload(&slot)
            .expect("a payload")
            .copy_to(&mut bytes)
            .expect("a copy");
        assert!(bytes.iter().all(|&byte| u64::from(byte) == seq));
    }
    let listed = store.list().expect("a list");
    assert_eq!(
        (listed[0].bytes, listed[0].creator),
        (4 * PAGE, Some(CREATOR))
    );
}

#[test]
fn hugepages_that_the_mount_lacks_are_named_and_nothing_is_left() {
    let Some(pages) = Hugepages::take(8, 5) else {
        return;
    };
    let store = pages.store();
    let free = count(FREE);
    // Two pages each.
    let old = store
        .create(layout(Epoch(1), 4, &[4096]), CREATOR)
        .expect("an epoch");
    store
        .create(layout(Epoch(2), 4, &[4096]), CREATOR)
        .expect("an epoch");
    let error = store
        .create(layout(Epoch(3), 4, &[4096]), CREATOR)
        .expect_err("one page short");
    let CreateError::NoSpace {
        needed,
        free: left,
        held_by_old_epochs,
        page_bytes,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((*needed, *left, *page_bytes), (2 * PAGE, PAGE, PAGE));
    // Both are older than the one that was to come.
    assert_eq!(*held_by_old_epochs, 4 * PAGE);
    assert!(
        error.to_string().contains("(2 pages of 2097152 bytes)"),
        "{error}"
    );
    assert_eq!(count(FREE), free.map(|free| free - 4));
    assert!(!old.directory().with_file_name("3").exists());
    drop(old);
    store.remove(harness::STREAM, Epoch(1)).expect("removed");
    store
        .create(layout(Epoch(3), 4, &[4096]), CREATOR)
        .expect("room for it now");
}

#[test]
fn hugepages_of_a_numa_node_are_seen_to_be_there_and_a_node_that_is_not_gives_none() {
    let Some(pages) = Hugepages::take(2, 2) else {
        return;
    };
    let store = pages.store();
    let make = |epoch, numa| {
        let options = CreateOptions {
            permissions: Permissions::GROUP,
            numa: Some(numa),
        };
        store.create_with(layout(Epoch(epoch), 4, &[4096]), CREATOR, options)
    };
    let error = make(1, Numa::Bind(1_000)).expect_err("no machine has that many");
    assert!(
        matches!(
            error,
            CreateError::Node(NumaError::NotListed { node: 1_000, .. })
        ),
        "{error:?}"
    );
    assert_eq!(harness::tree(store.path()), [] as [&Path; 0]);
    // Machines with several nodes: `numa_nodes`.
    if numa_nodes() == [0] {
        let epoch = make(2, Numa::Bind(0)).expect("it is all there is");
        let bytes = 2 * PAGE;
        let all = NodeShare {
            node: 0,
            bytes,
            there: bytes,
        };
        assert_eq!(epoch.on_node(), Some(all));
    }
}

#[test]
fn hugepages_that_the_kernel_lacks_are_named_and_nothing_is_left() {
    let Some(pages) = Hugepages::take(2, 1_000) else {
        return;
    };
    let store = pages.store();
    let had = count(FREE).expect("a number");
    let slots = u32::try_from(had + 2)
        .expect("a few pages")
        .next_power_of_two();
    let error = store
        .create(layout(Epoch(1), slots, &[2 << 20]), CREATOR)
        .expect_err("too much");
    let CreateError::NoSpace {
        free,
        held_by_old_epochs,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((free, held_by_old_epochs), (had * PAGE, 0));
    assert_eq!(count(FREE), Some(had));
    assert_eq!(store.list().expect("a list"), []);
}

#[test]
fn hugepages_truncated_while_mapped_poison_their_region() {
    let Some(pages) = Hugepages::take(3, 3) else {
        return;
    };
    install_fault_handler().expect("the handler");
    let store = pages.store();
    let epoch = store
        .create(layout(Epoch(1), 4, &[65_536]), CREATOR)
        .expect("an epoch");
    let (mut writer, reader) = (
        map_writer(pages.path(), &epoch),
        map_reader(pages.path(), &epoch),
    );
    publish(&mut writer, 0, &[9; 65_536]);
    let slot = reader
        .parse(&reader.read(Seq(0)).expect("frame 0"))
        .expect("a valid slot");
    let file = OpenOptions::new()
        .write(true)
        .open(pool_path(&epoch, 1))
        .expect("a pool");
    file.set_len(0).expect("truncated");
    let mut bytes = vec![1; 65_536];
    let copied = reader
        .payload(&slot)
        .expect("a payload")
        .copy_to(&mut bytes);
    assert_eq!(copied, Err(CopyError::Poisoned(Poisoned)));
    assert!(reader.is_poisoned() && !epoch.is_poisoned());
}

#[test]
fn hugepages_are_back_at_once_although_a_client_has_them_mapped() {
    let Some(pages) = Hugepages::take(3, 3) else {
        return;
    };
    install_fault_handler().expect("the handler");
    let store = pages.store();
    let free = || store.backing().expect("a mount").free_bytes / PAGE;
    let epoch = store
        .create(layout(Epoch(1), 4, &[65_536]), CREATOR)
        .expect("an epoch");
    let mut writer = map_writer(pages.path(), &epoch);
    let reader = map_reader(pages.path(), &epoch);
    publish(&mut writer, 0, &[9; 65_536]);
    let slot = reader
        .parse(&reader.read(Seq(0)).expect("frame 0"))
        .expect("a valid slot");
    drop((writer, epoch));
    let unused = store.remove_if_unused(harness::STREAM, Epoch(1));
    assert!(!unused.expect("it can be told"), "the reader has it");
    assert_eq!(free(), 1);
    store
        .empty_and_remove(harness::STREAM, Epoch(1))
        .expect("emptied");
    assert_eq!(free(), 3, "the reader still maps what is gone");
    let next = store.create(layout(Epoch(2), 4, &[65_536]), CREATOR);
    assert!(next.is_ok(), "there is memory for another");
    let mut bytes = vec![1; 65_536];
    let copied = reader
        .payload(&slot)
        .expect("a payload")
        .copy_to(&mut bytes);
    assert_eq!(copied, Err(CopyError::Poisoned(Poisoned)));
}

/// A punched hugepage is taken from the pool again at the next load. When the pool has none left, the
/// load faults.
#[test]
fn hugepages_punched_while_mapped_poison_their_region() {
    let Some(pages) = Hugepages::take(2, 2) else {
        return;
    };
    install_fault_handler().expect("the handler");
    let store = pages.store();
    let epoch = store
        .create(layout(Epoch(1), 4, &[65_536]), CREATOR)
        .expect("an epoch");
    let (mut writer, reader) = (
        map_writer(pages.path(), &epoch),
        map_reader(pages.path(), &epoch),
    );
    publish(&mut writer, 0, &[9; 65_536]);
    let slot = reader
        .parse(&reader.read(Seq(0)).expect("frame 0"))
        .expect("a valid slot");
    let file = OpenOptions::new()
        .write(true)
        .open(pool_path(&epoch, 1))
        .expect("a pool");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 0, PAGE).expect("punched");
    // The page goes to somebody else; the mount has no other.
    let thief = File::create(pages.path().join("thief")).expect("a file");
    fallocate(&thief, FallocateFlags::empty(), 0, PAGE).expect("the freed page");
    let mut bytes = vec![1; 65_536];
    let copied = reader
        .payload(&slot)
        .expect("a payload")
        .copy_to(&mut bytes);
    assert_eq!(copied, Err(CopyError::Poisoned(Poisoned)));
    assert!(
        writer.begin(Seq(1), 0).is_ok(),
        "the writer has not touched its mapping yet"
    );
    let header = harness::header(writer.layout(), 1, 0, 8);
    harness::begin(&mut writer, 1, b"poisoned").commit(&header);
    assert!(writer.is_poisoned());
}

// spec: W-8.3-5 W-8.3-7
#[test]
fn hugepages_two_process_hammer_tears_nothing() {
    if hammer::is_producer() {
        return;
    }
    let Some(pages) = Hugepages::take(2, 2) else {
        return;
    };
    let store = pages.store();
    let shape = layout(harness::EPOCH, hammer::NSLOTS, &[hammer::STRIDE]);
    let epoch = store.create(shape, CREATOR).expect("an epoch");
    let (writer, reader) = (
        map_writer(pages.path(), &epoch),
        map_reader(pages.path(), &epoch),
    );
    let stream = harness::Stream {
        store,
        epoch,
        writer,
        reader,
    };
    hammer::run("hugepages_two_process_hammer_tears_nothing", &stream);
}
