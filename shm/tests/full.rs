//! A filesystem that is full: what is missing is said, and nothing is left behind.

mod harness;

use std::path::PathBuf;

use harness::{CREATOR, EPOCH, STREAM, layout, store, tree};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;
use tensorpool_shm::CreateError;
use tensorpool_wire::Epoch;

/// A tmpfs of its own, as small as the test wants it. Gone when dropped.
struct SmallTmpfs(TempDir);

impl SmallTmpfs {
    /// `None` where mounting is not allowed.
    fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let size = std::ffi::CString::new(format!("size={bytes}")).expect("plain text");
        mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(size.as_c_str()),
        )
        .ok()?;
        Some(Self(dir))
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statfs(self.0.path()).expect("statfs");
        stat.f_bavail * 4096
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).expect("unmounted");
    }
}

#[test]
fn a_full_filesystem_says_what_is_missing_and_keeps_nothing() {
    let Some(tmpfs) = SmallTmpfs::new(1 << 20) else {
        return harness::not_run("mounting a tmpfs needs root");
    };
    let store = store(tmpfs.0.path());
    let small = store
        .create(layout(Epoch(1), 4, &[4096]), CREATOR)
        .expect("a small epoch");
    store
        .create(layout(Epoch(2), 4, &[4096]), CREATOR)
        .expect("a small epoch");
    let held = 2 * small.bytes();
    let (before, free) = (tree(tmpfs.0.path()), tmpfs.free_bytes());
    let error = store
        .create(layout(Epoch(3), 64, &[16_384]), CREATOR)
        .expect_err("too large");
    assert_eq!(error.reason(), "no_space");
    let CreateError::NoSpace {
        needed,
        free: found,
        held_by_old_epochs,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(needed, 20_480 + 64 * 16_384 + 4096);
    assert_eq!(found, free);
    assert_eq!(held_by_old_epochs, held);
    assert_eq!((tree(tmpfs.0.path()), tmpfs.free_bytes()), (before, free));
    // Collecting one old epoch is enough for another small one.
    store.remove(STREAM, Epoch(1)).expect("removed");
    store
        .create(layout(Epoch(4), 4, &[4096]), CREATOR)
        .expect("a small epoch");
}

#[test]
fn a_stream_that_never_fitted_leaves_no_directory() {
    let Some(tmpfs) = SmallTmpfs::new(1 << 20) else {
        return harness::not_run("mounting a tmpfs needs root");
    };
    let store = store(tmpfs.0.path());
    let error = store
        .create(layout(EPOCH, 1024, &[4096]), CREATOR)
        .expect_err("too large");
    let text = error.to_string();
    for part in [
        "stream 10000",
        "epoch 77",
        "needs 4464640 bytes (1090 pages",
        "0 are held",
    ] {
        assert!(text.contains(part), "{text}: no {part}");
    }
    assert_eq!(tree(store.path()), Vec::<PathBuf>::new());
}
