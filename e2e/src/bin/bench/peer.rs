//! The other process of a round trip: the same program, pinned to the other core, told by lines on
//! its standard input when to answer and when to rest. A resting peer blocks, so that the others
//! have the core.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A peer, ended when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    kind: String,
}

impl Peer {
    /// Starts a peer of the kind on the core.
    pub(crate) fn start(kind: &str, core: usize, arguments: &[String]) -> Result<Self, String> {
        let program = env::current_exe().map_err(|error| format!("no own path: {error}"))?;
        let mut child = Command::new(program)
            .args(["peer", kind, &core.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("could not start the {kind} peer: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("the {kind} peer has no pipes"));
        };
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
            kind: kind.to_owned(),
        })
    }

    /// Sends a line.
    pub(crate) fn tell(&mut self, line: &str) -> Result<(), String> {
        writeln!(self.input, "{line}")
            .and_then(|()| self.input.flush())
            .map_err(|error| format!("the {} peer does not listen: {error}", self.kind))
    }

    /// Waits for a line, and gives what follows its first word, which must be `word`.
    pub(crate) fn expect(&mut self, word: &str) -> Result<String, String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|error| format!("the {} peer does not answer: {error}", self.kind))?;
        let rest = line.trim().strip_prefix(word).map(str::trim);
        rest.map(str::to_owned).ok_or_else(|| {
            format!(
                "the {} peer said `{}`, not `{word}`",
                self.kind,
                line.trim()
            )
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A peer ends when its input does; one that hangs is ended.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("the {} peer could not be ended: {error}", self.kind);
        }
    }
}

/// In the peer: the next line of the parent, `None` at the end.
pub(crate) fn next_order() -> Option<String> {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim().to_owned()),
    }
}

/// In the peer: a line for the parent.
pub(crate) fn answer(line: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("the parent does not listen: {error}"))
}
