//! A producer that stops itself in the middle of a frame, and what it finds when it goes on.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use tensorpool_client::{ClaimError, Producer, TensorSpec};
use tensorpool_wire::ResponseCode;

use crate::Failure;
use crate::line::{Line, random_client};
use crate::listen::in_words;

/// Bytes of its frames.
const FRAME: usize = 1_000;
/// For the first attach.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts such a producer, waits until another may produce, and lets it go on.
pub(crate) fn run(stream: &str, socket: &Path) -> Result<(), Failure> {
    let mut child = Command::new("/proc/self/exe")
        .args(["stopping", stream])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    println!("{}", said.next().ok_or("it said nothing")??);
    let pid = Pid::from_child(&child);
    let stopped = waitpid(Some(pid), WaitOptions::UNTRACED)?;
    if !stopped.is_some_and(|(_, status)| status.stopped()) {
        return Err("it did not stop".into());
    }
    let began = Instant::now();
    let mut line = Line::connect(socket)?;
    let id = line.stream()?;
    let words = loop {
        let client = random_client();
        let (answer, _) = line.ask(tensorpool_wire::Role::Producer, id, client)?;
        if answer.code == ResponseCode::Ok {
            break "another may produce";
        }
        if began.elapsed() > PATIENCE {
            return Err(answer.error_message.into());
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    println!(
        "stopped with a lease and a frame half written: {words} after {} ms",
        began.elapsed().as_millis()
    );
    drop(line);
    kill_process(pid, Signal::CONT)?;
    println!("it went on: {}", said.next().ok_or("it said nothing")??);
    child.wait()?;
    Ok(())
}

/// The producer that stops.
pub(crate) fn while_it_writes(stream: &str) -> Result<(), Failure> {
    let mut producer = Producer::builder(stream).timeout(PATIENCE).build()?;
    let tensor = TensorSpec::bytes(FRAME)?;
    for _ in 0..10 {
        producer.publish_tensor(&tensor, &[1; FRAME])?;
    }
    let mut claim = producer.claim(&tensor)?;
    claim.write_at(0, &[2; FRAME / 2])?;
    println!("stops itself in frame {}", claim.seq());
    kill_process(getpid(), Signal::STOP)?;
    let limit = Instant::now() + PATIENCE;
    let end = match claim.commit() {
        Err(error) => error,
        // Its own clock says that the lease is over before it has heard so.
        Ok(_) => loop {
            match producer.publish_tensor(&tensor, &[3; FRAME]) {
                Err(error @ ClaimError::LeaseEnded(_)) => break error,
                Ok(_) | Err(_) if Instant::now() < limit => {}
                Ok(_) => return Err("it publishes on".into()),
                Err(error) => break error,
            }
        },
    };
    println!("{}", in_words(&end));
    Ok(())
}
