//! The bus through the conformance suite, and what only the bus can be asked to do.

mod faults;
mod media_driver;
mod sockets;

use super::*;
use crate::aeron::port::{AeronClientPort, AeronServerPort, Endpoint, Endpoints};
use crate::conformance::Patience;
use crate::conformance::port::PortFixture;
use crate::conformance::pubsub::PubSubFixture;
use crate::socket::Limits;

const MS: u64 = 1_000_000;

/// Steps of a millisecond, ten seconds of virtual time at most.
fn step(bus: &Bus, waited: u32) -> Patience {
    bus.advance(MS);
    if waited < 10_000 {
        Patience::GoOn
    } else {
        Patience::GiveUp
    }
}

struct BusFixture {
    bus: Bus,
    next_stream: i32,
}

impl BusFixture {
    fn new() -> Self {
        Self {
            bus: Bus::new(1),
            next_stream: 1_000,
        }
    }

    fn delayed() -> Self {
        let fixture = Self::new();
        let delay = Faults {
            delay_min_ns: MS,
            delay_max_ns: 5 * MS,
            ..Faults::default()
        };
        fixture.bus.set_faults(delay);
        fixture
    }
}

impl PubSubFixture for BusFixture {
    type Client = BusClient;

    fn client(&mut self) -> BusClient {
        self.bus.client().unwrap()
    }

    fn channel(&self, term_length: u32) -> String {
        format!("aeron:ipc?term-length={term_length}")
    }

    fn untethered_channel(&self) -> String {
        "aeron:ipc?tether=false".to_owned()
    }

    fn fresh_stream(&mut self) -> i32 {
        self.next_stream += 1;
        self.next_stream
    }

    fn step(&mut self, waited: u32) -> Patience {
        step(&self.bus, waited)
    }
}

impl PortFixture for BusFixture {
    type Server = BusServer;
    type Client = BusConnection;

    fn server(&mut self) -> BusServer {
        self.bus.listen(&[0], Limits::default())
    }

    fn client(&mut self) -> BusConnection {
        self.bus.connect(0).unwrap()
    }

    fn now(&self) -> MonoNanos {
        self.bus.now()
    }

    fn step(&mut self, waited: u32) -> Patience {
        step(&self.bus, waited)
    }
}

mod pubsub_at_once {
    crate::pubsub_data_conformance!(super::BusFixture::new());
    crate::pubsub_lifecycle_conformance!(super::BusFixture::new());
}

mod pubsub_delayed {
    crate::pubsub_data_conformance!(super::BusFixture::delayed());
    crate::pubsub_lifecycle_conformance!(super::BusFixture::delayed());
}

mod sockets_at_once {
    crate::port_conformance!(super::BusFixture::new());
    crate::connection_port_conformance!(super::BusFixture::new());
}

mod sockets_delayed {
    crate::port_conformance!(super::BusFixture::delayed());
}

/// Aeron's ports over the bus in place of a media driver.
struct AeronFixture(BusFixture);

fn endpoints() -> Endpoints {
    let at = |stream| Endpoint::new("aeron:ipc?term-length=2m", stream);
    Endpoints {
        control: at(1_000),
        announce: at(1_001),
        qos: at(1_200),
        metadata: at(1_300),
        discovery: Some(at(7_000)),
    }
}

impl PortFixture for AeronFixture {
    type Server = AeronServerPort<BusClient>;
    type Client = AeronClientPort<BusClient>;

    fn server(&mut self) -> Self::Server {
        AeronServerPort::open(self.0.bus.client().unwrap(), endpoints()).unwrap()
    }

    fn client(&mut self) -> Self::Client {
        AeronClientPort::open(self.0.bus.client().unwrap(), endpoints(), None).unwrap()
    }

    fn now(&self) -> MonoNanos {
        self.0.bus.now()
    }

    fn step(&mut self, waited: u32) -> Patience {
        step(&self.0.bus, waited)
    }
}

mod aeron_ports_at_once {
    use super::{AeronFixture, BusFixture};
    crate::port_conformance!(AeronFixture(BusFixture::new()));
    crate::broadcast_port_conformance!(AeronFixture(BusFixture::new()));
}

mod aeron_ports_delayed {
    use super::{AeronFixture, BusFixture};
    crate::port_conformance!(AeronFixture(BusFixture::delayed()));
    crate::broadcast_port_conformance!(AeronFixture(BusFixture::delayed()));
}
