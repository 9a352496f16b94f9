//! One operator process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A running operator, ended with the test.
pub(crate) struct Operator {
    child: Child,
    log: Receiver<Value>,
    address: SocketAddr,
}

impl Operator {
    pub(crate) fn start(kubeconfig: &Path, name: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tensorpool-operator"))
            .env("KUBECONFIG", kubeconfig)
            .args(["--identity", name, "--listen", "127.0.0.1:0"])
            .args([
                "--default-class-size",
                "1Gi",
                "--default-class-page-size",
                "4Ki",
            ])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(child.stderr.take().expect("it was asked for")).lines();
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("{line}");
                let record = serde_json::from_str(&line).expect("every line of the log is JSON");
                if sender.send(record).is_err() {
                    return;
                }
            }
        });
        let mut operator = Self {
            child,
            log,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let serving = operator.logged("serving HTTP");
        let address = serving["fields"]["address"]
            .as_str()
            .expect("it says where");
        operator.address = address.parse().expect("it is an address");
        operator
    }

    /// The next line of the log with this message.
    pub(crate) fn logged(&self, message: &str) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let record = self.log.recv_timeout(left);
            let record = record.unwrap_or_else(|_| panic!("`{message}` was not logged"));
            if record["fields"]["message"] == message {
                return record;
            }
        }
    }

    /// Asks it to end, as kubelet does, and waits.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.ask_to_end();
        self.child.wait().expect("it is our child")
    }

    /// The same; before it ends it must say `message`.
    pub(crate) fn terminate_after(mut self, message: &str) -> ExitStatus {
        self.ask_to_end();
        self.logged(message);
        self.child.wait().expect("it is our child")
    }

    fn ask_to_end(&self) {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(killed.expect("kill starts").success());
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As a node that loses power.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }

    /// Status line and body of a page.
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        let mut connection = TcpStream::connect(self.address).expect("it listens");
        connection
            .set_read_timeout(Some(LIMIT))
            .expect("a limit can be set");
        write!(
            connection,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .expect("it reads");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("it has a head");
        let status = head.lines().next().unwrap_or_default();
        (status.to_owned(), body.to_owned())
    }

    /// A number of /metrics.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, page) = self.get("/metrics");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// Returns once /readyz says so.
    pub(crate) fn is_ready(&self) {
        let deadline = Instant::now() + LIMIT;
        while self.get("/readyz").0 != "HTTP/1.1 200 OK" {
            assert!(Instant::now() < deadline, "it never became ready");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many plans were made.
    pub(crate) fn plans(&self) -> f64 {
        self.metric("tensorpool_operator_plans_total")
    }

    /// Returns once there was a further plan.
    pub(crate) fn has_planned_since(&self, plans: f64) {
        let deadline = Instant::now() + LIMIT;
        while self.plans() <= plans {
            assert!(Instant::now() < deadline, "no further plan");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
