//! `supervise`: the first process of a container, of the driver's and of the media driver's.
//!
//! Kubelet waits up to five minutes before it starts a container again that ended often. This process
//! ends with the container only: it starts its program again itself, within a second of its death, and
//! collects processes that others left. It refuses to look at why the program died.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

/// A process that lived this long is started again at once when it dies.
const LIVED_WELL: Duration = Duration::from_secs(10);
/// First wait, where one that was started again died early.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// No wait is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// What a shell adds to the number of the signal that ended a program.
const SIGNALLED: i32 = 128;

/// Why nothing is supervised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    /// The program does not start the first time.
    #[error("{} could not be started; write the program and its arguments behind `--`", program.display())]
    Start {
        /// The program.
        program: OsString,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses what a supervisor needs.
    #[error("this process could not become a supervisor: {what}")]
    Become {
        /// What was refused.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs `program` with `arguments` until SIGTERM or SIGINT comes, again and again. The signal is passed
/// on, and the status of the program is the result: its exit code, or 128 and the signal that ended it.
///
/// # Errors
/// [`SuperviseError`], before anything runs.
pub(crate) fn run(program: OsString, arguments: Vec<OsString>) -> Result<u8, SuperviseError> {
    let refused = |what| move |source| SuperviseError::Become { what, source };
    let signals = Signals::install().map_err(refused("its signals"))?;
    // What the program leaves behind comes to us, also where we are not the first process.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| refused("the parent of orphans")(error.into()))?;
    let mut supervisor = Supervisor {
        program,
        arguments,
        signals,
        restarts: 0,
    };
    let first = supervisor.start().map_err(|source| SuperviseError::Start {
        program: supervisor.program.clone(),
        source,
    })?;
    let status = supervisor.keep_alive(first);
    Ok(u8::try_from(status).unwrap_or(u8::MAX))
}

/// A process that runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    pid: Pid,
    since: Instant,
}

/// What is supervised.
#[derive(Debug)]
struct Supervisor {
    program: OsString,
    arguments: Vec<OsString>,
    signals: Signals,
    restarts: u64,
}

impl Supervisor {
    fn start(&self) -> io::Result<Running> {
        // A group of its own: an interrupt of the terminal reaches it once, through us.
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the kernel gave no process id"))?;
        let since = Instant::now();
        Ok(Running { pid, since })
    }

    /// What was started, as a shell would have it.
    fn command_line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    /// Until somebody asks for the end. The status of the last process.
    fn keep_alive(&mut self, first: Running) -> i32 {
        let mut running = first;
        let mut last_delay = None;
        loop {
            let ended = self.wait_for_end(running.pid);
            let (reason, code) = told(ended);
            if self.signals.is_end_requested {
                tracing::info!(
                    program = self.command_line(),
                    reason,
                    code,
                    "the program ended, as it was asked to"
                );
                return code;
            }
            let lived = running.since.elapsed();
            let mut delay = next_delay(lived, last_delay);
            last_delay = Some(delay);
            self.restarts += 1;
            tracing::warn!(
                program = self.command_line(),
                pid = running.pid.as_raw_nonzero().get(),
                reason,
                lived_ms = millis(lived),
                delay_ms = millis(delay),
                restarts = self.restarts,
                "the program died and is started again"
            );
            running = loop {
                if self.rest(delay) {
                    return code;
                }
                match self.start() {
                    Ok(started) => break started,
                    Err(error) => {
                        delay = LONGEST_DELAY;
                        tracing::error!(%error, program = self.command_line(), "the program could not be started; trying again");
                    }
                }
            };
        }
    }

    /// Passes signals on until this process has ended.
    fn wait_for_end(&mut self, pid: Pid) -> WaitStatus {
        loop {
            for signal in self.signals.take_ends() {
                // Not collected yet, so the number is still its own, dead or alive.
                if let Err(error) = rustix::process::kill_process(pid, signal) {
                    tracing::warn!(%error, "the signal could not be passed on");
                }
            }
            if let Some(status) = collect(Some(pid)) {
                return status;
            }
            self.signals.wait(None);
        }
    }

    /// Waits before the next start. Whether somebody asks for the end meanwhile.
    fn rest(&mut self, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        loop {
            collect(None);
            if self.signals.take_ends().next().is_some() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.signals.wait(Some(left));
        }
    }
}

/// Collects every process that has ended. The status of `ours`, if it is one of them.
fn collect(ours: Option<Pid>) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if ours == Some(pid) {
            found = Some(status);
        }
    }
    found
}

/// In words, and as an exit code.
fn told(status: WaitStatus) -> (String, i32) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (format!("exit code {code}"), code),
        (None, Some(signal)) => (format!("signal {signal}"), SIGNALLED + signal),
        (None, None) => ("an unknown end".to_owned(), 1),
    }
}

/// How long to wait before the next start: not at all after a good life, nor the first time.
fn next_delay(lived: Duration, last: Option<Duration>) -> Duration {
    match last {
        None => Duration::ZERO,
        Some(_) if lived >= LIVED_WELL => Duration::ZERO,
        Some(Duration::ZERO) => FIRST_DELAY,
        Some(last) => (last * 2).min(LONGEST_DELAY),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The signals of this process. Handlers store a flag and wake [`Signals::wait`].
#[derive(Debug)]
struct Signals {
    term: Arc<AtomicBool>,
    int: Arc<AtomicBool>,
    is_end_requested: bool,
    wake: UnixStream,
}

impl Signals {
    fn install() -> io::Result<Self> {
        let (wake, wakes) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let signals = Self {
            term: Arc::default(),
            int: Arc::default(),
            is_end_requested: false,
            wake,
        };
        // A flag is registered before the wake, so that whoever wakes sees it.
        flag::register(SIGTERM, Arc::clone(&signals.term))?;
        flag::register(SIGINT, Arc::clone(&signals.int))?;
        for signal in [SIGCHLD, SIGTERM, SIGINT] {
            pipe::register(signal, wakes.try_clone()?)?;
        }
        Ok(signals)
    }

    /// The signals that came since the last call and mean the end.
    fn take_ends(&mut self) -> impl Iterator<Item = Signal> {
        let came = [(&self.term, Signal::TERM), (&self.int, Signal::INT)]
            .map(|(flag, signal)| flag.swap(false, Ordering::Relaxed).then_some(signal));
        self.is_end_requested |= came.iter().any(Option::is_some);
        came.into_iter().flatten()
    }

    /// Until a signal comes, at most as long as `limit`.
    fn wait(&mut self, limit: Option<Duration>) {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds = [PollFd::new(&self.wake, PollFlags::IN)];
        // Interrupted by the very signal that is waited for, or by none of ours: the caller looks.
        let _ = poll(&mut fds, limit.as_ref());
        let mut bytes = [0; 64];
        while matches!(self.wake.read(&mut bytes), Ok(count) if count > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_from_nothing_to_a_second_and_start_over_after_a_good_life() {
        let young = Duration::from_millis(1);
        let mut last = None;
        let delays: Vec<u64> = (0..8)
            .map(|_| {
                let delay = next_delay(young, last);
                last = Some(delay);
                millis(delay)
            })
            .collect();
        assert_eq!(delays, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(next_delay(LIVED_WELL, last), Duration::ZERO);
    }
}
