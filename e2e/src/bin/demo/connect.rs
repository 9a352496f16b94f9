//! How each process of the demo comes to its stream.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use tensorpool_client::{ClientOptions, Consumer, Notify, Producer, Start};

use crate::consume::Kind;
use crate::supervise::STREAM;

/// How long the stream may take to be there.
const PATIENCE: Duration = Duration::from_secs(15);

/// The producer, on the socket: ring consumers see its slots, and the driver relays its frames to
/// consumers on Aeron.
pub(crate) fn producer() -> Result<Producer, String> {
    let builder = Producer::builder(STREAM).timeout(PATIENCE);
    builder.build().map_err(|error| words(&error))
}

/// A consumer. The one that wants descriptors goes through Aeron, the others through the socket
/// that the environment names.
pub(crate) fn consumer(kind: Kind) -> Result<Consumer, String> {
    // Patient: on Aeron a stream can be found once its producer is there.
    let builder = Consumer::builder(STREAM)
        .from(Start::Newest)
        .timeout(PATIENCE)
        .patient();
    let builder = match kind {
        Kind::Ring | Kind::Writer => builder.notify(Notify::Ring),
        Kind::Descriptors => builder
            .client_options(on_aeron()?)
            .notify(Notify::Descriptor),
    };
    builder.build().map_err(|error| words(&error))
}

/// An error and its causes in one line.
pub(crate) fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn on_aeron() -> Result<ClientOptions, String> {
    let directory = env::var_os("TENSORPOOL_DEMO_AERON_DIR").map(PathBuf::from);
    let directory = directory.ok_or("TENSORPOOL_DEMO_AERON_DIR is not set")?;
    Ok(ClientOptions {
        aeron_dir: Some(directory),
        ..ClientOptions::default()
    })
}
