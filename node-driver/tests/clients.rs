//! Producers and consumers of the client crate through what happens to their driver, and to them.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::raw::Raw;
use support::{Driver, Options, PATIENCE, Place, wait_until};
use tensorpool_client::{ClaimError, Consumer, Dtype, Producer, TensorSpec};
use tensorpool_wire::Role;

const CAMERA: u32 = 10_000;

/// A producer on a thread of its own, at full rate. Each frame holds its running number.
struct Load {
    stop: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(socket: &Path) -> Self {
        let mut producer = Producer::builder("camera")
            .socket(socket)
            .build()
            .expect("the producer attaches");
        let stop = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(AtomicU64::new(0));
        let (stopped, counted, errors) = (stop.clone(), published.clone(), refused.clone());
        let thread = std::thread::spawn(move || {
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                match producer.publish(&number.to_le_bytes()) {
                    Ok(_) => {
                        number += 1;
                        counted.store(number, Ordering::Relaxed);
                    }
                    Err(ClaimError::LeaseEnded(_) | ClaimError::NotAttached) => {
                        errors.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                    }
                    Err(other) => panic!("{other}"),
                }
                if number.is_multiple_of(64) {
                    std::thread::yield_now();
                }
            }
        });
        Self {
            stop,
            published,
            refused,
            thread: Some(thread),
        }
    }

    fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("joined once").join();
        if !std::thread::panicking() {
            ended.expect("the producer saw typed errors only");
        }
    }
}

/// Reads frames until one is as wanted. Every frame must be whole and newer than the one before.
fn read_until(
    consumer: &mut Consumer,
    newest: &mut u64,
    what: &str,
    mut wanted: impl FnMut(u64, u64) -> bool,
) -> (u64, u64) {
    wait_until(what, || {
        for _ in 0..1_000 {
            // A lease that ended is told once; later polls find the new frames.
            let Ok(Some(frame)) = consumer.wait(Duration::from_millis(5)) else {
                continue;
            };
            let mut bytes = [0; 8];
            let epoch = frame.epoch().get();
            if frame.copy_to(&mut bytes).is_err() {
                continue;
            }
            let number = u64::from_le_bytes(bytes);
            assert!(number >= *newest, "{number} after {newest}");
            *newest = number;
            if wanted(epoch, number) {
                return Ok((epoch, number));
            }
        }
        Err(format!("{:?}, {:?}", consumer.status(), consumer.stats()))
    })
}

fn consumer(socket: &Path) -> Consumer {
    Consumer::builder("camera")
        .socket(socket)
        .build()
        .expect("the consumer attaches")
}

/// What every kind of restart has in common. Returns how often the producer was refused meanwhile.
fn survive(place: &Place, end: impl FnOnce(Driver)) -> u64 {
    let driver = Driver::start(place);
    let mut consumer = consumer(&place.socket());
    let load = Load::start(&place.socket());
    let mut newest = 0;
    let (before, _) = read_until(&mut consumer, &mut newest, "frames", |_, number| {
        number > 100
    });
    end(driver);
    let during = load.published();
    let driver = Driver::start(place);
    let (after, first) = read_until(
        &mut consumer,
        &mut newest,
        "frames of a higher epoch",
        |epoch, _| epoch > before,
    );
    assert!(after > before);
    read_until(
        &mut consumer,
        &mut newest,
        "more frames",
        |epoch, number| epoch == after && number > first + 100,
    );
    assert!(load.published() > during);
    // What was not delivered was counted, or lies between the two epochs.
    let stats = consumer.stats();
    let counted: u64 = stats.drops().map(|(_, frames)| frames).sum();
    // The newest frame is out before its producer has counted it.
    let published = load.published() + 1;
    assert!(
        stats.delivered + counted <= published,
        "{published}, {stats:?}"
    );
    assert_eq!(driver.stream(CAMERA)["consumers_total"], 1);
    load.refused.load(Ordering::Relaxed)
}

#[test]
fn clients_of_a_killed_driver_attach_again_by_themselves() {
    // spec: X-2-25, X-2-26, X-2-27, D-10-2
    let place = Place::new(Options::default());
    survive(&place, Driver::kill);
}

#[test]
fn clients_of_a_drained_driver_are_told_and_attach_again_by_themselves() {
    // spec: X-2-28, D-4.13-5
    let place = Place::new(Options::default());
    let refused = survive(&place, |driver| {
        assert_eq!(driver.terminate(), Some(0));
    });
    assert!(refused > 0, "the end of the lease is a typed error");
}

#[test]
fn clients_of_a_handed_over_driver_attach_again_by_themselves() {
    // spec: X-2-25, X-2-28
    let place = Place::new(Options {
        shutdown: "handover",
        ..Options::default()
    });
    survive(&place, |driver| {
        assert_eq!(driver.terminate(), Some(0));
    });
}

/// A producer in a process of its own, which can be stopped and killed.
struct ChildProducer {
    child: Child,
    lines: Receiver<String>,
}

