//! A mount namespace of the test's own: nothing that is mounted in it is seen, or left, outside.

use std::process::Command;

use crate::support::facility;

const INSIDE: &str = "TENSORPOOL_TEST_INSIDE";

/// Whether this process may mount: it is the one inside. The one outside runs the same test inside and
/// gets `false` when that has passed. Without root it says so.
pub(crate) fn own_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let missing = (!rustix::process::geteuid().is_root())
        .then(|| "mounting needs root; run the tests as root".to_owned());
    if !facility("root", missing) {
        return false;
    }
    let this = std::env::current_exe().expect("a test knows its program");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare of util-linux runs");
    assert!(status.success(), "{test} failed inside");
    false
}
