//! A driver of one's own: the real binary in directories that nobody else uses, watched through its
//! log, its socket and its HTTP port. Nothing here sleeps to wait: every wait is for a line, a packet
//! or a file, and fails with what it saw instead.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod frames;
#[cfg(feature = "aeron")]
pub(crate) mod media;
pub(crate) mod raw;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything. A machine that needs longer is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a test wants of its driver. Everything else is as short and small as it can be.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `embedded`, `external` or `off`.
    pub(crate) media_driver: &'static str,
    /// `shm.base_dir`; a directory of the test's own on /dev/shm if `None`.
    pub(crate) base_dir: Option<PathBuf>,
    /// Aeron directory; below the base directory's own place if `None`.
    pub(crate) aeron_dir: Option<PathBuf>,
    /// `profiles.small`: slots and stride of its one pool.
    pub(crate) small: (u32, u32),
    /// `streams.camera`.
    pub(crate) stream_id: u32,
    /// Keepalive interval, and so the time scale of leases.
    pub(crate) keepalive_ms: u64,
    /// Announce period.
    pub(crate) announce_ms: u64,
    /// `shutdown.mode`.
    pub(crate) shutdown: &'static str,
    /// More TOML, table headers included.
    pub(crate) more: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            media_driver: "off",
            base_dir: None,
            aeron_dir: None,
            small: (16, 4096),
            stream_id: 10_000,
            keepalive_ms: 1_000,
            announce_ms: 100,
            shutdown: "drain",
            more: String::new(),
        }
    }
}

impl Options {
    /// With an embedded media driver.
    pub(crate) fn with_aeron() -> Self {
        Self {
            media_driver: "embedded",
            ..Self::default()
        }
    }
}

/// A directory of the test's own on tmpfs, where a driver has its journal too: on a disk that others write
/// to, `fsync` may take half a minute, and a new epoch with it.
pub(crate) fn in_memory() -> TempDir {
    tempfile::Builder::new()
        .prefix("tensorpool-test-")
        .tempdir_in("/dev/shm")
        .expect("a directory on /dev/shm")
}

/// The directories of one driver and its successors.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
    shm: TempDir,
    options: Options,
}

impl Place {
    pub(crate) fn new(options: Options) -> Self {
        let place = Self {
            dir: in_memory(),
            shm: in_memory(),
            options,
        };
        place.write_config();
        place
    }

    pub(crate) fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Writes the configuration of the options as they are now.
    pub(crate) fn write_config(&self) {
        std::fs::write(self.config(), self.toml()).expect("the configuration can be written");
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("driver.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/driver.sock")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn base_dir(&self) -> PathBuf {
        self.options
            .base_dir
            .clone()
            .unwrap_or_else(|| self.shm.path().join("pool"))
    }

    pub(crate) fn aeron_dir(&self) -> PathBuf {
        self.options
            .aeron_dir
            .clone()
            .unwrap_or_else(|| self.shm.path().join("aeron"))
    }

    /// All epoch directories of the stream, as numbers, oldest first.
    pub(crate) fn epochs(&self) -> Vec<u64> {
        let mut epochs: Vec<u64> = find_dirs(&self.base_dir())
            .iter()
            .filter(|path| path.join("header.ring").exists())
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect();
        epochs.sort_unstable();
        epochs
    }

    /// Waits until the epoch directories are as wanted.
    pub(crate) fn wait_for_epochs(&self, what: &str, wanted: impl Fn(&[u64]) -> bool) -> Vec<u64> {
        wait_until(&format!("epoch directories: {what}"), || {
            let epochs = self.epochs();
            if wanted(&epochs) {
                Ok(epochs)
            } else {
                Err(format!("{epochs:?}"))
            }
        })
    }

    fn toml(&self) -> String {
        let options = &self.options;
        let mut text = String::new();
        // Small terms: a test machine's /dev/shm holds many of these at a time.
        write!(
            text,
            r#"
[driver]
media_driver = "{media_driver}"
aeron_dir = "{aeron_dir}"
control_channel = "aeron:ipc?term-length=1m"
qos_channel = "aeron:ipc?term-length=256k"
metadata_channel = "aeron:ipc?term-length=1m"
descriptor_channel = "aeron:ipc?term-length=256k"

[shm]
base_dir = "{base_dir}"

[policies]
announce_period_ms = {announce_ms}
lease_keepalive_interval_ms = {keepalive_ms}
shutdown_timeout_ms = 200

[discovery]
channel = "aeron:ipc?term-length=256k"

[socket]
path = "{socket}"

[http]
listen = "127.0.0.1:0"

[shutdown]
mode = "{shutdown}"

[log]
format = "json"
filter = "tensorpool_node_driver=debug,info"

[profiles.small]
header_nslots = {nslots}
payload_pools = [{{ pool_id = 1, stride_bytes = {stride} }}]

[streams.camera]
stream_id = {stream_id}
profile = "small"
{more}
"#,
            media_driver = options.media_driver,
            aeron_dir = self.aeron_dir().display(),
            base_dir = self.base_dir().display(),
            announce_ms = options.announce_ms,
            keepalive_ms = options.keepalive_ms,
            socket = self.socket().display(),
            shutdown = options.shutdown,
            nslots = options.small.0,
            stride = options.small.1,
            stream_id = options.stream_id,
            more = options.more,
        )
        .expect("writing to a String cannot fail");
        text
    }
}

/// A running driver. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Driver {
    child: Child,
    lines: Receiver<String>,
    /// Everything that was logged and looked at so far.
    pub(crate) seen: Vec<Value>,
    config: PathBuf,
    http: String,
}

