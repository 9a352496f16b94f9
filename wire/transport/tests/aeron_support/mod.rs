//! A media driver for one test, processes beside it, and bounded waits.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tensorpool_transport::aeron::media_driver::{EmbeddedMediaDriver, MediaDriverConfig};
use tensorpool_transport::aeron::rusteron::{RusteronClient, RusteronConfig};
use tensorpool_transport::pubsub::{MessageClient, Publication, Subscription};

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A directory of this test's own on tmpfs; deleted at its end.
pub(crate) fn shm_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("tensorpool-aeron-test-")
        .tempdir_in("/dev/shm")
        .expect("a directory in /dev/shm")
}

/// The product's settings with times short enough for tests.
pub(crate) fn fast(dir: &Path) -> MediaDriverConfig {
    let mut config = MediaDriverConfig::new(dir);
    config.client_liveness = Duration::from_secs(2);
    config.publication_unblock = Duration::from_millis(2500);
    config.clients_buffer_len = 1024 * 1024 + 128;
    config.ipc_term_len = 1024 * 1024;
    config
}

/// A media driver in a directory of its own. The directory goes after the media driver.
pub(crate) struct Media {
    pub(crate) driver: EmbeddedMediaDriver,
    pub(crate) dir: PathBuf,
    _home: tempfile::TempDir,
}

impl Media {
    pub(crate) fn fast() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut MediaDriverConfig)) -> Self {
        let home = shm_dir();
        let dir = home.path().join("aeron");
        let mut config = fast(&dir);
        change(&mut config);
        let driver = EmbeddedMediaDriver::start(&config).expect("the media driver starts");
        Self {
            driver,
            dir,
            _home: home,
        }
    }

    pub(crate) fn client(&self) -> RusteronClient {
        client(&self.dir)
    }
}

pub(crate) fn client(dir: &Path) -> RusteronClient {
    RusteronClient::connect(&RusteronConfig::new(dir)).expect("a live media driver")
}

/// Calls `done` until it is true, with short naps, and fails after [`LONG`].
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited {LONG:?} for: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Drives `client` until the publication has a subscriber.
pub(crate) fn until_connected<C: MessageClient>(client: &mut C, publication: &C::Publication) {
    until("a subscriber", || {
        client.do_work(&mut |_| {}).expect("a live media driver");
        publication.is_connected()
    });
}

/// Everything that `subscription` has, as owned messages with their sessions.
pub(crate) fn drain(subscription: &mut impl Subscription) -> Vec<(i32, Vec<u8>)> {
    let mut all = Vec::new();
    while subscription
        .poll(64, &mut |bytes, delivery| {
            all.push((delivery.session, bytes.to_vec()));
        })
        .expect("a live media driver")
        > 0
    {}
    all
}

/// This test program again, as another process in the role that [`role`] returns there.
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const ROLE: &str = "TENSORPOOL_AERON_TEST_ROLE";
const DIR: &str = "TENSORPOOL_AERON_TEST_DIR";

impl Peer {
    pub(crate) fn start(role: &str, dir: &Path) -> Self {
        Self::start_with(role, dir, &[])
    }

    pub(crate) fn start_with(role: &str, dir: &Path, env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program's path"))
            .args(["--exact", "peer_process", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(DIR, dir)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs again");
        Self {
            input: child.stdin.take().expect("a pipe was asked for"),
            output: BufReader::new(child.stdout.take().expect("a pipe was asked for")),
            child,
        }
    }

    /// The next line that begins with `says: `, without it.
    pub(crate) fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            let len = self.output.read_line(&mut line).expect("the peer's output");
            assert!(len > 0, "the peer ended without another word");
            if let Some((_, said)) = line.split_once("says: ") {
                return said.trim_end().to_owned();
            }
        }
    }

    /// Tells the peer to go on.
    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.input, "{word}").expect("the peer reads");
        self.input.flush().expect("the peer reads");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a running child has a pid");
        kill_process(pid, signal).expect("signal the peer");
        if signal == Signal::STOP {
            // A signal sent is not yet taken: on a busy machine the peer may run on for a while.
            let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED)
                .expect("it is our child")
                .expect("the wait is for a change");
            assert!(status.stopped(), "{status:?}");
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill the peer");
        self.child.wait().expect("the peer is gone");
    }

    /// Waits for its own end, which must be a good one.
    pub(crate) fn finish(mut self) {
        drop(self.input);
        let status = self.child.wait().expect("the peer ends");
        assert!(status.success(), "the peer ended with {status}");
    }
}

/// In a peer: its role and its media driver's directory. `None` in the test program itself.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, PathBuf::from(std::env::var_os(DIR)?)))
}

/// In a peer: a line for [`Peer::line`].
pub(crate) fn say(line: &str) {
    println!("says: {line}");
}

/// In a peer: waits for [`Peer::tell`].
pub(crate) fn listen() -> String {
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .expect("the parent's word");
    line.trim_end().to_owned()
}
