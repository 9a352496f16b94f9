//! Taking the memory of an epoch back from whoever has it.

mod harness;

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use harness::{EPOCH, STREAM, pool_path, ring_path, stream};
use rustix::fs::{FlockOperation, flock};
use tensorpool_shm::install_fault_handler;
use tensorpool_wire::{Epoch, MonoNanos, Seq, StreamId};

fn base() -> tempfile::TempDir {
    install_fault_handler().expect("the handler");
    tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs")
}

#[test]
fn an_epoch_that_nobody_has_is_removed() {
    let base = base();
    let harness::Stream { store, epoch, .. } = stream(base.path(), 64, &[4096]);
    drop(epoch);
    assert!(store.remove_if_unused(STREAM, EPOCH).expect("removed"));
    assert_eq!(store.list().expect("a list"), []);
    assert!(store.remove_if_unused(STREAM, EPOCH).expect("still gone"));
}

#[test]
fn an_epoch_stays_while_somebody_has_one_file_open_or_mapped() {
    let base = base();
    let harness::Stream {
        store,
        epoch,
        writer,
        reader,
    } = stream(base.path(), 64, &[4096]);
    let (ring, pool) = (ring_path(&epoch), pool_path(&epoch, 1));
    let is_gone = || store.remove_if_unused(STREAM, EPOCH).expect("it is told");
    assert!(!is_gone(), "the creator maps it");
    drop(epoch);
    assert!(!is_gone(), "a writer maps it");
    drop(writer);
    assert!(!is_gone(), "a reader maps it");
    let open = File::open(&pool).expect("the pool is there");
    drop(reader);
    assert!(!is_gone(), "one file is open for reading");
    let locked = File::open(&ring).expect("the ring is there");
    flock(&locked, FlockOperation::LockShared).expect("a lock");
    drop(open);
    assert!(!is_gone(), "a lock is held");
    // A link in somebody's view is nothing that anybody has.
    std::fs::hard_link(&pool, base.path().join("view")).expect("a link");
    drop(locked);
    assert!(is_gone());
}

#[test]
fn files_are_emptied_under_whoever_has_them_and_it_is_told() {
    let base = base();
    let mut s = stream(base.path(), 64, &[65_536]);
    harness::publish(&mut s.writer, 0, &[7; 65_536]);
    let locked = File::open(pool_path(&s.epoch, 1)).expect("the pool is there");
    flock(&locked, FlockOperation::LockExclusive).expect("a lock");
    s.store
        .empty_and_remove(STREAM, EPOCH)
        .expect("no lock stands in the way");
    assert_eq!(s.store.list().expect("a list"), []);
    assert_eq!(locked.metadata().expect("it is open").blocks(), 0);
    assert!(s.reader.read(Seq(0)).is_err());
    assert!(s.reader.is_poisoned());
    s.store
        .empty_and_remove(STREAM, EPOCH)
        .expect("what is gone is gone");
}

#[test]
fn a_mode_that_somebody_changed_does_not_keep_the_owner_away() {
    let base = base();
    let unprivileged = || {
        let s = stream(base.path(), 64, &[64]);
        let ring = ring_path(&s.epoch);
        std::fs::set_permissions(&ring, std::fs::Permissions::from_mode(0o0)).expect("ours");
        assert!(File::open(&ring).is_err(), "nobody may open it");
        assert!(!s.store.remove_if_unused(STREAM, EPOCH).expect("it is told"));
        s.store.empty_and_remove(STREAM, EPOCH).expect("emptied");
    };
    let (nobody, is_root) = (65_534, rustix::process::geteuid().is_root());
    if is_root {
        std::os::unix::fs::chown(base.path(), Some(nobody), Some(nobody)).expect("root may");
    }
    // Only this thread becomes somebody else.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if is_root {
                rustix::thread::set_thread_gid(rustix::process::Gid::from_raw(nobody))
                    .expect("root may");
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(nobody))
                    .expect("root may");
            }
            unprivileged();
        });
        thread.join().expect("it went as it should");
    });
}

#[test]
fn a_mark_is_found_by_whoever_lists_and_goes_with_the_epoch() {
    let base = base();
    let s = stream(base.path(), 64, &[64]);
    let free_at = || s.store.list().expect("a list")[0].free_at;
    let bytes = s.store.list().expect("a list")[0].bytes;
    assert_eq!(free_at(), None);
    s.store.mark(STREAM, EPOCH, MonoNanos(5_000)).expect("ours");
    assert_eq!(free_at(), Some(MonoNanos(5_000)));
    s.store.mark(STREAM, EPOCH, MonoNanos(9_000)).expect("ours");
    assert_eq!(free_at(), Some(MonoNanos(5_000)), "the first one holds");
    assert_eq!(s.store.list().expect("a list")[0].bytes, bytes);
    let nobody = s.store.mark(StreamId(3), Epoch(1), MonoNanos(1));
    assert!(nobody.is_ok(), "what is not there needs none");
    s.store.remove(STREAM, EPOCH).expect("removed");
    assert_eq!(s.store.list().expect("a list"), []);
}
