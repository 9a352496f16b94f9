//! A consumer that is stopped.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tensorpool_client::{AeronOptions, ClientOptions, Consumer, DropReason, Notify, ProducerDrop};

use crate::support::{Driver, Options, Place, wait_until};
use crate::world::{Line, RADAR, Sink, Way, options, producer, send};

const CHILD_PLACE: &str = "TENSORPOOL_TEST_CHILD_AERON";

/// Not a test of anything: a consumer by descriptors, to be stopped.
#[test]
fn child_process_consumer() {
    let Some(dir) = std::env::var_os(CHILD_PLACE) else {
        return;
    };
    let dir = std::path::PathBuf::from(dir);
    let base = std::env::var_os("TENSORPOOL_TEST_CHILD_BASE").expect("set with the other");
    let options = ClientOptions {
        aeron_dir: Some(dir),
        aeron: AeronOptions {
            control_channel: "aeron:ipc?term-length=1m".into(),
            announce_stream_id: 1_000,
            qos_channel: "aeron:ipc?term-length=256k".into(),
            descriptor_channel: "aeron:ipc?term-length=256k".into(),
            ..AeronOptions::default()
        },
        allowed_base_dirs: vec![base.into()],
        ..ClientOptions::default()
    };
    let consumer = Consumer::builder(RADAR).client_options(options).build();
    let mut consumer = consumer.expect("the consumer attaches");
    let mut before = 0;
    loop {
        if let Ok(Some(frame)) = consumer.wait(Duration::from_millis(50)) {
            let mut bytes = [0; 8];
            if frame.copy_to(&mut bytes).is_ok() {
                let number = u64::from_le_bytes(bytes);
                assert!(number >= before, "{number} after {before}");
                before = number;
                println!("at {number}");
            }
        }
    }
}

/// A consumer in a process of its own.
struct ChildConsumer {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl ChildConsumer {
    fn start(place: &Place) -> Self {
        use std::io::{BufRead, BufReader};
        let mut child = Command::new(std::env::current_exe().expect("this test binary"))
            .args(["--exact", "stopped::child_process_consumer", "--nocapture"])
            .env(CHILD_PLACE, place.aeron_dir())
            .env("TENSORPOOL_TEST_CHILD_BASE", place.base_dir())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test binary starts");
        let out = child.stdout.take().expect("standard output is a pipe");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The highest number that it has told so far.
    fn at(&self) -> Option<u64> {
        let lines = std::iter::from_fn(|| self.lines.try_recv().ok());
        let numbers = lines.filter_map(|line| line.rsplit_once("at ")?.1.parse().ok());
        numbers.max()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("the child runs");
    }
}

impl Drop for ChildConsumer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_consumer_of_aeron_that_is_stopped_costs_nobody_else_anything_and_reads_on_later() {
    // spec: W-15.4-1, D-4.7-1
    let place = Place::new(Options {
        keepalive_ms: 200,
        ..options("embedded")
    });
    let driver = Driver::start(&place);
    let sink = Sink::start(&place, RADAR, Way::Aeron, Notify::Descriptor);
    let stopped = ChildConsumer::start(&place);
    let mut line = Line::new(producer(&place, RADAR, Way::Aeron), vec![sink]);
    let next = |line: &mut Line| {
        // Far below the rate that the window carries without loss.
        line.meet();
        line.number
    };
    wait_until("frames in the child", || {
        next(&mut line);
        stopped.at().map(drop).ok_or_else(|| "none".to_owned())
    });
    stopped.signal(Signal::STOP);
    let refused = |line: &Line| {
        let stats = line.producer.as_ref().expect("not under load").stats();
        stats.dropped(ProducerDrop::DescriptorBackpressure)
    };
    let (before, began) = (refused(&line), line.number);
    // Beyond its lease, and many more frames than the window holds.
    driver.wait_for_stream(RADAR, "the stopped one has expired", |doc| {
        doc["consumers_total"] == 1
    });
    while line.number < began + 6_000 {
        let producer = line.producer.as_mut().expect("not under load");
        assert!(send(producer, &mut line.number), "the producer goes on");
        if line.number.is_multiple_of(8) {
            line.meet();
        }
    }
    line.meet();
    assert_eq!(refused(&line), before, "no descriptor was refused");
    line.assert_exact();
    let stats = line.sinks[0].stats();
    assert_eq!(stats.dropped(DropReason::Gap), 0, "{stats:?}");
    let ended = line.number;
    while stopped.at().is_some() {}
    stopped.signal(Signal::CONT);
    wait_until("new frames in the child", || {
        next(&mut line);
        let at = stopped.at();
        (at > Some(ended))
            .then_some(())
            .ok_or_else(|| format!("{at:?}"))
    });
}
