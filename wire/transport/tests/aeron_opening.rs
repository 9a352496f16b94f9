//! Publications and subscriptions that are asked for without waiting, at a media driver that answers
//! late, never, or refuses.
#![cfg(all(feature = "media-driver", feature = "rusteron"))]

mod aeron_support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tensorpool_transport::aeron::media_driver::{EmbeddedMediaDriver, MediaDriverConfig, Start};
use tensorpool_transport::aeron::port::{AeronServerPort, Endpoint, Endpoints, OpeningServerPort};
use tensorpool_transport::aeron::rusteron::RusteronClient;
use tensorpool_transport::port::{Coalesce, Destination, Outbound, ServerPort};
use tensorpool_transport::pubsub::{Dead, MessageClient, Publication};
use tensorpool_wire::{LogicalStream, MonoNanos};

use aeron_support::{
    Media, Peer, client, fast, listen, role, say, shm_dir, until, until_connected,
};

const IPC: &str = "aeron:ipc?term-length=64k";
/// Far more than a look costs on a busy machine, and less than the wait that it must not be: the
/// client's driver timeout of two seconds.
const AT_ONCE: Duration = Duration::from_millis(1_000);

fn endpoints() -> Endpoints {
    let control = Endpoint::new(IPC, 1000);
    Endpoints {
        announce: control.clone(),
        control,
        qos: Endpoint::new(IPC, 1200),
        metadata: Endpoint::new(IPC, 1300),
        discovery: Some(Endpoint::new(IPC, 7000)),
    }
}

/// What `work` returned, which must have come at once.
fn at_once<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    assert!(took < AT_ONCE, "{what} took {took:?}");
    done
}

fn poll(
    opening: &mut OpeningServerPort<RusteronClient>,
) -> Option<AeronServerPort<RusteronClient>> {
    at_once("a look at the port", || opening.poll()).expect("the media driver may still answer")
}

#[test]
fn media_driver_that_stands_still_for_a_while_costs_whoever_opens_a_port_no_time() {
    let home = shm_dir();
    let dir = home.path().join("aeron");
    let mut peer = Peer::start("media_driver", &dir);
    assert_eq!(peer.line(), "up");
    let connected = client(&dir);
    peer.signal(Signal::STOP);
    let begin = || OpeningServerPort::begin(connected, endpoints());
    let mut opening = at_once("asking", begin).expect("asked");
    for _ in 0..100 {
        assert!(poll(&mut opening).is_none(), "nobody can have answered");
    }
    peer.signal(Signal::CONT);
    let mut port = None;
    until("the port", || {
        port = poll(&mut opening);
        port.is_some()
    });
    assert!(poll(&mut opening).is_none(), "there is one port only");
    let mut port = port.expect("it came");

    let mut listener = client(&dir);
    let mut heard = listener
        .add_subscription(IPC, 1000)
        .expect("a subscription");
    let mut seen = 0;
    until("what the port says", || {
        port.poll(MonoNanos(0), &mut |_| {}).expect("it lives");
        let _unheard = port.send(&Outbound {
            to: Destination::Aeron,
            stream: LogicalStream::Announce,
            bytes: b"hello",
            coalesce: Coalesce::Never,
            fds: &[],
        });
        listener.do_work(&mut |_| {}).expect("it lives");
        seen += aeron_support::drain(&mut heard).len();
        seen > 0
    });
    peer.tell("stop");
    peer.finish();
}

#[test]
fn media_driver_that_never_answers_is_gone_after_the_driver_timeout_and_not_before() {
    let home = shm_dir();
    let dir = home.path().join("aeron");
    let mut peer = Peer::start("media_driver", &dir);
    assert_eq!(peer.line(), "up");
    let mut connected = client(&dir);
    peer.signal(Signal::STOP);
    let mut opening = connected.begin_publication(IPC, 10).expect("asked");
    let begun = Instant::now();
    let mut ended = None;
    until("the end of the wait", || {
        let worked = at_once("the conductor", || connected.do_work(&mut |_| {}));
        let polled = at_once("a look", || connected.poll_publication(&mut opening));
        ended = worked.err().or_else(|| polled.err());
        ended.is_some()
    });
    assert!(matches!(ended, Some(Dead::MediaDriver(_))), "{ended:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "given up early");
    assert!(
        connected.begin_publication(IPC, 11).is_err(),
        "the client is over"
    );
    drop(opening);
    drop(connected);
    peer.kill();
}

#[test]
fn media_driver_refuses_one_opening_and_the_client_goes_on() {
    let media = Media::fast();
    let mut connected = media.client();
    let mut opening = connected
        .begin_publication("aeron:ipc?term-length=3k", 10)
        .expect("asked");
    let mut refused = None;
    until("the refusal", || {
        connected.do_work(&mut |_| {}).expect("it lives");
        refused = connected.poll_publication(&mut opening).err();
        refused.is_some()
    });
    assert!(matches!(refused, Some(Dead::Closed(_))), "{refused:?}");
    drop(opening);
    // One that nobody looked at again is given up and disturbs nothing.
    drop(connected.begin_publication(IPC, 11).expect("asked"));
    drop(connected.begin_subscription(IPC, 11).expect("asked"));
    let publication = connected.add_publication(IPC, 12).expect("a publication");
    let _subscription = connected.add_subscription(IPC, 12).expect("a subscription");
    until_connected(&mut connected, &publication);
    assert!(publication.is_connected());
}

#[test]
fn media_driver_that_is_told_to_start_says_when_it_has() {
    let home = shm_dir();
    let dir = home.path().join("aeron");
    let begin = || EmbeddedMediaDriver::begin(&fast(&dir));
    let mut starting = Some(at_once("telling it", begin).expect("a thread"));
    let mut started = None;
    until("its start", || {
        let polled = starting.take().expect("it goes on").poll();
        match polled.expect("it starts") {
            Start::Goes(goes) => starting = Some(goes),
            Start::Done(driver) => started = Some(driver),
        }
        started.is_some()
    });
    drop(client(&dir));
    // A second one learns from its own thread that the directory is taken.
    let mut second = Some(EmbeddedMediaDriver::begin(&fast(&dir)).expect("a thread"));
    let mut refused = None;
    until("the refusal", || {
        match second.take().expect("it goes on").poll() {
            Ok(Start::Goes(goes)) => second = Some(goes),
            Ok(Start::Done(_)) => panic!("two in one directory"),
            Err(error) => refused = Some(error.reason()),
        }
        refused.is_some()
    });
    assert_eq!(refused, Some("already_running"));
    let nonsense = MediaDriverConfig {
        ipc_term_len: 1,
        ..fast(&dir)
    };
    let error = EmbeddedMediaDriver::begin(&nonsense).expect_err("a contradiction");
    assert_eq!(error.reason(), "config");
}

#[test]
#[ignore = "the other process of these tests"]
fn peer_process() {
    let (role, dir) = role().expect("started by a test of this file");
    assert_eq!(role, "media_driver");
    let driver = EmbeddedMediaDriver::start(&fast(&dir)).expect("the media driver starts");
    say("up");
    assert_eq!(listen(), "stop");
    driver.stop().expect("a clean stop");
}
