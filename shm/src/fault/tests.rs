//! Faults that are not ours must do what they did without us. Each runs in a process of its own: this
//! test binary, started again for one test.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{CHUNK, install_fault_handler, unwatch, watch};
use crate::region::{Access, MapOptions, Region};
use crate::words;

const CHILD: &str = "TENSORPOOL_FAULT_CHILD";

/// How the process ends that runs the body of `test`.
fn fate_of(test: &str) -> ExitStatus {
    let name = format!("fault::tests::{test}");
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", &name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("a child process")
        .status
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A mapped file that has lost its pages.
fn damaged_region() -> Region {
    let file: File = tempfile::tempfile_in("/dev/shm").expect("a file");
    file.set_len(4096).expect("a page");
    let options = MapOptions {
        prefault: false,
        ..MapOptions::default()
    };
    let region = Region::map(file.as_fd(), 4096, 4096, Access::ReadOnly, options);
    file.set_len(0).expect("truncated");
    region.expect("a region")
}

fn touch(region: &Region) -> u64 {
    words::superblock(region)[0].load(Ordering::Relaxed)
}

#[test]
fn a_fault_in_a_region_reads_zeros_and_marks_it() {
    install_fault_handler().expect("the handler");
    install_fault_handler().expect("again, which changes nothing");
    let region = damaged_region();
    assert!(!region.is_poisoned());
    assert_eq!(touch(&region), 0);
    assert!(region.is_poisoned());
}

#[test]
fn without_the_handler_a_fault_kills() {
    if is_child() {
        touch(&damaged_region());
        return;
    }
    assert_eq!(
        fate_of("without_the_handler_a_fault_kills").signal(),
        Some(libc::SIGBUS)
    );
}

#[test]
fn a_fault_outside_every_region_still_kills() {
    if is_child() {
        install_fault_handler().expect("the handler");
        let region = damaged_region();
        // Now the table does not know it, as it does not know other people's mappings.
        unwatch(region.watch);
        touch(&region);
        return;
    }
    assert_eq!(
        fate_of("a_fault_outside_every_region_still_kills").signal(),
        Some(libc::SIGBUS)
    );
}

#[test]
fn a_signal_that_somebody_sends_reaches_the_handler_that_was_there() {
    if is_child() {
        let reached = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGBUS, Arc::clone(&reached)).expect("a handler");
        install_fault_handler().expect("the handler");
        // To this very thread, so that it has been handled when the call returns.
        signal_hook::low_level::raise(libc::SIGBUS).expect("a signal to ourselves");
        assert!(reached.load(Ordering::Relaxed));
        // Ours still works.
        let region = damaged_region();
        assert_eq!(touch(&region), 0);
        return;
    }
    let fate = fate_of("a_signal_that_somebody_sends_reaches_the_handler_that_was_there");
    assert!(fate.success(), "{fate}");
}

/// The table grows by chunks, and the handler finds entries in all of them.
#[test]
fn regions_beyond_the_first_chunk_are_protected_too() {
    install_fault_handler().expect("the handler");
    let mut regions: Vec<Region> = (0..3 * CHUNK).map(|_| damaged_region()).collect();
    for (i, region) in regions.iter().enumerate() {
        assert_eq!(
            (touch(region), region.is_poisoned()),
            (0, true),
            "region {i}"
        );
    }
    regions.truncate(CHUNK);
    // Freed entries are taken again, without the mark of whom they had before.
    let again = damaged_region();
    assert!(!again.is_poisoned());
    assert_eq!((touch(&again), again.is_poisoned()), (0, true));
}

#[test]
fn an_entry_covers_its_range_and_not_a_byte_more() {
    let entry = watch(0x10_000, 0x2000, Access::ReadWrite);
    let found = |address| entry.range_with(address).map(|(base, len, _)| (base, len));
    assert_eq!(found(0x0_FFFF), None);
    assert_eq!(found(0x10_000), Some((0x10_000, 0x2000)));
    assert_eq!(found(0x11_FFF), Some((0x10_000, 0x2000)));
    assert_eq!(found(0x12_000), None);
    unwatch(entry);
    assert_eq!(found(0x10_000), None);
}
