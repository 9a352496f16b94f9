//! A process that takes its orders from standard input, a line each, and answers on standard output. While
//! it has none it blocks, so that others have its core.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// An answer that takes longer is none.
const LONGEST: Duration = Duration::from_secs(120);
/// A first answer may be lost on the way, so its order is given again after this time, so often.
const FIRST: Duration = Duration::from_secs(2);
const TRIES: u32 = 20;
/// After this silence no answer to an order that was given twice comes any more.
const SILENCE: Duration = Duration::from_millis(500);

/// A peer, ended when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: ChildStdin,
    lines: Receiver<io::Result<String>>,
    name: String,
}

impl Peer {
    /// Starts it. `name` is for people.
    ///
    /// # Errors
    /// A sentence, where it could not be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("could not start the {name} peer: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("the {name} peer has no pipes"));
        };
        let (said, lines) = channel::<io::Result<String>>();
        thread::spawn(move || {
            // Until it has ended, or nobody asks any more.
            let mut output = BufReader::new(output).lines();
            while output.next().is_some_and(|line| said.send(line).is_ok()) {}
        });
        Ok(Self {
            child,
            input,
            lines,
            name: name.to_owned(),
        })
    }

    /// Sends a line.
    ///
    /// # Errors
    /// A sentence, where it has ended.
    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        writeln!(self.input, "{line}")
            .and_then(|()| self.input.flush())
            .map_err(|error| format!("the {} peer does not listen: {error}", self.name))
    }

    /// Gives an order until it is answered: what a peer says before somebody listens at the other end of a
    /// network may be lost. `word` is the answer's first.
    ///
    /// # Errors
    /// A sentence, where it says something else, has ended, or is silent.
    pub fn greet(&mut self, order: &str, word: &str) -> Result<(), String> {
        for _ in 0..TRIES {
            self.tell(order)?;
            match self.lines.recv_timeout(FIRST) {
                Ok(line) => {
                    self.rest_of(line, word)?;
                    while self.lines.recv_timeout(SILENCE).is_ok() {}
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.has_ended()),
            }
        }
        Err(format!(
            "the {} peer did not answer `{order}`, {TRIES} times in {TRIES} x {FIRST:?}",
            self.name
        ))
    }

    /// Waits for a line, and gives what follows its first word, which must be `word`.
    ///
    /// # Errors
    /// A sentence, where it says something else, has ended, or is silent for two minutes.
    pub fn expect(&mut self, word: &str) -> Result<String, String> {
        match self.lines.recv_timeout(LONGEST) {
            Ok(line) => self.rest_of(line, word),
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "the {} peer did not say `{word}` within {LONGEST:?}",
                self.name
            )),
            Err(RecvTimeoutError::Disconnected) => Err(self.has_ended()),
        }
    }

    fn has_ended(&self) -> String {
        format!("the {} peer has ended", self.name)
    }

    fn rest_of(&self, line: io::Result<String>, word: &str) -> Result<String, String> {
        let line =
            line.map_err(|error| format!("the {} peer cannot be read: {error}", self.name))?;
        let rest = line.trim().strip_prefix(word).map(str::trim);
        rest.map(str::to_owned).ok_or_else(|| {
            format!(
                "the {} peer said `{}`, not `{word}`",
                self.name,
                line.trim()
            )
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A peer ends when its input does; one that hangs is ended.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("the {} peer could not be ended: {error}", self.name);
        }
    }
}
