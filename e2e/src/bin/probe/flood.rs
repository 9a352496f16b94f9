//! Valid requests of every kind, as many as the driver takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tensorpool_wire::{
    ClientId, CorrelationId, LogicalStream, Message, ResponseCode, Role, StreamId,
};

use crate::Failure;
use crate::line::{Lease, Line, attach, discovery, random_client};

/// Connections at the same time: nearly all that one volume may have.
const CONNECTIONS: usize = 60;

/// Of these so many ask as fast as they can, and the others once in the time of this many requests.
const LOUD: usize = 2;
const REQUESTS: usize = 30;

/// One connection that asks and asks.
struct Asker {
    line: Line,
    role: Role,
    client: ClientId,
    lease: Option<Lease>,
    asked: u64,
}

#[derive(Default)]
struct Count {
    sent: u64,
    opened: u64,
    granted: u64,
    /// The driver's words, with how often they came.
    told: BTreeMap<String, u64>,
}

pub(crate) fn run(socket: &Path, seconds: &str) -> Result<(), Failure> {
    let mut first = Line::connect(socket)?;
    let stream = first.stream()?;
    let role = first.lease(stream)?.role;
    drop(first);
    let until = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut count = Count::default();
    let mut askers: Vec<Asker> = Vec::new();
    while Instant::now() < until {
        while askers.len() < CONNECTIONS {
            askers.push(Asker::new(socket, role, &mut count)?);
        }
        for (place, asker) in askers.iter_mut().enumerate() {
            for _ in 0..if place < LOUD { REQUESTS } else { 1 } {
                asker.ask(stream, &mut count)?;
            }
        }
        askers.retain(|asker| match asker.line.end() {
            Some(words) => {
                count.tell(words.to_owned());
                false
            }
            None => true,
        });
    }
    println!(
        "{} requests over {} connections in {seconds} s, {} leases granted meanwhile",
        count.sent, count.opened, count.granted
    );
    for (words, times) in count.told {
        println!("{times} times told `{words}`");
    }
    Ok(())
}

impl Asker {
    fn new(socket: &Path, role: Role, count: &mut Count) -> Result<Self, Failure> {
        count.opened += 1;
        Ok(Self {
            line: Line::connect(socket)?,
            role,
            client: random_client(),
            lease: None,
            asked: 0,
        })
    }

    /// One request of a kind, and whatever has come meanwhile.
    fn ask(&mut self, stream: StreamId, count: &mut Count) -> Result<(), Failure> {
        self.asked += 1;
        let (to, body) = self.request(stream)?;
        if self.line.send_body(to, &body)? {
            count.sent += 1;
        }
        self.line.read();
        for (message, _files) in self.line.take_heard() {
            match message {
                Message::ShmLeaseRevoked(revoked) => count.tell(revoked.error_message),
                Message::ShmAttachResponse(response) if response.code == ResponseCode::Ok => {
                    count.granted += 1;
                    self.lease = Some(Lease {
                        role: self.role,
                        client: self.client,
                        response,
                    });
                }
                Message::ShmAttachResponse(answer) => count.tell(answer.error_message),
                Message::ShmDetachResponse(_) => self.lease = None,
                _ => {}
            }
        }
        Ok(())
    }

    /// Requests of all kinds in turn; now and then the lease goes back and is asked for again.
    fn request(&self, stream: StreamId) -> Result<(LogicalStream, Vec<u8>), Failure> {
        let control = |message: Message| (LogicalStream::Control, message.encode());
        Ok(match (self.asked % 8, &self.lease) {
            (0, _) => (LogicalStream::Status, Vec::new()),
            (1 | 2, _) => (
                LogicalStream::Discovery,
                Message::from(discovery()).encode(),
            ),
            (3, Some(lease)) => control(lease.detach()?.into()),
            (_, Some(lease)) if self.asked.is_multiple_of(2) => control(lease.keepalive()?.into()),
            (_, _) => {
                let id = CorrelationId(i64::try_from(self.asked)?);
                control(attach(id, self.role, stream, self.client).into())
            }
        })
    }
}

impl Count {
    fn tell(&mut self, words: String) {
        if words.is_empty() {
            // Of a lease that was given back.
            return;
        }
        *self.told.entry(words).or_default() += 1;
    }
}
