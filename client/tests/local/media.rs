//! A media driver in this process and a driver's port on it.

use std::path::Path;

use tensorpool_transport::aeron::media_driver::{EmbeddedMediaDriver, MediaDriverConfig};
use tensorpool_transport::aeron::port::{AeronServerPort, Endpoint, Endpoints};
use tensorpool_transport::aeron::rusteron::{RusteronClient, RusteronConfig};

pub(crate) type MediaDriver = EmbeddedMediaDriver;

/// The conventional stream ids.
pub(crate) fn listen(dir: &Path) -> (MediaDriver, AeronServerPort<RusteronClient>) {
    let driver = EmbeddedMediaDriver::start(&MediaDriverConfig::new(dir)).expect("it starts");
    let client = RusteronClient::connect(&RusteronConfig::new(dir)).expect("it is reached");
    let on = |stream| Endpoint::new("aeron:ipc?term-length=4m", stream);
    let endpoints = Endpoints {
        control: on(1_000),
        announce: on(1_001),
        qos: on(1_200),
        metadata: on(1_300),
        discovery: Some(on(7_000)),
    };
    let port = AeronServerPort::open(client, endpoints).expect("the streams open");
    (driver, port)
}
