//! Our round trips: a frame on one stream there, a frame on another back, through the public API
//! with its default timestamp.

use std::time::{Duration, Instant};

use tensorpool_client::{Consumer, Producer, TensorSpec};
use tensorpool_e2e::latency::{RoundTrip, spin_until};
use tensorpool_e2e::machine::Machine;
use tensorpool_e2e::peer::Peer;

use super::REST;
use crate::connect::{self, Way};
use crate::peer::{self, answer, next_order};

/// How long the first answer of a turn is waited for before the frame is sent again.
const FIRST_TRY: Duration = Duration::from_millis(20);
/// How long a turn may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Bytes of a frame.
    pub(crate) len: usize,
    /// Bytes at its beginning that are written and read; the rest is left as it is, as a device
    /// that writes by itself would have it.
    pub(crate) touched: usize,
}

struct Ends {
    producer: Producer,
    consumer: Consumer,
    tensor: TensorSpec,
    touched: Vec<u8>,
}

impl Ends {
    fn open(way: &Way, payload: Payload, send: &str, receive: &str) -> Result<Self, String> {
        Ok(Self {
            producer: connect::producer(way, send)?,
            consumer: connect::consumer(way, receive)?,
            tensor: TensorSpec::bytes(payload.len).map_err(|error| error.to_string())?,
            touched: vec![0; payload.touched.max(8)],
        })
    }

    fn send(&mut self, word: u64) -> Result<(), String> {
        if let Some(head) = self.touched.first_chunk_mut::<8>() {
            *head = word.to_le_bytes();
        }
        let words = |error| connect::words(&error);
        let mut claim = self.producer.claim(&self.tensor).map_err(words)?;
        claim.write_at(0, &self.touched).map_err(words)?;
        claim.commit().map_err(words).map(drop)
    }

    fn receive(&mut self) -> Result<Option<u64>, String> {
        let words = |error| connect::words(&error);
        let Some(frame) = self.consumer.next().map_err(words)? else {
            return Ok(None);
        };
        let mut head = [0; 8];
        frame
            .bytes()
            .copy_range_to(0, &mut head)
            .map_err(|error| connect::words(&error))?;
        Ok(Some(u64::from_le_bytes(head)))
    }
}

/// The measuring end.
pub(crate) struct Frames {
    name: String,
    peer: Peer,
    ends: Ends,
    next: u64,
}

impl Frames {
    /// Attaches to the streams `STREAM-there` and `STREAM-back`, and starts the peer, at rest.
    pub(crate) fn new(
        name: &str,
        machine: &Machine,
        way: &Way,
        stream: &str,
        payload: Payload,
    ) -> Result<Self, String> {
        let mut arguments = way.arguments();
        arguments.push(stream.to_owned());
        arguments.extend([payload.len, payload.touched].map(|number| number.to_string()));
        let there = format!("{stream}-there");
        let back = format!("{stream}-back");
        let ends = Ends::open(way, payload, &there, &back)?;
        let mut peer = peer::start("frames", machine.there, &arguments)?;
        peer.expect("idle")?;
        Ok(Self {
            name: name.to_owned(),
            peer,
            ends,
            next: 1,
        })
    }

    fn send_next(&mut self) -> Result<u64, String> {
        let word = self.next;
        self.next += 1;
        self.ends.send(word)?;
        Ok(word)
    }

    fn until_back(&mut self, word: u64) -> Result<(), String> {
        spin_until(|| Ok(self.ends.receive()? == Some(word)))
    }
}

impl RoundTrip for Frames {
    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&mut self) -> Result<(), String> {
        self.peer.tell("go")?;
        self.peer.expect("ready")?;
        // A descriptor that is sent before its subscriber is connected is lost, so the first trip is
        // tried until one comes back.
        let begun = Instant::now();
        loop {
            let word = self.send_next()?;
            let sent = Instant::now();
            while sent.elapsed() < FIRST_TRY {
                if self.ends.receive()? == Some(word) {
                    return Ok(());
                }
            }
            if begun.elapsed() > CONNECT_LIMIT {
                return Err("the peer did not answer within 10 s".to_owned());
            }
        }
    }

    fn trip(&mut self) -> Result<(), String> {
        let word = self.send_next()?;
        self.until_back(word)
    }

    fn trip_and_sending(&mut self) -> Result<[Instant; 2], String> {
        let begun = Instant::now();
        let word = self.send_next()?;
        let sent = Instant::now();
        self.until_back(word).map(|()| [begun, sent])
    }

    fn end(&mut self) -> Result<(), String> {
        self.ends.send(REST)?;
        self.peer.expect("idle").map(drop)
    }
}

/// The answering end.
pub(crate) fn serve(arguments: &[&str]) -> Result<(), String> {
    let (way, rest) = Way::parse(arguments)?;
    let [stream, len, touched] = rest else {
        return Err("the frames peer needs a stream and two numbers".to_owned());
    };
    let number = |text: &str| {
        text.parse::<usize>()
            .map_err(|error| format!("{text}: {error}"))
    };
    let payload = Payload {
        len: number(len)?,
        touched: number(touched)?,
    };
    let (there, back) = (format!("{stream}-there"), format!("{stream}-back"));
    let mut ends = Ends::open(&way, payload, &back, &there)?;
    answer("idle")?;
    while next_order().is_some() {
        answer("ready")?;
        loop {
            let mut word = None;
            spin_until(|| {
                word = ends.receive()?;
                Ok(word.is_some())
            })?;
            match word {
                None | Some(REST) => break,
                Some(word) => ends.send(word)?,
            }
        }
        answer("idle")?;
    }
    Ok(())
}
