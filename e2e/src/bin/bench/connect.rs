//! How the measured producers and consumers come to their streams.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use tensorpool_client::{Client, ClientOptions, Consumer, Notify, Producer, Start};
use tensorpool_e2e::driver::LocalDriver;

/// How long a stream may take to be there.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which of the two ways in an end takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The socket, and the ring.
    Socket,
    /// Aeron, and descriptors.
    Aeron,
}

/// Where the driver is, and how each end reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    socket: PathBuf,
    aeron_directory: PathBuf,
    memory: PathBuf,
    /// How the producers go.
    pub(crate) producers: By,
    /// How the consumers go.
    pub(crate) consumers: By,
}

impl Way {
    /// To a driver of our own.
    pub(crate) fn new(driver: &LocalDriver, producers: By, consumers: By) -> Self {
        Self {
            socket: driver.socket(),
            aeron_directory: driver.aeron_directory(),
            memory: driver.memory().to_owned(),
            producers,
            consumers,
        }
    }

    /// For the command line of a peer.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let path = |path: &PathBuf| path.display().to_string();
        vec![
            path(&self.socket),
            path(&self.aeron_directory),
            path(&self.memory),
            self.producers.word().to_owned(),
            self.consumers.word().to_owned(),
        ]
    }

    /// From the command line of a peer; what follows is given back.
    pub(crate) fn parse<'a, 'b>(words: &'a [&'b str]) -> Result<(Self, &'a [&'b str]), String> {
        let [socket, aeron, memory, producers, consumers, rest @ ..] = words else {
            return Err("a peer needs socket, Aeron directory, memory and two ways".to_owned());
        };
        let way = Self {
            socket: PathBuf::from(socket),
            aeron_directory: PathBuf::from(aeron),
            memory: PathBuf::from(memory),
            producers: By::parse(producers)?,
            consumers: By::parse(consumers)?,
        };
        Ok((way, rest))
    }

    fn client(&self, by: By, stream: &str) -> Result<Client, String> {
        let mut options = ClientOptions {
            allowed_base_dirs: vec![self.memory.clone()],
            ..ClientOptions::default()
        };
        match by {
            By::Socket => options.socket = Some(self.socket.clone()),
            By::Aeron => {
                options.aeron_dir = Some(self.aeron_directory.clone());
                options.aeron.descriptor_stream_id =
                    i32::try_from(descriptors_of(stream)).map_err(|error| error.to_string())?;
            }
        }
        Client::new(options).map_err(|error| words(&error))
    }
}

impl By {
    const fn word(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Aeron => "aeron",
        }
    }

    fn parse(word: &str) -> Result<Self, String> {
        let found = [Self::Socket, Self::Aeron]
            .into_iter()
            .find(|by| by.word() == word);
        found.ok_or_else(|| format!("there is no way `{word}`"))
    }
}

/// The Aeron stream id of a stream's descriptors: there and back do not share one, as in the bare
/// reference. Nor do two series: the consumers of one rest while the other has its turn, and more
/// than some 270,000 descriptors a second beside a subscriber that rests are not without loss.
pub(crate) fn descriptors_of(stream: &str) -> u32 {
    let series = if stream.starts_with("relayed") {
        1103
    } else {
        1101
    };
    series + u32::from(stream.ends_with("-back"))
}

/// The number of a stream, from its name (FNV-1a into the static range): on Aeron a name is found
/// only once the stream has an epoch. The driver refuses its configuration if two should agree.
pub(crate) fn stream_id(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    10_000 + hash % 10_000
}

/// The producer of a stream.
pub(crate) fn producer(way: &Way, stream: &str) -> Result<Producer, String> {
    let client = way.client(way.producers, stream)?;
    let builder = Producer::builder(stream_id(stream))
        .client(&client)
        .timeout(PATIENCE);
    builder.build().map_err(|error| words(&error))
}

/// A consumer of a stream.
pub(crate) fn consumer(way: &Way, stream: &str) -> Result<Consumer, String> {
    let client = way.client(way.consumers, stream)?;
    let builder = Consumer::builder(stream_id(stream))
        .client(&client)
        .from(Start::Next)
        .timeout(PATIENCE);
    let builder = match way.consumers {
        By::Socket => builder.notify(Notify::Ring),
        By::Aeron => builder.notify(Notify::Descriptor),
    };
    let mut consumer = builder.build().map_err(|error| words(&error))?;
    // The first poll decides where it begins: what is sent after this is seen.
    consumer.next().map_err(|error| words(&error))?;
    Ok(consumer)
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
