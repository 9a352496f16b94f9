//! Producer and consumer in two processes, on ordinary pages. On hugepages: `hugepages.rs`.

mod harness;

use harness::hammer;

// spec: W-8.3-2 W-8.3-3 W-8.3-5 W-8.3-7 W-15.3-2 W-15.21-1 X-1-28
#[test]
fn two_process_hammer_tears_nothing_on_tmpfs() {
    if hammer::is_producer() {
        return;
    }
    let base = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
    let stream = harness::stream(base.path(), hammer::NSLOTS, &[hammer::STRIDE]);
    hammer::run("two_process_hammer_tears_nothing_on_tmpfs", &stream);
}