impl Driver {
    /// Starts the binary and waits until it is ready.
    pub(crate) fn start(place: &Place) -> Self {
        Self::start_with(&place.config(), |_| {}, "ready")
    }

    /// Starts the binary with more environment and waits until it logs that it serves.
    pub(crate) fn start_with(config: &Path, set: impl FnOnce(&mut Command), serves: &str) -> Self {
        let mut driver = Self::spawn_with(config, set);
        driver.wait_for(serves);
        driver.http = driver
            .seen
            .iter()
            .find_map(|line| line["address"].as_str().map(str::to_owned))
            .expect("the HTTP address is logged before `ready`");
        driver
    }

    /// Starts the binary and waits for nothing.
    pub(crate) fn spawn(place: &Place) -> Self {
        Self::spawn_with(&place.config(), |_| {})
    }

    /// Starts the binary with more environment and waits for nothing.
    pub(crate) fn spawn_with(config: &Path, set: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"));
        command
            .arg("--config")
            .arg(config)
            .env_remove("TENSORPOOL_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        set(&mut command);
        let mut child = command.spawn().expect("the driver's binary starts");
        let log = child.stderr.take().expect("standard error is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
            config: config.to_owned(),
            http: String::new(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("the driver runs");
    }

    /// Reads the log until a line with this message comes, and returns it.
    pub(crate) fn wait_for(&mut self, message: &str) -> Value {
        self.wait_for_line(message, |line| line["message"] == message)
    }

    /// Reads the log until a line is as wanted, and returns it.
    pub(crate) fn wait_for_line(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    let line = serde_json::from_str(&line)
                        .unwrap_or_else(|_| serde_json::json!({ "message": line }));
                    self.seen.push(line);
                    let line = self.seen.last().expect("just pushed");
                    if wanted(line) {
                        return line.clone();
                    }
                }
                Err(error @ (RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => {
                    panic!(
                        "the driver never logged {what:?} ({error}); it logged:\n{}",
                        self.log()
                    );
                }
            }
        }
    }

    /// Everything that was logged up to the end of the process.
    pub(crate) fn log(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            let line = serde_json::from_str(&line)
                .unwrap_or_else(|_| serde_json::json!({ "message": line }));
            self.seen.push(line);
        }
        self.seen.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Waits for the end of the process and of its log.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = wait_until("the end of the driver", || {
            self.child
                .try_wait()
                .expect("the driver is our child")
                .ok_or_else(|| "it runs".to_owned())
        });
        // Its last lines may still be on their way from the thread that reads them.
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            let line = serde_json::from_str(&line)
                .unwrap_or_else(|_| serde_json::json!({ "message": line }));
            self.seen.push(line);
        }
        status
    }

