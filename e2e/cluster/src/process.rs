//! Servers that must not outlive the process that started them.
//!
//! Each one gets a parent-death signal (by `setpriv`), so that it ends even when its owner is
//! killed. The kernel ties that signal to the *thread* that started the process; a test's thread
//! may end long before its process does. So one thread of our own, the keeper, starts them all and
//! lives as long as they shall.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("could not start {name}; it needs `setpriv` of util-linux and its log file {}", log.display())]
    Start {
        /// The server.
        name: &'static str,
        /// Where it would have written.
        log: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{name} ended by itself ({status}); the end of its log:\n{tail}")]
    Ended {
        /// The server.
        name: &'static str,
        /// How.
        status: String,
        /// Its last lines.
        tail: String,
    },
    /// It runs and does not answer.
    #[error("{name} did not answer within {seconds} s; the end of its log:\n{tail}")]
    Silent {
        /// The server.
        name: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// Its last lines.
        tail: String,
    },
}

struct Order {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

/// The thread that starts servers, and whose end is theirs.
#[derive(Debug)]
pub(crate) struct Keeper {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, incoming): (Sender<Order>, Receiver<Order>) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("server-keeper".to_owned())
            .spawn(move || {
                for mut order in incoming {
                    drop(order.reply.send(order.command.spawn()));
                }
            })?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Starts `program` with its output in `log`, and with a signal that ends it with us.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Server, ProcessError> {
        self.try_spawn(program, arguments, log)
            .map(|child| Server {
                name,
                child,
                log: log.to_owned(),
            })
            .map_err(|source| ProcessError::Start {
                name,
                log: log.to_owned(),
                source,
            })
    }

    fn try_spawn(&self, program: &Path, arguments: &[String], log: &Path) -> io::Result<Child> {
        let output = File::create(log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.args(arguments);
        if let Some(directory) = log.parent() {
            command.current_dir(directory);
        }
        command.stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        // A Ctrl-C is for the test, which then ends its servers in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let (reply, answer) = mpsc::channel();
        let orders = self.orders.as_ref();
        orders
            .and_then(|orders| orders.send(Order { command, reply }).ok())
            .ok_or_else(gone)?;
        answer.recv().map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts servers has ended")
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// `Err` when it has ended.
    pub(crate) fn still_runs(&mut self) -> Result<(), ProcessError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(source) => Err(ProcessError::Start {
                name: self.name,
                log: self.log.clone(),
                source,
            }),
        }
    }

    /// For a server that runs and should have answered by now.
    pub(crate) fn silent(&self, seconds: u64) -> ProcessError {
        ProcessError::Silent {
            name: self.name,
            seconds,
            tail: tail(&self.log),
        }
    }

    fn ended(&self, status: ExitStatus) -> ProcessError {
        ProcessError::Ended {
            name: self.name,
            status: status.to_string(),
            tail: tail(&self.log),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.kill().and_then(|()| self.child.wait()).is_err() {
            eprintln!("{} could not be ended", self.name);
        }
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 12;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(LINES);
    lines
        .iter()
        .skip(skip)
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
