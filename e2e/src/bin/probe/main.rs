//! `tensorpool-probe`: what a pod that means harm does with the volume that it rightly got.
//!
//! The end-to-end run has it in an image of its own (`e2e/probe.Dockerfile`). Each attack says what it did
//! and what it was told; whether that is as it should be, the end-to-end run decides.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod connects;
mod damage;
mod flood;
mod forge;
mod garbage;
mod keep;
mod line;
mod listen;
mod mute;
mod reach;
mod stop;

const USAGE: &str = "\
usage: tensorpool-probe idle                          does nothing until SIGTERM
       tensorpool-probe listen STREAM                 a consumer that says what becomes of its lease
       tensorpool-probe garbage SOCKET                packets that are none, then messages that are none
       tensorpool-probe forge SOCKET ID               messages in others' names, also of stream ID
       tensorpool-probe flood SOCKET SECONDS          valid requests on 64 connections, without a pause
       tensorpool-probe connects SOCKET COUNT         so many connections, held open
       tensorpool-probe churn SOCKET COUNT            so many connections, each closed at once
       tensorpool-probe mute SOCKET                   asks and never reads
       tensorpool-probe stop STREAM SOCKET            a producer stops itself while it writes a frame
       tensorpool-probe damage SOCKET WHAT            a producer's own files; WHAT is empty, punch or grow
       tensorpool-probe keep STREAM                   a consumer that never lets go of its first frame
       tensorpool-probe offer STREAM                  a producer, until its lease ends
       tensorpool-probe reach VOLUME OTHER            what the volume is made of; OTHER is another's socket

SOCKET is a volume's driver.sock. SIGTERM ends `idle`, `listen` and `keep`.";

/// What an attack could not go on without.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["idle"] => idle(),
        ["listen", stream] => listen::run(stream),
        ["garbage", socket] => garbage::run(socket.as_ref()),
        ["forge", socket, other] => forge::run(socket.as_ref(), other),
        ["flood", socket, seconds] => flood::run(socket.as_ref(), seconds),
        ["connects", socket, count] => connects::held(socket.as_ref(), count),
        ["churn", socket, count] => connects::churn(socket.as_ref(), count),
        ["mute", socket] => mute::run(socket.as_ref()),
        ["stop", stream, socket] => stop::run(stream, socket.as_ref()),
        ["stopping", stream] => stop::while_it_writes(stream),
        ["damage", socket, what] => damage::run(socket.as_ref(), what),
        ["keep", stream] => keep::run(stream),
        ["offer", stream] => keep::offer(stream),
        ["reach", volume, other] => reach::run(volume.as_ref(), other.as_ref()),
        ["--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn idle() -> Result<(), Failure> {
    let asked = asked_to_end()?;
    println!("idle");
    while !asked.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    Ok(())
}

/// Becomes true with SIGTERM. Pid 1 of a pod has to say so itself.
fn asked_to_end() -> Result<Arc<AtomicBool>, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    for &signal in signal_hook::consts::TERM_SIGNALS {
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(asked)
}
