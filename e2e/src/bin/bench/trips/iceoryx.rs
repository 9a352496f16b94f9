//! The competitor: iceoryx2, publish and subscribe with safe overflow, the same payload, no
//! payload copy (loan, write, send).

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{Node, NodeBuilder, ServiceName, ipc};
use tensorpool_e2e::latency::{RoundTrip, spin_until};
use tensorpool_e2e::machine::Machine;
use tensorpool_e2e::peer::Peer;

use super::REST;
use crate::peer::{self, answer, next_order};

/// What the table calls it.
pub(crate) const ICEORYX: &str = "iceoryx2, 64 bytes";

/// Eight words: 64 bytes.
type Payload = [u64; 8];

struct Ends {
    publisher: Publisher<ipc::Service, Payload, ()>,
    subscriber: Subscriber<ipc::Service, Payload, ()>,
    _node: Node<ipc::Service>,
}

impl Ends {
    fn open(run: &str, send: &str, receive: &str) -> Result<Self, String> {
        let node = NodeBuilder::new()
            .create::<ipc::Service>()
            .map_err(|error| format!("no iceoryx2 node: {error}"))?;
        let service = |direction: &str| {
            let name = ServiceName::new(&format!("tensorpool-bench/{run}/{direction}"));
            let name = name.map_err(|error| format!("no iceoryx2 name: {error}"))?;
            node.service_builder(&name)
                .publish_subscribe::<Payload>()
                .enable_safe_overflow(true)
                .open_or_create()
                .map_err(|error| format!("no iceoryx2 service: {error}"))
        };
        let subscriber = service(receive)?.subscriber_builder().create();
        let subscriber = subscriber.map_err(|error| format!("no subscriber: {error}"))?;
        let publisher = service(send)?.publisher_builder().create();
        let publisher = publisher.map_err(|error| format!("no publisher: {error}"))?;
        Ok(Self {
            publisher,
            subscriber,
            _node: node,
        })
    }

    fn send(&self, word: u64) -> Result<(), String> {
        let sample = self.publisher.loan_uninit();
        let sample = sample.map_err(|error| format!("iceoryx2 lends nothing: {error}"))?;
        let sent = sample.write_payload([word; 8]).send();
        sent.map(drop)
            .map_err(|error| format!("iceoryx2 sends nothing: {error}"))
    }

    fn receive(&self) -> Result<Option<u64>, String> {
        let sample = self.subscriber.receive();
        let sample = sample.map_err(|error| format!("iceoryx2 receives nothing: {error}"))?;
        Ok(sample.and_then(|sample| sample.payload().first().copied()))
    }
}

/// The measuring end.
pub(crate) struct Iceoryx {
    peer: Peer,
    ends: Ends,
    next: u64,
}

impl Iceoryx {
    /// Starts the peer, at rest, and connects to it.
    pub(crate) fn new(machine: &Machine) -> Result<Self, String> {
        let run = std::process::id().to_string();
        let ends = Ends::open(&run, "there", "back")?;
        let mut peer = peer::start("iceoryx", machine.there, &[run])?;
        peer.expect("idle")?;
        Ok(Self {
            peer,
            ends,
            next: 1,
        })
    }
}

impl RoundTrip for Iceoryx {
    fn name(&self) -> &'static str {
        ICEORYX
    }

    fn begin(&mut self) -> Result<(), String> {
        self.peer.tell("go")?;
        self.peer.expect("ready").map(drop)
    }

    fn trip(&mut self) -> Result<(), String> {
        let word = self.next;
        self.next += 1;
        self.ends.send(word)?;
        spin_until(|| Ok(self.ends.receive()? == Some(word)))
    }

    fn end(&mut self) -> Result<(), String> {
        self.ends.send(REST)?;
        self.peer.expect("idle").map(drop)
    }
}

/// The answering end.
pub(crate) fn serve(run: &str) -> Result<(), String> {
    let ends = Ends::open(run, "back", "there")?;
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
