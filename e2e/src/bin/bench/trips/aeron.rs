//! The reference of descriptors: 48 bytes over bare Aeron IPC there and back, through the same
//! client crate and the same idle loop.

use std::path::{Path, PathBuf};

use tensorpool_e2e::latency::{RoundTrip, spin_until};
use tensorpool_e2e::machine::Machine;
use tensorpool_e2e::peer::Peer;
use tensorpool_transport::aeron::rusteron::{RusteronClient, RusteronConfig};
use tensorpool_transport::pubsub::{MessageClient, Publication, SendError, Subscription};

use super::REST;
use crate::peer::{self, answer, next_order};

/// What the table calls it.
pub(crate) const BARE_AERON: &str = "bare Aeron IPC, 48 bytes";

const CHANNEL: &str = "aeron:ipc";
const THERE: i32 = 9001;
const BACK: i32 = 9002;
/// Length of a descriptor with its message header.
const LENGTH: usize = 48;
/// After so many trips the client does its housekeeping: some 10 ms, far below its timeout.
pub(super) const TRIPS_PER_WORK: u32 = 10_000;

type Pub = <RusteronClient as MessageClient>::Publication;
type Sub = <RusteronClient as MessageClient>::Subscription;

pub(super) struct Ends {
    publication: Pub,
    subscription: Sub,
    client: RusteronClient,
}

impl Ends {
    pub(super) fn open(directory: &Path, send: i32, receive: i32) -> Result<Self, String> {
        let mut client = RusteronClient::connect(&RusteronConfig::new(directory))
            .map_err(|error| error.to_string())?;
        let subscription = client.add_subscription(CHANNEL, receive);
        let subscription = subscription.map_err(|error| error.to_string())?;
        let publication = client.add_publication(CHANNEL, send);
        let publication = publication.map_err(|error| error.to_string())?;
        Ok(Self {
            publication,
            subscription,
            client,
        })
    }

    pub(super) fn connected(&mut self) -> Result<(), String> {
        spin_until(|| {
            self.work()?;
            Ok(self.publication.is_connected() && self.subscription.image_count() > 0)
        })
    }

    pub(super) fn work(&mut self) -> Result<(), String> {
        let done = self.client.do_work(&mut |_| {});
        done.map(drop).map_err(|error| error.to_string())
    }

    pub(super) fn send(&mut self, word: u64) -> Result<(), String> {
        let mut message = [0_u8; LENGTH];
        let (head, _) = message.split_at_mut(8);
        head.copy_from_slice(&word.to_le_bytes());
        spin_until(|| match self.publication.offer(&message) {
            Ok(()) => Ok(true),
            Err(error) if error.is_retryable() && error != SendError::NotConnected => Ok(false),
            Err(error) => Err(error.to_string()),
        })
    }

    pub(super) fn receive(&mut self) -> Result<Option<u64>, String> {
        let mut word = None;
        self.subscription
            .poll(1, &mut |message, _| {
                word = message
                    .first_chunk::<8>()
                    .map(|head| u64::from_le_bytes(*head));
            })
            .map_err(|error| error.to_string())?;
        Ok(word)
    }
}

/// The measuring end. Both ends connect anew for each turn, so that a resting client needs no
/// heartbeats.
pub(crate) struct BareAeron {
    peer: Peer,
    directory: PathBuf,
    ends: Option<Ends>,
    next: u64,
    trips: u32,
}

impl BareAeron {
    /// Starts the peer, at rest.
    pub(crate) fn new(machine: &Machine, directory: &Path) -> Result<Self, String> {
        let argument = directory.display().to_string();
        Ok(Self {
            peer: peer::start("aeron", machine.there, &[argument])?,
            directory: directory.to_owned(),
            ends: None,
            next: 1,
            trips: 0,
        })
    }

    fn ends(&mut self) -> Result<&mut Ends, String> {
        let ends = self.ends.as_mut();
        ends.ok_or_else(|| "a trip outside a turn".to_owned())
    }
}

impl RoundTrip for BareAeron {
    fn name(&self) -> &'static str {
        BARE_AERON
    }

    fn begin(&mut self) -> Result<(), String> {
        self.peer.tell("go")?;
        let mut ends = Ends::open(&self.directory, THERE, BACK)?;
        ends.connected()?;
        self.peer.expect("ready")?;
        self.ends = Some(ends);
        Ok(())
    }

    fn trip(&mut self) -> Result<(), String> {
        let word = self.next;
        self.next += 1;
        self.trips += 1;
        let work = self.trips.is_multiple_of(TRIPS_PER_WORK);
        let ends = self.ends()?;
        if work {
            ends.work()?;
        }
        ends.send(word)?;
        spin_until(|| Ok(ends.receive()? == Some(word)))
    }

    fn end(&mut self) -> Result<(), String> {
        self.ends()?.send(REST)?;
        self.peer.expect("idle")?;
        self.ends = None;
        Ok(())
    }
}

/// The answering end.
pub(crate) fn serve(directory: &Path) -> Result<(), String> {
    while next_order().is_some() {
        let mut ends = Ends::open(directory, BACK, THERE)?;
        ends.connected()?;
        answer("ready")?;
        let mut trips = 0_u32;
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
            trips += 1;
            if trips.is_multiple_of(TRIPS_PER_WORK) {
                ends.work()?;
            }
        }
        drop(ends);
        answer("idle")?;
    }
    Ok(())
}
