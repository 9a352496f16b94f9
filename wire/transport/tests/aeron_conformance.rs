//! The conformance suite over Aeron, against a real media driver.
#![cfg(all(
    feature = "rusteron",
    feature = "media-driver",
    feature = "conformance"
))]

mod aeron_support;

use std::time::Duration;

use tensorpool_transport::conformance::Patience;

/// A moment for the media driver; gives up after about twenty seconds.
fn wait(waited: u32) -> Patience {
    std::thread::sleep(Duration::from_micros(200));
    if waited < 100_000 {
        Patience::GoOn
    } else {
        Patience::GiveUp
    }
}

mod media_driver_rusteron {
    use super::aeron_support::Media;
    use super::wait;
    use tensorpool_transport::aeron::rusteron::RusteronClient;
    use tensorpool_transport::conformance::{Patience, pubsub::PubSubFixture};

    struct Fixture {
        media: Media,
        streams: i32,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                media: Media::fast(),
                streams: 1000,
            }
        }
    }

    impl PubSubFixture for Fixture {
        type Client = RusteronClient;

        fn client(&mut self) -> RusteronClient {
            self.media.client()
        }

        // Tethered, so that a test that waits for its turn loses nothing.
        fn channel(&self, term_length: u32) -> String {
            format!("aeron:ipc?term-length={term_length}|tether=true")
        }

        fn untethered_channel(&self) -> String {
            "aeron:ipc".to_owned()
        }

        fn fresh_stream(&mut self) -> i32 {
            self.streams += 1;
            self.streams
        }

        fn step(&mut self, waited: u32) -> Patience {
            wait(waited)
        }
    }

    tensorpool_transport::pubsub_data_conformance!(Fixture::new());
    tensorpool_transport::pubsub_lifecycle_conformance!(Fixture::new());
}

mod media_driver_rusteron_ports {
    use std::time::Instant;

    use super::aeron_support::Media;
    use super::wait;
    use tensorpool_transport::aeron::port::{
        AeronClientPort, AeronServerPort, Endpoint, Endpoints,
    };
    use tensorpool_transport::aeron::rusteron::RusteronClient;
    use tensorpool_transport::conformance::{Patience, port::PortFixture};
    use tensorpool_wire::MonoNanos;

    struct Fixture {
        media: Media,
        began: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                media: Media::fast(),
                began: Instant::now(),
            }
        }
    }

    fn endpoints() -> Endpoints {
        let at = |stream| Endpoint::new("aeron:ipc?term-length=1m", stream);
        Endpoints {
            control: at(1000),
            announce: at(1001),
            qos: at(1200),
            metadata: at(1300),
            discovery: Some(at(7000)),
        }
    }

    impl PortFixture for Fixture {
        type Server = AeronServerPort<RusteronClient>;
        type Client = AeronClientPort<RusteronClient>;

        fn server(&mut self) -> Self::Server {
            AeronServerPort::open(self.media.client(), endpoints()).expect("the ports open")
        }

        fn client(&mut self) -> Self::Client {
            let answers = Some(Endpoint::new("aeron:ipc", 7004));
            AeronClientPort::open(self.media.client(), endpoints(), answers)
                .expect("the ports open")
        }

        fn now(&self) -> MonoNanos {
            let nanos = self.began.elapsed().as_nanos();
            MonoNanos(u64::try_from(nanos).expect("a short test"))
        }

        fn step(&mut self, waited: u32) -> Patience {
            std::thread::sleep(std::time::Duration::from_millis(1));
            wait(waited.saturating_mul(5))
        }
    }

    tensorpool_transport::port_conformance!(Fixture::new());
    tensorpool_transport::broadcast_port_conformance!(Fixture::new());
}

/// The lower layer. The upper one and the failure cases are for the C client only, see
/// [`media_driver_aeron_rs_not_supported`].
#[cfg(feature = "aeron-rs")]
mod media_driver_aeron_rs {
    use std::time::Duration;

    use super::aeron_support::{Media, until, until_connected};
    use super::wait;
    use tensorpool_transport::aeron::aeron_rs::{AeronConfig, AeronRsClient};
    use tensorpool_transport::conformance::{Patience, pubsub::PubSubFixture};
    use tensorpool_transport::pubsub::{MessageClient, Publication, SendError, Subscription};

