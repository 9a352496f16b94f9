//! What the adapter costs: 48-byte round trips over Aeron IPC between two threads, through the traits
//! and on the bare binding, interleaved in one run.
//!
//! `cargo run --release -p tensorpool-transport --features rusteron,media-driver --example
//! aeron_round_trip` prints the median of each round's medians and their ratio.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusteron_client::{Aeron, AeronContext, AeronHeader, Handler, Handlers};
use tensorpool_transport::aeron::media_driver::{
    EmbeddedMediaDriver, MediaDriverConfig, Threading,
};
use tensorpool_transport::aeron::rusteron::{RusteronClient, RusteronConfig};
use tensorpool_transport::pubsub::{MessageClient, Publication, Subscription};

const CHANNEL: &str = "aeron:ipc?term-length=1m";
const LIMIT: Duration = Duration::from_secs(5);
const ROUNDS: usize = 15;
const TRIPS: usize = 20_000;
const WARM_UP: usize = 2_000;

/// One end: sends 48 bytes, reads how many messages came, keeps its client alive.
trait End {
    fn send(&mut self, message: &[u8; 48]) -> bool;
    fn receive(&mut self, into: &mut [u8; 48]) -> bool;
    fn work(&mut self);
}

struct ThroughTraits {
    publication: <RusteronClient as MessageClient>::Publication,
    subscription: <RusteronClient as MessageClient>::Subscription,
    client: RusteronClient,
}

impl ThroughTraits {
    fn open(dir: &str, sends: i32, hears: i32) -> Self {
        let mut client = RusteronClient::connect(&RusteronConfig::new(dir)).expect("connect");
        Self {
            publication: client.add_publication(CHANNEL, sends).expect("publish"),
            subscription: client.add_subscription(CHANNEL, hears).expect("subscribe"),
            client,
        }
    }
}

impl End for ThroughTraits {
    fn send(&mut self, message: &[u8; 48]) -> bool {
        self.publication.offer(message).is_ok()
    }

    fn receive(&mut self, into: &mut [u8; 48]) -> bool {
        let mut copy = |bytes: &[u8], _| into.copy_from_slice(bytes);
        self.subscription.poll(1, &mut copy).expect("alive") == 1
    }

    fn work(&mut self) {
        self.client.do_work(&mut |_| {}).expect("alive");
    }
}

struct Bare<F> {
    publication: rusteron_client::AeronExclusivePublication,
    subscription: rusteron_client::AeronSubscription,
    handler: Handler<F>,
    last: Arc<std::sync::Mutex<[u8; 48]>>,
    aeron: Aeron,
}

fn bare(dir: &str, sends: i32, hears: i32) -> Bare<impl FnMut(&[u8], AeronHeader)> {
    let context = AeronContext::new().expect("context");
    let dir = CString::new(dir).expect("plain");
    context.set_dir(&dir).expect("dir");
    context.set_use_conductor_agent_invoker(true).expect("mode");
    let aeron = Aeron::new(&context).expect("connect");
    aeron.start().expect("start");
    let uri = CString::new(CHANNEL).expect("plain");
    let publication = aeron
        .add_exclusive_publication(&uri, sends, LIMIT)
        .expect("publish");
    let subscription = aeron
        .add_subscription(&uri, hears, Handlers::NONE, Handlers::NONE, LIMIT)
        .expect("subscribe");
    let last = Arc::new(std::sync::Mutex::new([0; 48]));
    let kept = Arc::clone(&last);
    let handler = Handler::new(move |bytes: &[u8], _: AeronHeader| {
        kept.lock().expect("one thread").copy_from_slice(bytes);
    });
    Bare {
        publication,
        subscription,
        handler,
        last,
        aeron,
    }
}

impl<F: FnMut(&[u8], AeronHeader)> End for Bare<F> {
    fn send(&mut self, message: &[u8; 48]) -> bool {
        self.publication.offer(message).is_ok()
    }

    fn receive(&mut self, into: &mut [u8; 48]) -> bool {
        let read = self.subscription.poll(Some(&self.handler), 1);
        if read.expect("alive") == 0 {
            return false;
        }
        *into = *self.last.lock().expect("one thread");
        true
    }

    fn work(&mut self) {
        self.aeron.main_do_work().expect("alive");
    }
}

fn echo(mut end: impl End, stop: &AtomicBool) {
    let mut message = [0; 48];
    let mut spins = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        if end.receive(&mut message) {
            while !end.send(&message) {
                end.work();
            }
        }
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(4096) {
            end.work();
        }
    }
}

/// Nanoseconds of the median round trip.
fn round(end: &mut impl End) -> u64 {
    let mut times = Vec::with_capacity(TRIPS);
    let mut message = [7; 48];
    for trip in 0..WARM_UP + TRIPS {
        if trip % 4096 == 0 {
            end.work();
        }
        let began = Instant::now();
        while !end.send(&message) {
            end.work();
        }
        let mut spins = 0_u32;
        while !end.receive(&mut message) {
            spins += 1;
            if spins.is_multiple_of(4096) {
                end.work();
            }
        }
        if trip >= WARM_UP {
            times.push(u64::try_from(began.elapsed().as_nanos()).expect("short"));
        }
    }
    times.sort_unstable();
    times[times.len() / 2]
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

fn main() {
    let home = tempfile::Builder::new()
        .prefix("tensorpool-rtt-")
        .tempdir_in("/dev/shm")
        .expect("a directory in /dev/shm");
    let dir = home.path().join("aeron");
    let mut config = MediaDriverConfig::new(&dir);
    config.threading = Threading::Shared;
    let driver = EmbeddedMediaDriver::start(&config).expect("media driver");
    let dir = dir.to_str().expect("a plain path").to_owned();
    let stop = AtomicBool::new(false);
    let (mut traits, mut binding) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        let streams = i32::try_from(number * 4).expect("small");
        // One pair at a time: two spinning echoes would share a core.
        std::thread::scope(|scope| {
            stop.store(false, Ordering::Relaxed);
            let (dir, stop) = (&dir, &stop);
            scope.spawn(move || echo(ThroughTraits::open(dir, streams, streams + 1), stop));
            let mut end = ThroughTraits::open(dir, streams + 1, streams);
            traits.push(round(&mut end));
            stop.store(true, Ordering::Relaxed);
        });
        std::thread::scope(|scope| {
            stop.store(false, Ordering::Relaxed);
            let (dir, stop) = (&dir, &stop);
            scope.spawn(move || echo(bare(dir, streams + 2, streams + 3), stop));
            let mut end = bare(dir, streams + 3, streams + 2);
            binding.push(round(&mut end));
            stop.store(true, Ordering::Relaxed);
        });
    }
    driver.stop().expect("a clean stop");
    let best = |values: &[u64]| values.iter().copied().min().unwrap_or(0);
    println!(
        "best round: traits {} ns, binding {} ns",
        best(&traits),
        best(&binding)
    );
    let (traits, binding) = (median(traits), median(binding));
    let percent = u128::from(traits) * 100 / u128::from(binding.max(1));
    println!("median round: traits {traits} ns, binding {binding} ns, {percent} % of the binding");
}
