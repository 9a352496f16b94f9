//! Producers and consumers of the client crate on both ways in at once, through the failures of what
//! they stand on. Whatever happens, each frame is delivered or counted under one reason.
#![cfg(feature = "aeron")]

mod support;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::media::ExternalMediaDriver;
use support::{Driver, Mount, Options, PATIENCE, Place, wait_until};
use tensorpool_client::{
    AeronOptions, AttachError, BuildError, ClaimError, ClientId, ClientOptions, Consumer,
    ConsumerStats, DropCounter, DropReason, HugepagesPolicy, Notify, PollError, Producer,
    ProducerDrop,
};

/// The stream of a producer on the socket, and that of one on Aeron.
const CAMERA: u32 = 10_000;
const RADAR: u32 = 10_001;

fn options(media_driver: &'static str) -> Options {
    Options {
        media_driver,
        small: (1_024, 64),
        more: "[streams.radar]\nstream_id = 10001\nprofile = \"small\"\n".to_owned(),
        ..Options::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Socket,
    Aeron,
}

fn client(place: &Place, way: Way) -> ClientOptions {
    let short = |term: &str| format!("aeron:ipc?term-length={term}");
    let aeron = AeronOptions {
        control_channel: short("1m"),
        announce_stream_id: 1_000,
        qos_channel: short("256k"),
        descriptor_channel: short("256k"),
        ..AeronOptions::default()
    };
    let (socket, aeron_dir) = match way {
        Way::Socket => (Some(place.socket()), None),
        Way::Aeron => (None, Some(place.aeron_dir())),
    };
    ClientOptions {
        socket,
        aeron_dir,
        aeron,
        ..ClientOptions::default()
    }
}

fn producer(place: &Place, stream: u32, way: Way) -> Producer {
    Producer::builder(stream)
        .client_options(client(place, way))
        .timeout(PATIENCE)
        .build()
        .expect("the producer attaches")
}

/// Frames with a running number in them, at full rate while it is running.
struct Source {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(Producer, u64)>>,
}

/// One frame with its number. Whether it went out; anything but a lease that ended is a failure.
fn send(producer: &mut Producer, number: &mut u64) -> bool {
    match producer.publish(&number.to_le_bytes()) {
        Ok(_) => {
            *number += 1;
            true
        }
        Err(ClaimError::LeaseEnded(_) | ClaimError::NotAttached) => false,
        Err(other) => panic!("{other}"),
    }
}

impl Source {
    fn start(mut producer: Producer, mut number: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if !send(&mut producer, &mut number) || number.is_multiple_of(64) {
                    std::thread::yield_now();
                }
            }
            (producer, number)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn finish(mut self) -> (Producer, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        thread.join().expect("the producer saw typed errors only")
    }
}

/// What a consumer's thread tells.
#[derive(Debug, Default)]
struct Told {
    /// The number in the newest frame, plus 1.
    seen: AtomicU64,
    epoch: AtomicU64,
    ends: AtomicU64,
    stop: AtomicBool,
    stats: Mutex<Option<ConsumerStats>>,
}

/// A consumer on a thread of its own. Numbers must rise: no frame comes twice, none late.
struct Sink {
    name: String,
    way: Way,
    told: Arc<Told>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    fn start(place: &Place, stream: u32, way: Way, notify: Notify) -> Self {
        let consumer = Consumer::builder(stream)
            .client_options(client(place, way))
            .notify(notify)
            .timeout(PATIENCE)
            .build();
        let mut consumer = consumer.expect("the consumer attaches");
        let told = Arc::new(Told::default());
        let tell = Arc::clone(&told);
        let thread = std::thread::spawn(move || {
            while !tell.stop.load(Ordering::Relaxed) {
                read_one(&mut consumer, &tell);
                *tell.stats.lock().expect("nobody panics in here") = Some(consumer.stats());
            }
        });
        Self {
            name: format!("{stream} by {way:?} and {notify:?}"),
            way,
            told,
            thread: Some(thread),
        }
    }

    fn seen(&self) -> u64 {
        self.told.seen.load(Ordering::Relaxed)
    }

    fn epoch(&self) -> u64 {
        self.told.epoch.load(Ordering::Relaxed)
    }

    fn stats(&self) -> ConsumerStats {
        wait_until("statistics", || {
            let stats = *self.told.stats.lock().expect("nobody panics in there");
            stats.ok_or_else(String::new)
        })
    }
}

fn read_one(consumer: &mut Consumer, tell: &Told) {
    match consumer.wait(Duration::from_millis(2)) {
        Ok(Some(frame)) => {
            let mut bytes = [0; 8];
            if frame.copy_to(&mut bytes).is_err() {
                return;
            }
            let seen = u64::from_le_bytes(bytes) + 1;
            let before = tell.seen.swap(seen, Ordering::Relaxed);
            assert!(seen > before, "{seen} after {before}");
            tell.epoch.store(frame.epoch().get(), Ordering::Relaxed);
        }
        Ok(None) => {}
        Err(PollError::LeaseEnded(_)) => {
            tell.ends.fetch_add(1, Ordering::Relaxed);
        }
        Err(other) => panic!("{other}"),
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.told.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("joined once").join();
        if !std::thread::panicking() {
            ended.expect("the consumer saw typed errors only");
        }
    }
}

fn accounted(stats: &ConsumerStats) -> u64 {
    stats.delivered + stats.drops().map(|(_, frames)| frames).sum::<u64>()
}

/// One stream: its producer, the next number, and those who read it.
struct Line {
    producer: Option<Producer>,
    number: u64,
    sinks: Vec<Sink>,
    /// Accounted for by each sink when the count began, and the next number then.
    begin: (Vec<u64>, u64),
}

impl Line {
    fn new(producer: Producer, sinks: Vec<Sink>) -> Self {
        let mut line = Self {
            producer: Some(producer),
            number: 0,
            sinks,
            begin: (Vec::new(), 0),
        };
        line.meet();
        let accounts = line.sinks.iter().map(|sink| accounted(&sink.stats()));
        line.begin = (accounts.collect(), line.number);
        line
    }

    /// Publishes, slowly, until everybody has seen the newest frame.
    fn meet(&mut self) {
        let producer = self.producer.as_mut().expect("not under load");
        let (sinks, number) = (&self.sinks, &mut self.number);
        wait_until("everybody at the newest frame", || {
            send(producer, number);
            let deadline = Instant::now() + Duration::from_millis(20);
            while Instant::now() < deadline {
                if sinks.iter().all(|sink| sink.seen() == *number) {
                    return Ok(());
                }
                std::thread::yield_now();
            }
            let seen: Vec<_> = sinks.iter().map(|s| (&s.name, s.seen())).collect();
            Err(format!("{number}, but {seen:?}; {:?}", producer.status()))
        });
        // The statistics are told after the frame.
        wait_until("statistics of the newest frame", || {
            let all = sinks.iter().map(|sink| sink.stats());
            std::thread::park_timeout(Duration::from_millis(10));
            let again = sinks.iter().map(|sink| sink.stats());
            all.eq(again).then_some(()).ok_or_else(String::new)
        });
    }

    fn load(&mut self) -> Source {
        let producer = self.producer.take().expect("not under load");
        Source::start(producer, self.number)
    }

    fn unload(&mut self, source: Source) {
        let (producer, number) = source.finish();
        self.producer = Some(producer);
        self.number = number;
    }

    /// Each consumer has delivered or counted every frame since the count began.
    fn assert_exact(&self) {
        let published = self.number - self.begin.1;
        println!("{published} frames published");
        for (sink, begin) in self.sinks.iter().zip(&self.begin.0) {
            let stats = sink.stats();
            let ends = sink.told.ends.load(Ordering::Relaxed);
            println!("{}: {stats:?}, {ends} leases ended", sink.name);
            assert_eq!(accounted(&stats) - begin, published, "{}", sink.name);
        }
    }

    fn epochs(&self) -> Vec<u64> {
        self.sinks.iter().map(Sink::epoch).collect()
    }
}

/// A producer on each way in, and on each stream a consumer by socket, by descriptors and by the ring
/// beside Aeron.
fn both_worlds(place: &Place) -> BTreeMap<u32, Line> {
    let readers = [
        (Way::Socket, Notify::Ring),
        (Way::Aeron, Notify::Descriptor),
        (Way::Aeron, Notify::Ring),
    ];
    [(CAMERA, Way::Socket), (RADAR, Way::Aeron)]
        .into_iter()
        .map(|(stream, way)| {
            let sinks = readers.map(|(way, notify)| Sink::start(place, stream, way, notify));
            let producer = producer(place, stream, way);
            (stream, Line::new(producer, sinks.into()))
        })
        .collect()
}

/// Loads both streams, lets `harm` be done, waits until `healed` for every consumer, and counts.
fn survive(
    lines: &mut BTreeMap<u32, Line>,
    harm: impl FnOnce(),
    healed: impl Fn(u32, u64, u64) -> bool,
) {
    let before: BTreeMap<u32, Vec<u64>> = lines.iter().map(|(id, it)| (*id, it.epochs())).collect();
    let sources: Vec<_> = lines.iter_mut().map(|(id, it)| (*id, it.load())).collect();
    wait_until("load", || {
        let seen = lines.values().flat_map(|line| &line.sinks).map(Sink::seen);
        let least = seen.min().unwrap_or(0);
        (least > 2_000)
            .then_some(())
            .ok_or_else(|| least.to_string())
    });
    harm();
    let marks: Vec<u64> = lines
        .values()
        .flat_map(|line| &line.sinks)
        .map(Sink::seen)
        .collect();
    wait_until("everybody reads on", || {
        let sinks = lines.iter().flat_map(|(id, line)| {
            let before = &before[id];
            line.sinks
                .iter()
                .zip(before)
                .map(|(sink, e)| (*id, sink, *e))
        });
        let late: Vec<_> = sinks
            .zip(&marks)
            .filter(|((id, sink, epoch), mark)| {
                !healed(*id, *epoch, sink.epoch()) || sink.seen() < **mark + 1_000
            })
            .map(|((_, sink, epoch), mark)| (&sink.name, epoch, sink.epoch(), mark, sink.seen()))
            .collect();
        late.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{late:?}"))
    });
    for (id, source) in sources {
        let line = lines.get_mut(&id).expect("the same streams");
        line.unload(source);
        line.meet();
        line.assert_exact();
    }
}

/// Not a test of anything: what [`ExternalMediaDriver`] runs in its child process.
#[test]
fn child_process_media_driver() {
    support::media::serve();
}

#[test]
fn frames_cross_between_both_worlds_and_each_is_delivered_or_counted() {
    // spec: X-1-3, X-1-4, X-1-5, X-1-6, X-2-58
    let place = Place::new(options("embedded"));
    let _driver = Driver::start(&place);
    let mut lines = both_worlds(&place);
    survive(&mut lines, || {}, |_, before, now| now == before);
    for line in lines.values() {
        for sink in &line.sinks {
            assert!(sink.stats().delivered > 100, "{}", sink.name);
        }
    }
}

#[test]
fn a_driver_killed_under_load_costs_frames_that_are_counted_on_each_way_in() {
    // spec: X-2-25, X-2-26, X-2-27, D-10-2, X-1-19, X-2-69
    // The leases outlast the restart: what is published to nobody's lease is nobody's loss.
    let place = Place::new(Options {
        keepalive_ms: 5_000,
        ..options("embedded")
    });
    let driver = Driver::start(&place);
    let mut lines = both_worlds(&place);
    let mut next = None;
    survive(
        &mut lines,
        || {
            driver.kill();
            next = Some(Driver::start(&place));
        },
        |_, before, now| now > before,
    );
    let next = next.expect("a second driver");
    for (stream, line) in &lines {
        for way in [Way::Socket, Way::Aeron] {
            wait_for_reported_drops(&next, *stream, line, way);
        }
    }
    drop(lines);
    drop(next);
}

/// Waits until the driver shows, in status and metrics, what the consumers of one way have counted, to
/// the frame. Frames between two epochs are in the consumer's own count only: the protocol has no
/// counter for them.
fn wait_for_reported_drops(driver: &Driver, stream: u32, line: &Line, way: Way) {
    let sinks = line.sinks.iter().filter(|sink| sink.way == way);
    let stats: Vec<_> = sinks.map(Sink::stats).collect();
    let counted = [DropCounter::Gap, DropCounter::Late]
        .map(|counter| stats.iter().map(|it| it.counted(counter)).sum::<u64>());
    let name = if stream == CAMERA { "camera" } else { "radar" };
    let way = match way {
        Way::Socket => "socket",
        Way::Aeron => "aeron",
    };
    println!("{name} by {way}: {counted:?} frames counted as gap and late");
    let labels = format!("stream=\"{stream}\",name=\"{name}\",way=\"{way}\"");
    wait_until("the driver's count of lost frames", || {
        let metric = |reason| {
            let labels = format!("{labels},reason=\"{reason}\"");
            driver.metric(&format!("tensorpool_driver_consumer_drops{{{labels}}}"))
        };
        let doc = driver.stream(stream);
        let shown = ["gap", "late"].map(|reason| doc["drops_by_way"][way][reason].as_u64());
        let scraped = ["gap", "late"].map(metric);
        let number = |frames| u32::try_from(frames).expect("a short test");
        let as_numbers = counted.map(|frames| Some(f64::from(number(frames))));
        (shown == counted.map(Some) && scraped == as_numbers)
            .then_some(())
            .ok_or_else(|| format!("{counted:?}, status {shown:?}, metrics {scraped:?}"))
    });
}

#[test]
fn a_media_driver_killed_under_load_costs_descriptors_and_clients_come_back_by_themselves() {
    // spec: D-10-1, D-4.7-1, X-1-19, X-2-69
    let place = Place::new(options("external"));
    let media = ExternalMediaDriver::start(&place.aeron_dir());
    let _driver = Driver::start(&place);
    let mut lines = both_worlds(&place);
    let mut next = None;
    survive(
        &mut lines,
        || {
            drop(media);
            next = Some(ExternalMediaDriver::start(&place.aeron_dir()));
        },
        // The socket's producer never notices; the one on Aeron has to attach again.
        |stream, before, now| stream == CAMERA && now == before || now > before,
    );
    let producer = lines[&RADAR].producer.as_ref().expect("not under load");
    let stats = producer.stats();
    println!("{stats:?}, {:?}", producer.status());
    let unsent = [
        ProducerDrop::DescriptorFailed,
        ProducerDrop::DescriptorBackpressure,
        ProducerDrop::DescriptorNotConnected,
    ];
    let unsent: u64 = unsent.iter().map(|it| stats.dropped(*it)).sum();
    assert!(unsent > 0, "what was not sent is counted: {stats:?}");
    drop(lines);
    drop(next);
}

#[test]
fn of_two_producers_with_one_client_id_exactly_one_attaches_on_each_way_in() {
    // spec: D-4.8-4, D-5-1
    let place = Place::new(options("embedded"));
    let driver = Driver::start(&place);
    for way in [Way::Aeron, Way::Socket] {
        one_of_two_attaches(&place, &driver, way);
        driver.wait_for_stream(RADAR, "the place is free again", |doc| {
            doc["producer"].is_null()
        });
    }
}

fn one_of_two_attaches(place: &Place, driver: &Driver, way: Way) {
    let build = || {
        Producer::builder(RADAR)
            .client_options(client(place, way))
            .client_id(ClientId(7))
            .timeout(Duration::from_secs(3))
            .build()
    };
    let both = std::thread::scope(|scope| {
        let asked = [scope.spawn(build), scope.spawn(build)];
        asked.map(|it| it.join().expect("typed errors only"))
    });
    let (won, lost): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1), "{won:?} {lost:?}");
    match lost.into_iter().next().expect("one") {
        Err(error @ BuildError::TimedOut { .. }) => {
            let words = error.to_string();
            assert!(words.contains("client_id already attached"), "{words}");
            assert!(
                words.contains("leave the client id to the client"),
                "{words}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(driver.stream(RADAR)["producer"]["client_id"], 7);
    let mut won = won.into_iter().flatten().next().expect("one");
    won.publish(b"mine").expect("its lease holds");
}

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
            .args(["--exact", "child_process_consumer", "--nocapture"])
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

#[test]
fn a_media_driver_that_went_for_good_is_a_failure_with_its_directory() {
    // spec: D-10-1
    let place = Place::new(options("external"));
    let media = ExternalMediaDriver::start(&place.aeron_dir());
    let _driver = Driver::start(&place);
    let mut producer = producer(&place, RADAR, Way::Aeron);
    producer.publish(b"x").expect("attached");
    drop(media);
    let dir = place.aeron_dir().display().to_string();
    wait_until("a failure that names it", || {
        let failure = producer.status().last_failure;
        match failure.as_deref() {
            Some(error @ AttachError::Aeron { .. }) if error.to_string().contains(&dir) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    wait_until("the lease ends by its own deadline", || {
        match producer.publish(b"x") {
            Err(ClaimError::LeaseEnded(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_name_on_aeron_needs_an_epoch_and_the_error_says_so() {
    // spec: DI-3-2
    let place = Place::new(options("embedded"));
    let _driver = Driver::start(&place);
    let by_name = || {
        Consumer::builder("radar")
            .client_options(client(&place, Way::Aeron))
            .timeout(PATIENCE)
    };
    match by_name().build() {
        Err(BuildError::Attach(error)) => {
            assert_eq!(error.reason(), "no_such_stream");
            assert!(
                error.to_string().contains("ask for it by number"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    let mut producer = producer(&place, RADAR, Way::Aeron);
    // The producer has its answer before everybody has the announce.
    let consumer = by_name().patient().build();
    let mut consumer = consumer.expect("there is an epoch now");
    wait_until("a frame", || {
        producer.publish(b"x").expect("attached");
        let frame = consumer.wait(Duration::from_millis(10)).expect("attached");
        frame.map(drop).ok_or_else(String::new)
    });
    assert_eq!(consumer.stream().get(), RADAR);
}

/// The size of the pages behind an address, as the kernel has it, in kB.
fn page_kb(address: usize) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("our own memory");
    let mut is_here = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((from, to)) = range.and_then(|(from, to)| Some((hex(from)?, hex(to)?))) {
            is_here = (from..to).contains(&address);
        } else if let Some(size) = line.strip_prefix("KernelPageSize:")
            && is_here
        {
            let size = size.trim().trim_end_matches(" kB");
            return size.parse().expect("a number");
        }
    }
    panic!("nothing is mapped at {address:x}");
}

#[test]
fn frames_cross_on_hugepages_on_both_ways_and_no_other_pages_are_taken_for_them() {
    // spec: W-15.22-4, D-4.3-3
    let Some(mount) = Mount::hugetlbfs(16) else {
        return;
    };
    let place = Place::new(Options {
        base_dir: Some(mount.path().join("pool")),
        small: (16, 65_536),
        ..options("embedded")
    });
    let text = std::fs::read_to_string(place.config()).expect("written by Place");
    let wants = "[shm]\nrequire_hugepages = true\npage_size_bytes = 2097152";
    std::fs::write(place.config(), text.replace("[shm]", wants)).expect("a configuration");
    let _driver = Driver::start(&place);
    for (stream, way) in [(CAMERA, Way::Socket), (RADAR, Way::Aeron)] {
        let options = ClientOptions {
            allowed_base_dirs: vec![mount.path().to_owned()],
            ..client(&place, way)
        };
        let standard = Consumer::builder(stream)
            .client_options(options.clone())
            .hugepages(HugepagesPolicy::Standard)
            .build();
        match standard {
            Err(BuildError::Attach(error)) => {
                let words = error.to_string();
                assert!(words.contains("do not ask for standard ones"), "{words}");
            }
            other => panic!("{other:?}"),
        }
        let producer = Producer::builder(stream)
            .client_options(options.clone())
            .hugepages(HugepagesPolicy::Hugepages)
            .build();
        let mut producer = producer.expect("the producer attaches");
        let consumer = Consumer::builder(stream)
            .client_options(options)
            .hugepages(HugepagesPolicy::Hugepages)
            .notify(Notify::Ring)
            .build();
        let mut consumer = consumer.expect("the consumer attaches");
        for n in 0..100_u8 {
            let bytes = vec![n; 60_000];
            producer.publish(&bytes).expect("attached");
            let frame = consumer.wait(PATIENCE).expect("attached").expect("a frame");
            assert_eq!(frame.to_vec().expect("whole"), bytes);
        }
        let memory = consumer.memory().expect("attached").expect("mapped");
        for region in memory.regions() {
            assert_eq!(page_kb(region.as_ptr().addr()), 2_048, "{way:?}");
        }
    }
}

#[test]
fn a_client_that_wants_hugepages_is_told_that_there_are_none() {
    // spec: D-4.3-3
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let built = Producer::builder(CAMERA)
        .client_options(client(&place, Way::Socket))
        .hugepages(HugepagesPolicy::Hugepages)
        .build();
    match built {
        Err(BuildError::Attach(error)) => {
            let words = error.to_string();
            assert!(words.contains("hugetlbfs mount"), "{words}");
        }
        other => panic!("{other:?}"),
    }
}
