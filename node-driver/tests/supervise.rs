//! `supervise` with real processes.

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{PATIENCE, wait_until};
use tempfile::TempDir;

/// A supervisor over one shell script, with its log.
struct Supervisor {
    child: Child,
    said: BufReader<ChildStdout>,
    log: Receiver<Value>,
}

impl Supervisor {
    fn of(script: &str) -> Self {
        let mut child = supervise(&["sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, said, log }
    }

    /// The next line of the script, as a process id.
    fn told_pid(&mut self) -> Pid {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("the script speaks");
        let pid = line.trim().parse().unwrap_or_else(|_| panic!("{line:?}"));
        Pid::from_raw(pid).expect("no process has the number 0")
    }

    fn next_event(&self) -> Value {
        let event = self.log.recv_timeout(PATIENCE).expect("it logs");
        event["fields"].clone()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("it runs");
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().expect("it is our child").code()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Gone already is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn supervise(command: &[&str]) -> Command {
    let mut supervise = Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"));
    supervise.args(["supervise", "--"]).args(command);
    supervise.stdin(Stdio::null());
    supervise
}

/// A pipe on disk that a script can wait at.
struct Fifo {
    _dir: TempDir,
    path: PathBuf,
}

impl Fifo {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("fifo");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        Self { _dir: dir, path }
    }

    /// Lets whoever reads it go on.
    fn open(&self) {
        drop(std::fs::OpenOptions::new().write(true).open(&self.path));
    }
}

fn exists(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

#[test]
fn a_killed_process_is_started_again_at_once_and_the_log_says_why_it_ended() {
    let mut supervisor = Supervisor::of("echo $$; exec sleep 1000");
    let first = supervisor.told_pid();
    kill_process(first, Signal::KILL).expect("it runs");
    let second = supervisor.told_pid();
    assert_ne!(first, second);
    assert!(!exists(first), "it was collected");
    let event = supervisor.next_event();
    assert_eq!(event["message"], "the program died and is started again");
    assert_eq!(
        event["program"], "sh -c echo $$; exec sleep 1000",
        "of several containers one died"
    );
    assert_eq!(event["reason"], "signal 9");
    assert_eq!(event["pid"], first.as_raw_nonzero().get());
    assert_eq!(event["delay_ms"], 0);
    assert_eq!(event["restarts"], 1);
    kill_process(second, Signal::KILL).expect("it runs");
    supervisor.told_pid();
    assert_eq!(supervisor.next_event()["delay_ms"], 50);
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.code(), Some(128 + 15));
}

#[test]
fn one_that_dies_at_once_each_time_is_never_given_up_and_never_waited_for_longer_than_a_second() {
    let mut supervisor = Supervisor::of("exit 3");
    let delays: Vec<u64> = (0..8)
        .map(|_| {
            let event = supervisor.next_event();
            assert_eq!(event["reason"], "exit code 3");
            event["delay_ms"].as_u64().expect("a number")
        })
        .collect();
    assert_eq!(delays, [0, 50, 100, 200, 400, 800, 1000, 1000]);
    // It waits now; nobody is there to pass the signal on to.
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.code(), Some(3), "the status of the last one");
}

#[test]
fn a_request_to_end_is_passed_on_and_the_status_is_that_of_the_process() {
    for (signal, name, code) in [(Signal::TERM, "TERM", 7), (Signal::INT, "INT", 9)] {
        // Not TERM: a child that has not become `sleep` yet would lose it.
        let script = format!(
            "trap 'kill -KILL $!; wait; exit {code}' {name}; sleep 1000 & echo $$; wait; exit 1"
        );
        let mut supervisor = Supervisor::of(&script);
        supervisor.told_pid();
        supervisor.signal(signal);
        assert_eq!(supervisor.code(), Some(code));
        let event = supervisor.next_event();
        assert_eq!(event["message"], "the program ended, as it was asked to");
    }
}

#[test]
fn what_other_processes_leave_behind_is_collected() {
    let fifo = Fifo::new();
    let script = format!(
        "(cat {} >/dev/null & echo $!); echo $$; exec sleep 1000",
        fifo.path.display()
    );
    let mut supervisor = Supervisor::of(&script);
    let orphan = supervisor.told_pid();
    let ours = supervisor.told_pid();
    assert!(exists(orphan));
    fifo.open();
    wait_until("the orphan to be collected", || {
        (!exists(orphan))
            .then_some(())
            .ok_or_else(|| "it is there".into())
    });
    assert!(exists(ours), "nobody else was harmed");
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.code(), Some(128 + 15));
}

#[test]
fn a_program_that_is_not_there_is_an_error_at_once() {
    let output = supervise(&["/no/such/program"])
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        said.contains("/no/such/program could not be started"),
        "{said}"
    );
    assert!(said.contains("No such file or directory"), "{said}");
}
