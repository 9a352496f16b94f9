//! Frames cost no system call on either side while both are busy.
//!
//! A child process writes and reads frames on one thread; this one traces that thread and sees each
//! system call. Between two calls that the thread makes as marks there must be none, except wakes of
//! a producer that the scheduler kept from its frames for 100 µs: those it owes (X-1-23), and the
//! child counts how often that was so.
// In a test a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

#[path = "local/peer.rs"]
#[allow(dead_code)]
mod peer;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use peer::{NAME, Peer};
use tensorpool_client::{Consumer, Dtype, Producer, TensorSpec};

const LONG: Duration = Duration::from_secs(10);
/// Frames in time that are looked at.
const FRAMES: u32 = 10_000;
/// Frames in all: a machine that keeps a thread from nine of ten can still show it.
const MOST: u32 = 10 * FRAMES;
/// Shorter than the pause after which a producer wakes.
const PAUSE: Duration = Duration::from_micros(95);

/// Both ends of a stream, ready for their frames.
struct Ends {
    producer: Producer,
    consumer: Consumer,
    spec: TensorSpec,
}

impl Ends {
    fn new(peer: &Peer) -> Self {
        let mut producer = Producer::builder(NAME)
            .client_options(peer.options())
            .timeout(LONG)
            .build()
            .unwrap();
        let mut consumer = Consumer::builder(NAME)
            .client_options(peer.options())
            .timeout(LONG)
            .build()
            .unwrap();
        let spec = TensorSpec::new(Dtype::Uint8, &[4, 16]).unwrap();
        // The first calls take over the mapping.
        producer.publish_tensor(&spec, &[1; 64]).unwrap();
        consumer.next().unwrap().expect("a frame");
        Self {
            producer,
            consumer,
            spec,
        }
    }

    fn publish(&mut self, n: u32) {
        let bytes = [n.to_le_bytes()[0]; 64];
        if n.is_multiple_of(2) {
            self.producer.publish_tensor(&self.spec, &bytes).unwrap();
        } else {
            let mut claim = self.producer.claim(&self.spec).unwrap();
            claim.write(&bytes).unwrap();
            claim.commit().unwrap();
        }
    }

    fn read(&mut self, n: u32) {
        let mut copy = [0; 64];
        let frame = if n.is_multiple_of(3) {
            self.consumer.wait(LONG)
        } else {
            self.consumer.next()
        };
        let frame = frame.unwrap().expect("a frame");
        frame.copy_to(&mut copy).unwrap();
        assert_eq!(copy, [n.to_le_bytes()[0]; 64]);
        assert!(frame.still_valid());
        // Polls in vain, those that look past holes among them.
        let polls = if n.is_multiple_of(100) { 70 } else { 1 };
        for _ in 0..polls {
            assert!(self.consumer.next().unwrap().is_none());
        }
    }

    /// Sends frames and reads each, until enough were in time. Returns how many that were, and how
    /// many came so late that their producer had to wake.
    ///
    /// Where tracing takes longer than the pause, the wake of a late frame makes the next one late.
    fn exchange(&mut self) -> (u32, u32) {
        // The first frame follows the pause in which the child waited to be traced.
        let (mut in_time, mut late) = (0, 1);
        let mut before = Instant::now();
        for n in 0..MOST {
            let now = Instant::now();
            self.publish(n);
            if before.elapsed() > PAUSE {
                late += 1;
            } else {
                in_time += 1;
            }
            before = now;
            self.read(n);
            if in_time == FRAMES {
                break;
            }
        }
        (in_time, late)
    }
}

/// A system call that nothing else makes.
fn mark() {
    let _ = nix::unistd::getpgrp();
}

