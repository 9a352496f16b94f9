//! The processes of a cluster: started in order, started again when they end, and every orphan
//! collected, as pid 1 must.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, wait};

use super::{InitError, LIMIT};
use crate::components::Component;
use crate::process::tail;

/// How long a server that ended stays down, so that one that cannot start does not eat a core.
const REST: Duration = Duration::from_millis(500);

/// All servers of a cluster.
#[derive(Debug)]
pub(super) struct Supervisor {
    logs: PathBuf,
    working_directory: PathBuf,
    path: std::ffi::OsString,
    servers: Vec<(Component, Child)>,
}

impl Supervisor {
    /// Nothing started yet.
    pub(super) fn new(directory: &Path, working_directory: &Path) -> Self {
        let mut path = directory.join("bin").into_os_string();
        path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        Self {
            logs: directory.join("logs"),
            working_directory: working_directory.to_owned(),
            path,
            servers: Vec::new(),
        }
    }

    /// Starts one server.
    pub(super) fn start(&mut self, component: Component) -> Result<(), InitError> {
        let child = self
            .spawn(&component)
            .map_err(InitError::place(component.name))?;
        self.servers.push((component, child));
        Ok(())
    }

    /// Waits until `is_ready`, while every server lives.
    pub(super) fn wait(
        &mut self,
        what: &'static str,
        mut is_ready: impl FnMut() -> bool,
    ) -> Result<(), InitError> {
        let started = Instant::now();
        while !is_ready() {
            self.all_live()?;
            if started.elapsed() > LIMIT {
                let logs = self.logs.clone();
                return Err(InitError::Slow { what, logs });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until `command`, which itself waits for something, succeeds.
    pub(super) fn wait_for_command(
        &mut self,
        what: &'static str,
        command: &mut Command,
    ) -> Result<(), InitError> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().map_err(InitError::place(what))?;
        let mut succeeded = false;
        self.wait(what, || match child.try_wait() {
            Ok(Some(status)) => {
                succeeded = status.success();
                true
            }
            Ok(None) | Err(_) => false,
        })?;
        if succeeded {
            Ok(())
        } else {
            let logs = self.logs.clone();
            Err(InitError::Slow { what, logs })
        }
    }

    /// Collects whatever ends, for ever, and starts servers again.
    pub(super) fn run(mut self) {
        loop {
            let Ok(Some((pid, status))) = wait(WaitOptions::empty()) else {
                // Without any child there is nothing to keep up.
                return;
            };
            let ended = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
            let server = self
                .servers
                .iter()
                .position(|(_, child)| child.id() == ended);
            let Some(server) = server else { continue };
            thread::sleep(REST);
            let component = self.servers.swap_remove(server).0;
            eprintln!("{} ended ({status:?}); starting it again", component.name);
            match self.spawn(&component) {
                Ok(child) => self.servers.push((component, child)),
                Err(error) => eprintln!("{} could not be started: {error}", component.name),
            }
        }
    }

    fn all_live(&mut self) -> Result<(), InitError> {
        for (component, child) in &mut self.servers {
            let name = component.name;
            if let Some(status) = child.try_wait().map_err(InitError::place(name))? {
                let tail = tail(&self.logs.join(format!("{name}.log")));
                return Err(InitError::Ended { name, status, tail });
            }
        }
        Ok(())
    }

    fn spawn(&self, component: &Component) -> io::Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.logs.join(format!("{}.log", component.name)))?;
        Command::new(&component.program)
            .args(&component.arguments)
            .current_dir(&self.working_directory)
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }
}
