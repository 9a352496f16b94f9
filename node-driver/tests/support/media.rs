//! A media driver in a process of its own, which can be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tensorpool_transport::aeron::media_driver::{EmbeddedMediaDriver, MediaDriverConfig};
use tensorpool_transport::aeron::port::{AeronClientPort, Endpoint, Endpoints};
use tensorpool_transport::aeron::rusteron::{RusteronClient, RusteronConfig};

use super::raw::Raw;
use super::{Place, wait_until};

const CHILD_DIR: &str = "TENSORPOOL_TEST_MEDIA_DRIVER";

/// A client of the media driver in `dir`, as soon as there is one.
pub(crate) fn connect(dir: &Path) -> RusteronClient {
    wait_until("a connection to the media driver", || {
        RusteronClient::connect(&RusteronConfig::new(dir)).map_err(|error| error.to_string())
    })
}

/// A client of the control streams, with the endpoints of the test configuration.
pub(crate) fn aeron_client(place: &Place) -> Raw {
    let control = Endpoint::new("aeron:ipc?term-length=1m", 1000);
    let endpoints = Endpoints {
        announce: control.clone(),
        control,
        qos: Endpoint::new("aeron:ipc?term-length=256k", 1200),
        metadata: Endpoint::new("aeron:ipc?term-length=1m", 1300),
        discovery: None,
    };
    let port = AeronClientPort::open(connect(&place.aeron_dir()), endpoints, None);
    Raw::over(Box::new(port.expect("the streams open")))
}

/// The process. Killed when dropped.
pub(crate) struct ExternalMediaDriver {
    child: Child,
}

impl ExternalMediaDriver {
    /// Starts it through the test `child_process_media_driver`, which has to call [`serve`].
    pub(crate) fn start(dir: &Path) -> Self {
        let child = Command::new(std::env::current_exe().expect("this test binary"))
            .args(["--exact", "child_process_media_driver", "--nocapture"])
            .env(CHILD_DIR, dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test binary starts");
        let this = Self { child };
        drop(connect(dir));
        this
    }
}

impl ExternalMediaDriver {
    /// Stops it where it stands, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a running child");
        kill_process(pid, signal).expect("it can be signalled");
        if signal == Signal::STOP {
            // A signal sent is not yet taken: on a busy machine it may run on for a while.
            let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED)
                .expect("it is our child")
                .expect("the wait is for a change");
            assert!(status.stopped(), "{status:?}");
        }
    }
}

impl Drop for ExternalMediaDriver {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What the child process does; nothing in any other.
pub(crate) fn serve() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let driver = EmbeddedMediaDriver::start(&MediaDriverConfig::new(PathBuf::from(dir)));
    let driver = driver.expect("the media driver starts");
    while driver.is_running() {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}
