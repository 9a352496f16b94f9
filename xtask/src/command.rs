//! Running other programs: what they print is shown as it comes, and kept where a gate counts it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a program printed and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Everything it printed on standard output.
    pub(crate) stdout: String,
}

impl Finished {
    /// `Ok` when the program succeeded, else a sentence with its name and exit status.
    pub(crate) fn success(self, what: &str) -> Result<Self, String> {
        if self.status.success() {
            Ok(self)
        } else {
            Err(format!("{what} failed ({})", self.status))
        }
    }
}

/// Which of a program's outputs are shown while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Both, as they come.
    All,
    /// Standard error only; standard output is for us to read.
    Errors,
    /// Nothing.
    Nothing,
}

/// Runs `command` to its end, showing and keeping what it prints.
pub(crate) fn run(command: &mut Command, show: Show) -> Result<Finished, String> {
    let errors = match show {
        Show::All | Show::Errors => Stdio::inherit(),
        Show::Nothing => Stdio::null(),
    };
    follow(command, show, errors, std::io::stdout())
}

/// The same, but what would be shown is written to `log`.
pub(crate) fn run_into(command: &mut Command, show: Show, log: &File) -> Result<Finished, String> {
    let errors = match show {
        Show::All | Show::Errors => log
            .try_clone()
            .map(Stdio::from)
            .map_err(|error| format!("no second handle of a log: {error}"))?,
        Show::Nothing => Stdio::null(),
    };
    follow(command, show, errors, log)
}

fn follow(
    command: &mut Command,
    show: Show,
    errors: Stdio,
    shown: impl Write,
) -> Result<Finished, String> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("could not start {name}: {error}"))?;
    let stdout = keep(child.stdout.take(), shown, show == Show::All);
    let status = child
        .wait()
        .map_err(|error| format!("could not wait for {name}: {error}"))?;
    Ok(Finished { status, stdout })
}

/// Runs `command` silently and ends it if it takes longer than `limit`.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<ExitStatus, String> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("could not start {name}: {error}"))?;
    let started = Instant::now();
    loop {
        let ended = child
            .try_wait()
            .map_err(|error| format!("could not wait for {name}: {error}"))?;
        if let Some(status) = ended {
            return Ok(status);
        }
        if started.elapsed() >= limit {
            let ended = child.kill().and_then(|()| child.wait());
            return Err(match ended {
                Ok(_) => format!("{name} took longer than {} s", limit.as_secs()),
                Err(error) => format!("{name} took too long and could not be ended: {error}"),
            });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Runs `command` silently; its standard output, or `None` if it is not there or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    run(command, Show::Nothing)
        .ok()
        .filter(|finished| finished.status.success())
        .map(|finished| finished.stdout)
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    command.get_args().fold(program, |line, argument| {
        format!("{line} {}", argument.to_string_lossy())
    })
}

/// Reads `from` to its end; what is not UTF-8 is kept with replacement characters.
fn keep(from: Option<impl Read>, mut to: impl Write, show: bool) -> String {
    let mut kept = String::new();
    let Some(from) = from else { return kept };
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
        if show && to.write_all(&line).and_then(|()| to.flush()).is_err() {
            return kept;
        }
        kept.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
    kept
}
