//! What the relay costs while nobody needs it, and what a media driver that stands still costs
//! whoever is on a socket.
#![cfg(feature = "aeron")]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::frames::Frames;
use support::media::{ExternalMediaDriver, aeron_client, connect};
use support::raw::Raw;
use support::{Driver, Options, Place, wait_until};
use tensorpool_transport::pubsub::{MessageClient, Subscription};
use tensorpool_wire::{ResponseCode, Role};

const CAMERA: u32 = 10_000;
const DESCRIPTORS: (&str, i32) = ("aeron:ipc?term-length=256k", 1100);
/// A busy machine may take that long for a round trip; a wait for the media driver takes 2 s.
const UNNOTICED: Duration = Duration::from_millis(1_000);

/// Not a test of anything: what [`ExternalMediaDriver`] runs in its child process.
#[test]
fn child_process_media_driver() {
    support::media::serve();
}

/// How many publications the media driver has.
fn publications(place: &Place) -> usize {
    let dir = place.aeron_dir().join("publications");
    std::fs::read_dir(dir).expect("the media driver's").count()
}

fn wait_for_publications(place: &Place, wanted: usize) {
    wait_until("publications", || {
        let now = publications(place);
        (now == wanted)
            .then_some(())
            .ok_or_else(|| format!("{now}, not {wanted}"))
    });
}

#[test]
fn the_relay_takes_memory_only_while_a_consumer_on_aeron_holds_a_lease() {
    // spec: X-2-58
    let place = Place::new(Options::with_aeron());
    let _driver = Driver::start(&place);
    let mut aeron = aeron_client(&place);
    let before = publications(&place);
    let mut socket = Raw::socket(&place.socket());
    let producer = socket.lease(Role::Producer, CAMERA, 7);
    let mut other = Raw::socket(&place.socket());
    other.lease(Role::Consumer, CAMERA, 8);
    assert_eq!(publications(&place), before, "sockets need no descriptors");
    let consumer = aeron.lease(Role::Consumer, CAMERA, 9);
    wait_for_publications(&place, before + 1);
    assert_eq!(aeron.detach(&consumer), ResponseCode::Ok);
    wait_for_publications(&place, before);
    aeron.lease(Role::Consumer, CAMERA, 10);
    wait_for_publications(&place, before + 1);
    assert_eq!(socket.detach(&producer), ResponseCode::Ok);
    wait_for_publications(&place, before);
}

/// How often the threads of a process have gone to sleep since they began.
fn naps(process: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let of_task = |task: std::path::PathBuf| {
        // A thread may end meanwhile.
        let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.map_or(0, |number| number.trim().parse().expect("a number"))
    };
    tasks.flatten().map(|task| of_task(task.path())).sum()
}

#[test]
fn a_driver_whose_producer_nobody_on_aeron_listens_to_sleeps_most_of_the_time() {
    // The duty cycle and the media driver sleep 100 to 250 times a second each. With a relay that is
    // there for nobody it would be ten thousand.
    const MOST_PER_SECOND: f64 = 1_000.0;
    let place = Place::new(Options::with_aeron());
    let driver = Driver::start(&place);
    let mut socket = Raw::socket(&place.socket());
    let producer = socket.lease(Role::Producer, CAMERA, 7);
    let mut other = Raw::socket(&place.socket());
    other.lease(Role::Consumer, CAMERA, 8);
    wait_until("a quiet second", || {
        let (begun, before) = (Instant::now(), naps(driver.pid()));
        std::thread::park_timeout(Duration::from_secs(1));
        socket.keepalive(&producer);
        let slept = u32::try_from(naps(driver.pid()) - before).expect("one second");
        let per_second = f64::from(slept) / begun.elapsed().as_secs_f64();
        (per_second <= MOST_PER_SECOND)
            .then_some(())
            .ok_or_else(|| format!("{per_second} sleeps per second"))
    });
}

#[test]
fn a_media_driver_that_stands_still_is_noticed_by_nobody_on_a_socket() {
    // spec: X-2-58
    let place = Place::new(Options {
        media_driver: "external",
        ..Options::default()
    });
    let media = ExternalMediaDriver::start(&place.aeron_dir());
    let driver = Driver::start(&place);
    // The relay's publication is wanted as soon as a producer comes.
    let mut aeron = aeron_client(&place);
    aeron.lease(Role::Consumer, CAMERA, 8);
    let longest = || driver.metric("tensorpool_driver_longest_cycle_seconds");
    longest();

    media.signal(Signal::STOP);
    let mut socket = Raw::socket(&place.socket());
    let producer = socket.lease(Role::Producer, CAMERA, 7);
    let mut slowest = Duration::ZERO;
    let mut client = 100;
    // Until the media driver is given up, and for two attempts to find it again.
    let lost = || driver.metric("tensorpool_driver_media_driver_losses_total{reason=\"gone\"}");
    let stopped = Instant::now();
    while driver.get("/readyz").0 == 200 || stopped.elapsed() < Duration::from_secs(4) {
        assert!(stopped.elapsed() < support::PATIENCE, "never given up");
        client += 1;
        let asked = Instant::now();
        let mut passer_by = Raw::socket(&place.socket());
        let consumer = passer_by.lease(Role::Consumer, CAMERA, client);
        assert_eq!(passer_by.detach(&consumer), ResponseCode::Ok);
        slowest = slowest.max(asked.elapsed());
        socket.keepalive(&producer);
    }
    assert!(slowest < UNNOTICED, "an attach took {slowest:?}");
    let longest = longest().expect("a metric");
    assert!(
        longest < UNNOTICED.as_secs_f64(),
        "the duty cycle stood still for {longest} s"
    );
    assert_eq!(lost(), Some(1.0));

    media.signal(Signal::CONT);
    wait_until("ready again", || {
        let (code, body) = driver.get("/readyz");
        (code == 200).then_some(()).ok_or(body)
    });
    drop(aeron);
    let mut aeron = aeron_client(&place);
    aeron.lease(Role::Consumer, CAMERA, 9);
    let mut listener = connect(&place.aeron_dir());
    let mut descriptors = listener
        .add_subscription(DESCRIPTORS.0, DESCRIPTORS.1)
        .expect("a subscription");
    let mut frames = Frames::by_path(&producer, &place.base_dir());
    wait_until("descriptors of the producer that never left", || {
        frames.publish(None).ok_or("the memory is gone")?;
        listener
            .do_work(&mut |_| {})
            .map_err(|dead| dead.to_string())?;
        let heard = descriptors.poll(16, &mut |_, _| {});
        match heard.map_err(|dead| dead.to_string())? {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    });
}
