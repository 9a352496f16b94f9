//! A process that takes its orders from standard input, a line each, and answers on standard output. While
//! it has none it blocks, so that others have its core.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A peer, ended when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
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
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
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

    /// Waits for a line, and gives what follows its first word, which must be `word`.
    ///
    /// # Errors
    /// A sentence, where it says something else or has ended.
    pub fn expect(&mut self, word: &str) -> Result<String, String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|error| format!("the {} peer does not answer: {error}", self.name))?;
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
