//! The C client against a real media driver: what is delivered, and what is said when it dies.
#![cfg(all(feature = "rusteron", feature = "media-driver"))]

mod aeron_support;

use std::time::{Duration, Instant};

use aeron_support::{
    Media, Peer, client, drain, fast, listen, role, say, shm_dir, until, until_connected,
};
use tensorpool_transport::aeron::media_driver::EmbeddedMediaDriver;
use tensorpool_transport::aeron::reconnect::{Backoff, Progress, Reconnecting};
use tensorpool_transport::aeron::rusteron::{
    ConnectError, RusteronClient, RusteronConfig, RusteronPublication, RusteronSubscription,
};
use tensorpool_transport::aeron::settings::{Finding, Report, inspect};
use tensorpool_transport::pubsub::{
    Dead, ImageEvent, MessageClient, Publication, SendError, Subscription,
};
use tensorpool_wire::MonoNanos;

const IPC: &str = "aeron:ipc";

/// A message of this length that shows where it is wrong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| u8::try_from((index * 7 + len) % 251).expect("below 251"))
        .collect()
}

#[test]
fn media_driver_carries_whole_messages_of_all_lengths_both_ways() {
    let media = Media::fast();
    let mut one = media.client();
    let mut other = media.client();
    let mut there = one.add_publication(IPC, 10).expect("a publication");
    let mut here = one.add_subscription(IPC, 11).expect("a subscription");
    let mut back = other.add_publication(IPC, 11).expect("a publication");
    let mut heard = other.add_subscription(IPC, 10).expect("a subscription");
    until_connected(&mut one, &there);
    until_connected(&mut other, &back);
    until("both images", || {
        one.do_work(&mut |_| {}).expect("alive");
        other.do_work(&mut |_| {}).expect("alive");
        here.image_count() == 1 && heard.image_count() == 1
    });
    let longest = there.max_message_len();
    assert!(longest >= 128 * 1024, "a 64 KiB chunk with its head fits");
    for len in [0, 1, 48, 1376, 1377, 1408, 4096, 65_536, longest] {
        let message = pattern(len);
        for (publication, subscription) in [(&mut there, &mut heard), (&mut back, &mut here)] {
            assert_eq!(publication.offer(&message), Ok(()));
            let mut all = Vec::new();
            until("the message", || {
                all.extend(drain(subscription));
                !all.is_empty()
            });
            assert_eq!(all, [(publication.session(), message.clone())], "{len}");
        }
    }
    let too_long = pattern(longest + 1);
    assert_eq!(
        there.offer(&too_long),
        Err(SendError::TooLong {
            len: longest + 1,
            max: longest
        })
    );
    assert_eq!(heard.dropped() + here.dropped(), 0);
}

