//! The conformance suite over Aeron, against a real media driver.
#![cfg(all(feature = "media-driver", feature = "conformance"))]

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

#[cfg(feature = "rusteron")]
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

#[cfg(feature = "rusteron")]
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
