//! Questions to the running driver over its socket: `status` and `discover`.
//!
//! Each question has a connection of its own: the driver closes those that do not attach after five
//! seconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tensorpool_transport::port::ClientPort;
use tensorpool_transport::pubsub::{Dead, SendError};
use tensorpool_transport::socket::{ConnectError, SocketClient};
use tensorpool_wire::{
    ClientId, DiscoveryRequest, DiscoveryResponse, DiscoveryResult, DiscoveryStatus, LogicalStream,
    Message,
};

use crate::status::{END, StreamDocument};

/// Longest sleep between two looks at a connection.
const LOOK_MS: i64 = 50;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody there.
    #[error("is the driver running? name its socket with --socket or TENSORPOOL_SOCKET")]
    Connect(#[from] ConnectError),
    /// The question was not sent.
    #[error("the driver at {path} does not take the question")]
    Send {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: SendError,
    },
    /// The driver ended the conversation.
    #[error("the driver at {path} ended the conversation")]
    Ended {
        /// The socket.
        path: PathBuf,
        /// Its last words.
        #[source]
        source: Dead,
    },
    /// It took too long.
    #[error("the driver at {path} has not answered within {timeout_ms} ms")]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long.
        timeout_ms: u128,
    },
    /// Not what was asked for.
    #[error("the driver at {path} answered what this version does not understand: {what}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// The driver refused.
    #[error("the driver refused: {0}")]
    Refused(String),
    /// Nowhere to print.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

/// One question and its answer.
struct Question<'a> {
    path: &'a Path,
    timeout: Duration,
    client: SocketClient,
}

impl<'a> Question<'a> {
    fn ask(
        path: &'a Path,
        timeout: Duration,
        stream: LogicalStream,
        body: &[u8],
    ) -> Result<Self, AskError> {
        let mut client = SocketClient::connect(path)?;
        client.send(stream, body).map_err(|source| AskError::Send {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path,
            timeout,
            client,
        })
    }

    /// Hands every packet to `take` until that says it was the last.
    fn answer(
        &mut self,
        mut take: impl FnMut(LogicalStream, &[u8]) -> Result<bool, String>,
    ) -> Result<(), AskError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let mut finished = Ok(false);
            let polled = self.client.poll(&mut |inbound| {
                if matches!(finished, Ok(false)) {
                    finished = take(inbound.stream, inbound.bytes);
                }
            });
            match finished {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(what) => {
                    return Err(AskError::Answer {
                        path: self.path.to_owned(),
                        what,
                    });
                }
            }
            polled.map_err(|source| AskError::Ended {
                path: self.path.to_owned(),
                source,
            })?;
            if Instant::now() >= deadline {
                return Err(AskError::Timeout {
                    path: self.path.to_owned(),
                    timeout_ms: self.timeout.as_millis(),
                });
            }
            self.wait();
        }
    }

    fn wait(&self) {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK_MS * 1_000_000,
        };
        let Some(fd) = self.client.wait_fd() else {
            return;
        };
        // Interrupted or not: the next look tells.
        let _woken = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
    }
}

/// The driver's status, document by document as it came.
///
/// # Errors
/// [`AskError`].
pub(crate) fn status(path: &Path, timeout: Duration) -> Result<Vec<String>, AskError> {
    let mut question = Question::ask(path, timeout, LogicalStream::Status, b"")?;
    let mut documents = Vec::new();
    question.answer(|_, bytes| {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        if text == END {
            return Ok(true);
        }
        documents.push(text.to_owned());
        Ok(false)
    })?;
    Ok(documents)
}

/// The streams of this name.
///
/// # Errors
/// [`AskError`].
pub(crate) fn discover(
    path: &Path,
    timeout: Duration,
    name: &str,
) -> Result<Vec<DiscoveryResult>, AskError> {
    let request_id = u64::from(std::process::id());
    // spec: X-2-40
    let request = DiscoveryRequest {
        request_id,
        client_id: ClientId(std::process::id()),
        response_stream_id: 1,
        stream_id: None,
        producer_id: None,
        data_source_id: None,
        tags: Vec::new(),
        response_channel: "socket".to_owned(),
        data_source_name: name.to_owned(),
    };
    let bytes = Message::from(request).encode();
    let mut question = Question::ask(path, timeout, LogicalStream::Discovery, &bytes)?;
    let mut found: Option<DiscoveryResponse> = None;
    question.answer(|_, bytes| match Message::decode(bytes) {
        // spec: DI-5.2-8
        Ok(Message::DiscoveryResponse(response)) if response.request_id == request_id => {
            found = Some(response);
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) => Err(error.to_string()),
    })?;
    match found {
        Some(response) if response.status == DiscoveryStatus::Ok => Ok(response.results),
        Some(response) => Err(AskError::Refused(response.error_message)),
        None => Ok(Vec::new()),
    }
}

/// The client ids that whoever holds this socket may use on Aeron, as `FIRST-LAST`.
///
/// # Errors
/// [`AskError`].
// spec: X-2-75
pub(crate) fn client_ids(path: &Path, timeout: Duration) -> Result<Option<String>, AskError> {
    let results = match discover(path, timeout, "") {
        // There is no stream to be seen.
        Err(AskError::Refused(text)) if text.is_empty() => Vec::new(),
        results => results?,
    };
    let mut tags = results.iter().flat_map(|result| &result.tags);
    let ids = tags.find_map(|tag| tag.strip_prefix("client_ids="));
    Ok(ids.map(str::to_owned))
}