#[test]
fn media_driver_limits_hold_and_are_told_apart() {
    let media = Media::with(|config| config.ipc_term_len = 64 * 1024);
    let mut client = media.client();
    let mut publication = client.add_publication(IPC, 10).expect("a publication");
    assert_eq!(publication.offer(b"nobody"), Err(SendError::NotConnected));
    let mut subscription = client
        .add_subscription("aeron:ipc?tether=true", 10)
        .expect("a subscription");
    until_connected(&mut client, &publication);
    let mut sent = 0_u32;
    let refused = loop {
        match publication.offer(&sent.to_le_bytes()) {
            Ok(()) => sent += 1,
            Err(SendError::AdminAction) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refused, SendError::BackPressured);
    assert!(sent > 100, "a window of messages was taken: {sent}");
    let heard = drain(&mut subscription);
    let numbers: Vec<u32> = heard
        .iter()
        .map(|(_, bytes)| u32::from_le_bytes(bytes[..].try_into().expect("4 bytes")))
        .collect();
    assert_eq!(numbers, (0..sent).collect::<Vec<_>>());
    until("room again", || {
        client.do_work(&mut |_| {}).expect("alive");
        publication.offer(b"again").is_ok()
    });
}

#[test]
fn media_driver_tells_who_comes_and_goes_in_order() {
    let media = Media::fast();
    let mut here = media.client();
    let mut there = media.client();
    let subscription = here.add_subscription(IPC, 10).expect("a subscription");
    let publication = there.add_publication(IPC, 10).expect("a publication");
    let session = publication.session();
    let mut events = Vec::new();
    until("the image", || {
        here.do_work(&mut |event| events.push(event))
            .expect("alive");
        !events.is_empty()
    });
    assert_eq!(subscription.image_count(), 1);
    drop(publication);
    until("its end", || {
        there.do_work(&mut |_| {}).expect("alive");
        here.do_work(&mut |event| events.push(event))
            .expect("alive");
        events.len() > 1
    });
    let stream = 10;
    assert_eq!(
        events,
        [
            ImageEvent::Up { stream, session },
            ImageEvent::Down { stream, session }
        ]
    );
    assert_eq!(subscription.image_count(), 0);
}

fn assert_send<T: Send>() {}

#[test]
fn media_driver_handles_may_be_used_and_dropped_on_another_thread() {
    assert_send::<RusteronPublication>();
    assert_send::<RusteronSubscription>();
    let media = Media::fast();
    let mut client = media.client();
    let mut publication = client.add_publication(IPC, 10).expect("a publication");
    let mut subscription = client.add_subscription(IPC, 10).expect("a subscription");
    until_connected(&mut client, &publication);
    let data_path = std::thread::spawn(move || {
        publication.offer(b"from another thread").expect("sent");
        until("the message", || !drain(&mut subscription).is_empty());
        drop(publication);
        subscription
    });
    until("the data path", || {
        client.do_work(&mut |_| {}).expect("alive");
        data_path.is_finished()
    });
    let mut subscription = data_path.join().expect("the data path");
    until("the image's end", || {
        client.do_work(&mut |_| {}).expect("alive");
        subscription.image_count() == 0
    });
    drop(client);
    let after = subscription.poll(1, &mut |_, _| unreachable!("nothing is delivered"));
    assert!(matches!(after, Err(Dead::Closed(_))), "{after:?}");
    assert_eq!(subscription.image_count(), 0);
    std::thread::spawn(move || drop(subscription))
        .join()
        .expect("closing after the client is harmless");
    assert!(media.driver.is_running());
}

#[test]
fn media_driver_handles_that_outlive_their_client_are_closed() {
    let media = Media::fast();
    let mut client = media.client();
    let mut publication = client.add_publication(IPC, 10).expect("a publication");
    let subscription = client.add_subscription(IPC, 10).expect("a subscription");
    until_connected(&mut client, &publication);
    drop(client);
    assert!(!publication.is_connected());
    let after = publication.offer(b"too late");
    assert!(matches!(after, Err(SendError::Closed(_))), "{after:?}");
    drop(subscription);
    drop(publication);
}

#[test]
fn media_driver_that_stops_is_an_error_for_all_its_clients() {
    let media = Media::fast();
    let mut client = RusteronClient::connect(&RusteronConfig {
        dir: media.dir.clone(),
        driver_timeout: Duration::from_secs(1),
    })
    .expect("a live media driver");
    let mut publication = client.add_publication(IPC, 10).expect("a publication");
    let mut subscription = client.add_subscription(IPC, 10).expect("a subscription");
    until_connected(&mut client, &publication);
    let dir = media.dir.clone();
    media.driver.stop().expect("a clean stop");
    let mut dead = None;
    until("the client notices", || {
        dead = client.do_work(&mut |_| {}).err();
        dead.is_some()
    });
    let dead = dead.expect("waited for");
    assert!(matches!(dead, Dead::MediaDriver(_)), "{dead:?}");
    assert_eq!(
        subscription.poll(1, &mut |_, _| {}),
        Err(dead.clone()),
        "the subscription says the same"
    );
    assert_eq!(
        publication.offer(b"too late"),
        Err(SendError::Closed(dead.to_string()))
    );
    assert_eq!(
        client.add_publication(IPC, 11).err(),
        Some(dead),
        "and nothing new can be had"
    );
    let error = RusteronClient::connect(&RusteronConfig::new(dir)).expect_err("nobody is there");
    assert!(["missing", "stopped"].contains(&error.reason()), "{error}");
}

#[test]
fn media_driver_gives_up_a_stalled_client_and_takes_a_new_one() {
    let media = Media::with(|config| {
        config.client_liveness = Duration::from_secs(1);
        config.publication_unblock = Duration::from_secs(2);
    });
    let mut client = media.client();
    let mut publication = client.add_publication(IPC, 10).expect("a publication");
    let mut watcher = media.client();
    let subscription = watcher.add_subscription(IPC, 10).expect("a subscription");
    until("the image", || {
        watcher.do_work(&mut |_| {}).expect("alive");
        subscription.image_count() == 1
    });
    // Nobody drives `client` now, until the media driver has acted on its silence.
    until("the media driver gives it up", || {
        watcher.do_work(&mut |_| {}).expect("alive");
        subscription.image_count() == 0
    });
    let mut dead = None;
    until("it learns that it was given up", || {
        dead = client.do_work(&mut |_| {}).err();
        dead.is_some()
    });
    assert!(matches!(dead, Some(Dead::ClientTimeout(_))), "{dead:?}");
    assert!(matches!(
        publication.offer(b"too late"),
        Err(SendError::Closed(_))
    ));
    drop(publication);
    drop(client);
    let mut again = media.client();
    let publication = again.add_publication(IPC, 10).expect("a publication");
    until("the new image", || {
        again.do_work(&mut |_| {}).expect("alive");
        watcher.do_work(&mut |_| {}).expect("alive");
        publication.is_connected() && subscription.image_count() == 1
    });
}

#[test]
fn media_driver_refuses_a_channel_and_the_client_lives_on() {
    let media = Media::fast();
    let mut client = media.client();
    for channel in ["aeron:nonsense", "not a channel", "aeron:ipc?term-length=7"] {
        let refused = client.add_publication(channel, 10).expect_err("refused");
        assert!(refused.to_string().contains(channel), "{refused}");
    }
    let refused = client
        .add_subscription("aeron:\0", 10)
        .expect_err("refused");
    assert!(matches!(refused, Dead::Closed(_)), "{refused:?}");
    client.do_work(&mut |_| {}).expect("it lives on");
    client.add_publication(IPC, 10).expect("and works");
}

#[test]
fn media_driver_is_missing_or_its_file_is_damaged_and_connecting_says_so_at_once() {
    let media = Media::fast();
    let sound = std::fs::read(media.dir.join("cnc.dat")).expect("the real file");
    let mut wild = sound.clone();
    wild[4..8].copy_from_slice(&i32::MAX.to_le_bytes());
    let mut unset = sound.clone();
    unset[0..4].fill(0);
    let garbage: Vec<u8> = pattern(8192);
    let cases = [
        ("missing", None),
        ("not_ready", Some(&[][..])),
        ("not_ready", Some(&sound[..100])),
        ("cut_off", Some(&sound[..4096])),
        ("damaged", Some(&wild)),
        ("not_ready", Some(&unset)),
        ("version", Some(&garbage)),
    ];
    let began = Instant::now();
    for (reason, bytes) in cases {
        let home = shm_dir();
        if let Some(bytes) = bytes {
            std::fs::write(home.path().join("cnc.dat"), bytes).expect("write the file");
        }
        let error = RusteronClient::connect(&RusteronConfig::new(home.path()))
            .expect_err("there is no media driver");
        assert_eq!(error.reason(), reason, "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "nothing waits");
}

#[test]
fn media_driver_will_not_take_a_directory_in_use_nor_one_that_cannot_be() {
    let media = Media::fast();
    let error = EmbeddedMediaDriver::start(&fast(&media.dir)).expect_err("it is in use");
    assert_eq!(error.reason(), "already_running", "{error}");
    let mut client = media.client();
    client.do_work(&mut |_| {}).expect("the first one lives on");
    let error = EmbeddedMediaDriver::start(&fast("/proc/no/such".as_ref()))
        .expect_err("no directory can be made there");
    assert_eq!(error.reason(), "library", "{error}");
    assert!(error.to_string().contains("/proc/no/such"), "{error}");
}

/// A publication, a subscription and the client that they belong to; dropped in this order.
struct Loop {
    publication: RusteronPublication,
    subscription: RusteronSubscription,
    client: RusteronClient,
}

impl Loop {
    fn build(config: &RusteronConfig) -> Result<Self, ConnectError> {
        let mut client = RusteronClient::connect(config)?;
        let open = |client: &mut RusteronClient| {
            Ok::<_, Dead>((
                client.add_publication(IPC, 10)?,
                client.add_subscription(IPC, 10)?,
            ))
        };
        let (publication, subscription) =
            open(&mut client).map_err(|dead| ConnectError::Library {
                what: "handles",
                message: dead.to_string(),
            })?;
        Ok(Self {
            publication,
            subscription,
            client,
        })
    }

    /// One cycle: sends a message, counts what comes back.
    fn turn(&mut self) -> Result<usize, Dead> {
        self.client.do_work(&mut |_| {})?;
        let _refused_while_connecting = self.publication.offer(b"turn");
        self.subscription.poll(64, &mut |_, _| {})
    }
}

#[test]
fn media_driver_killed_under_load_is_an_error_and_the_client_comes_back_with_the_next_one() {
    let home = shm_dir();
    let dir = home.path().join("aeron");
    let mut peer = Peer::start("media_driver", &dir);
    assert_eq!(peer.line(), "up");
    let config = RusteronConfig {
        dir: dir.clone(),
        driver_timeout: Duration::from_secs(1),
    };
    let began = Instant::now();
    let now = || MonoNanos(u64::try_from(began.elapsed().as_nanos()).expect("a short test"));
    let mut line = Reconnecting::new(Backoff::default(), || Loop::build(&config));
    for round in 1..=3 {
        let mut heard = 0;
        until("a hundred messages", || {
            match line.poll(now()) {
                Progress::Up | Progress::Built { .. } => {}
                Progress::Failed { .. } | Progress::Waiting { .. } => return false,
            }
            heard += line.get().expect("it is up").turn().expect("it is alive");
            heard >= 100
        });
        assert_eq!(line.built(), round);
        peer.kill();
        let mut dead = None;
        until("the death is noticed", || {
            dead = line.get().expect("still there").turn().err();
            dead.is_some()
        });
        assert!(matches!(dead, Some(Dead::MediaDriver(_))), "{dead:?}");
        line.lost(now());
        until("one attempt without a media driver", || {
            matches!(line.poll(now()), Progress::Failed { .. })
        });
        peer = Peer::start("media_driver", &dir);
        assert_eq!(peer.line(), "up");
    }
    peer.tell("stop");
    peer.finish();
}

#[test]
fn media_driver_connected_and_left_fifty_times_leaves_nothing_behind() {
    let media = Media::fast();
    let maps = || {
        let all = std::fs::read_to_string("/proc/self/maps").expect("this process's maps");
        let dir = media.dir.to_str().expect("a plain path");
        all.lines().filter(|line| line.contains(dir)).count()
    };
    let before = maps();
    for _ in 0..50 {
        let mut client = client(&media.dir);
        let publication = client.add_publication(IPC, 10).expect("a publication");
        let subscription = client.add_subscription(IPC, 10).expect("a subscription");
        until_connected(&mut client, &publication);
        drop((publication, subscription));
    }
    until("all mappings of clients to go", || maps() <= before + 8);
}

/// What [`inspect`] says of each setting: right, wrong or unread.
fn findings(report: &Report) -> Vec<(&'static str, &'static str)> {
    let word = |finding: &Finding| match finding {
        Finding::Right { .. } => "right",
        Finding::Wrong { .. } => "wrong",
        Finding::Unread { .. } => "unread",
    };
    report
        .settings
        .iter()
        .map(|setting| (setting.name, word(&setting.finding)))
        .collect()
}

#[test]
fn media_driver_settings_are_read_where_they_show_and_named_where_they_do_not() {
    let home = shm_dir();
    let dir = home.path().join("aeron");
    let env = [
        ("AERON_TETHER_SUBSCRIPTIONS", "false"),
        ("AERON_TIMER_INTERVAL", "1s"),
    ];
    let mut peer = Peer::start_with("media_driver", &dir, &env);
    assert_eq!(peer.line(), "up");
    let report = inspect(&dir).expect("a live media driver");
    assert_eq!(report.cnc.pid, i64::from(peer.pid()));
    assert_eq!(
        findings(&report),
        [
            ("AERON_TETHER_SUBSCRIPTIONS", "right"),
            ("AERON_TIMER_INTERVAL", "wrong"),
            ("AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT", "unread"),
            ("AERON_UNTETHERED_RESTING_TIMEOUT", "unread"),
            // The fast settings of these tests: 2 s and 1 MiB.
            ("AERON_CLIENT_LIVENESS_TIMEOUT", "wrong"),
            ("AERON_PUBLICATION_UNBLOCK_TIMEOUT", "unread"),
            ("AERON_CLIENTS_BUFFER_LENGTH", "wrong"),
            ("AERON_TERM_BUFFER_SPARSE_FILE", "unread"),
        ]
    );
    let warning = report.warning().expect("seven settings are not right");
    for (name, word) in findings(&report) {
        assert_eq!(warning.contains(name), word != "right", "{name}: {warning}");
    }
    peer.kill();
    let report = inspect(&dir).expect("its file is still there");
    let unread = findings(&report)
        .iter()
        .filter(|(_, word)| *word == "unread")
        .count();
    assert_eq!(unread, 6, "nothing of a dead process is believed");
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
