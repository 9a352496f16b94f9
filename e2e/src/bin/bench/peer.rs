//! The other process of a round trip: the same program, pinned to the other core, told by lines on
//! its standard input when to answer and when to rest.

use std::env;
use std::io::{BufRead, Write};
use std::process::Command;

use tensorpool_e2e::peer::Peer;

/// Starts a peer of the kind on the core.
pub(crate) fn start(kind: &str, core: usize, arguments: &[String]) -> Result<Peer, String> {
    let program = env::current_exe().map_err(|error| format!("no own path: {error}"))?;
    let mut command = Command::new(program);
    command.args(["peer", kind, &core.to_string()]);
    Peer::start(kind, command.args(arguments))
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
