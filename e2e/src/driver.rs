//! A node driver as a child process, with its memory, media driver and socket in one temporary
//! directory, all of which goes when it is dropped.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long the driver may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// One stream that the driver serves, with one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Name, in configuration and clients.
    pub name: String,
    /// Stream id; unique.
    pub id: u32,
    /// Slots of the ring: a power of two.
    pub slots: u32,
    /// Bytes of the largest payload.
    pub stride_bytes: usize,
    /// Aeron stream id of its descriptors; `None`: the shared one.
    pub descriptors: Option<u32>,
}

/// A running driver.
#[derive(Debug)]
pub struct LocalDriver {
    child: Child,
    // Both are removed after the child has ended: fields are dropped after `drop` has run.
    place: tempfile::TempDir,
    memory: tempfile::TempDir,
}

impl LocalDriver {
    /// Starts `tensorpool-node-driver`, which must stand beside the running program, and waits for
    /// its socket.
    ///
    /// # Errors
    /// A sentence that says what failed; nothing is left behind.
    pub fn start(parent: &Path, streams: &[Stream]) -> Result<Self, String> {
        let place = tempfile::Builder::new()
            .prefix("tensorpool-e2e-")
            .tempdir_in("/dev/shm")
            .map_err(|error| format!("no directory on /dev/shm: {error}"))?;
        let memory = tempfile::Builder::new()
            .prefix("tensorpool-e2e-")
            .tempdir_in(parent)
            .map_err(|error| format!("no directory in {}: {error}", parent.display()))?;
        let file = place.path().join("driver.toml");
        fs::create_dir(place.path().join("state"))
            .and_then(|()| fs::write(&file, configuration(place.path(), memory.path(), streams)))
            .map_err(|error| format!("could not write {}: {error}", file.display()))?;
        let program = beside_us("tensorpool-node-driver")?;
        // It must not outlive us, however we end.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(&program)
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                format!("could not start {} by setpriv: {error}", program.display())
            })?;
        let mut driver = Self {
            child,
            place,
            memory,
        };
        driver.wait_for_socket()?;
        Ok(driver)
    }

    /// Process id of the driver.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.path().join("driver.sock")
    }

    /// The directory of its media driver.
    #[must_use]
    pub fn aeron_directory(&self) -> PathBuf {
        self.place.path().join("aeron")
    }

    /// Where its regions are.
    #[must_use]
    pub fn memory(&self) -> &Path {
        self.memory.path()
    }

    /// Ends the driver with SIGTERM and waits for it.
    ///
    /// # Errors
    /// A sentence, where it does not end within 20 s or not well.
    pub fn stop(mut self) -> Result<(), String> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or("the driver has no process id")?;
        kill_process(id, Signal::TERM)
            .map_err(|error| format!("could not end the driver: {error}"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait();
            match ended.map_err(|error| format!("could not wait for the driver: {error}"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the driver failed ({status})")),
                None if Instant::now() >= deadline => {
                    return Err("the driver did not end within 20 s of SIGTERM".to_owned());
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn wait_for_socket(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.socket().exists() {
            let ended = self.child.try_wait();
            if let Some(status) = ended.map_err(|error| error.to_string())? {
                return Err(format!("the driver ended at once ({status})"));
            }
            if Instant::now() >= deadline {
                return Err("the driver's socket was not there within 20 s".to_owned());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for LocalDriver {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("the driver could not be ended: {error}");
        }
    }
}

/// The path of a program that was built with the running one.
///
/// # Errors
/// A sentence, where the running program has no path.
pub fn beside_us(program: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("no own path: {error}"))?;
    Ok(own.with_file_name(program))
}

fn configuration(place: &Path, memory: &Path, streams: &[Stream]) -> String {
    let mut text = format!(
        "[driver]\nstate_dir = \"{0}/state\"\naeron_dir = \"{0}/aeron\"\nannounce_stream_id = 1001\n\
         [shm]\nbase_dir = \"{1}\"\n\
         [socket]\npath = \"{0}/driver.sock\"\n\
         [http]\nlisten = \"\"\n\
         [log]\nfilter = \"warn\"\n",
        place.display(),
        memory.display()
    );
    for stream in streams {
        let stride = stream.stride_bytes.max(64).next_power_of_two();
        text.push_str(&format!(
            "[profiles.{0}]\nheader_nslots = {1}\n\
             payload_pools = [{{ pool_id = 1, stride_bytes = {stride} }}]\n\
             [streams.{0}]\nstream_id = {2}\nprofile = \"{0}\"\n",
            stream.name, stream.slots, stream.id
        ));
        if let Some(descriptors) = stream.descriptors {
            text.push_str(&format!("descriptor_stream_id = {descriptors}\n"));
        }
    }
    text
}