    /// SIGKILL, and gone when this returns.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait().code()
    }

    /// Runs another command of the binary with this driver's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .env_remove("TENSORPOOL_SOCKET")
            .output()
            .expect("the driver's binary starts")
    }

    /// The status documents as they come.
    pub(crate) fn status(&self) -> Vec<Value> {
        let output = self.command(&["status", "--json"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .expect("UTF-8")
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON document per line"))
            .collect()
    }

    /// The one document of the stream with this id.
    pub(crate) fn stream(&self, id: u32) -> Value {
        self.status()
            .into_iter()
            .find(|doc| doc["stream_id"] == id)
            .expect("the stream is there")
    }

    /// Waits until the stream's document is as wanted.
    pub(crate) fn wait_for_stream(
        &self,
        id: u32,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_until(&format!("stream {id}: {what}"), || {
            let doc = self.stream(id);
            if wanted(&doc) {
                Ok(doc)
            } else {
                Err(doc.to_string())
            }
        })
    }

    /// Status code and body of a GET.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        http(&self.http, "GET", path)
    }

    /// Status code and body of any request.
    pub(crate) fn request(&self, method: &str, path: &str) -> (u16, String) {
        http(&self.http, method, path)
    }

    /// The value of the sample with this name and labels, as `/metrics` writes it.
    pub(crate) fn metric(&self, sample: &str) -> Option<f64> {
        let (code, text) = self.get("/metrics");
        assert_eq!(code, 200, "{text}");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(line.parse().expect("a number"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Gone already is fine.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("the driver had logged:\n{}", self.log());
        }
    }
}

/// Asks again and again until there is an answer, at most as long as patience lasts.
pub(crate) fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(instead) if Instant::now() >= deadline => {
                panic!("waited in vain for {what}; it was: {instead}");
            }
            Err(_) => std::thread::yield_now(),
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Whether a facility that some machines lack is here. In CI it must be.
pub(crate) fn facility(name: &str, missing: Option<String>) -> bool {
    match missing {
        None => true,
        Some(why) => {
            assert!(
                std::env::var_os("TENSORPOOL_CI").is_none_or(|value| value != "1"),
                "{name} is required in CI: {why}"
            );
            println!("not run: {name}: {why}");
            false
        }
    }
}

/// A tmpfs of this many bytes, mounted for one test. Needs root.
#[derive(Debug)]
pub(crate) struct Mount {
    path: PathBuf,
    /// Removed after the mount is gone.
    dir: Option<TempDir>,
}

impl Mount {
    /// `None`, said aloud, where mounting is not allowed.
    pub(crate) fn tmpfs(bytes: u64) -> Option<Self> {
        Self::new("a small tmpfs", "tmpfs", &format!("size={bytes}"))
    }

    /// A hugetlbfs of 2 MiB pages with `pages` of them, if the machine has as many free.
    pub(crate) fn hugetlbfs(pages: u64) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        let mut mount = Self::hugetlbfs_at(dir.path(), pages)?;
        mount.dir = Some(dir);
        Some(mount)
    }

    /// The same over a directory that is there.
    pub(crate) fn hugetlbfs_at(path: &Path, pages: u64) -> Option<Self> {
        let free =
            std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok())
                .unwrap_or(0);
        let missing = (free < pages).then(|| format!("{free} free pages of 2 MiB, {pages} needed"));
        if !facility("hugepages", missing) {
            return None;
        }
        let size = pages * 2 * 1024 * 1024;
        let options = format!("pagesize=2M,size={size}");
        Self::at(path, "hugepages", "hugetlbfs", &options)
    }

    /// Mounts one more, of this kind.
    pub(crate) fn new(name: &str, kind: &str, options: &str) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        let mut mount = Self::at(dir.path(), name, kind, options)?;
        mount.dir = Some(dir);
        Some(mount)
    }

    fn at(path: &Path, name: &str, kind: &str, options: &str) -> Option<Self> {
        let output = Command::new("mount")
            .args(["-t", kind, "-o", options, kind])
            .arg(path)
            .output();
        let missing = match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(error.to_string()),
        };
        facility(name, missing).then(|| Self {
            path: path.to_owned(),
            dir: None,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a killed driver's mappings may still be going away.
        let status = Command::new("umount").arg("-l").arg(&self.path).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "the mount can be undone"
        );
    }
}

fn http(address: &str, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the HTTP port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: driver\r\nConnection: close\r\n\r\n"
    )
    .expect("the request is taken");
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .expect("an answer in UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.expect("a status code"), body.to_owned())
}

fn find_dirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .flat_map(|entry| {
            let mut below = find_dirs(&entry.path());
            below.push(entry.path());
            below
        })
        .collect()
}