/// Not a test of anything: the process that is traced.
#[test]
#[ignore = "runs as a child of the test below"]
fn child_that_is_traced() {
    let peer = Peer::start();
    let mut ends = Ends::new(&peer);
    println!("thread {}", nix::unistd::gettid());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    mark();
    let (in_time, late) = ends.exchange();
    mark();
    println!("late {late}");
    println!("in time {in_time}");
    // A wake that is owed: the trace must show it.
    ends.publish(0);
    std::thread::sleep(Duration::from_millis(1));
    mark();
    ends.publish(0);
    mark();
    std::io::stdin().read_line(&mut line).unwrap();
}

/// The number behind `word` in the child's next line that has it.
fn told(output: &mut BufReader<ChildStdout>, word: &str) -> i32 {
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        if let Some((_, number)) = line.split_once(word) {
            return number.trim().parse().unwrap();
        }
        line.clear();
    }
    panic!("the child ended without {word:?}");
}

/// The number of the call that the stopped thread is in.
fn call_of(child: &Child, thread: Pid) -> String {
    let path = format!("/proc/{}/task/{thread}/syscall", child.id());
    let text = std::fs::read_to_string(path).unwrap();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Lets the thread go on to its next system call and returns that; `None` at the end of the thread.
fn next_call(child: &Child, thread: Pid, is_inside: &mut bool) -> Option<String> {
    loop {
        ptrace::syscall(thread, None).unwrap();
        match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceSyscall(_)) => {
                *is_inside = !*is_inside;
                if *is_inside {
                    return Some(call_of(child, thread));
                }
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => {
                return None;
            }
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The calls between the thread's next two marks.
fn calls_between_marks(
    child: &Child,
    thread: Pid,
    mark: &str,
    is_inside: &mut bool,
) -> Vec<String> {
    let mut next = || next_call(child, thread, is_inside).expect("the thread goes on");
    while next() != mark {}
    let calls = std::iter::from_fn(|| Some(next()).filter(|call| call != mark));
    calls.collect()
}

/// The number of the marking call, on whatever machine this is.
fn number_of_mark() -> String {
    let numbers = [("x86_64", 111), ("aarch64", 155), ("riscv64", 155)];
    let found = numbers
        .iter()
        .find(|(arch, _)| *arch == std::env::consts::ARCH);
    found.expect("a known machine").1.to_string()
}

// spec: X-1-23
#[test]
fn neither_publishing_nor_reading_calls_the_system() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_that_is_traced",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test binary runs");
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut input = child.stdin.take().unwrap();
    let thread = Pid::from_raw(told(&mut output, "thread "));
    if let Err(error) = ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD) {
        let must = std::env::var_os("TENSORPOOL_CI").is_some_and(|value| value == "1");
        assert!(!must, "tracing is not allowed: {error}");
        println!("not run: tracing is not allowed: {error}");
        drop(child.kill());
        drop(child.wait());
        return;
    }
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    input.write_all(b"go\n").unwrap();
    let mark = number_of_mark();
    // It was stopped inside its read of the line, or before it.
    let mut is_inside = false;
    let calls = calls_between_marks(&child, thread, &mark, &mut is_inside);
    let owed = calls_between_marks(&child, thread, &mark, &mut is_inside);
    ptrace::detach(thread, None).unwrap();
    let late = told(&mut output, "late ");
    let in_time = told(&mut output, "in time ");
    input.write_all(b"end\n").unwrap();
    assert!(child.wait().unwrap().success());
    println!(
        "{} calls, {late} frames late, {in_time} in time",
        calls.len()
    );
    assert_eq!(
        owed.len(),
        1,
        "a producer that was quiet wakes once: {owed:?}"
    );
    assert!(
        calls.iter().all(|call| *call == owed[0]),
        "other calls: {calls:?}"
    );
    let late = usize::try_from(late).unwrap();
    assert!(calls.len() <= late, "{} wakes, {late} owed", calls.len());
    // A quarter is told from a machine on which nothing was in time, and nothing was looked at.
    assert!(
        in_time > i32::try_from(FRAMES / 4).unwrap(),
        "only {in_time} frames were in time"
    );
}