/// Prints one result as people read it.
///
/// # Errors
/// [`AskError::Print`].
pub(crate) fn print_discovery(results: &[DiscoveryResult]) -> Result<(), AskError> {
    let mut out = io::stdout().lock();
    for result in results {
        writeln!(out, "{} ({})", result.data_source_name, result.stream_id)?;
        let producer = match result.producer_id.get() {
            0 => "none".to_owned(),
            id => id.to_string(),
        };
        writeln!(out, "  producer  {producer}")?;
        if result.header_region_uri.is_empty() {
            // A configured stream that nobody has attached to yet.
            writeln!(out, "  epoch     none yet")?;
        } else {
            writeln!(out, "  epoch     {}", result.epoch)?;
            writeln!(out, "  slots     {}", result.header_nslots)?;
            writeln!(out, "  ring      {}", result.header_region_uri)?;
        }
        for pool in &result.payload_pools {
            let pool_line = format!("pool {}", pool.pool_id);
            writeln!(
                out,
                "  {pool_line:<9} {} ({} bytes per slot)",
                pool.region_uri, pool.stride_bytes
            )?;
        }
        for tag in &result.tags {
            writeln!(out, "  tag       {tag}")?;
        }
        writeln!(out, "  driver    {}", result.driver_instance_id)?;
    }
    Ok(())
}

/// Reads the driver's documents.
///
/// # Errors
/// [`AskError::Answer`] for one that is not as expected.
pub(crate) fn read_documents(
    path: &Path,
    texts: &[String],
) -> Result<Vec<StreamDocument>, AskError> {
    texts
        .iter()
        .map(|text| {
            serde_json::from_str(text).map_err(|error| AskError::Answer {
                path: path.to_owned(),
                what: error.to_string(),
            })
        })
        .collect()
}

/// The table that `status` prints. Rates come from the difference to an earlier look.
#[must_use]
pub(crate) fn table(documents: &[StreamDocument], earlier: &[StreamDocument]) -> String {
    let earlier: BTreeMap<u32, &StreamDocument> =
        earlier.iter().map(|doc| (doc.stream_id, doc)).collect();
    let mut text = String::new();
    let Some(first) = documents.first() else {
        return "no stream\n".to_owned();
    };
    let driver = &first.driver;
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments)
            .and_then(|()| text.write_char('\n'))
            .expect("writing to a String cannot fail");
    };
    line(format_args!(
        "driver {} {} pid {}: {}, {} leases, {} connections, {} in epochs",
        driver.instance_id,
        driver.version,
        driver.pid,
        driver.lifecycle,
        driver.leases,
        driver.connections,
        bytes(driver.memory_bytes),
    ));
    line(format_args!(
        "{:<16} {:>10} {:<12} {:>20} {:>16} {:>9} {:>12} {:>10}  DROPS",
        "STREAM", "ID", "PHASE", "EPOCH", "PRODUCER", "CONSUMERS", "FRAMES/S", "MEMORY"
    ));
    for doc in documents {
        line(format_args!(
            "{:<16} {:>10} {:<12} {:>20} {:>16} {:>9} {:>12} {:>10}  {}",
            if doc.name.is_empty() {
                "(dynamic)"
            } else {
                &doc.name
            },
            doc.stream_id,
            doc.phase,
            doc.epoch.map_or_else(|| "-".to_owned(), |e| e.to_string()),
            producer_cell(doc),
            doc.consumers_total,
            rate(doc, earlier.get(&doc.stream_id).copied()),
            bytes(doc.memory_bytes),
            drops_cell(doc),
        ));
        if let Some(error) = &doc.error {
            line(format_args!("    last failure: {error}"));
        }
        if doc.memory.len() > 1 {
            for epoch in &doc.memory {
                let current = if epoch.current { "current" } else { "old" };
                line(format_args!(
                    "    epoch {} {}: {}",
                    epoch.epoch,
                    current,
                    bytes(epoch.bytes)
                ));
            }
        }
    }
    text
}

fn producer_cell(doc: &StreamDocument) -> String {
    doc.producer.as_ref().map_or_else(
        || "-".to_owned(),
        |producer| match producer.way.as_str() {
            "socket" => format!("pid {}", producer.pid),
            way => way.to_owned(),
        },
    )
}

fn drops_cell(doc: &StreamDocument) -> String {
    let reported = doc.drops_by_way.iter().flat_map(|(way, drops)| {
        let counted = drops.iter().filter(|(_, count)| **count > 0);
        counted.map(move |(reason, count)| format!("{way} {reason} {count}"))
    });
    let relay = doc.drops.iter().filter(|(reason, count)| {
        let reported = doc.drops_by_way.values().any(|it| it.contains_key(*reason));
        **count > 0 && !reported
    });
    let relay = relay.map(|(reason, count)| format!("{reason} {count}"));
    let drops: Vec<String> = reported.chain(relay).collect();
    if drops.is_empty() {
        "-".to_owned()
    } else {
        drops.join(", ")
    }
}

/// Frames per second between two reports of the same producer in the same epoch.
fn rate(now: &StreamDocument, before: Option<&StreamDocument>) -> String {
    let reported = |doc: &StreamDocument| {
        let producer = doc.producer.as_ref()?;
        Some((
            doc.epoch?,
            producer.client_id,
            producer.frames?,
            producer.reported_at_ns?,
        ))
    };
    let rate = before.and_then(reported).zip(reported(now)).and_then(
        |((epoch, client, frames, at), (epoch_now, client_now, frames_now, at_now))| {
            let nanos = at_now.checked_sub(at).filter(|nanos| *nanos > 0)?;
            let frames = frames_now.checked_sub(frames)?;
            let tenths = u128::from(frames) * 10_000_000_000 / u128::from(nanos);
            (epoch == epoch_now && client == client_now)
                .then(|| format!("{}.{}", tenths / 10, tenths % 10))
        },
    );
    rate.unwrap_or_else(|| "-".to_owned())
}

fn bytes(count: u64) -> String {
    crate::config::bytes_in_words(count)
}
