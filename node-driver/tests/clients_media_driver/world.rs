//! Two streams, a producer on each way in, and consumers that tell what they saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tensorpool_client::{
    AeronOptions, ClaimError, ClientOptions, Consumer, ConsumerStats, Notify, PollError, Producer,
};

use crate::support::{Options, PATIENCE, Place, wait_until};

/// The stream of a producer on the socket, and that of one on Aeron.
pub(crate) const CAMERA: u32 = 10_000;
pub(crate) const RADAR: u32 = 10_001;

pub(crate) fn options(media_driver: &'static str) -> Options {
    Options {
        media_driver,
        small: (1_024, 64),
        more: "[streams.radar]\nstream_id = 10001\nprofile = \"small\"\n".to_owned(),
        ..Options::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Socket,
    Aeron,
}

pub(crate) fn client(place: &Place, way: Way) -> ClientOptions {
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

pub(crate) fn producer(place: &Place, stream: u32, way: Way) -> Producer {
    Producer::builder(stream)
        .client_options(client(place, way))
        .timeout(PATIENCE)
        .build()
        .expect("the producer attaches")
}

/// Frames with a running number in them, at full rate while it is running.
pub(crate) struct Source {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(Producer, u64)>>,
}

/// One frame with its number. Whether it went out; anything but a lease that ended is a failure.
pub(crate) fn send(producer: &mut Producer, number: &mut u64) -> bool {
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
    pub(crate) fn start(mut producer: Producer, mut number: u64) -> Self {
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

    pub(crate) fn finish(mut self) -> (Producer, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        thread.join().expect("the producer saw typed errors only")
    }
}

/// What a consumer's thread tells.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The number in the newest frame, plus 1.
    pub(crate) seen: AtomicU64,
    pub(crate) epoch: AtomicU64,
    pub(crate) ends: AtomicU64,
    pub(crate) stop: AtomicBool,
    pub(crate) stats: Mutex<Option<ConsumerStats>>,
}

/// A consumer on a thread of its own. Numbers must rise: no frame comes twice, none late.
pub(crate) struct Sink {
    pub(crate) name: String,
    pub(crate) way: Way,
    pub(crate) told: Arc<Told>,
    pub(crate) thread: Option<JoinHandle<()>>,
}

impl Sink {
    pub(crate) fn start(place: &Place, stream: u32, way: Way, notify: Notify) -> Self {
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

    pub(crate) fn seen(&self) -> u64 {
        self.told.seen.load(Ordering::Relaxed)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.told.epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self) -> ConsumerStats {
        wait_until("statistics", || {
            let stats = *self.told.stats.lock().expect("nobody panics in there");
            stats.ok_or_else(String::new)
        })
    }
}

pub(crate) fn read_one(consumer: &mut Consumer, tell: &Told) {
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

pub(crate) fn accounted(stats: &ConsumerStats) -> u64 {
    stats.delivered + stats.drops().map(|(_, frames)| frames).sum::<u64>()
}

/// One stream: its producer, the next number, and those who read it.
pub(crate) struct Line {
    pub(crate) producer: Option<Producer>,
    pub(crate) number: u64,
    pub(crate) sinks: Vec<Sink>,
    /// Accounted for by each sink when the count began, and the next number then.
    pub(crate) begin: (Vec<u64>, u64),
}

impl Line {
    pub(crate) fn new(producer: Producer, sinks: Vec<Sink>) -> Self {
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
    pub(crate) fn meet(&mut self) {
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

    pub(crate) fn load(&mut self) -> Source {
        let producer = self.producer.take().expect("not under load");
        Source::start(producer, self.number)
    }

    pub(crate) fn unload(&mut self, source: Source) {
        let (producer, number) = source.finish();
        self.producer = Some(producer);
        self.number = number;
    }

    /// Each consumer has delivered or counted every frame since the count began.
    pub(crate) fn assert_exact(&self) {
        let published = self.number - self.begin.1;
        println!("{published} frames published");
        for (sink, begin) in self.sinks.iter().zip(&self.begin.0) {
            let stats = sink.stats();
            let ends = sink.told.ends.load(Ordering::Relaxed);
            println!("{}: {stats:?}, {ends} leases ended", sink.name);
            assert_eq!(accounted(&stats) - begin, published, "{}", sink.name);
        }
    }

    pub(crate) fn epochs(&self) -> Vec<u64> {
        self.sinks.iter().map(Sink::epoch).collect()
    }
}

/// A producer on each way in, and on each stream a consumer by socket, by descriptors and by the ring
/// beside Aeron.
pub(crate) fn both_worlds(place: &Place) -> BTreeMap<u32, Line> {
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
pub(crate) fn survive(
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