const CHILD_SOCKET: &str = "TENSORPOOL_TEST_CHILD_SOCKET";
const CHILD_CLAIMS: &str = "TENSORPOOL_TEST_CHILD_CLAIMS";

impl ChildProducer {
    fn start(socket: &Path, claims_only: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test binary"));
        command
            .args(["--exact", "child_process_producer", "--nocapture"])
            .env(CHILD_SOCKET, socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if claims_only {
            command.env(CHILD_CLAIMS, "1");
        }
        let mut child = command.spawn().expect("this test binary starts");
        let out = child.stdout.take().expect("standard output is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn wait_for(&self, wanted: &str) {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|error| panic!("no {wanted:?} from the child: {error}"));
            // The test harness may have written its own words on the same line before.
            if line.ends_with(wanted) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("the child runs");
    }
}

impl Drop for ChildProducer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Not a test of anything: what [`ChildProducer`] runs in its child process.
#[test]
fn child_process_producer() {
    let Some(socket) = std::env::var_os(CHILD_SOCKET) else {
        return;
    };
    let mut producer = Producer::builder("camera")
        .socket(Path::new(&socket))
        .build()
        .expect("the producer attaches");
    let claims_only = std::env::var_os(CHILD_CLAIMS).is_some();
    let spec = TensorSpec::new(Dtype::Uint8, &[8]).expect("a tensor");
    let mut said_published = false;
    let mut said_ended = false;
    loop {
        if claims_only && said_published {
            let _claim = producer.claim(&spec).expect("a claim");
            println!("claimed");
            std::thread::park_timeout(PATIENCE * 4);
            return;
        }
        match producer.publish(&[1; 8]) {
            Ok(_) if said_published => {}
            Ok(_) => {
                println!("published");
                said_published = true;
            }
            Err(ClaimError::LeaseEnded(_) | ClaimError::NotAttached) if said_ended => {}
            Err(ClaimError::LeaseEnded(_)) => {
                println!("ended");
                said_ended = true;
            }
            Err(ClaimError::NotAttached) => {}
            Err(other) => panic!("{other}"),
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn a_producer_stopped_beyond_the_grace_loses_its_place_and_learns_it_when_it_goes_on() {
    // spec: X-2-21, D-4.4-4, D-7-1
    let place = Place::new(Options {
        keepalive_ms: 100,
        ..Options::default()
    });
    let driver = Driver::start(&place);
    let child = ChildProducer::start(&place.socket(), false);
    child.wait_for("published");
    let before = driver.stream(CAMERA)["epoch"].as_u64();
    child.signal(Signal::STOP);
    driver.wait_for_stream(CAMERA, "the stopped producer has expired", |doc| {
        doc["producer"].is_null() && doc["epoch"].as_u64() > before
    });
    let next = Producer::builder("camera").socket(place.socket()).build();
    let next = next.expect("the place is free");
    child.signal(Signal::CONT);
    child.wait_for("ended");
    let pid = driver.stream(CAMERA)["producer"]["pid"].clone();
    assert_eq!(pid, std::process::id().to_string());
    drop(next);
}

#[test]
fn a_producer_killed_between_claim_and_commit_costs_nobody_anything() {
    // spec: D-4.7a-2, X-2-22, X-1-19
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut child = ChildProducer::start(&place.socket(), true);
    child.wait_for("claimed");
    let before = driver.stream(CAMERA)["epoch"].as_u64();
    child.child.kill().expect("the child runs");
    driver.wait_for_stream(CAMERA, "fenced at once", |doc| {
        doc["producer"].is_null() && doc["epoch"].as_u64() > before
    });
    let mut consumer = consumer(&place.socket());
    let load = Load::start(&place.socket());
    let mut newest = 0;
    read_until(&mut consumer, &mut newest, "frames", |_, number| {
        number > 100
    });
    drop(load);
}

#[test]
fn a_second_producer_is_told_whose_place_it_wants() {
    // spec: X-2-52
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let first = ChildProducer::start(&place.socket(), false);
    first.wait_for("published");
    let second = Producer::builder("camera")
        .socket(place.socket())
        .timeout(Duration::from_secs(2))
        .build();
    let words = second.expect_err("there is one already").to_string();
    let holder = driver.stream(CAMERA)["producer"]["client_id"].clone();
    let who = format!("that is client {holder} in process {}", first.child.id());
    assert!(words.contains(&who), "{words}");
}

#[test]
fn a_client_that_is_one_too_many_says_which_limit() {
    // spec: X-2-35, X-2-38
    let place = Place::new(Options {
        more: "[limits]\nconnections_per_uid = 1\n".to_owned(),
        ..Options::default()
    });
    let _driver = Driver::start(&place);
    let mut only = Raw::socket(&place.socket());
    only.lease(Role::Consumer, CAMERA, 7);
    let refused = Consumer::builder("camera")
        .socket(place.socket())
        .timeout(Duration::from_millis(500))
        .patient()
        .build()
        .expect_err("there is no room");
    let words = "1 connections of this uid are open, no more are allowed";
    assert!(refused.to_string().contains(words), "{refused}");
}
