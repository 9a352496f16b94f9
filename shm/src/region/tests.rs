//! What a forked child finds of its parent's memory.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::{Access, ForkGuard, MapOptions, Region, in_forked_child};
use crate::words;

fn region(dont_fork: bool) -> Region {
    let file = tempfile::tempfile_in("/dev/shm").expect("a file");
    file.set_len(4096).expect("a page");
    let options = MapOptions {
        dont_fork,
        ..MapOptions::default()
    };
    Region::map(file.as_fd(), 4096, 4096, Access::ReadWrite, options).expect("a region")
}

fn load(region: &Region) -> i32 {
    i32::try_from(words::superblock(region)[0].load(Ordering::Relaxed)).expect("a small number")
}

#[test]
fn a_forked_child_knows_that_it_is_one() {
    let guard = ForkGuard::new().expect("a guard");
    assert!(!guard.is_forked_child());
    assert_eq!(in_forked_child(|| i32::from(guard.is_forked_child())), 1);
    assert!(!guard.is_forked_child());
}

#[test]
fn a_forked_child_does_not_have_its_parents_regions() {
    let region = region(true);
    assert_eq!(in_forked_child(|| load(&region)), -libc::SIGSEGV);
    assert_eq!(load(&region), 0);
}

#[test]
fn a_region_may_be_left_to_children_on_request() {
    let region = region(false);
    words::superblock(&region)[0].store(7, Ordering::Relaxed);
    assert_eq!(in_forked_child(|| load(&region)), 7);
}

#[test]
fn memory_that_cannot_be_mapped_is_an_error() {
    let file = tempfile::tempfile_in("/dev/shm").expect("a file");
    let map = |len| {
        Region::map(
            file.as_fd(),
            len,
            4096,
            Access::ReadOnly,
            MapOptions::default(),
        )
        .map(drop)
    };
    assert!(matches!(map(1 << 62), Err(super::RegionError::Map(_))));
}