    struct Fixture {
        media: Media,
        streams: i32,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                media: Media::fast(),
                streams: 1000,
            }
        }
    }

    impl PubSubFixture for Fixture {
        type Client = AeronRsClient;

        fn client(&mut self) -> AeronRsClient {
            AeronRsClient::connect(&AeronConfig::new(&self.media.dir)).expect("a live media driver")
        }

        fn channel(&self, term_length: u32) -> String {
            format!("aeron:ipc?term-length={term_length}|tether=true")
        }

        fn untethered_channel(&self) -> String {
            "aeron:ipc".to_owned()
        }

        fn fresh_stream(&mut self) -> i32 {
            self.streams += 1;
            self.streams
        }

        fn step(&mut self, waited: u32) -> Patience {
            wait(waited)
        }
    }

    tensorpool_transport::pubsub_data_conformance!(Fixture::new());
    tensorpool_transport::pubsub_lifecycle_conformance!(Fixture::new());

    #[test]
    fn a_media_driver_that_stops_is_an_error_of_the_next_cycles() {
        let media = Media::fast();
        let mut config = AeronConfig::new(&media.dir);
        config.driver_timeout = Duration::from_secs(1);
        let mut client = AeronRsClient::connect(&config).expect("a live media driver");
        let mut publication = client
            .add_publication("aeron:ipc", 10)
            .expect("a publication");
        let mut subscription = client
            .add_subscription("aeron:ipc", 10)
            .expect("a subscription");
        until_connected(&mut client, &publication);
        media.driver.stop().expect("a clean stop");
        let mut dead = None;
        until("the client notices", || {
            dead = client.do_work(&mut |_| {}).err();
            dead.is_some()
        });
        let dead = dead.expect("waited for");
        assert_eq!(subscription.poll(1, &mut |_, _| {}), Err(dead.clone()));
        assert_eq!(
            publication.offer(b"too late"),
            Err(SendError::Closed(dead.to_string()))
        );
        assert_eq!(client.add_publication("aeron:ipc", 11).err(), Some(dead));
        let error = AeronRsClient::connect(&config).expect_err("nobody is there");
        assert!(["missing", "stopped"].contains(&error.reason()), "{error}");
    }

    #[test]
    fn a_channel_that_would_panic_inside_is_refused() {
        let media = Media::fast();
        let config = AeronConfig::new(&media.dir);
        let mut client = AeronRsClient::connect(&config).expect("a live media driver");
        let long = format!("aeron:ipc?alias={}", "x".repeat(500));
        let refused = client.add_publication(&long, 10).expect_err("refused");
        assert!(refused.to_string().contains("at most 440"), "{refused}");
        client.do_work(&mut |_| {}).expect("it lives on");
    }
}

/// What the pure Rust client cannot hold: cases of `aeron_media_driver.rs` and `aeron_ports.rs`, by
/// name, with the reason.
#[cfg(feature = "aeron-rs")]
mod media_driver_aeron_rs_not_supported {
    const CASES: [(&str, &str); 7] = [
        (
            "media_driver_handles_may_be_used_and_dropped_on_another_thread",
            "its publication is not Send, and every drop takes the conductor's lock",
        ),
        (
            "media_driver_gives_up_a_stalled_client_and_takes_a_new_one",
            "its conductor goes on reporting after it has closed, and a second invoke after a lapped broadcast panics",
        ),
        (
            "media_driver_killed_under_load_is_an_error_and_the_client_comes_back_with_the_next_one",
            "offers succeed until the window is full and only do_work notices; each new client leaks the mappings of the old one",
        ),
        (
            "media_driver_connected_and_left_fifty_times_leaves_nothing_behind",
            "its conductor holds a reference to itself, is never dropped and never says goodbye to the media driver",
        ),
        (
            "media_driver_refuses_a_channel_and_the_client_lives_on",
            "a channel beyond 440 bytes panics inside with a poisoned lock, so only its length is refused here",
        ),
        (
            "media_driver_killed_under_both_ends_is_an_error_and_both_come_back",
            "the ports need all of the above",
        ),
        (
            "media_driver_is_not_asked_for_more_than_a_bounded_number_of_answer_streams",
            "every publication ever opened stays mapped while the process lives, so no number is a bound",
        ),
    ];

    #[test]
    fn every_case_that_is_not_supported_is_a_test_of_the_c_client() {
        let of_the_c_client = concat!(
            include_str!("aeron_media_driver.rs"),
            include_str!("aeron_ports.rs")
        );
        for (case, reason) in CASES {
            assert!(of_the_c_client.contains(&format!("fn {case}()")), "{case}");
            println!("not supported by aeron-rs: {case}: {reason}");
        }
    }
}
